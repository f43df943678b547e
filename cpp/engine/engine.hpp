// What can be computed with a plan: maps and densities, draws, gradients. Cuts a batch into tiles and slices and hands them
// to the kernels on the pool. Knows nothing of Python.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/layout.hpp"
#include "engine/order.hpp"
#include "engine/packed.hpp"
#include "engine/pool.hpp"
#include "isa/dispatch.hpp"

namespace penstock {

// A range of steps in one direction, with the base density if the range begins at the latent side and it is asked for.
struct Range {
  int first, last;
  bool to_data, base;
};

// The rows of the context of a batch: row r of the batch has row r / block. One row of context serves all if shared.
struct Context {
  RowsView rows{};
  int64_t block = 0;
  bool shared = false;
};

struct Batch {
  RowsView x;
  int64_t rows;
  Context context{};
};

// External theta: a row for each of the batch, or one for all; null where the range has no such step.
template <class T>
struct ExternalTheta {
  const T *data = nullptr;
  bool shared = false;
};

// Where log-determinants go: an array of T or of float64, or nowhere.
struct LogDetOut {
  void *data = nullptr;
  int item_size = 0;
};

// Draw r is number first_draw + r % block of context row context_row + r / block.
struct Draws {
  uint64_t seed;
  uint64_t context_row, first_draw;
};

template <class T>
struct Cotangents {
  const T *out = nullptr;         // (rows, dim) or null for zero
  const T *log_det = nullptr;     // (rows) or null for zero
  T *x = nullptr;                 // results; null if unwanted
  double *params = nullptr;       // (n_params), added to
  T *theta = nullptr;             // (rows, external theta)
  double *theta_sum = nullptr;    // (external theta), summed over rows and added to
  T *context = nullptr;           // (rows, context_dim)
  double *context_sum = nullptr;  // (rows of context, context_dim), summed over the rows of each and added to
};

// The weights of the rows of a training batch; all 1 where there is no array.
struct SampleWeights {
  const char *data = nullptr;
  int64_t stride = 0;
  int item_size = 0;
  double at(int64_t row) const;
};

// Sums over the rows of a batch, of -w log p and of w.
struct LossSums {
  double loss = 0, weight = 0;
};

// Which rows of an array make up a training batch: all in their order, or those that two permutations put there.
struct TrainingRows {
  const Order *split = nullptr, *shuffle = nullptr;
  int64_t begin = 0;
  int64_t at(int64_t i) const { return split == nullptr ? i : (*split)((*shuffle)(begin + i)); }
};

AdamSettings adam_settings(double learning_rate, double beta1, double beta2, double epsilon, double weight_decay,
                           bool decoupled, int64_t step);

template <class T>
class Engine {
 public:
  explicit Engine(Table table) : plan_(std::move(table)) {}
  const Plan &plan() const { return plan_; }

  // Keep all activations on the way forward (0), or run conditioners again on the way back (1); -1 lets their size decide.
  int recompute = -1;

  void evaluate(const Packed<T> &packed, const Range &range, const Batch &batch, const ExternalTheta<T> &theta, T *out,
                LogDetOut log_det, Poll poll) const;
  void sample(const Packed<T> &packed, const Draws &draws, const Context &context, int64_t rows, T *out, T *log_prob,
              Poll poll) const;
  void vjp(const Packed<T> &packed, const Range &range, const Batch &batch, const ExternalTheta<T> &theta,
           const Cotangents<T> &cotangents, Poll poll) const;
  // params (+=) gets the gradient of the loss.
  LossSums loss_and_grad(const Packed<T> &packed, const Batch &batch, const SampleWeights &weights, double *params,
                         Poll poll) const;
  void adam(const AdamSettings &settings, const double *gradient, T *params, T *m, T *v) const;

  // Slices of a batch of so many rows.
  static int slices(int64_t rows);

  // The gradient of a batch into the padded gradients of its slices; batch.rows of x, context and weights are named by
  // `rows`. sums: room for two numbers a slice.
  LossSums batch_gradient(const Packed<T> &packed, const Batch &batch, const SampleWeights &weights,
                          const TrainingRows &rows, T *gradients, double *sums, Poll poll) const;

 private:
  Keep keep() const;
  Plan plan_;
};

}  // namespace penstock
