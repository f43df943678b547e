// Gradients: see engine.hpp.
#include <cmath>
#include <vector>

#include "engine/cache.hpp"
#include "engine/engine.hpp"
#include "engine/row_sums.hpp"
#include "engine/there_and_back.hpp"
#include "engine/walk.hpp"

namespace penstock {
namespace {

// Half of the last level of cache for each thread; more kept activations than that are cheaper to compute again.
int64_t cache_per_thread() { return last_level_cache() / 2 / num_threads(); }

// Numbers times 2^exponent, in two factors, since 2^exponent alone may be none.
struct PowerOfTwo {
  double factors[2];
  explicit PowerOfTwo(int exponent)
      : factors{std::ldexp(1.0, exponent / 2), std::ldexp(1.0, exponent - exponent / 2)} {}
  double operator*(double x) const { return x * factors[0] * factors[1]; }
};

// By what padded gradients become numbers of the flat vector, times a power of two.
template <class T>
void add_gradient(const Plan &plan, const T *padded, const PowerOfTwo &scale, double *params) {
  for (const Segment &segment : plan.segments) {
    for (int64_t r = 0; r < segment.rows; r++) {
      const T *from = padded + segment.padded + r * segment.stride;
      double *to = params + segment.flat + r * segment.columns;
      for (int i = 0; i < segment.columns; i++) {
        to[i] += scale * static_cast<double>(from[i]);
      }
    }
  }
}

// The rows of a tile of a training batch whose weight is not zero, and their weights; the others are left out, whatever they
// hold.
struct WeightedRows {
  int64_t index[tile_rows];
  double weight[tile_rows];
  int count = 0;

