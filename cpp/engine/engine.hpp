// What can be computed with a plan: maps and densities, draws, gradients. Cuts a batch into tiles and slices and hands them
// to the kernels on the pool. Knows nothing of Python.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>

#include "engine/layout.hpp"
#include "engine/order.hpp"
#include "engine/packed.hpp"
#include "engine/pool.hpp"
#include "engine/slices.hpp"
#include "isa/dispatch.hpp"

namespace penstock {

inline double read_number(const char *at, int item_size) {
  if (item_size == 4) {
    float narrow;
    std::memcpy(&narrow, at, sizeof narrow);
    return static_cast<double>(narrow);
  }
  double wide;
  std::memcpy(&wide, at, sizeof wide);
  return wide;
}

inline double number_of(const RowsView &rows, int64_t row, int64_t column) {
  return read_number(rows.data + row * rows.row_stride + column * rows.column_stride, rows.item_size);
}

// A range of steps in one direction, with the base density if the range begins at the latent side and it is asked for.
struct Range {
  int first, last;
  bool to_data, base;
};

// Rows of context for rows of an array: row r has row r / block. One row of context serves all if shared, and what it
// contributes to each conditioner may be there already, in the plan's type, as Engine::context_part gives it.
struct Context {
  RowsView rows{};
  int64_t block = 0;
  bool shared = false;
  const void *part = nullptr;
};

// Some rows of an array of n_rows: all of them, or those that an index names.
struct Batch {
  RowsView x;
  int64_t rows;
  Context context{};
  const int64_t *index = nullptr;
  int64_t n_rows = 0;  // only with an index
};

// Where a number of each row goes, to float or double, or nowhere: log_det, with base log p.
struct RowValues {
  void *data = nullptr;
  int item_size = 0;
  void put(int64_t row, double value) const {
    if (item_size == 4) {
      static_cast<float *>(data)[row] = static_cast<float>(value);
    } else {
      static_cast<double *>(data)[row] = value;
    }
  }
};

// The rows from number `first` on.
template <class T>
RowsOut<T> from_row(const RowsOut<T> &rows, int64_t first) {
  return {rows.data != nullptr ? rows.data + first * rows.stride : nullptr, rows.stride};
}

// Theta of one external step: a row for each of the batch, or one for all. Null where the step is not in the range.
template <class T>
struct ExternalTheta {
  const T *data = nullptr;
  bool shared = false;
};

// Its gradient: of each row, overwritten; or the sum over rows, added to. Both null if unwanted.
template <class T>
struct ExternalGradient {
  T *rows = nullptr;
  double *sum = nullptr;
};

// Draw r is number first_draw + r % block of context row context_row + r / block.
struct Draws {
  uint64_t seed, context_row, first_draw;
};

// The components that draws of each mixture of the base have, (mixtures, rows); null where they are drawn.
struct Components {
  const int64_t *data = nullptr;
  int64_t rows = 0;
  // Throws std::invalid_argument for a component that a mixture has not.
  void check(const Plan &plan, int64_t rows) const;
};

template <class T>
struct Cotangents {
  const T *out = nullptr;         // (rows, dim) or null for zero
  const T *value = nullptr;       // (rows), of log_det, with base of log p; or null for zero
  RowsOut<T> x{};                 // results, null if unwanted: (rows, dim)
  double *params = nullptr;       // (n_params), added to
  RowsOut<T> context{};           // (rows, context_dim)
  double *context_sum = nullptr;  // (rows of context, context_dim), summed over the rows of each and added to
  const ExternalGradient<T> *thetas = nullptr;  // one for each external step of the plan
};

// The weights of the rows of an array, times a power of two; all 1 where there is no array.
class SampleWeights {
 public:
  SampleWeights() = default;
  SampleWeights(const char *data, int64_t stride, int item_size)
      : data_(data), stride_(stride), item_size_(item_size) {}
  bool given() const { return data_ != nullptr; }
  const char *data() const { return data_; }
  // The same, of an array that lies elsewhere.
  SampleWeights moved(const char *data, int64_t stride) const {
    SampleWeights result = *this;
    result.data_ = data;
    result.stride_ = stride;
    return result;
  }
  int64_t stride() const { return stride_; }
  int item_size() const { return item_size_; }
  double at(int64_t row) const;
  // The exponent of the largest weight, by which they may be divided; 0 where there are none.
  int exponent(int64_t rows) const;
  SampleWeights scaled(int exponent) const;

