// The two ends of a flow: the columns of the data into the state and out of it, and the base density.
//   columns, in     u = (x - loc) / scale      log_det = -sum log scale      du = scale dx
//   columns, out    x = loc + scale u          log_det =  sum log scale      dx = du / scale
//   base, normal    log p(z) = -|z|^2 / 2 - dim log(2 pi) / 2                dz = -z dlog_p
//   base, uniform   log p(z) = -dim log(hi - lo), or -inf outside            dz = 0
// Columns are mapped in float64. What they add to log_det whatever a row holds is where the sum of each row begins. Where the
// support of a column is not the whole line, a bijection (supports.hpp) stands between the data and x, and adds what depends
// on the row. At an end within a flow columns are copied. The stride of a state is tile_stride, or 1 for one row.
#pragma once

#include "core/rowsum.hpp"
#include "isa/bases.hpp"

namespace penstock::PENSTOCK_ISA {

// Where log_det begins, for a pass between two ends of which at most one is that of the data.
template <class T>
PENSTOCK_FUNCTION void begin_log_det(const PackedView<T> &packed, const End &in, const End &out, double *log_det) {
  const double constant = in.data ? -packed.log_scale : out.data ? packed.log_scale : 0.0;
  for (int r = 0; r < tile_rows; r++) {
    log_det[r] = constant;
  }
}

template <class T>
PENSTOCK_FUNCTION void load_from(const Columns &columns, const RowsView &in, const int64_t *index, int64_t first_row,
                                 int rows, int stride, T *state) {
  const RowPointers pointers{in, index, first_row, rows};
  const bool mapped = columns.loc != nullptr;
  if (in.item_size == 4 && mapped) {
    load_rows<T, float, true>(columns, pointers, stride, state);
  } else if (in.item_size == 4) {
    load_rows<T, float, false>(columns, pointers, stride, state);
  } else if (mapped) {
    load_rows<T, double, true>(columns, pointers, stride, state);
  } else {
    load_rows<T, double, false>(columns, pointers, stride, state);
  }
}

template <class T>
PENSTOCK_FUNCTION void store_to(const Columns &columns, const T *state, int rows, int stride, const RowsOut<T> &out) {
  if (columns.loc != nullptr) {
    store_rows<T, true>(columns, state, rows, stride, out);
  } else {
    store_rows<T, false>(columns, state, rows, stride, out);
  }
}

// Rows of an array into the state; index names them, or if it is null they follow from first_row. Bits of the rows that lie
// outside a support.
template <class T>
PENSTOCK_FUNCTION uint64_t columns_in(const PlanView &plan, const PackedView<T> &packed, const End &end,
                                      const RowsView &in, const int64_t *index, int64_t first_row, int rows, int stride,
                                      T *state, double *log_det) {
  const Columns columns{plan.dim, end.slots, end.data ? packed.loc : nullptr, end.data ? packed.inverse : nullptr};
  load_from(columns, in, index, first_row, rows, stride, state);
  if (!has<part_supports> || !end.data || packed.n_mapped == 0) {
    return 0;
  }
  const RowPointers pointers{in, index, first_row, rows};
  return (stride == 1 ? mapped_in<double, T> : mapped_in<Native<double>, T>)(packed, end.slots, pointers, stride, state,
                                                                             log_det);
}

// The state into rows of an array; if that is null, only what they add to log_det. Bits of the rows that rounding
// moves considerably.
template <class T>
PENSTOCK_FUNCTION uint64_t columns_out(const PlanView &plan, const PackedView<T> &packed, const End &end,
                                       const T *state, int rows, int stride, const RowsOut<T> &out, double *log_det) {
  const Columns columns{plan.dim, end.slots, end.data ? packed.loc : nullptr, end.data ? packed.scale : nullptr};
  if (out.data != nullptr) {
    store_to(columns, state, rows, stride, out);
  }
  if (!has<part_supports> || !end.data || packed.n_mapped == 0) {
    return 0;
  }
  return (stride == 1 ? mapped_out<double, T> : mapped_out<Native<double>, T>)(packed, end.slots, state, rows, stride,
                                                                               out, log_det);
}

// Cotangents of what columns_out gave, rows of a C-ordered array and log_det, into those of the state. Without such rows
// d_state keeps what it holds of columns that are not mapped.
template <class T>
PENSTOCK_FUNCTION void cotangents_in(const PlanView &plan, const PackedView<T> &packed, const End &end, const T *d_out,
                                     const T *state, const T *d_log_det, int rows, T *d_state) {
  const Columns columns{plan.dim, end.slots, end.data ? packed.zero : nullptr, end.data ? packed.scale : nullptr};
  const RowsView view{reinterpret_cast<const char *>(d_out), plan.dim * static_cast<int64_t>(sizeof(T)), sizeof(T),
                      sizeof(T)};
  if (d_out != nullptr) {
    load_from(columns, view, nullptr, 0, rows, tile_stride, d_state);
  }
  if (has<part_supports> && end.data && packed.n_mapped > 0) {
    mapped_cotangents_in<Native<double>>(packed, end.slots, plan.dim, d_out, state, d_log_det, rows, d_state);
  }
}

// Cotangents of the state and of log_det into those of what columns_in read, which a bijection reads again.
template <class T>
PENSTOCK_FUNCTION void cotangents_out(const PlanView &plan, const PackedView<T> &packed, const End &end,
                                      const RowsView &in, const int64_t *index, int64_t first_row, const T *d_state,
                                      const T *d_log_det, int rows, const RowsOut<T> &d_in) {
  const Columns columns{plan.dim, end.slots, end.data ? packed.zero : nullptr, end.data ? packed.inverse : nullptr};
  store_to(columns, d_state, rows, tile_stride, d_in);
  if (has<part_supports> && end.data && packed.n_mapped > 0) {
    mapped_cotangents_out<Native<double>>(packed, end.slots, {in, index, first_row, rows}, d_state, d_log_det, d_in);
  }
}

// Columns of a C-ordered (rows, n) array into (n, tile), and back.
template <class T>
PENSTOCK_FUNCTION void features_in(const T *in, int64_t n, int rows, T *tile) {
  const RowsView view{reinterpret_cast<const char *>(in), n * static_cast<int64_t>(sizeof(T)), sizeof(T), sizeof(T)};
  load_rows<T, T, false>({n, nullptr, nullptr, nullptr}, {view, nullptr, 0, rows}, tile_stride, tile);
}

template <class T>
PENSTOCK_FUNCTION void features_out(const T *tile, int64_t n, int rows, T *out) {
  store_rows<T, false>({n, nullptr, nullptr, nullptr}, tile, rows, tile_stride, {out, n});
}

// Numbers of a block of the base: free ones, or a network's, which runs here. keep: for its own way back.
template <class T>
PENSTOCK_FUNCTION BlockNumbers<T> numbers_of(const PlanView &plan, const PackedView<T> &packed, const BaseBlock &block,
                                             int stride, bool keep, const Tile<T> &tile) {
  using V = Native<T>;
  if (block.network < 0) {
    return {packed.params + block.params, true};
  }
  const Step &step = plan.steps[block.network];
  if (const T *theta = shared_theta(step, tile.context)) {
    return {theta, true};
  }
  T *area = tile.kept + step.area;
  if (stride == 1) {
    gather_row<T>(step, tile.context, nullptr, area);
    mlp_row<V>(step, packed.params, nullptr, area);
    return {area + step.theta / tile_stride, true};
  }
  const int n_vectors = whole_vectors<T>(tile.rows) / lanes<V>;
  gather_features<V>(step, n_vectors, tile, area);
  mlp_forward<V>(step, packed, nullptr, n_vectors, keep, area);
  return {area + step.theta, false};
}

PENSTOCK_INLINE bool is_learned(const BaseBlock &block) {
  return has<part_bases> && block.kind != base_standard_normal && block.kind != base_uniform;
}

// The components of a block that are given, and those of the next mixture.
PENSTOCK_INLINE const int64_t *given_components(const BaseBlock &block, const TileDraws &draws, int64_t &mixture) {
  if (draws.chosen == nullptr || block.kind != base_gaussian_mixture) {
    return nullptr;
  }
  return draws.chosen + mixture++ * draws.chosen_stride;
}

// Draws from the base.
template <class T>
PENSTOCK_FUNCTION void base_draw(const PlanView &plan, const PackedView<T> &packed, const TileDraws &draws, int stride,
                                 Tile<T> &tile) {
  const int rows = tile.rows;
  const uint64_t seed = draws.seed, *context_row = draws.context_row, *draw = draws.draw;
  T *state = tile.state;
  (stride == 1 ? normals<T> : normals<Native<T>>)(seed, context_row, draw, rows, plan.n_normals, stride, state);
  int64_t mixture = 0;
  for (int i = 0; i < plan.n_base; i++) {
    const BaseBlock &block = plan.base[i];
    if (block.kind == base_uniform) {
      (stride == 1 ? uniforms<T> : uniforms<Native<T>>)(seed, context_row, draw, rows, block.n, block.dims,
                                                        static_cast<T>(block.lo), static_cast<T>(block.hi - block.lo),
                                                        static_cast<T>(block.least), static_cast<T>(block.most), stride,
                                                        state);
    } else if (is_learned(block)) {
      const BlockNumbers<T> numbers = numbers_of(plan, packed, block, stride, false, tile);
      const int64_t *given = given_components(block, draws, mixture);
      (stride == 1 ? learned_draw<double, T> : learned_draw<Native<double>, T>)(block, i, numbers, draws, given, rows,
                                                                                stride, state);
    }
  }
}

// log_p += log p(z) of normal dimensions, summed over them in order, in float64.
template <class T>
PENSTOCK_FUNCTION void normal_log_density(const BaseBlock &block, const T *z, int n, int stride, double *log_p) {
  using V = Native<T>;
  double sum[tile_rows];
  for (int r = 0; r < n; r++) {
    sum[r] = 0;
  }
  for (int64_t d = 0; d < block.n; d++) {
    const T *row = z + block.dims[d] * stride;
    if (stride == 1) {
      accumulate_product<T>(sum, *row, *row);
      continue;
    }
    for (int r = 0; r < n; r += lanes<V>) {
      const V v = load<V>(row + r);
      accumulate_product<V>(sum + r, v, v);
    }
  }
  for (int r = 0; r < n; r++) {
    log_p[r] = log_p[r] - 0.5 * sum[r] - block.n * half_log_2pi;
  }
}

// The same of uniform ones, V by V. On a circle nothing lies outside.
template <class V>
PENSTOCK_FUNCTION void uniform_log_density(const BaseBlock &block, const Element<V> *z, int n, int stride,
                                           double *log_p) {
  using T = Element<V>;
  const V lo = splat<V>(static_cast<T>(block.lo)), hi = splat<V>(static_cast<T>(block.hi));
  const V outside = splat<V>(static_cast<T>(block.circle ? 0 : -__builtin_inf()));
  for (int64_t d = 0; d < block.n; d++) {
    for (int r = 0; r < n; r += lanes<V>) {
      const V v = load<V>(z + block.dims[d] * stride + r);
      accumulate<V>(log_p + r, select((v < lo) | (v > hi), outside, v - v));  // NaN passes
    }
  }
  for (int r = 0; r < n; r++) {
    log_p[r] = log_p[r] + block.constant;
  }
}

template <class T>
PENSTOCK_FUNCTION void base_log_density(const PlanView &plan, const PackedView<T> &packed, const Tile<T> &tile,
                                        int stride, double *log_p) {
  const int n = stride == 1 ? 1 : whole_vectors<T>(tile.rows);
  const T *z = tile.state;
  for (int i = 0; i < plan.n_base; i++) {
    const BaseBlock &block = plan.base[i];
    if (block.kind == base_standard_normal) {
      normal_log_density(block, z, n, stride, log_p);
    } else if (!has<part_bases> || block.kind == base_uniform) {
      (stride == 1 ? uniform_log_density<T> : uniform_log_density<Native<T>>)(block, z, n, stride, log_p);
    } else {
      const BlockNumbers<T> numbers = numbers_of(plan, packed, block, stride, false, tile);
      (stride == 1 ? learned_log_density<double, T> : learned_log_density<Native<double>, T>)(block, numbers, z, n,
                                                                                              stride, log_p);
    }
  }
}

// The way back of numbers_of, from gradient.theta.
template <class T>
PENSTOCK_FUNCTION void numbers_backward(const PlanView &plan, const PackedView<T> &packed, const BaseBlock &block,
                                        const BlockNumbers<T> &numbers, const Tile<T> &tile,
                                        const TileGradient<T> &gradient) {
  using V = Native<T>;
  const int n_vectors = whole_vectors<T>(tile.rows) / lanes<V>;
  if (block.network < 0) {
    if (gradient.of_params != Gradient::ignore) {
      free_gradient(gradient, block.grad, block.n_numbers, gradient.theta, tile.rows);
    }
  } else if (!numbers.free) {
    const Step &step = plan.steps[block.network];
    const int from = first_wanted(step, false, gradient);
    const T *du = mlp_backward<V>(step, packed, tile.rows, n_vectors, from, gradient, tile.kept + step.area);
    scatter_gradient<V>(step, n_vectors, du, tile.kept + step.area, gradient);
  }
}

// The way back of a block whose numbers are learned.
template <class T>
PENSTOCK_FUNCTION void learned_backward(const PlanView &plan, const PackedView<T> &packed, const BaseBlock &block,
                                        const T *d_log_p, const Tile<T> &tile, const TileGradient<T> &gradient) {
  const int n = whole_vectors<T>(tile.rows);
  const BlockNumbers<T> numbers = numbers_of(plan, packed, block, tile_stride, true, tile);
  learned_backward<Native<double>>(block, numbers, tile.state, d_log_p, n, gradient.state, gradient.theta);
  numbers_backward(plan, packed, block, numbers, tile, gradient);
}

// dz += d log p / dz d_log_p, and gradients of what is learned. The density of uniform dimensions is flat.
template <class T>
PENSTOCK_FUNCTION void base_backward(const PlanView &plan, const PackedView<T> &packed, const T *d_log_p,
                                     const Tile<T> &tile, const TileGradient<T> &gradient) {
  const int n = whole_vectors<T>(tile.rows);
  const T *z = tile.state;
  T *d_z = gradient.state;
  for (int i = 0; i < plan.n_base; i++) {
    const BaseBlock &block = plan.base[i];
    for (int64_t d = 0; block.kind == base_standard_normal && d < block.n; d++) {
      const int64_t at = block.dims[d] * tile_stride;
      for (int r = 0; r < n; r++) {
        d_z[at + r] = d_z[at + r] - z[at + r] * d_log_p[r];
      }
    }
    if (is_learned(block)) {
      learned_backward(plan, packed, block, d_log_p, tile, gradient);
    }
  }
}

// The way back of base_draw: gradients of what is learned.
template <class T>
PENSTOCK_FUNCTION void base_draw_backward(const PlanView &plan, const PackedView<T> &packed, const TileDraws &draws,
                                          const T *d_log_weight, const Tile<T> &tile, const TileGradient<T> &gradient) {
  const int n = whole_vectors<T>(tile.rows);
  int64_t mixture = 0;
  for (int i = 0; i < plan.n_base; i++) {
    const BaseBlock &block = plan.base[i];
    if (!is_learned(block)) {
      continue;
    }
    const int64_t *given = given_components(block, draws, mixture);
    const BlockNumbers<T> numbers = numbers_of(plan, packed, block, tile_stride, true, tile);
    learned_draw_backward<Native<double>>(block, i, numbers, draws, given, tile.state, gradient.state, d_log_weight,
                                          tile.rows, n, gradient.theta);
    numbers_backward(plan, packed, block, numbers, tile, gradient);
  }
}

}  // namespace penstock::PENSTOCK_ISA
