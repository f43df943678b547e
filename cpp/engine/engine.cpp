// Tiles, slices, workspaces and the training step: see engine.hpp.
#include "engine/engine.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/cache.hpp"

namespace penstock {
namespace {

constexpr int most_slices = 16;
constexpr double flops_worth_a_thread = 2e5;

int64_t tiles_of(int64_t rows) { return (rows + tile_rows - 1) / tile_rows; }

double read_number(const char *p, int item_size) {
  if (item_size == 4) {
    float x;
    std::memcpy(&x, p, sizeof x);
    return static_cast<double>(x);
  }
  double x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

// Half of what the L3 holds for each thread; more kept activations than that are cheaper to compute again.
int64_t cache_share() { return last_level_cache() / 2 / num_threads(); }

// Cuts one thread's workspace into the arrays of a tile; without memory it only measures.
class Carver {
 public:
  explicit Carver(char *memory) : memory_(memory) {}
  template <class T>
  T *take(int64_t n) {
    const int64_t at = used_;
    used_ += (n * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return memory_ != nullptr ? reinterpret_cast<T *>(memory_ + at) : nullptr;
  }
  int64_t used() const { return used_; }

 private:
  char *memory_;
  int64_t used_ = 0;
};

enum class Use { evaluation, training, training_recompute };

template <class T>
void carve(Carver &carver, const Plan &plan, Use use, Tile<T> &tile) {
  const int64_t dim = plan.dim;
  tile.state = carver.take<T>(dim * tile_stride);
  tile.log_det = carver.take<double>(tile_rows);
  tile.theta = plan.external_features > 0 ? carver.take<T>(plan.external_features * tile_stride) : nullptr;
  tile.context = plan.context_dim > 0 ? carver.take<T>(plan.n_context * tile_stride) : nullptr;
  tile.kept = carver.take<T>(use == Use::evaluation ? plan.evaluation_area
                             : use == Use::training ? plan.training_kept
                                                    : plan.recompute_kept);
  if (use == Use::evaluation) {
    return;
  }
  const int64_t widest = padded(std::max(plan.layer_widest, int64_t{1}));
  tile.gradient = carver.take<T>(dim * tile_stride);
  tile.log_det_bar = carver.take<T>(tile_rows);
  tile.d_theta = carver.take<T>(padded(std::max(plan.theta_widest, int64_t{1})) * tile_stride);
  tile.d_hidden[0] = carver.take<T>(std::max(widest, plan.masked_widest) * tile_stride);
  tile.d_hidden[1] = carver.take<T>(widest * tile_stride);
  tile.d_context = plan.context_dim > 0 ? carver.take<T>(plan.n_context * tile_stride) : nullptr;
  tile.transposed = carver.take<T>((widest + pad_columns) * tile_rows);
}

// The calling thread's workspace, cut for a plan.
template <class T>
Tile<T> lend(const Plan &plan, Use use) {
  Tile<T> tile{};
  Carver measure(nullptr);
  carve(measure, plan, use, tile);
  Carver carver(static_cast<char *>(workspace(measure.used())));
  carve(carver, plan, use, tile);
  return tile;
}

void put(const LogDetOut &out, int64_t row, double value, bool single) {
  if (single && !out.twice) {
    static_cast<float *>(out.data)[row] = static_cast<float>(value);
  } else {
    static_cast<double *>(out.data)[row] = value;
  }
}

template <class T>
void load_theta(const Plan &plan, const T *theta, bool shared, int64_t first_row, Tile<T> &tile) {
  if (theta == nullptr) {
    return;
  }
  if (!shared) {
    return kernels<T>().load_columns(theta + first_row * plan.external_features, plan.external_features, tile.rows,
                                     tile.theta);
  }
  for (int64_t i = 0; i < plan.external_features; i++) {
    std::fill_n(tile.theta + i * tile_stride, tile_rows, theta[i]);
  }
}

// What the rows of a tile see of the context: the starts of a shared one, and unless those are enough (needed), rows.
// row_of(r) names row r of the tile in the batch.
template <class T, class RowOf>
void bring_context(const Plan &plan, const PlanView &view, const PackedView<T> &packed, const Context &context,
                   const Aligned<T> *starts, bool needed, int stride, bool keep, Tile<T> &tile, RowOf &&row_of) {
  tile.starts = starts != nullptr ? starts->data() : nullptr;
  if (plan.context_dim == 0 || !(needed || starts == nullptr)) {
    tile.context = nullptr;
    return;
  }
  int64_t index[tile_rows];
  for (int r = 0; r < tile.rows; r++) {
    index[r] = context.shared ? 0 : row_of(r) / context.block;
  }
  kernels<T>().load_context(view, packed, context.rows, index, stride, keep, tile);
}

// The standardisation is the last step; an empty range beside it does not hold it.
bool standardises(const Plan &plan, const Range &range) {
  return range.first < range.last && range.last == plan.n_steps;
}

// log_det of the standardisation in this direction.
template <class T>
double standardisation_log_det(const Plan &plan, const Packed<T> &packed, const Range &range) {
  return !standardises(plan, range) ? 0.0 : range.to_data ? packed.log_scale() : -packed.log_scale();
}

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

// The first of n gradients becomes their sum, by the fixed tree.
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

}  // namespace

double Weights::at(int64_t i) const { return data == nullptr ? 1.0 : read_number(data + i * stride, item_size); }

AdamSettings adam_settings(double learning_rate, double beta1, double beta2, double epsilon, double weight_decay,
                           bool decoupled, int64_t step) {
  const auto t = static_cast<double>(step);
  return {learning_rate,          beta1,    beta2, epsilon, weight_decay, 1 - std::pow(beta1, t),
          1 - std::pow(beta2, t), decoupled};
}

template <class T>
Packed<T>::Packed(const Plan &plan, const T *params, const double *buffers)
    : digest_(plan.digest()),
      dim_(plan.dim),
      params_(plan.n_params),
      panels_(plan.panels_size),
      standardisation_(4 * int64_t{plan.dim} + 2 * int64_t{plan.context_dim}) {
  std::copy_n(params, plan.n_params, params_.data());
  double *loc = standardisation_.data();
  for (int64_t d = 0; d < dim_; d++) {
    loc[d] = buffers[plan.loc()[static_cast<size_t>(d)]];
    loc[dim_ + d] = buffers[plan.scale()[static_cast<size_t>(d)]];
    loc[2 * dim_ + d] = 1.0 / loc[dim_ + d];
    loc[3 * dim_ + d] = 0.0;
    log_scale_ += std::log(loc[dim_ + d]);
  }
  for (int64_t i = 0; i < plan.context_dim; i++) {
    const auto column = static_cast<size_t>(dim_ + i);
    loc[4 * dim_ + i] = buffers[plan.loc()[column]];
    loc[4 * dim_ + plan.context_dim + i] = 1.0 / buffers[plan.scale()[column]];
  }
  for (const Segment &segment : plan.segments) {
    if (segment.linear != nullptr) {
      kernels<T>().pack(*segment.linear, segment.from, segment.to, params_.data(), panels_.data());
    }
  }
  for (const int k : plan.lu_steps) {
    for (int t = 0; t < lu_triangles; t++) {
      kernels<T>().pack_lu(plan.evaluation().steps[k], t, params_.data(), panels_.data());
    }
  }
}

template <class T>
PackedView<T> Packed<T>::view() const {
  const double *loc = standardisation_.data();
  const int64_t context_dim = (standardisation_.size() - 4 * dim_) / 2;
  return {params_.data(),
          panels_.data(),
          loc,
          loc + dim_,
          loc + 2 * dim_,
          log_scale_,
          loc + 4 * dim_,
          loc + 4 * dim_ + context_dim};
}

template <class T>
PackedView<T> Packed<T>::cotangents() const {
  PackedView<T> v = view();
  v.loc = standardisation_.data() + 3 * dim_;
  std::swap(v.scale, v.inverse);
  return v;
}

template <class T>
bool Engine<T>::recomputes() const {
  return recompute < 0 ? plan_.training_kept * static_cast<int64_t>(sizeof(T)) > cache_share() : recompute != 0;
}

template <class T>
int Engine<T>::useful_threads(int64_t rows, double flops) const {
  const double work = static_cast<double>(rows) * (flops + 20.0 * plan_.dim);
  return static_cast<int>(std::clamp(work / flops_worth_a_thread, 1.0, 256.0));
}

template <class T>
int Engine<T>::slices(int64_t rows) {
  return static_cast<int>(std::min<int64_t>(most_slices, tiles_of(rows)));
}

// Tile::starts of a context that more than one row shares; otherwise null.
template <class T>
std::unique_ptr<Aligned<T>> Engine<T>::starts(const PackedView<T> &view, const Context &context, int64_t rows) const {
  if (plan_.context_dim == 0 || !context.shared || rows < 2) {
    return nullptr;
  }
  auto starts = std::make_unique<Aligned<T>>(plan_.starts_size);
  const PlanView plan = plan_.evaluation();
  Tile<T> tile = lend<T>(plan_, Use::evaluation);
  tile.rows = 1;
  const auto no_starts = static_cast<const Aligned<T> *>(nullptr);
  bring_context(plan_, plan, view, context, no_starts, true, 1, false, tile, [](int) { return int64_t{0}; });
  kernels<T>().share(plan, view, tile, starts->data());
  return starts;
}

// Sums over the rows that share a row of context, in float64.
template <class T>
void Engine<T>::sum_context(const Context &context, int64_t rows, const T *by_row, double *sums) const {
  const int64_t n = plan_.context_dim, block = context.shared ? rows : context.block;
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

template <class T>
void Engine<T>::evaluate(const Packed<T> &packed, const Range &range, const Batch &batch, int64_t rows, const T *theta,
                         bool theta_shared, T *out, LogDetOut log_det, Poll poll) const {
  const Kernels<T> &kernel = kernels<T>();
  const PlanView plan = plan_.evaluation();
  const PackedView<T> view = packed.view();
  const Pass pass{range.first, range.last, range.to_data, false, false};
  const int64_t *in_slots = plan_.boundary(range.to_data ? range.first : range.last);
  const int64_t *out_slots = plan_.boundary(range.to_data ? range.last : range.first);
  const PackedView<T> *in_scale = standardises(plan_, range) && !range.to_data ? &view : nullptr;
  const PackedView<T> *out_scale = standardises(plan_, range) && range.to_data ? &view : nullptr;
  const double start = standardisation_log_det(plan_, packed, range);
  const auto shared = starts(view, batch.context, rows);

  const auto run = [&](int64_t t) {
    Tile<T> tile = lend<T>(plan_, Use::evaluation);
    const int64_t first_row = t * tile_rows;
    tile.rows = static_cast<int>(std::min<int64_t>(tile_rows, rows - first_row));
    const bool single = rows == 1 && theta == nullptr;  // lanes over outputs instead of rows
    const int stride = single ? 1 : tile_stride;
    kernel.load(plan, in_slots, in_scale, batch.x, nullptr, first_row, tile.rows, stride, tile.state);
    bring_context(plan_, plan, view, batch.context, shared.get(), false, stride, false, tile,
                  [=](int r) { return first_row + r; });
    double base[tile_rows] = {};
    if (range.base && range.to_data) {
      kernel.base(plan, tile.state, tile.rows, stride, 0.0, base);
    }
    std::fill_n(tile.log_det, tile_rows, start);
    if (single) {
      kernel.row(plan, view, pass, tile.context, tile.state, tile.log_det, tile.kept);
    } else {
      load_theta(plan_, theta, theta_shared, first_row, tile);
      kernel.forward(plan, view, pass, tile);
    }
    if (out != nullptr) {
      kernel.store(plan, out_slots, out_scale, tile.state, tile.rows, stride, out + first_row * plan.dim);
    }
    if (log_det.data == nullptr) {
      return;
    }
    if (range.base && !range.to_data) {
      kernel.base(plan, tile.state, tile.rows, stride, 1.0, tile.log_det);
    }
    for (int r = 0; r < tile.rows; r++) {
      put(log_det, first_row + r, range.base && range.to_data ? base[r] - tile.log_det[r] : tile.log_det[r],
          sizeof(T) == 4);
    }
  };
  parallel(tiles_of(rows), useful_threads(rows, plan_.flops), poll, run);
}

template <class T>
void Engine<T>::sample(const Packed<T> &packed, uint64_t seed, uint64_t context_row, uint64_t first_draw,
                       const Context &context, int64_t rows, T *out, T *log_prob, Poll poll) const {
  const Kernels<T> &kernel = kernels<T>();
  const PlanView plan = plan_.evaluation();
  const PackedView<T> view = packed.view();
  const Pass pass{0, plan_.n_steps, true, false, false};
  const auto shared = starts(view, context, rows);
  const int64_t block = plan_.context_dim == 0 || context.shared ? rows : context.block;
  const auto run = [&](int64_t t) {
    Tile<T> tile = lend<T>(plan_, Use::evaluation);
    const int64_t first_row = t * tile_rows;
    tile.rows = static_cast<int>(std::min<int64_t>(tile_rows, rows - first_row));
    const int stride = rows == 1 ? 1 : tile_stride;
    uint64_t context_rows[tile_rows], draws[tile_rows];
    for (int64_t r = 0; r < tile_rows; r++) {
      context_rows[r] = context_row + static_cast<uint64_t>((first_row + r) / block);
      draws[r] = first_draw + static_cast<uint64_t>((first_row + r) % block);
    }
    kernel.normals(plan, seed, context_rows, draws, tile.rows, stride, tile.state);
    bring_context(plan_, plan, view, context, shared.get(), false, stride, false, tile,
                  [=](int r) { return first_row + r; });
    double base[tile_rows] = {};
    if (log_prob != nullptr) {
      kernel.base(plan, tile.state, tile.rows, stride, 0.0, base);
    }
    std::fill_n(tile.log_det, tile_rows, packed.log_scale());
    if (rows == 1) {
      kernel.row(plan, view, pass, tile.context, tile.state, tile.log_det, tile.kept);
    } else {
      kernel.forward(plan, view, pass, tile);
    }
    kernel.store(plan, plan_.boundary(plan_.n_steps), &view, tile.state, tile.rows, stride, out + first_row * plan.dim);
    if (log_prob != nullptr) {
      for (int r = 0; r < tile.rows; r++) {
        log_prob[first_row + r] = static_cast<T>(base[r] - tile.log_det[r]);
      }
    }
  };
  parallel(tiles_of(rows), useful_threads(rows, plan_.flops), poll, run);
}

template <class T>
void Engine<T>::vjp(const Packed<T> &packed, const Range &range, const Batch &batch, int64_t rows, const T *theta,
                    bool theta_shared, Cotangents<T> cotangents, Poll poll) const {
  const Kernels<T> &kernel = kernels<T>();
  const bool again = recomputes();
  const PlanView plan = plan_.training(again);
  const PackedView<T> view = packed.view(), scales = packed.cotangents();
  const Pass pass{range.first, range.last, range.to_data, true, again};
  const int64_t *in_slots = plan_.boundary(range.to_data ? range.first : range.last);
  const int64_t *out_slots = plan_.boundary(range.to_data ? range.last : range.first);
  const bool in_scaled = standardises(plan_, range) && !range.to_data;
  const bool out_scaled = standardises(plan_, range) && range.to_data;
  const RowsView d_out{reinterpret_cast<const char *>(cotangents.out), plan.dim * static_cast<int64_t>(sizeof(T)),
                       sizeof(T), sizeof(T)};

  if (cotangents.theta_sum != nullptr) {
    Aligned<T> by_row(rows * plan_.external_features);
    Cotangents<T> inner = cotangents;
    inner.theta = by_row.data();
    inner.theta_sum = nullptr;
    vjp(packed, range, batch, rows, theta, theta_shared, inner, poll);
    for (int64_t i = 0; i < by_row.size(); i++) {
      cotangents.theta_sum[i % plan_.external_features] += static_cast<double>(by_row.data()[i]);
    }
    return;
  }
  if (cotangents.context_sum != nullptr) {
    Aligned<T> by_row(rows * plan_.context_dim);
    Cotangents<T> inner = cotangents;
    inner.context = by_row.data();
    inner.context_sum = nullptr;
    vjp(packed, range, batch, rows, theta, theta_shared, inner, poll);
    return sum_context(batch.context, rows, by_row.data(), cotangents.context_sum);
  }
  const auto shared = starts(view, batch.context, rows);
  const bool want_context = cotangents.context != nullptr || (plan_.embeds && cotangents.params != nullptr);
  const bool need_context = want_context || cotangents.params != nullptr;
  const auto run_tile = [&](int64_t t, T *gradient, bool first) {
    Tile<T> tile = lend<T>(plan_, again ? Use::training_recompute : Use::training);
    const int64_t first_row = t * tile_rows;
    tile.rows = static_cast<int>(std::min<int64_t>(tile_rows, rows - first_row));
    tile.params_gradient = gradient;
    tile.first = first;
    kernel.load(plan, in_slots, in_scaled ? &view : nullptr, batch.x, nullptr, first_row, tile.rows, tile_stride,
                tile.state);
    load_theta(plan_, theta, theta_shared, first_row, tile);
    bring_context(plan_, plan, view, batch.context, shared.get(), need_context, tile_stride, true, tile,
                  [=](int r) { return first_row + r; });
    tile.d_context = want_context ? tile.d_context : nullptr;
    if (want_context) {
      std::fill_n(tile.d_context, plan.n_context * tile_stride, T{0});
    }
    std::fill_n(tile.log_det, tile_rows, 0.0);
    kernel.forward(plan, view, pass, tile);

    T bar[tile_rows];  // cotangent of the row's number: log_det, or log p with base
    for (int r = 0; r < tile_rows; r++) {
      bar[r] = cotangents.log_det != nullptr ? cotangents.log_det[first_row + std::min(r, tile.rows - 1)] : T{0};
      tile.log_det_bar[r] = range.base && range.to_data ? -bar[r] : bar[r];
    }
    if (cotangents.out != nullptr) {
      kernel.load(plan, out_slots, out_scaled ? &scales : nullptr, d_out, nullptr, first_row, tile.rows, tile_stride,
                  tile.gradient);
    } else {
      std::fill_n(tile.gradient, plan.dim * tile_stride, T{0});
    }
    if (range.base && !range.to_data) {
      kernel.base_backward(plan, tile.state, bar, tile.rows, tile.gradient);
    }
    kernel.backward(plan, view, pass, cotangents.x != nullptr, tile);
    if (tile.d_context != nullptr) {
      T *d_context = cotangents.context != nullptr ? cotangents.context + first_row * plan.context_dim : nullptr;
      kernel.store_context(plan, view, tile, d_context);
    }
    if (range.base && range.to_data) {
      kernel.base_backward(plan, tile.state, bar, tile.rows, tile.gradient);
    }
    if (cotangents.x != nullptr) {
      kernel.store(plan, in_slots, in_scaled ? &scales : nullptr, tile.gradient, tile.rows, tile_stride,
                   cotangents.x + first_row * plan.dim);
    }
    if (cotangents.theta != nullptr) {
      kernel.store_columns(tile.d_theta, plan_.external_features, tile.rows,
                           cotangents.theta + first_row * plan_.external_features);
    }
  };

  const int64_t tiles = tiles_of(rows);
  const int n_threads = useful_threads(rows, 3 * plan_.flops);
  if (cotangents.params == nullptr || tiles == 0) {
    return parallel(tiles, n_threads, poll, [&](int64_t t) { run_tile(t, nullptr, false); });
  }
  const int n = slices(rows);
  Aligned<T> gradients(n * plan_.padded_size);
  parallel(n, n_threads, poll, [&](int64_t s) {
    const int64_t begin = s * tiles / n, end = (s + 1) * tiles / n;
    for (int64_t t = begin; t < end && keep_going(); t++) {
      run_tile(t, gradients.data() + s * plan_.padded_size, t == begin);
    }
  });
  combine_gradients(plan_, gradients.data(), n, poll);
  add_gradient(plan_, gradients.data(), cotangents.params);
}

template <class T>
template <class RowOf>
void Engine<T>::batch_gradient(const Packed<T> &packed, const Batch &batch, int64_t rows, const Weights &weights,
                               RowOf &&row_of, T *gradients, double *losses, double &loss, double &weight,
                               Poll poll) const {
  const Kernels<T> &kernel = kernels<T>();
  const bool again = recomputes();
  const PlanView plan = plan_.training(again);
  const PackedView<T> view = packed.view();
  const Pass pass{0, plan_.n_steps, false, true, again};
  const int64_t tiles = tiles_of(rows);
  const int n = slices(rows);
  const auto shared = starts(view, batch.context, rows);
  const RowsView &x = batch.x;
  const auto run_slice = [&](int64_t s) {
    Tile<T> tile = lend<T>(plan_, again ? Use::training_recompute : Use::training);
    tile.d_context = plan_.embeds ? tile.d_context : nullptr;
    tile.params_gradient = gradients + s * plan_.padded_size;
    tile.first = true;
    losses[s] = losses[n + s] = 0;
    for (int64_t t = s * tiles / n; t < (s + 1) * tiles / n && keep_going(); t++) {
      int64_t index[tile_rows];
      double w[tile_rows], loss_rows[tile_rows];
      tile.rows = 0;
      for (int64_t i = t * tile_rows; i < std::min(rows, (t + 1) * tile_rows); i++) {
        const int64_t row = row_of(i);
        const double wi = weights.at(row);
        if (wi != 0) {  // rows of weight zero are left out, whatever they hold
          index[tile.rows] = row;
          __builtin_prefetch(x.data + row * x.row_stride);  // rows come in any order
          w[tile.rows++] = wi;
        }
      }
      if (tile.rows == 0) {
        continue;
      }
      kernel.load(plan, plan_.boundary(plan_.n_steps), &view, x, index, 0, tile.rows, tile_stride, tile.state);
      bring_context(plan_, plan, view, batch.context, shared.get(), true, tile_stride, true, tile,
                    [&](int r) { return index[r]; });
      std::fill_n(tile.log_det, tile_rows, -packed.log_scale());
      kernel.forward(plan, view, pass, tile);
      kernel.base(plan, tile.state, tile.rows, tile_stride, 1.0, tile.log_det);
      for (int r = 0; r < tile_rows; r++) {
        tile.log_det_bar[r] = static_cast<T>(-w[std::min(r, tile.rows - 1)]);
      }
      for (int r = 0; r < tile.rows; r++) {
        loss_rows[r] = -w[r] * tile.log_det[r];
      }
      losses[s] += kernel.sum_rows(loss_rows, tile.rows);
      losses[n + s] += kernel.sum_rows(w, tile.rows);
      std::fill_n(tile.gradient, plan.dim * tile_stride, T{0});
      kernel.base_backward(plan, tile.state, tile.log_det_bar, tile.rows, tile.gradient);
      if (plan_.embeds) {
        std::fill_n(tile.d_context, plan.n_context * tile_stride, T{0});
      }
      kernel.backward(plan, view, pass, false, tile);
      if (plan_.embeds) {
        kernel.store_context(plan, view, tile, nullptr);
      }
      tile.first = false;
    }
    if (tile.first) {
      std::fill_n(tile.params_gradient, plan_.padded_size, T{0});
    }
  };
  parallel(n, useful_threads(rows, 3 * plan_.flops), poll, run_slice);
  loss = combine_numbers(losses, n);
  weight = combine_numbers(losses + n, n);
}

template <class T>
void Engine<T>::loss_and_grad(const Packed<T> &packed, const Batch &batch, int64_t rows, const Weights &weights,
                              double *params, double &loss, double &weight, Poll poll) const {
  const int n = slices(rows);
  loss = weight = 0;
  if (n == 0) {
    return;
  }
  Aligned<T> gradients(n * plan_.padded_size);
  std::vector<double> losses(static_cast<size_t>(2 * n));
  batch_gradient(
      packed, batch, rows, weights, [](int64_t i) { return i; }, gradients.data(), losses.data(), loss, weight, poll);
  combine_gradients(plan_, gradients.data(), n, poll);
  add_gradient(plan_, gradients.data(), params);
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

template <class T>
Trainer<T>::Trainer(std::shared_ptr<const Engine<T>> engine, const T *params, const double *buffers,
                    const Settings &settings)
    : engine_(std::move(engine)),
      settings_(settings),
      buffers_(buffers, buffers + engine_->plan().n_buffers),
      packed_(std::make_unique<Packed<T>>(engine_->plan(), params, buffers)),
      m_(engine_->plan().n_params),
      v_(engine_->plan().n_params),
      losses_(2 * most_slices),
      squares_(engine_->plan().segments.size()) {
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

template <class T>
int64_t Trainer<T>::run(const Batch &batch, int64_t n_rows, const Weights &weights, double weight_scale, uint64_t seed,
                        uint64_t epoch, int64_t n_train, int64_t first_step, int64_t batch_size, int64_t n,
                        const double *learning_rates, double *losses, double *norms, Poll poll) {
  const Plan &plan = engine_->plan();
  const Kernels<T> &kernel = kernels<T>();
  const Order split(seed, 0, n_rows), shuffle(seed, epoch, n_train);
  const int64_t needed = Engine<T>::slices(batch_size) * plan.padded_size;
  if (gradients_ == nullptr || gradients_->size() < needed) {
    gradients_ = std::make_unique<Aligned<T>>(needed);
  }
  const auto n_segments = static_cast<int64_t>(plan.segments.size());
  const int update_threads = static_cast<int>(std::clamp<int64_t>(plan.n_params / 8192, 1, 256));
  for (int64_t k = 0; k < n; k++) {
    const int64_t begin = (first_step + k) * batch_size, rows = std::min(batch_size, n_train - begin);
    if (poll != nullptr && k % 16 == 0 && poll()) {
      throw Interrupted{};
    }
    double loss = 0, weight = 0;
    const int slices = Engine<T>::slices(rows);
    engine_->batch_gradient(
        *packed_, batch, rows, weights, [&](int64_t i) { return split(shuffle(begin + i)); }, gradients_->data(),
        losses_.data(), loss, weight, poll);

    // the sum over slices and the norm, a segment at a time; then the update and its packing, likewise
    const double scale = weight_scale / static_cast<double>(rows);
    parallel(n_segments, update_threads, nullptr, [&](int64_t i) {
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
    losses[k] = loss / weight;
    norms[k] = std::sqrt(square);
    if (!std::isfinite(losses[k]) || !std::isfinite(norms[k])) {
      return k;
    }
    const double clip = norms[k] > settings_.clip_norm ? settings_.clip_norm / norms[k] : 1.0;
    step_++;
    const AdamSettings adam = adam_settings(learning_rates[k], settings_.beta1, settings_.beta2, settings_.epsilon,
                                            settings_.weight_decay, settings_.decoupled, step_);
    parallel(n_segments, update_threads, nullptr, [&](int64_t i) {
      const Segment &segment = plan.segments[static_cast<size_t>(i)];
      for (int64_t r = 0; r < segment.rows; r++) {
        const int64_t at = segment.flat + r * segment.columns;
        kernel.adam(adam, segment.decay, segment.columns, gradients_->data() + segment.padded + r * segment.stride,
                    scale * clip, packed_->params() + at, m_.data() + at, v_.data() + at);
      }
      if (segment.linear != nullptr) {
        kernel.pack(*segment.linear, segment.from, segment.to, packed_->params(), packed_->panels());
      }
    });
    // training reads the four triangles of one direction: products, or solves
    const auto n_lu = static_cast<int64_t>(plan.lu_steps.size());
    parallel(4 * n_lu, n_lu > 0 ? update_threads : 1, nullptr, [&](int64_t i) {
      const Step &step = plan.evaluation().steps[plan.lu_steps[static_cast<size_t>(i / 4)]];
      const int first = step.explicit_to_data != 0 ? lu_triangles / 2 : 0;
      kernel.pack_lu(step, first + static_cast<int>(i % 4), packed_->params(), packed_->panels());
    });
  }
  return n;
}

template class Packed<float>;
template class Packed<double>;
template class Engine<float>;
template class Engine<double>;
template class Trainer<float>;
template class Trainer<double>;

}  // namespace penstock
