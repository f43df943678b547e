// The training step: see trainer.hpp.
#include "engine/trainer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "engine/floating_point.hpp"

namespace penstock {

template <class T>
Trainer<T>::Trainer(std::shared_ptr<const Engine<T>> engine, const T *params, const double *buffers,
                    const Settings &settings, const std::vector<Run> &frozen)
    : engine_(std::move(engine)),
      settings_(settings),
      buffers_(buffers, buffers + engine_->plan().n_buffers),
      packed_(std::make_unique<Packed<T>>(engine_->plan(), params, buffers)),
      m_(engine_->plan().n_params),
      v_(engine_->plan().n_params),
      gradients_(engine_->plan(), 0),
      frozen_(frozen),
      squares_(engine_->plan().segments.size()),
      threads_(static_cast<int>(std::clamp<int64_t>(engine_->plan().n_params / 8192, 1, 256))) {
  engine_->refuse_external_theta("Trainer");
  std::fill_n(m_.data(), m_.size(), T{0});
  std::fill_n(v_.data(), v_.size(), T{0});
  cut();
}

// Cuts frozen runs, the plan's among them, out of the rows of all segments.
template <class T>
void Trainer<T>::cut() {
  const Plan &plan = engine_->plan();
  for (const auto &[offset, count] : frozen_) {
    if (offset < 0 || count < 0 || offset > plan.n_params - count) {
      throw std::invalid_argument("frozen: [" + std::to_string(offset) + ", " + std::to_string(count) +
                                  "] does not lie within the " + std::to_string(plan.n_params) + " parameters");
    }
  }
  for (const Segment &segment : plan.segments) {
    if (segment.frozen) {
      frozen_.emplace_back(segment.flat, segment.rows * segment.columns);
    }
  }
  std::sort(frozen_.begin(), frozen_.end());
  for (const Segment &segment : plan.segments) {
    first_piece_.push_back(pieces_.size());
    for (int64_t r = 0; r < segment.rows; r++) {
      const int64_t begin = segment.flat + r * segment.columns, end = begin + segment.columns;
      int64_t at = begin;
      const auto keep = [&](int64_t to) {
        if (at < to) {
          pieces_.push_back({at, segment.padded + r * segment.stride + (at - begin), to - at});
        }
      };
      for (const auto &[offset, count] : frozen_) {
        if (count > 0 && offset < end && offset + count > at) {
          keep(std::max(at, offset));
          at = std::max(at, std::min(end, offset + count));
        }
      }
      keep(end);
    }
  }
  first_piece_.push_back(pieces_.size());
}

template <class T>
void Trainer<T>::set_params(const T *params) {
  packed_ = std::make_unique<Packed<T>>(engine_->plan(), params, buffers_.data());
}

template <class T>
std::shared_ptr<Packed<T>> Trainer<T>::snapshot() const {
  return std::make_shared<Packed<T>>(engine_->plan(), packed_->params(), buffers_.data());
}

template <class T>
void Trainer<T>::set_state(const T *m, const T *v, int64_t step) {
  std::copy_n(m, m_.size(), m_.data());
  std::copy_n(v, v_.size(), v_.data());
  step_ = step;
  for (const auto &[offset, count] : frozen_) {
    std::fill_n(m_.data() + offset, count, T{0});
    std::fill_n(v_.data() + offset, count, T{0});
  }
}

// The sum of gradients into the first one, and the norm of scale times the sum, a segment at a time.
template <class T>
double Trainer<T>::norm(int n_gradients, double scale) {
  const Plan &plan = engine_->plan();
  const Kernels<T> &kernel = kernels<T>();
  T *gradient = gradients_.gradient(0);
  parallel(static_cast<int64_t>(plan.segments.size()), threads_, nullptr, [&](int64_t i) {
    const auto s = static_cast<size_t>(i);
    const Segment &segment = plan.segments[s];
    if (first_piece_[s] < first_piece_[s + 1]) {
      kernel.combine(gradient + segment.padded, plan.padded_size, n_gradients, segment.rows * segment.stride);
    }
    double sum = 0;
    for (size_t k = first_piece_[s]; k < first_piece_[s + 1]; k++) {
      sum += kernel.sum_squares(gradient + pieces_[k].padded, pieces_[k].n, scale);
    }
    squares_[s] = sum;
  });
  double square = 0;
  for (const double s : squares_) {
    square += s;
  }
  return std::sqrt(square);
}

// A step of Adam with scale times the first gradient, and the packing of the parameters it changed, a segment at a time.
template <class T>
void Trainer<T>::update(double learning_rate, double scale) {
  const Plan &plan = engine_->plan();
  const Kernels<T> &kernel = kernels<T>();
  const int64_t step = step_ + 1;
  const AdamSettings adam = adam_settings(learning_rate, settings_.beta1, settings_.beta2, settings_.epsilon,
                                          settings_.weight_decay, settings_.decoupled, step);
  parallel(static_cast<int64_t>(plan.segments.size()), threads_, nullptr, [&](int64_t i) {
    const auto s = static_cast<size_t>(i);
    const Segment &segment = plan.segments[s];
    for (size_t k = first_piece_[s]; k < first_piece_[s + 1]; k++) {
      const auto &[flat, padded, n] = pieces_[k];
      kernel.adam(adam, segment.decay, n, gradients_.gradient(0) + padded, scale, packed_->params() + flat,
                  m_.data() + flat, v_.data() + flat);
    }
    if (segment.linear != nullptr && first_piece_[s] < first_piece_[s + 1]) {
      kernel.pack(*segment.linear, segment.from, segment.to, packed_->params(), packed_->panels());
    }
  });
  // training reads the four triangles of one direction: products, or solves
  const auto n_lu = static_cast<int64_t>(plan.lu_steps.size());
  parallel(4 * n_lu, n_lu > 0 ? threads_ : 1, nullptr, [&](int64_t i) {
    const Step &lu = plan.evaluation().steps[plan.lu_steps[static_cast<size_t>(i / 4)]];
    const int first = lu.explicit_to_data != 0 ? lu_triangles / 2 : 0;
    kernel.pack_lu(lu, first + static_cast<int>(i % 4), packed_->params(), packed_->panels());
  });
  step_ = step;
}

// A step on batch.rows rows, which `rows` names. Throws Interrupted with nothing changed.
template <class T>
auto Trainer<T>::take_step(const Batch &batch, const SampleWeights &weights, double weight_scale,
                           const TrainingRows &rows, double learning_rate, PacedPoll &paced, Poll poll) -> Result {
  if (paced.stops()) {
    throw Interrupted{};
  }
  int n_left = 0;
  const LossSums sums = engine_->batch_gradient(*packed_, batch, weights, rows, gradients_, n_left, poll);
  return finish_step(sums, n_left, batch.rows, weight_scale, learning_rate, &paced);
}

// The rest of a step of so many rows, whose gradient is that of the first n_gradients.
template <class T>
auto Trainer<T>::finish_step(const LossSums &sums, int n_gradients, int64_t rows, double weight_scale,
                             double learning_rate, PacedPoll *paced) -> Result {
  if (sums.weight == 0) {
    return {Taken::no_weight, std::numeric_limits<double>::quiet_NaN(), 0};
  }
  const double scale = weight_scale == 0 ? 1 / sums.weight : weight_scale / static_cast<double>(rows);
  const double loss = sums.loss / sums.weight, length = norm(n_gradients, scale);
  if (!std::isfinite(loss) || !std::isfinite(length)) {
    return {Taken::not_finite, loss, length};
  }
  if (paced != nullptr && paced->stops()) {  // the last chance before parameters change
    throw Interrupted{};
  }
  update(learning_rate, scale * (length > settings_.clip_norm ? settings_.clip_norm / length : 1.0));
  return {Taken::yes, loss, length};
}

template <class T>
int64_t Trainer<T>::run(const Batch &data, const SampleWeights &weights, double weight_scale, const Epoch &epoch,
                        int64_t n, const double *learning_rates, double *losses, double *norms, Poll poll) {
  const DefaultFloatingPoint environment;
  const Order split(epoch.seed, 0, data.rows), shuffle(epoch.seed, epoch.number, epoch.n_train);
  gradients_.reserve(epoch.batch_size);
  PacedPoll paced(poll);
  for (int64_t k = 0; k < n; k++) {
    const int64_t begin = (epoch.first_step + k) * epoch.batch_size;
    Batch batch = data;
    batch.rows = std::min(epoch.batch_size, epoch.n_train - begin);
    const Result result =
        take_step(batch, weights, weight_scale, {&split, &shuffle, begin}, learning_rates[k], paced, poll);
    losses[k] = result.loss;
    norms[k] = result.norm;
    if (result.taken == Taken::not_finite) {
      return k;
    }
  }
  return n;
}

template <class T>
bool Trainer<T>::step(const Batch &batch, const SampleWeights &weights, double weight_scale, double learning_rate,
                      double *loss, double *norm, Poll poll) {
  const DefaultFloatingPoint environment;
  gradients_.reserve(batch.rows);
  PacedPoll paced(poll);
  const int exponent = weights.exponent(batch.rows);
  const Result result =
      take_step(batch, weights.scaled(-exponent), std::ldexp(weight_scale, exponent), {}, learning_rate, paced, poll);
  if (loss != nullptr) {
    *loss = result.loss;
  }
  if (norm != nullptr) {
    *norm = result.norm;
  }
  return result.taken != Taken::not_finite;
}

template <class T>
int64_t Trainer<T>::part(const Batch &batch, const SampleWeights &weights, const int64_t *index, const SomeSlices &some,
                         T *nodes, Poll poll) {
  const DefaultFloatingPoint environment;
  const Slices slices(batch.rows);
  if (some.first < 0 || some.first > some.last || some.last > slices.n) {
    throw std::invalid_argument("first and last must lie within the slices of a batch");
  }
  gradients_.reserve(batch.rows);
  const TrainingRows rows{nullptr, nullptr, -slices.first_tile(some.first) * tile_rows, index};
  const int64_t size = engine_->plan().padded_size;
  int64_t n = 0;
  for (const T *node : engine_->slices_gradient(*packed_, batch, weights, rows, some, gradients_, poll)) {
    std::copy_n(node, size, nodes + n++ * size);
  }
  return n;
}

template <class T>
bool Trainer<T>::finish(const T *gradient, const LossSums &sums, int64_t rows, double weight_scale,
                        double learning_rate, double *loss, double *norm) {
  const DefaultFloatingPoint environment;
  gradients_.reserve(1);
  std::copy_n(gradient, engine_->plan().padded_size, gradients_.gradient(0));
  const Result result = finish_step(sums, 1, rows, weight_scale, learning_rate, nullptr);
  *loss = result.loss;
  *norm = result.norm;
  return result.taken != Taken::not_finite;
}

template class Trainer<float>;
template class Trainer<double>;

}  // namespace penstock