  WeightedRows(const Batch &batch, const SampleWeights &weights, const TrainingRows &rows, int64_t tile) {
    for (int64_t i = tile * tile_rows; i < std::min(batch.rows, (tile + 1) * tile_rows); i++) {
      const int64_t row = rows.at(i);
      const double w = weights.at(row);
      if (w != 0) {
        index[count] = row;
        __builtin_prefetch(batch.x.data + row * batch.x.row_stride);  // rows come in any order
        weight[count++] = w;
      }
    }
  }
};

}  // namespace

double SampleWeights::at(int64_t row) const {
  return data_ != nullptr ? read_number(data_ + row * stride_, item_size_) * factors_[0] * factors_[1] : 1.0;
}

int SampleWeights::exponent(int64_t rows) const {
  double largest = 0;
  for (int64_t r = 0; given() && r < rows; r++) {
    largest = std::max(largest, std::fabs(at(r)));
  }
  int exponent = 0;
  if (largest > 0 && std::isfinite(largest)) {
    std::frexp(largest, &exponent);
  }
  return exponent;
}

SampleWeights SampleWeights::scaled(int exponent) const {
  SampleWeights result = *this;
  const PowerOfTwo power(exponent);
  std::copy(power.factors, power.factors + 2, result.factors_);
  return result;
}

template <class T>
Keep Engine<T>::keep() const {
  const int mode = recompute;
  const bool again = mode < 0 ? plan_.training_kept * static_cast<int64_t>(sizeof(T)) > cache_per_thread() : mode != 0;
  return again ? Keep::old_values : Keep::activations;
}

template <class T>
void Engine<T>::vjp(const Packed<T> &packed, const Range &range, const Batch &batch, const ExternalTheta<T> *thetas,
                    RowValues values, const Cotangents<T> &cotangents, Poll poll) const {
  const DefaultFloatingPoint environment;
  const bool want_params = cotangents.params != nullptr, sums_context = cotangents.context_sum != nullptr;
  const bool want_context = cotangents.context.data != nullptr || sums_context || (plan_.embeds && want_params);
  const Keep keep = this->keep();
  const Slices slices(batch.rows);
  const Tiling tiles{batch.rows, batch.rows};
  ContextSums<T> context_sums(plan_, batch.context, slices, cotangents.context_sum);
  ExternalSums<T> external_sums(plan_, slices, cotangents.thetas);
  const ThereAndBack<T> flow(plan_, packed, range, keep, batch, thetas, want_context || want_params);

  // What the walk leaves out has gradients of zero.
  const bool whole = range.first == 0 && range.last == plan_.n_steps && (range.base || !plan_.base_learns);
  const auto run_tile = [&](int64_t slice, int64_t t, T *padded, Gradient of_params) {
    TileSpace<T> space = lend<T>(plan_, keep);
    space.gradient.params = padded;
    space.gradient.of_params = of_params;
    if (of_params == Gradient::overwrite && !whole) {
      std::fill_n(padded, plan_.padded_size, T{0});
    }
    space.gradient.of_context = want_context ? Gradient::accumulate : Gradient::ignore;
    const TileRows rows = tiles[t];
    const T *d_out = cotangents.out != nullptr ? cotangents.out + rows.first * plan_.dim : nullptr;
    const RowsOut<T> d_x = from_row(cotangents.x, rows.first), d_context = from_row(cotangents.context, rows.first);
    const auto d_value_of = [&](int r) {
      return cotangents.value != nullptr ? cotangents.value[rows.first + r] : T{0};
    };
    flow.run(rows, values, d_out, d_value_of, d_x,
             sums_context ? RowsOut<T>{space.d_context, plan_.context_dim} : d_context, space);
    if (sums_context) {
      context_sums.add(slice, rows, space.d_context);
    }
    external_sums.take(slice, rows, range, space.gradient.external);
    flow.mend(rows, d_out, d_value_of, d_x, d_context);
  };

  const int n_threads = useful_threads(plan_, batch.rows, 3 * plan_.flops);
  if (!want_params && !sums_context && !external_sums.sums()) {
    return parallel(slices.tiles, n_threads, poll, [&](int64_t t) { run_tile(0, t, nullptr, Gradient::ignore); });
  }
  const auto run_slice = [&](int64_t s, T *padded) {
    const int64_t begin = slices.first_tile(s), end = slices.first_tile(s + 1);
    for (int64_t t = begin; t < end && keep_going(); t++) {
      run_tile(s, t, padded, !want_params ? Gradient::ignore : t == begin ? Gradient::overwrite : Gradient::accumulate);
    }
  };
  if (want_params && slices.n > 0) {
    SliceGradients<T> gradients(plan_, batch.rows);
    gradients.combine(gradients.run(slices, n_threads, poll, run_slice), poll);
    add_gradient(plan_, gradients.gradient(0), PowerOfTwo(0), cotangents.params);
  } else {
    parallel(slices.n, n_threads, poll, [&](int64_t s) { run_slice(s, nullptr); });
  }
  context_sums.finish();
  external_sums.finish();
}

template <class T>
void Engine<T>::latents_vjp(const Packed<T> &packed, const Draws &draws, const Components &components,
                            const Context &context, int64_t rows, const T *d_out, const T *d_log_weight, double *params,
                            Poll poll) const {
  const DefaultFloatingPoint environment;
  components.check(plan_, rows);
  const Slices slices(rows);
  if (slices.n == 0) {
    return;
  }
  const Keep keep = this->keep();
  const Tiling tiles{rows, rows};
  const Walk<T> walk(plan_, packed, {0, 0, true, false}, keep, context, rows, true);
  const int64_t block = plan_.context_dim == 0 || context.shared ? rows : context.block;
  const auto run_slice = [&](int64_t s, T *padded) {
    std::fill_n(padded, plan_.padded_size, T{0});  // of the flow beside its base
    for (int64_t t = slices.first_tile(s); t < slices.first_tile(s + 1) && keep_going(); t++) {
      TileSpace<T> space = lend<T>(plan_, keep);
      space.gradient.params = padded;
      space.gradient.of_params = Gradient::accumulate;
      space.gradient.of_context = plan_.embeds ? Gradient::accumulate : Gradient::ignore;
      const TileRows some = tiles[t];
      const DrawsOfTile numbers(draws, components, block, some.first);
      walk.forward(
          some, RowsOut<T>{}, false, space.tile, [&](Tile<T> &to) { walk.draw(numbers.of, to); },
          [&](Tile<T> &tile) {
            walk.draw_backward(numbers.of, d_out != nullptr ? d_out + some.first * plan_.dim : nullptr,
                               d_log_weight != nullptr ? d_log_weight + some.first : nullptr, tile, space.gradient);
          });
    }
  };
  SliceGradients<T> gradients(plan_, rows);
  gradients.combine(gradients.run(slices, useful_threads(plan_, rows, 3 * plan_.flops), poll, run_slice), poll);
  add_gradient(plan_, gradients.gradient(0), PowerOfTwo(0), params);
}

namespace {

// The gradient of the loss of one slice of a batch, and its sums.
template <class T>
struct SliceOfBatch {
  const Plan &plan;
  const Batch &batch;
  const SampleWeights &weights;
  const TrainingRows &order;
  double *losses, *weight_sums;  // of all slices
  const Slices slices;
  const Keep keep;
  const Walk<T> walk;

