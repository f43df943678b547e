// The training step: see trainer.hpp.
#include "engine/trainer.hpp"

#include <algorithm>
#include <cmath>

#include "engine/gradient.hpp"

namespace penstock {

template <class T>
Trainer<T>::Trainer(std::shared_ptr<const Engine<T>> engine, const T *params, const double *buffers,
                    const Settings &settings)
    : engine_(std::move(engine)),
      settings_(settings),
      buffers_(buffers, buffers + engine_->plan().n_buffers),
      packed_(std::make_unique<Packed<T>>(engine_->plan(), params, buffers)),
      m_(engine_->plan().n_params),
      v_(engine_->plan().n_params),
      sums_(2 * most_slices),
      squares_(engine_->plan().segments.size()),
      threads_(static_cast<int>(std::clamp<int64_t>(engine_->plan().n_params / 8192, 1, 256))) {
  std::fill_n(m_.data(), m_.size(), T{0});
  std::fill_n(v_.data(), v_.size(), T{0});
}

template <class T>
void Trainer<T>::set_params(const T *params) {
  packed_ = std::make_unique<Packed<T>>(engine_->plan(), params, buffers_.data());
}

template <class T>
std::shared_ptr<Packed<T>> Trainer<T>::snapshot() const {
  return std::make_shared<Packed<T>>(engine_->plan(), packed_->params(), buffers_.data());
}

// The sum over slices into the first gradient, and the norm of scale times the sum, a segment at a time.
template <class T>
double Trainer<T>::combine(int slices, double scale) {
  const Plan &plan = engine_->plan();
  const Kernels<T> &kernel = kernels<T>();
  parallel(static_cast<int64_t>(plan.segments.size()), threads_, nullptr, [&](int64_t i) {
    const Segment &segment = plan.segments[static_cast<size_t>(i)];
    T *gradient = gradients_->data() + segment.padded;
    kernel.combine(gradient, plan.padded_size, slices, static_cast<int64_t>(segment.rows) * segment.stride);
    double sum = 0;
    for (int64_t r = 0; r < segment.rows; r++) {
      sum += kernel.sum_squares(gradient + r * segment.stride, segment.columns, scale);
    }
    squares_[static_cast<size_t>(i)] = sum;
  });
  double square = 0;
  for (const double s : squares_) {
    square += s;
  }
  return std::sqrt(square);
}

// A step of Adam with scale times the first gradient, and the packing of what it changed, a segment at a time.
template <class T>
void Trainer<T>::update(double learning_rate, double scale) {
  const Plan &plan = engine_->plan();
  const Kernels<T> &kernel = kernels<T>();
  step_++;
  const AdamSettings adam = adam_settings(learning_rate, settings_.beta1, settings_.beta2, settings_.epsilon,
                                          settings_.weight_decay, settings_.decoupled, step_);
  parallel(static_cast<int64_t>(plan.segments.size()), threads_, nullptr, [&](int64_t i) {
    const Segment &segment = plan.segments[static_cast<size_t>(i)];
    for (int64_t r = 0; r < segment.rows; r++) {
      const int64_t at = segment.flat + r * segment.columns;
      kernel.adam(adam, segment.decay, segment.columns, gradients_->data() + segment.padded + r * segment.stride, scale,
                  packed_->params() + at, m_.data() + at, v_.data() + at);
    }
    if (segment.linear != nullptr) {
      kernel.pack(*segment.linear, segment.from, segment.to, packed_->params(), packed_->panels());
    }
  });
  // training reads the four triangles of one direction: products, or solves
  const auto n_lu = static_cast<int64_t>(plan.lu_steps.size());
  parallel(4 * n_lu, n_lu > 0 ? threads_ : 1, nullptr, [&](int64_t i) {
    const Step &step = plan.evaluation().steps[plan.lu_steps[static_cast<size_t>(i / 4)]];
    const int first = step.explicit_to_data != 0 ? lu_triangles / 2 : 0;
    kernel.pack_lu(step, first + static_cast<int>(i % 4), packed_->params(), packed_->panels());
  });
}

template <class T>
int64_t Trainer<T>::run(const Batch &data, const SampleWeights &weights, double weight_scale, const Epoch &epoch,
                        int64_t n, const double *learning_rates, double *losses, double *norms, Poll poll) {
  const Order split(epoch.seed, 0, data.rows), shuffle(epoch.seed, epoch.number, epoch.n_train);
  const int64_t needed = Engine<T>::slices(epoch.batch_size) * engine_->plan().padded_size;
  if (gradients_ == nullptr || gradients_->size() < needed) {
    gradients_ = std::make_unique<Aligned<T>>(needed);
  }
  for (int64_t k = 0; k < n; k++) {
    if (poll != nullptr && k % 16 == 0 && poll()) {
      throw Interrupted{};
    }
    const int64_t begin = (epoch.first_step + k) * epoch.batch_size;
    Batch batch = data;
    batch.rows = std::min(epoch.batch_size, epoch.n_train - begin);
    const LossSums sums = engine_->batch_gradient(*packed_, batch, weights, {&split, &shuffle, begin},
                                                  gradients_->data(), sums_.data(), poll);
    const double scale = weight_scale / static_cast<double>(batch.rows);
    losses[k] = sums.loss / sums.weight;
    norms[k] = combine(Engine<T>::slices(batch.rows), scale);
    if (!std::isfinite(losses[k]) || !std::isfinite(norms[k])) {
      return k;
    }
    update(learning_rates[k], scale * (norms[k] > settings_.clip_norm ? settings_.clip_norm / norms[k] : 1.0));
  }
  return n;
}

template class Trainer<float>;
template class Trainer<double>;

}  // namespace penstock
