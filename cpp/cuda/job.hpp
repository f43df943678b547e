// What a kernel is told, by value: plain structs, whose pointers lead into memory of the device. Shared by the host and by
// kernels for any number of rows a block.
#pragma once

#include <cstdint>

#include "core/tile.hpp"
#include "engine/order.hpp"
#include "isa/kernels.hpp"

namespace penstock::cuda {

// Where the arrays of a block lie in its room: features, each of as many numbers as the block has rows.
struct Room {
  int64_t theta, context, kept, d_state, d_theta, hidden[2], d_context, d_external, powers;  // the state comes first
  int64_t features;                                                                          // in all
};

// Theta of an external step: a row for each of the batch, or one for all; null where it is not read.
template <class T>
struct Theta {
  const T *data;
  bool shared;
  int64_t n, offset;  // numbers a row, features of Tile::theta before it
  T *d_rows;          // (rows, n), or null
};

// A walk of rows through a range of steps: see engine/walk.hpp.
template <class T>
struct Walk {
  PlanView plan;
  PackedView<T> packed;
  Pass pass;
  End in, out;
  bool base;
  Room room;
  T *rooms;  // of all blocks, one after the other; null: in shared memory

  ContextKind context_kind;
  RowsView context;
  int64_t context_block;  // rows of the batch that share a row of it
  bool context_shared;
  const T *context_part;