  SliceOfBatch(const Plan &plan, const Packed<T> &packed, const Batch &batch, const SampleWeights &weights,
               const TrainingRows &order, Keep keep, double *losses, double *weight_sums)
      : plan(plan),
        batch(batch),
        weights(weights),
        order(order),
        losses(losses),
        weight_sums(weight_sums),
        slices(batch.rows),
        keep(keep),
        walk(plan, packed, {0, plan.n_steps, false, true}, keep, batch.context, batch.rows, true) {}

  void operator()(int64_t s, T *padded) const {
    const Kernels<T> &kernel = kernels<T>();
    double &loss_sum = losses[s], &weight_sum = weight_sums[s];
    TileSpace<T> space = lend<T>(plan, keep);
    TileGradient<T> &gradient = space.gradient;
    gradient.params = padded;
    gradient.of_params = Gradient::overwrite;
    gradient.of_context = plan.embeds ? Gradient::accumulate : Gradient::ignore;
    loss_sum = weight_sum = 0;
    for (int64_t t = slices.first_tile(s); t < slices.first_tile(s + 1) && keep_going(); t++) {
      const WeightedRows rows(batch, weights, order, t);
      if (rows.count == 0) {
        continue;
      }
      const TileRows some{rows.count, 0, rows.index};
      walk.forward(
          some, RowsOut<T>{}, true, space.tile, [&](Tile<T> &tile) { walk.load(batch.x, some, tile); },
          [&](Tile<T> &tile) {
            T d_value[tile_rows];
            double loss[tile_rows];
            for (int r = 0; r < tile_rows; r++) {
              d_value[r] = static_cast<T>(-rows.weight[std::min(r, rows.count - 1)]);
            }
            for (int r = 0; r < rows.count; r++) {
              loss[r] = -rows.weight[r] * tile.log_det[r];
            }
            loss_sum += kernel.sum_rows(loss, rows.count);
            weight_sum += kernel.sum_rows(rows.weight, rows.count);
            walk.backward(batch.x, some, nullptr, d_value, {}, {}, tile, gradient);
          });
      gradient.of_params = Gradient::accumulate;
    }
    if (gradient.of_params == Gradient::overwrite) {
      std::fill_n(gradient.params, plan.padded_size, T{0});
    }
  }
};

}  // namespace

template <class T>
LossSums Engine<T>::batch_gradient(const Packed<T> &packed, const Batch &batch, const SampleWeights &weights,
                                   const TrainingRows &order, SliceGradients<T> &gradients, int &n_left,
                                   Poll poll) const {
  double losses[Slices::most], weight_sums[Slices::most];
  const SliceOfBatch<T> of(plan_, packed, batch, weights, order, keep(), losses, weight_sums);
  n_left = gradients.run(of.slices, useful_threads(plan_, batch.rows, 3 * plan_.flops), poll, of);
  return {combine_numbers(losses, of.slices.n), combine_numbers(weight_sums, of.slices.n)};
}

template <class T>
std::vector<const T *> Engine<T>::slices_gradient(const Packed<T> &packed, const Batch &batch,
                                                  const SampleWeights &weights, const TrainingRows &order,
                                                  const SomeSlices &some, SliceGradients<T> &gradients,
                                                  Poll poll) const {
  const SliceOfBatch<T> of(plan_, packed, batch, weights, order, keep(), some.losses, some.weights);
  return gradients.nodes(some.first, some.last, useful_threads(plan_, batch.rows, 3 * plan_.flops), poll, of);
}

template <class T>
LossSums Engine<T>::loss_and_grad(const Packed<T> &packed, const Batch &batch, const SampleWeights &weights,
                                  double *params, Poll poll) const {
  const DefaultFloatingPoint environment;
  refuse_external_theta("loss_and_grad");
  if (batch.rows == 0) {
    return {};
  }
  // Weights come in any unit: they are brought to about 1 before anything is narrowed to T.
  const int exponent = weights.exponent(batch.rows);
  const PowerOfTwo unit(exponent);
  SliceGradients<T> gradients(plan_, batch.rows);
  int n_left = 0;
  const LossSums sums = batch_gradient(packed, batch, weights.scaled(-exponent), {}, gradients, n_left, poll);
  gradients.combine(n_left, poll);
  add_gradient(plan_, gradients.gradient(0), unit, params);
  return {unit * sums.loss, unit * sums.weight};
}

AdamSettings adam_settings(double learning_rate, double beta1, double beta2, double epsilon, double weight_decay,
                           bool decoupled, int64_t step) {
  const auto t = static_cast<double>(step);
  return {learning_rate,          beta1,    beta2, epsilon, weight_decay, 1 - std::pow(beta1, t),
          1 - std::pow(beta2, t), decoupled};
}

template <class T>
void Engine<T>::adam(const AdamSettings &settings, const double *gradient, T *params, T *m, T *v) const {
  const DefaultFloatingPoint environment;
  std::vector<T> row;
  for (const Segment &segment : plan_.segments) {
    const int64_t n = segment.rows * segment.columns;
    row.assign(gradient + segment.flat, gradient + segment.flat + n);
    kernels<T>().adam(settings, segment.decay, n, row.data(), 1.0, params + segment.flat, m + segment.flat,
                      v + segment.flat);
  }
}

// NOLINTBEGIN(bugprone-macro-parentheses): T is a type
#define PENSTOCK_INSTANTIATE(T)                                                                                        \
  template Keep Engine<T>::keep() const;                                                                               \
  template void Engine<T>::vjp(const Packed<T> &, const Range &, const Batch &, const ExternalTheta<T> *, RowValues,   \
                               const Cotangents<T> &, Poll) const;                                                     \
  template void Engine<T>::latents_vjp(const Packed<T> &, const Draws &, const Components &, const Context &, int64_t, \
                                       const T *, const T *, double *, Poll) const;                                    \
  template LossSums Engine<T>::batch_gradient(const Packed<T> &, const Batch &, const SampleWeights &,                 \
                                              const TrainingRows &, SliceGradients<T> &, int &, Poll) const;           \
  template std::vector<const T *> Engine<T>::slices_gradient(const Packed<T> &, const Batch &, const SampleWeights &,  \
                                                             const TrainingRows &, const SomeSlices &,                 \
                                                             SliceGradients<T> &, Poll) const;                         \
  template LossSums Engine<T>::loss_and_grad(const Packed<T> &, const Batch &, const SampleWeights &, double *, Poll)  \
      const;                                                                                                           \
  template void Engine<T>::adam(const AdamSettings &, const double *, T *, T *, T *) const;
// NOLINTEND(bugprone-macro-parentheses)
PENSTOCK_INSTANTIATE(float)
PENSTOCK_INSTANTIATE(double)
#undef PENSTOCK_INSTANTIATE

}  // namespace penstock
