// What an instruction set offers: one table of functions for float and one for double. This header is shared with the
// engine; kernels.cpp, compiled once per instruction set, fills the tables and exports nothing else.
#pragma once

#include "core/plan.hpp"

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

  // Rows of the input into the tile's state (stride tile_stride, or 1 for one row), by slots, in float64 where the
  // standardisation applies (packed not null); index, if given, names the rows, otherwise they follow from first_row.
  void (*load)(const PlanView &, const int64_t *slots, const PackedView<T> *packed, const RowsView &,
               const int64_t *index, int64_t first_row, int rows, int stride, T *state);
  // The state into rows of a C-ordered array.
  void (*store)(const PlanView &, const int64_t *slots, const PackedView<T> *packed, const T *state, int rows,
                int stride, T *out);
  // Columns of a C-ordered (rows, n) array into (n, tile), and back.
  void (*load_columns)(const T *in, int64_t n, int rows, T *tile);
  void (*store_columns)(const T *tile, int64_t n, int rows, T *out);

  // The context of a tile, one row of the array for each (stride 1: of one row), standardised in float64 and through the
  // embedding. Sets tile.context.
  void (*load_context)(const PlanView &, const PackedView<T> &, const RowsView &, const int64_t *index, int stride,
                       bool keep, Tile<T> &);
  // The way back of tile.d_context: parameters of the embedding, and rows of a C-ordered array, if not null.
  void (*store_context)(const PlanView &, const PackedView<T> &, const Tile<T> &, T *out);
  // Tile::starts from tile.context as one row.
  void (*share)(const PlanView &, const PackedView<T> &, const Tile<T> &, T *starts);

  // Draws of the base, each of a context row and a number of its own (tile_rows of them).
  void (*normals)(const PlanView &, uint64_t seed, const uint64_t *context_row, const uint64_t *draw, int rows,
                  int stride, T *state);

  void (*forward)(const PlanView &, const PackedView<T> &, const Pass &, Tile<T> &);
  void (*backward)(const PlanView &, const PackedView<T> &, const Pass &, bool want_input, Tile<T> &);
  // log_det += sign * log p(state); gradient: -state * bar added to it.
  void (*base)(const PlanView &, const T *state, int rows, int stride, double sign, double *log_det);
  void (*base_backward)(const PlanView &, const T *state, const T *bar, int rows, T *gradient);
  // One row, state (dim), context (n_context): as forward, with lanes over outputs.
  void (*row)(const PlanView &, const PackedView<T> &, const Pass &, const T *context, T *state, double *log_det,
              T *area);

  // Panels of rows [from, to) of one linear layer's W.
  void (*pack)(const Linear &, int from, int to, const T *params, T *panels);
  // One of the lu_triangles packed triangles of an LU step.
  void (*pack_lu)(const Step &, int triangle, const T *params, T *panels);
  // n padded gradients (count numbers each, stride apart) into the first, by the fixed tree.
  void (*combine)(T *gradients, int64_t stride, int n, int64_t count);
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
