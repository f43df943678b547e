// What an instruction set offers: one table of functions for float and one for double. This header is shared with the
// engine; kernels.cpp, compiled once per instruction set, fills the tables and exports nothing else.
#pragma once

#include "core/tile.hpp"

namespace penstock {

struct AdamSettings {
  double learning_rate, beta1, beta2, epsilon, weight_decay;
  double correction1, correction2;  // 1 - beta^step
  bool decoupled;
};

// Work is given in whole tiles, or in ranges of the flat parameters. Nothing here allocates, throws, or locks.
template <class T>
struct Kernels {
  int lanes;

  // The ends of a flow: see isa/ends.hpp. The stride is tile_stride, or 1 for one row.
  void (*begin_log_det)(const PackedView<T> &, const End &in, const End &out, double *log_det);
  uint64_t (*columns_in)(const PlanView &, const PackedView<T> &, const End &, const RowsView &, const int64_t *index,
                         int64_t first_row, int rows, int stride, T *state, double *log_det);
  uint64_t (*columns_out)(const PlanView &, const PackedView<T> &, const End &, const T *state, int rows, int stride,
                          const RowsOut<T> &out, double *log_det);
  void (*cotangents_in)(const PlanView &, const PackedView<T> &, const End &, const T *d_out, const T *state,
                        const T *d_log_det, int rows, T *d_state);
  void (*cotangents_out)(const PlanView &, const PackedView<T> &, const End &, const RowsView &in, const int64_t *index,
                         int64_t first_row, const T *d_state, const T *d_log_det, int rows, const RowsOut<T> &d_in);
  void (*features_in)(const T *in, int64_t n, int rows, T *tile);
  void (*features_out)(const T *tile, int64_t n, int rows, T *out);
  void (*base_draw)(const PlanView &, const PackedView<T> &, const TileDraws &, int stride, Tile<T> &);
  void (*base_log_density)(const PlanView &, const PackedView<T> &, const Tile<T> &, int stride, double *log_p);
  void (*base_backward)(const PlanView &, const PackedView<T> &, const T *d_log_p, const Tile<T> &,
                        const TileGradient<T> &);
  // The way back of base_draw, from cotangents of the state and, d_log_weight (tile), of log_weight.
  void (*base_draw_backward)(const PlanView &, const PackedView<T> &, const TileDraws &, const T *d_log_weight,
                             const Tile<T> &, const TileGradient<T> &);

  // The context of a tile, one row of the array for each (stride 1: of one row), mapped and standardised in float64 and
  // through the embedding, into TileContext::rows.
  void (*context_in)(const PlanView &, const PackedView<T> &, const RowsView &, const int64_t *index, int stride, Keep,
                     Tile<T> &);
  // TileContext::part, from TileContext::rows of one row.
  void (*make_context_part)(const PlanView &, const PackedView<T> &, const Tile<T> &, T *part);
  // The way back from TileGradient::context: parameters of the embedding, and rows of an array, if not null.
  // Bijections read the rows of the context again.
  void (*context_backward)(const PlanView &, const PackedView<T> &, const RowsView &, const int64_t *index,
                           const Tile<T> &, const TileGradient<T> &, const RowsOut<T> &d_context);

  void (*forward)(const PlanView &, const PackedView<T> &, const Pass &, Tile<T> &);
  void (*backward)(const PlanView &, const PackedView<T> &, const Pass &, bool want_input, Tile<T> &,
                   const TileGradient<T> &);
  // forward for one row, of one number a feature, with lanes over outputs.
  void (*row)(const PlanView &, const PackedView<T> &, const Pass &, Tile<T> &);

  // Panels of rows [from, to) of one linear layer's W.
  void (*pack)(const Linear &, int from, int to, const T *params, T *panels);
  // One of the lu_triangles packed triangles of an LU step.
  void (*pack_lu)(const Step &, int triangle, const T *params, T *panels);
  // n padded gradients (count numbers each, stride apart) into the first, by the fixed tree.
  void (*combine)(T *gradients, int64_t stride, int n, int64_t count);
  // Log-densities of a mixture, and the shares of its members: see isa/mixtures.hpp.
  void (*mix)(double *values, int64_t stride, int64_t n, const double *log_weights, int64_t rows, double *log_p);
  double (*sum_rows)(const double *x, int64_t rows);
  double (*sum_squares)(const T *x, int64_t n, double scale);
  // n consecutive parameters with gradient scale * gradient.
  void (*adam)(const AdamSettings &, bool decay, int64_t n, const T *gradient, double scale, T *params, T *m, T *v);
};

#define PENSTOCK_DECLARE_ISA(name)             \
  namespace name {                             \
  extern const Kernels<float> kernels_float;   \
  extern const Kernels<double> kernels_double; \
  }
PENSTOCK_DECLARE_ISA(avx2)
PENSTOCK_DECLARE_ISA(avx512)
PENSTOCK_DECLARE_ISA(fma128)
PENSTOCK_DECLARE_ISA(neon)
#undef PENSTOCK_DECLARE_ISA

}  // namespace penstock
