// Training: Adam over mini-batches gathered by row number.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/engine.hpp"

namespace penstock {

// Owns its parameters; a step that is not finite is not taken.
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
  Trainer(std::shared_ptr<const Engine<T>> engine, const T *params, const double *buffers, const Settings &settings);

  // n steps from rows.rows rows, of which the split puts n_train aside for training; how many steps were taken before one
  // was not finite.
  int64_t run(const Batch &data, const SampleWeights &weights, double weight_scale, const Epoch &epoch, int64_t n,
              const double *learning_rates, double *losses, double *norms, Poll poll);

  const Engine<T> &engine() const { return *engine_; }
  const T *params() const { return packed_->params(); }
  void set_params(const T *params);
  std::shared_ptr<Packed<T>> snapshot() const;
  int64_t step() const { return step_; }

 private:
  double combine(int slices, double scale);
  void update(double learning_rate, double scale);

  std::shared_ptr<const Engine<T>> engine_;
  Settings settings_;
  std::vector<double> buffers_;
  std::unique_ptr<Packed<T>> packed_;
  Aligned<T> m_, v_;
  std::unique_ptr<Aligned<T>> gradients_;
  std::vector<double> sums_, squares_;
  int threads_;  // of the update
  int64_t step_ = 0;
};

}  // namespace penstock
