// Runs plans: cuts a batch into tiles and slices, lends workspaces, hands tiles to the kernels on the pool, and adds
// up gradients in an order that depends on the batch alone. Knows nothing of Python.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/layout.hpp"
#include "engine/order.hpp"
#include "engine/pool.hpp"
#include "isa/dispatch.hpp"

namespace penstock {

// Numbers at a 64-byte boundary, never resized.
template <class T>
class Aligned {
 public:
  explicit Aligned(int64_t n) : size_(n), data_(static_cast<T *>(operator new(bytes(n), alignment))) {}
  Aligned(const Aligned &) = delete;
  Aligned &operator=(const Aligned &) = delete;
  ~Aligned() { operator delete(data_, alignment); }
  T *data() { return data_; }
  const T *data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  static constexpr std::align_val_t alignment{64};
  static size_t bytes(int64_t n) { return static_cast<size_t>(n > 0 ? n : 1) * sizeof(T); }
  int64_t size_;
  T *data_;
};

// An immutable snapshot of a flow's numbers, ready for the kernels.
template <class T>
class Packed {
 public:
  Packed(const Plan &plan, const T *params, const double *buffers);
  PackedView<T> view() const;
  // Cotangents cross the standardisation by its scale alone: latent side = data side * scale, and back.
  PackedView<T> cotangents() const;
  double log_scale() const { return log_scale_; }
  // Whether this was packed for the plan, or for another one of the same table.
  bool fits(const Plan &plan) const { return plan.digest() == digest_; }
  T *params() { return params_.data(); }
  const T *params() const { return params_.data(); }
  T *panels() { return panels_.data(); }

 private:
  uint64_t digest_;
  int64_t dim_;
  Aligned<T> params_, panels_;
  Aligned<double> standardisation_;  // loc, scale, 1 / scale, 0; then of the context loc and 1 / scale
  double log_scale_ = 0;
};

// Where log-determinants go: an array of T or of float64, or nowhere.
struct LogDetOut {
  void *data = nullptr;
  bool twice = false;
};

// A range of steps in one direction, with the base density if the range begins at the latent side and it is asked for.
struct Range {
  int first, last;
  bool to_data, base;
};

// Rows, and the rows of their context: row r of a batch has row r / block. One row of context serves all if shared.
struct Context {
  RowsView rows{};
  int64_t block = 0;
  bool shared = false;
};
struct Batch {
  RowsView x;
  Context context{};
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

// Rows of a training batch: their numbers, and their weights if there are any.
struct Weights {
  const char *data = nullptr;
  int64_t stride = 0;
  int item_size = 0;
  double at(int64_t i) const;
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

  void evaluate(const Packed<T> &packed, const Range &range, const Batch &batch, int64_t rows, const T *theta,
                bool theta_shared, T *out, LogDetOut log_det, Poll poll) const;
  // Draw r is number first_draw + r % block of context row context_row + r / block.
  void sample(const Packed<T> &packed, uint64_t seed, uint64_t context_row, uint64_t first_draw, const Context &context,
              int64_t rows, T *out, T *log_prob, Poll poll) const;
  void vjp(const Packed<T> &packed, const Range &range, const Batch &batch, int64_t rows, const T *theta,
           bool theta_shared, Cotangents<T> cotangents, Poll poll) const;
  // Sums over rows of -w log p and of w; params (+=) gets the gradient of the first.
  void loss_and_grad(const Packed<T> &packed, const Batch &batch, int64_t rows, const Weights &weights, double *params,
                     double &loss, double &weight, Poll poll) const;
  void adam(const AdamSettings &settings, const double *gradient, T *params, T *m, T *v) const;

  // Slices of a batch of so many rows.
  static int slices(int64_t rows);

  // Loss of a batch into loss and weight, its gradient into the first of the padded gradients, one a slice.
  // row_of(i) names row i of the batch in x, context and weights.
  template <class RowOf>
  void batch_gradient(const Packed<T> &packed, const Batch &batch, int64_t rows, const Weights &weights, RowOf &&row_of,
                      T *gradients, double *losses, double &loss, double &weight, Poll poll) const;

 private:
  std::unique_ptr<Aligned<T>> starts(const PackedView<T> &view, const Context &context, int64_t rows) const;
  void sum_context(const Context &context, int64_t rows, const T *by_row, double *sums) const;
  bool recomputes() const;
  int useful_threads(int64_t rows, double flops) const;
  Plan plan_;
};

// Adam over mini-batches gathered by row number. Owns its parameters; a step that is not finite is not taken.
template <class T>
class Trainer {
 public:
  struct Settings {
    double beta1, beta2, epsilon, weight_decay, clip_norm;
    bool decoupled;
  };
  Trainer(std::shared_ptr<const Engine<T>> engine, const T *params, const double *buffers, const Settings &settings);

  // Mini-batches [first_step, first_step + n) of an epoch; how many steps were taken before one was not finite.
  int64_t run(const Batch &batch, int64_t n_rows, const Weights &weights, double weight_scale, uint64_t seed,
              uint64_t epoch, int64_t n_train, int64_t first_step, int64_t batch_size, int64_t n,
              const double *learning_rates, double *losses, double *norms, Poll poll);

  const Engine<T> &engine() const { return *engine_; }
  const T *params() const { return packed_->params(); }
  void set_params(const T *params);
  std::shared_ptr<Packed<T>> snapshot() const;
  int64_t step() const { return step_; }

 private:
  std::shared_ptr<const Engine<T>> engine_;
  Settings settings_;
  std::vector<double> buffers_;
  std::unique_ptr<Packed<T>> packed_;
  Aligned<T> m_, v_;
  std::unique_ptr<Aligned<T>> gradients_;
  std::vector<double> losses_, squares_;
  int64_t step_ = 0;
};

}  // namespace penstock
