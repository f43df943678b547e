// Training: Adam over mini-batches gathered by row number.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "engine/engine.hpp"

namespace penstock {

// Owns its parameters; a step that is not finite is not taken. For one call at a time: see Busy.
template <class T>
class Trainer {
 public:
  struct Settings {
    double beta1, beta2, epsilon, weight_decay, clip_norm;
    bool decoupled;
  };
  // The batches of one epoch, and where a run begins among them.
  struct Epoch {
    uint64_t seed, number;
    int64_t n_train, batch_size, first_step;
  };
  // [offset, offset + count) of the flat parameters.
  using Run = std::pair<int64_t, int64_t>;

  // Parameters in frozen runs never change: their gradient counts neither in the norm nor in the update.
  Trainer(std::shared_ptr<const Engine<T>> engine, const T *params, const double *buffers, const Settings &settings,
          const std::vector<Run> &frozen);

  // n steps, from data.rows rows of which the split puts n_train aside for training. Returns how many were done before one
  // whose loss or gradient was not finite. A batch whose weights sum to 0 counts as done, with loss NaN and norm 0.
  int64_t run(const Batch &data, const SampleWeights &weights, double weight_scale, const Epoch &epoch, int64_t n,
              const double *learning_rates, double *losses, double *norms, Poll poll);

  // A step on rows in their own order, with weights in any unit. weight_scale: of the sum of gradients over the number of rows,
  // as in run(), or 0 for the sum over that of the weights. False, and nothing changed, where loss or gradient are not
  // finite. Weights whose sum is 0 are no step either, with loss NaN and norm 0, but true. Either result may be null.
  bool step(const Batch &batch, const SampleWeights &weights, double weight_scale, double learning_rate, double *loss,
            double *norm, Poll poll);

  // A step of which others do a part, in two calls. The gradient of some slices of a batch of batch.rows rows, by the tree over
  // all slices: `nodes` gets as many padded gradients as are left, which is returned. The first number of `index` is that of
  // the first row of these slices.
  int64_t part(const Batch &batch, const SampleWeights &weights, const int64_t *index, const SomeSlices &some, T *nodes,
               Poll poll);
  // And the step, by the sum of all gradients: as step(), of a batch of so many rows.
  bool finish(const T *gradient, const LossSums &sums, int64_t rows, double weight_scale, double learning_rate,
              double *loss, double *norm);

  const Engine<T> &engine() const { return *engine_; }
  const T *params() const { return packed_->params(); }
  void set_params(const T *params);
  std::shared_ptr<Packed<T>> snapshot() const;
  int64_t step() const { return step_; }
  const T *m() const { return m_.data(); }
  const T *v() const { return v_.data(); }
  void set_state(const T *m, const T *v, int64_t step);

  // Held by each call, so that calls from several threads, or from within the poll of a run, are refused.
  class Busy {
   public:
    explicit Busy(Trainer &trainer) : flag_(trainer.busy_) {
      if (flag_.test_and_set(std::memory_order_acquire)) {
        refuse();
      }
    }
    Busy(const Busy &) = delete;
    Busy &operator=(const Busy &) = delete;
    ~Busy() { flag_.clear(std::memory_order_release); }

   private:
    [[noreturn]] static void refuse() { throw std::runtime_error("this Trainer is at work in another call"); }
    std::atomic_flag &flag_;
  };

 protected:  // for a trainer on a device
  // Consecutive parameters of a segment that change.
  struct Piece {
    int64_t flat, padded, n;
  };
  // What became of a step, with its loss and the norm of its gradient.
  enum class Taken { yes, no_weight, not_finite };
  struct Result {
    Taken taken;
    double loss, norm;
  };
  Result take_step(const Batch &batch, const SampleWeights &weights, double weight_scale, const TrainingRows &rows,
                   double learning_rate, PacedPoll &paced, Poll poll);
  Result finish_step(const LossSums &sums, int n_gradients, int64_t rows, double weight_scale, double learning_rate,
                     PacedPoll *paced);
  void cut();
  double norm(int n_gradients, double scale);
  void update(double learning_rate, double scale);

  std::shared_ptr<const Engine<T>> engine_;
  Settings settings_;
  std::vector<double> buffers_;
  std::unique_ptr<Packed<T>> packed_;
  Aligned<T> m_, v_;
  SliceGradients<T> gradients_;
  std::vector<Run> frozen_;
  std::vector<Piece> pieces_;
  std::vector<size_t> first_piece_;  // of each segment, and their number
  std::vector<double> squares_;
  int threads_;  // of the update
  std::atomic<int64_t> step_{0};
  std::atomic_flag busy_{};
};

}  // namespace penstock
