// Gradients: see engine.hpp and gradient.hpp.
#include "engine/gradient.hpp"

#include <cmath>
#include <cstring>

#include "engine/cache.hpp"
#include "engine/engine.hpp"
#include "engine/walk.hpp"

namespace penstock {
namespace {

// Half of the last level of cache for each thread; more kept activations than that are cheaper to compute again.
int64_t cache_per_thread() { return last_level_cache() / 2 / num_threads(); }

// By what padded gradients become numbers of the flat vector.
template <class T>
void add_gradient(const Plan &plan, const T *padded, double *params) {
  for (const Segment &segment : plan.segments) {
    for (int64_t r = 0; r < segment.rows; r++) {
      const T *from = padded + segment.padded + r * segment.stride;
      double *to = params + segment.flat + r * segment.columns;
      for (int i = 0; i < segment.columns; i++) {
        to[i] += static_cast<double>(from[i]);
      }
    }
  }
}

// Sums over the rows that share a row of context, in float64.
template <class T>
void sum_context(const Plan &plan, const Context &context, int64_t rows, const T *by_row, double *sums) {
  const int64_t n = plan.context_dim, block = context.shared ? rows : context.block;
  std::vector<double> column(static_cast<size_t>(block));
  for (int64_t first = 0; first < rows; first += block) {
    for (int64_t i = 0; i < n; i++) {
      for (int64_t r = 0; r < block; r++) {
        column[static_cast<size_t>(r)] = static_cast<double>(by_row[(first + r) * n + i]);
      }
      sums[first / block * n + i] += kernels<T>().sum_rows(column.data(), block);
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
  if (data == nullptr) {
    return 1.0;
  }
  const char *p = data + row * stride;
  if (item_size == 4) {
    float x;
    std::memcpy(&x, p, sizeof x);
    return static_cast<double>(x);
  }
  double x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

template <class T>
void combine_gradients(const Plan &plan, T *gradients, int n, Poll poll) {
  const int64_t size = plan.padded_size, piece = 8192;
  parallel((size + piece - 1) / piece, n > 1 ? 256 : 1, poll,
           [&](int64_t i) { kernels<T>().combine(gradients + i * piece, size, n, std::min(piece, size - i * piece)); });
}

double combine_numbers(double *x, int n) {
  for (int step = 1; step < n; step *= 2) {
    for (int i = 0; i + step < n; i += 2 * step) {
      x[i] += x[i + step];
    }
  }
  return n > 0 ? x[0] : 0.0;
}

template <class T>
Keep Engine<T>::keep() const {
  const bool again =
      recompute < 0 ? plan_.training_kept * static_cast<int64_t>(sizeof(T)) > cache_per_thread() : recompute != 0;
  return again ? Keep::old_values : Keep::activations;
}

template <class T>
int Engine<T>::slices(int64_t rows) {
  return static_cast<int>(std::min<int64_t>(most_slices, tiles_of(rows)));
}

template <class T>
void Engine<T>::vjp(const Packed<T> &packed, const Range &range, const Batch &batch, const ExternalTheta<T> &theta,
                    const Cotangents<T> &cotangents, Poll poll) const {
  if (cotangents.theta_sum != nullptr) {
    Aligned<T> by_row(batch.rows * plan_.external_features);
    Cotangents<T> inner = cotangents;
    inner.theta = by_row.data();
    inner.theta_sum = nullptr;
    vjp(packed, range, batch, theta, inner, poll);
    for (int64_t i = 0; i < by_row.size(); i++) {
      cotangents.theta_sum[i % plan_.external_features] += static_cast<double>(by_row.data()[i]);
    }
    return;
  }
  if (cotangents.context_sum != nullptr) {
    Aligned<T> by_row(batch.rows * plan_.context_dim);
    Cotangents<T> inner = cotangents;
    inner.context = by_row.data();
    inner.context_sum = nullptr;
    vjp(packed, range, batch, theta, inner, poll);
    return sum_context(plan_, batch.context, batch.rows, by_row.data(), cotangents.context_sum);
  }
  const bool want_params = cotangents.params != nullptr;
  const bool want_context = cotangents.context != nullptr || (plan_.embeds && want_params);
  const Keep keep = this->keep();
  const Walk<T> walk(plan_, packed, range, keep, batch.context, batch.rows, want_context || want_params);
  const auto rows_at = [](T *array, int64_t first, int64_t n) {
    return array != nullptr ? array + first * n : nullptr;
  };
  const auto run_tile = [&](int64_t t, T *padded, Gradient of_params) {
    TileSpace<T> space = lend<T>(plan_, keep);
    space.gradient.params = padded;
    space.gradient.of_params = of_params;
    space.gradient.of_context = want_context ? Gradient::accumulate : Gradient::ignore;
    const TileRows rows = tile_rows_of(t, batch.rows);
    walk.forward(
        rows, static_cast<T *>(nullptr), space.tile,
        [&](Tile<T> &tile) {
          walk.load(batch.x, rows, tile);
          walk.load_theta(theta, rows.first, tile);
        },
        [&](Tile<T> &tile) {
          T d_value[tile_rows];
          for (int r = 0; r < tile_rows; r++) {
            d_value[r] =
                cotangents.log_det != nullptr ? cotangents.log_det[rows.first + std::min(r, tile.rows - 1)] : T{0};
          }
          walk.backward(cotangents.out != nullptr ? cotangents.out + rows.first * plan_.dim : nullptr, d_value,
                        rows_at(cotangents.x, rows.first, plan_.dim),
                        rows_at(cotangents.context, rows.first, plan_.context_dim), tile, space.gradient);
          if (cotangents.theta != nullptr) {
            kernels<T>().features_out(space.gradient.theta, plan_.external_features, tile.rows,
                                      rows_at(cotangents.theta, rows.first, plan_.external_features));
          }
        });
  };

  const int64_t tiles = tiles_of(batch.rows);
  const int n_threads = useful_threads(plan_, batch.rows, 3 * plan_.flops);
  if (!want_params || tiles == 0) {
    return parallel(tiles, n_threads, poll, [&](int64_t t) { run_tile(t, nullptr, Gradient::ignore); });
  }
  const int n = slices(batch.rows);
  Aligned<T> gradients(n * plan_.padded_size);
  parallel(n, n_threads, poll, [&](int64_t s) {
    const int64_t begin = s * tiles / n, end = (s + 1) * tiles / n;
    for (int64_t t = begin; t < end && keep_going(); t++) {
      run_tile(t, gradients.data() + s * plan_.padded_size, t == begin ? Gradient::overwrite : Gradient::accumulate);
    }
  });
  combine_gradients(plan_, gradients.data(), n, poll);
  add_gradient(plan_, gradients.data(), cotangents.params);
}

template <class T>
LossSums Engine<T>::batch_gradient(const Packed<T> &packed, const Batch &batch, const SampleWeights &weights,
                                   const TrainingRows &order, T *gradients, double *sums, Poll poll) const {
  const Kernels<T> &kernel = kernels<T>();
  const Keep keep = this->keep();
  const Walk<T> walk(plan_, packed, {0, plan_.n_steps, false, true}, keep, batch.context, batch.rows, true);
  const int64_t tiles = tiles_of(batch.rows);
  const int n = slices(batch.rows);
  parallel(n, useful_threads(plan_, batch.rows, 3 * plan_.flops), poll, [&](int64_t s) {
    TileSpace<T> space = lend<T>(plan_, keep);
    TileGradient<T> &gradient = space.gradient;
    gradient.params = gradients + s * plan_.padded_size;
    gradient.of_params = Gradient::overwrite;
    gradient.of_context = plan_.embeds ? Gradient::accumulate : Gradient::ignore;
    sums[s] = sums[n + s] = 0;
    for (int64_t t = s * tiles / n; t < (s + 1) * tiles / n && keep_going(); t++) {
      const WeightedRows rows(batch, weights, order, t);
      if (rows.count == 0) {
        continue;
      }
      const TileRows some{rows.count, 0, rows.index};
      walk.forward(
          some, static_cast<T *>(nullptr), space.tile, [&](Tile<T> &tile) { walk.load(batch.x, some, tile); },
          [&](Tile<T> &tile) {
            T d_value[tile_rows];
            double loss[tile_rows];
            for (int r = 0; r < tile_rows; r++) {
              d_value[r] = static_cast<T>(-rows.weight[std::min(r, rows.count - 1)]);
            }
            for (int r = 0; r < rows.count; r++) {
              loss[r] = -rows.weight[r] * tile.log_det[r];
            }
            sums[s] += kernel.sum_rows(loss, rows.count);
            sums[n + s] += kernel.sum_rows(rows.weight, rows.count);
            walk.backward(nullptr, d_value, nullptr, nullptr, tile, gradient);
          });
      gradient.of_params = Gradient::accumulate;
    }
    if (gradient.of_params == Gradient::overwrite) {
      std::fill_n(gradient.params, plan_.padded_size, T{0});
    }
  });
  return {combine_numbers(sums, n), combine_numbers(sums + n, n)};
}

template <class T>
LossSums Engine<T>::loss_and_grad(const Packed<T> &packed, const Batch &batch, const SampleWeights &weights,
                                  double *params, Poll poll) const {
  const int n = slices(batch.rows);
  if (n == 0) {
    return {};
  }
  Aligned<T> gradients(n * plan_.padded_size);
  double sums[2 * most_slices];
  const LossSums loss = batch_gradient(packed, batch, weights, {}, gradients.data(), sums, poll);
  combine_gradients(plan_, gradients.data(), n, poll);
  add_gradient(plan_, gradients.data(), params);
  return loss;
}

AdamSettings adam_settings(double learning_rate, double beta1, double beta2, double epsilon, double weight_decay,
                           bool decoupled, int64_t step) {
  const auto t = static_cast<double>(step);
  return {learning_rate,          beta1,    beta2, epsilon, weight_decay, 1 - std::pow(beta1, t),
          1 - std::pow(beta2, t), decoupled};
}

template <class T>
void Engine<T>::adam(const AdamSettings &settings, const double *gradient, T *params, T *m, T *v) const {
  std::vector<T> row;
  for (const Segment &segment : plan_.segments) {
    const int64_t n = static_cast<int64_t>(segment.rows) * segment.columns;
    row.assign(gradient + segment.flat, gradient + segment.flat + n);
    kernels<T>().adam(settings, segment.decay, n, row.data(), 1.0, params + segment.flat, m + segment.flat,
                      v + segment.flat);
  }
}

#define PENSTOCK_INSTANTIATE(T)                                                                                       \
  template void combine_gradients(const Plan &, T *, int, Poll);                                                      \
  template Keep Engine<T>::keep() const;                                                                              \
  template int Engine<T>::slices(int64_t);                                                                            \
  template void Engine<T>::vjp(const Packed<T> &, const Range &, const Batch &, const ExternalTheta<T> &,             \
                               const Cotangents<T> &, Poll) const;                                                    \
  template LossSums Engine<T>::batch_gradient(const Packed<T> &, const Batch &, const SampleWeights &,                \
                                              const TrainingRows &, T *, double *, Poll) const;                       \
  template LossSums Engine<T>::loss_and_grad(const Packed<T> &, const Batch &, const SampleWeights &, double *, Poll) \
      const;                                                                                                          \
  template void Engine<T>::adam(const AdamSettings &, const double *, T *, T *, T *) const;
PENSTOCK_INSTANTIATE(float)
PENSTOCK_INSTANTIATE(double)
#undef PENSTOCK_INSTANTIATE

}  // namespace penstock