  const Theta<T> *thetas;
  int n_thetas;
};

// Rows that come from draws of the base.
struct Drawing {
  uint64_t seed, context_row, first_draw;
  int64_t block;          // draws of a row of context
  const int64_t *chosen;  // components, (mixtures, rows) chosen_stride apart, or null
  int64_t chosen_stride;
};

// Values of rows, to float or double, or nowhere.
struct Values {
  void *data;
  int item_size;
};

template <class T>
struct Evaluate {
  Walk<T> walk;
  int64_t first, rows;  // those of the batch that this launch has: numbers first, first + 1, ...
  bool draws;
  Drawing drawing;
  RowsView x;            // unless they are drawn
  const int64_t *index;  // rows of x, or null: they follow each other
  bool by_number;        // index has numbers of draws, and rows of context follow each other
  RowsOut<T> out;        // of row number 0 of the batch, as values is
  Values values;
  double *log_weight;  // of chosen components, or null
  uint8_t *coarse;     // (rows): whether rounding moves a row visibly; or null
};

// What is summed for gradients of parameters: numbers of each row, recorded in arrays of `stride` rows a feature.
template <class T>
struct Records {
  T *data;
  int64_t stride;
};

template <class T>
struct Vjp {
  Walk<T> walk;
  int64_t first, rows;
  bool draws;  // the way back of draws alone
  Drawing drawing;
  RowsView x;
  Values values;
  const T *d_out, *d_value;  // (rows, dim) and (rows) of the batch, or null for zero
  RowsOut<T> d_x, d_context;
  uint8_t *bad;  // (rows): whether a row is far out, and a gradient of it overflowed; or null
  T *spare;      // (context_dim) for each thread of a block
  bool want_params, want_context;
  Records<T> records;  // row number `first` comes first
};

// --- training ----------------------------------------------------------------------------------------------------------------

// Rows of a training batch, in tiles of the processor's size: those whose weight is not zero, at the head of each tile.
struct BatchRows {
  int64_t *index;  // (tiles, tile) rows of the table
  double *weight;  // (tiles, tile)
  int32_t *count;  // (tiles)
  double *loss;    // (tiles, tile): -w log p
};

// Which rows make up a batch: see TrainingRows of engine/engine.hpp.
struct OrderRows {
  Order split, shuffle;
  bool ordered;  // otherwise all rows, as they come
  int64_t begin, rows;
  const char *weights;  // null: all 1
  int64_t weight_stride;
  int weight_size;
  double weight_factors[2];
  BatchRows out;
};

// Forward, log p of each row, and back.
template <class T>
struct Train {
  Walk<T> walk;
  int64_t first,
      rows;  // positions of the batch, as if no tile had left out rows; both multiples of a tile, but for the end
  RowsView x;
  BatchRows batch;
  Records<T> records;
  const int32_t *stop;  // not zero: a step before was not finite
};

// Slices of a batch, in tiles of the processor's size, and what of them a chunk of rows is.
struct SlicesOf {
  int64_t rows, tiles;
  int n;
  int64_t first_tile, end_tile;  // of the chunk
  const int32_t *count;          // rows of each tile of the batch, or null: all
};

// One linear layer's gradient:  dW[k][n] = sum_r in[k][r] d[n][r],  db[n] = sum_r d[n][r]. first: of each input the first output
// that it enters, or null. No bias where it is negative. Of a triangle of an LU layer: side 1 the entries above the diagonal, -1
// those below.
struct LinearJob {
  int64_t in, d;  // features of the records
  int32_t n_in, n_out;
  int64_t weight, bias, stride;
  const int *first;
  int32_t side;
  int32_t begin;  // number of its first block of the grid
};
template <class T>
struct LinearSums {
  SlicesOf slices;
  Records<T> records;
  const LinearJob *jobs;
  int n_jobs;
  T *gradients;  // (slices, n_params)
  int64_t n_params;
  const int32_t *stop;
};

// Gradients of free numbers: number i is the sum of a feature.
struct FreeJob {
  int64_t feature, param;
};
template <class T>
struct FreeSums {
  SlicesOf slices;
  Records<T> records;
  const FreeJob *jobs;
  int64_t n_jobs;
  T *gradients;
  int64_t n_params;
  const int32_t *stop;
};

// The first of n gradients becomes their sum, by the tree.
template <class T>
struct Combine {
  T *gradients;
  int64_t n_params;
  int n;
  const int32_t *stop;
};

// Sums of losses and weights over slices, and over those.
struct Losses {
  SlicesOf slices;
  BatchRows batch;
  double *sums;  // (2, slices); the two totals stand first in each
  const int32_t *stop;
};

// Neighbouring parameters that are trained together; decay: whether weight decay is theirs.
struct PieceOf {
  int64_t at, n;
  int32_t decay;
  int32_t segment;
};

// Sums of squares of scale times the gradient, a piece each, where the scale comes of the loss: see Trainer::take_step.
template <class T>
struct Squares {
  const T *gradient;
  const PieceOf *pieces;
  int64_t n_pieces;
  const double *sums;  // of losses, then of weights
  int64_t weight_at;   // where the sum of weights stands
  double weight_scale, rows;
  double *squares;  // (pieces)
  const int32_t *stop;
};

// Whether the step is taken, and by how much of the gradient.
struct Decide {
  const PieceOf *pieces;
  int64_t n_pieces;
  const double *squares, *sums;
  int64_t weight_at;
  double weight_scale, rows, clip_norm;
  double *loss, *norm;     // results
  int32_t *taken;          // 1 taken, 2 no weight, 0 not finite
  double *scale;           // of the gradient
  int64_t *done, *number;  // steps that were taken in all, and before this one
  int32_t *stop;
};

template <class T>
struct Adam {
  AdamSettings settings;      // but for corrections:
  const double *corrections;  // (steps, 2), of step number *number
  const int64_t *number;
  const PieceOf *pieces;
  const int64_t *ends;  // (pieces) numbers of all pieces up to here
  int64_t n_pieces, n_numbers;
  const T *gradient;
  const double *scale;
  const int32_t *taken;
  T *params, *m, *v;
};

// Panels from parameters: number i comes from params[source[i]], none where that is negative; and triangles of LU layers.
template <class T>
struct Pack {
  const int64_t *source;
  int64_t n;
  T *panels;
  const T *params;
  const Step *lu;  // (n_lu)
  int n_lu;
  const int32_t *taken;
};

}  // namespace penstock::cuda
