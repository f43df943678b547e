// Training on a device: gradients of a batch, and the trainer, with the bits of engine/trainer.hpp.
#pragma once

#include <memory>
#include <vector>

#include "cuda/walking.hpp"
#include "engine/trainer.hpp"

namespace penstock::cuda {

// Weights that may lie on the device, as the host can read them; `memory` keeps them.
SampleWeights on_host(const SampleWeights &weights, int64_t rows, std::vector<char> &memory);

// A table on a device, and gradients of batches of its rows.
template <class T>
class Training {
 public:
  // view: what parameters are read from. Weights may lie anywhere; most_rows: of a batch.
  Training(const Engine<T> &engine, const Packed<T> &packed, const PackedView<T> &view, const Batch &table,
           const SampleWeights &weights, int64_t most_rows, const Stream &on);
  Training(const Training &) = delete;
  Training &operator=(const Training &) = delete;

  // Gives to the stream the gradient of a batch, whose sum is where combine() says: rows number begin, ... of the order, or all as
  // they come. Nothing is done where *stop is not 0.
  void gradient(const Order *split, const Order *shuffle, int64_t begin, int64_t rows, const int32_t *stop);
  // Sums of losses and of weights, (2, slices) with the totals first, and their number.
  const double *loss_sums() const { return sums_there_.data(); }
  int slices() const { return n_slices_; }
  T *gradients() const { return sum_; }

 private:
  const Plan &plan_;
  const Stream &on_;
  Context context_;
  Walking<T> walking_;
  const PackedView<T> view_;
  RowsView x_{};
  Memory<char> x_there_, context_there_;
  Memory<double> weights_there_, weight_there_, loss_there_, sums_there_;
  Memory<int64_t> index_there_;
  Memory<int32_t> count_there_;
  std::unique_ptr<ParamSums<T>> sums_;
  int64_t sums_of_ = -1;  // rows of the batch that they are for
  int n_slices_ = 0;
  T *sum_ = nullptr;
};

// A Trainer whose runs are done by a device. Between them its numbers lie on the host.
template <class T>
class DeviceTrainer : public Trainer<T> {
 public:
  using Trainer<T>::Trainer;
  int64_t run_there(const Batch &data, const SampleWeights &weights, double weight_scale,
                    const typename Trainer<T>::Epoch &epoch, int64_t n, const double *learning_rates, double *losses,
                    double *norms, Poll poll);
  std::shared_ptr<Packed<T>> snapshot_there() const;
};

// For the table of calls.
template <class T>
std::shared_ptr<Trainer<T>> trainer(std::shared_ptr<const Engine<T>> engine, const T *params, const double *buffers,
                                    const typename Trainer<T>::Settings &settings,
                                    const std::vector<typename Trainer<T>::Run> &frozen);
template <class T>
int64_t run(Trainer<T> &trainer, const Batch &data, const SampleWeights &weights, double weight_scale,
            const typename Trainer<T>::Epoch &epoch, int64_t n, const double *learning_rates, double *losses,
            double *norms, Poll poll);
template <class T>
std::shared_ptr<Packed<T>> snapshot(const Trainer<T> &trainer);

}  // namespace penstock::cuda