 private:
  const char *data_ = nullptr;
  int64_t stride_ = 0;
  int item_size_ = 0;
  double factors_[2] = {1, 1};  // one alone may not be a number
};

// Sums over the rows of a batch, of -w log p and of w.
struct LossSums {
  double loss = 0, weight = 0;
};

// Which rows of an array make up a training batch: all in their order, those that two permutations put there, or, from row
// -begin of the batch on, those of an index.
struct TrainingRows {
  const Order *split = nullptr, *shuffle = nullptr;
  int64_t begin = 0;
  const int64_t *index = nullptr;
  int64_t at(int64_t i) const {
    return index != nullptr ? index[begin + i] : split == nullptr ? i : (*split)((*shuffle)(begin + i));
  }
};

// Some slices of a batch, first to last - 1, and the sums over the rows of each: arrays for all slices.
struct SomeSlices {
  int first, last;
  double *losses, *weights;
};

AdamSettings adam_settings(double learning_rate, double beta1, double beta2, double epsilon, double weight_decay,
                           bool decoupled, int64_t step);

// Throws std::invalid_argument for what cannot be computed: a row beyond the array, a plan with external theta.
template <class T>
class Engine {
 public:
  explicit Engine(Table table) : plan_(std::move(table)) {}
  Engine(const int64_t *table, int64_t length) : plan_(table, length) {}
  const Plan &plan() const { return plan_; }

  // Keep all activations on the way forward (0), or run conditioners again on the way back (1); -1 lets their size decide.
  std::atomic<int> recompute{-1};

  // thetas, here and below: one for each external step of the plan.
  void evaluate(const Packed<T> &packed, const Range &range, const Batch &batch, const ExternalTheta<T> *thetas,
                const RowsOut<T> &out, RowValues values, Poll poll) const;
  // log_prob: of the rows as they are stored.
  void sample(const Packed<T> &packed, const Draws &draws, const Context &context, int64_t rows, const RowsOut<T> &out,
              RowValues log_prob, Poll poll) const;
  // Draws of the base alone, (rows, dim), and what given components weigh, log w summed over mixtures, (rows) or null.
  void latents(const Packed<T> &packed, const Draws &draws, const Components &components, const Context &context,
               int64_t rows, const RowsOut<T> &out, double *log_weight, Poll poll) const;
  // Their way back: params (+=) from cotangents of both, (rows, dim) and (rows), or null for zero.
  void latents_vjp(const Packed<T> &packed, const Draws &draws, const Components &components, const Context &context,
                   int64_t rows, const T *d_out, const T *d_log_weight, double *params, Poll poll) const;
  // values: those of the forward pass. Results are written while x and the context are still read.
  void vjp(const Packed<T> &packed, const Range &range, const Batch &batch, const ExternalTheta<T> *thetas,
           RowValues values, const Cotangents<T> &cotangents, Poll poll) const;
  // params (+=) gets the gradient of the loss.
  LossSums loss_and_grad(const Packed<T> &packed, const Batch &batch, const SampleWeights &weights, double *params,
                         Poll poll) const;
  void adam(const AdamSettings &settings, const double *gradient, T *params, T *m, T *v) const;

  // The gradient of batch.rows rows, which `rows` names in x, context and weights, into padded gradients; n_left of them are
  // left to be combined.
  LossSums batch_gradient(const Packed<T> &packed, const Batch &batch, const SampleWeights &weights,
                          const TrainingRows &rows, SliceGradients<T> &gradients, int &n_left, Poll poll) const;
  // That of some of its slices alone, added up as far as the tree over all of them does: the nodes of the tree that remain, in
  // the order of slices.
  std::vector<const T *> slices_gradient(const Packed<T> &packed, const Batch &batch, const SampleWeights &weights,
                                         const TrainingRows &rows, const SomeSlices &some, SliceGradients<T> &gradients,
                                         Poll poll) const;

  // What one row of context, (context_dim), contributes to each conditioner, for Context::part.
  std::unique_ptr<Aligned<T>> context_part(const Packed<T> &packed, const RowsView &context) const;

  void refuse_external_theta(const char *what) const;

  // What gradients keep on the way forward.
  Keep keep() const;

 private:
  Plan plan_;
};

}  // namespace penstock
