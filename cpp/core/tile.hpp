// A tile of rows on its way through a flow, as engine and kernels see it: plain structs of sizes and pointers to arrays
// whose features are tile_stride numbers apart. No functions here: rooms compiled for different machines share them.
#pragma once

#include "core/plan.hpp"

namespace penstock {

// What the bijection of a member of a group is, between its two ends: see isa/groups.hpp.
enum MemberShape : int32_t { member_real, member_half_line, member_interval };

// A column of the data or of the context whose support is not the whole line: see isa/supports.hpp. A member of a group moves
// its upper end if it is mirrored, and its lower one if not.
struct MappedColumn {
  int64_t column;
  int32_t map;
  bool mirrored;                // a half-line below hi
  double lo, hi;                // infinite where there is no end
  double scale;                 // s of a half-line, hi - lo of an interval, 1 / h of a circle, s W / 2 of a box
  double least, most;           // of the numbers of the flow's type within
  double first[2], last[2];     // of those that count as within, in rows of float and of double
  double middle;                // of a circle and of a box, there m
  double unit, lower, upper;    // of a box: s, V_lo, V_hi,
  double lower_gap, upper_gap;  // 1 - |V_lo|, 1 - |V_hi|
  // of a member of a group: whether it is the first; the column before it, or no_index; its shape; in a simplex, what it has
  // to leave to those behind it
  bool opens;
  int64_t before;
  int32_t shape;
  double room;
};

// An immutable snapshot of parameters, packed for the kernels.
template <class T>
struct PackedView {
  const T *params;                             // flat
  const T *panels;                             // W in panels of outputs, for products with inputs
  const double *loc, *scale, *inverse, *zero;  // standardisation, 1 / scale, and as many zeros
  double log_scale;                            // sum of log scale, those of mapped columns included
  const double *context_loc, *context_inverse;
  int n_mapped, n_alone;  // those behind n_alone are members of groups, each behind the one before it
  const MappedColumn *mapped;
  int n_context_mapped;  // columns of the context: see isa/contexts.hpp
  const MappedColumn *context_mapped;
};

// Rows of a two-dimensional array of float or double, any strides in bytes.
struct RowsView {
  const char *data;
  int64_t row_stride, column_stride;
  int item_size;
};

// Rows of an array that is written: numbers of a row side by side, rows `stride` numbers apart, and nothing between them
// touched. Null where they are not wanted.
template <class T>
struct RowsOut {
  T *data;
  int64_t stride;
};

// What decides the draws of a tile's rows, each a row of context and a number of its own. Of mixtures, components may be given.
struct TileDraws {
  uint64_t seed;
  const uint64_t *context_row, *draw;  // (tile)
  const int64_t *chosen = nullptr;     // (mixtures, rows) chosen_stride apart: components, or null where they are drawn
  int64_t chosen_stride = 0;
  double *log_weight = nullptr;  // (tile): what given components weigh is added to, or null
};

// One end of a range of steps: the slot of each column of an array, and whether the columns of the data, which are
// standardised, lie between the two.
struct End {
  const int64_t *slots;
  bool data;
};

// What becomes of a gradient.
enum class Gradient { ignore, overwrite, accumulate };

// What a walk keeps for the way back.
enum class Keep {
  nothing,
  old_values,  // of each step; the way back runs conditioners again, which share one area
  activations  // and old values
};

// Which steps of a flow, and in which direction.
struct Pass {
  int first, last;
  bool to_data;
  Keep keep;
};

enum class ContextKind {
  none,
  rows,           // a context for each row
  part,           // the rows of a tile share one, of which there is only what it contributes to each conditioner
  rows_and_part,  // the same, given in both ways
};

// What the rows of a tile see of the context.
template <class T>
struct TileContext {
  ContextKind kind;
  T *rows;  // (n_context, tile)
  // For each conditioner, at Step::start, the part of the context in its first layer, b + c W_c, where the products then
  // begin; for one that reads nothing else, theta.
  const T *part;
  T *own_part;  // room for one that is made for this tile
};

template <class T>
struct Tile {
  int rows;         // 1 .. tile_rows
  T *state;         // (dim, tile) by slot
  double *log_det;  // (tile)
  // Bits of rows: outside the support of a column; and of those written, where rounding counts (isa/supports.hpp).
  uint64_t outside, coarse;
  T *theta;  // external theta of all steps (external features, tile)
  TileContext<T> context;
  T *kept;  // old values and areas of steps
};

// The way back of a tile: cotangents, and room for those within a step.
template <class T>
struct TileGradient {
  T *state;       // (dim, tile) by slot
  T *log_det;     // (tile)
  T *theta;       // (widest theta, tile), of the step at work
  T *external;    // (external features, tile), of external theta
  T *context;     // (n_context, tile)
  T *hidden[2];   // (widest layer, tile) each; the first has room for input and all layers of a masked network
  T *transposed;  // (tile, widest layer padded)
  T *params;      // padded gradient of this slice; of a device the records of a row (cuda/linear.hpp)
  Gradient of_params, of_context;
  int64_t record_stride = 0;  // of those
};

}  // namespace penstock
