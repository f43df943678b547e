// A plan as the kernels see it: plain structs of sizes, offsets and pointers, which engine/layout.cpp makes from a plan
// table. No functions here: this header is shared by rooms compiled for different machines.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/codes.hpp"
#include "core/layout.hpp"

namespace penstock {

inline constexpr int max_options = 8;
inline constexpr int most_bins = 64;         // of a spline
inline constexpr int most_components = 256;  // of a mixture

// Where theta comes from, as the kernels tell it apart.
enum ConditionerKind : int32_t { conditioner_free, conditioner_mlp, conditioner_residual_mlp, conditioner_external };

// One product of a masked linear layer: the sums of n outputs (or, on the way back, inputs) from `to` on take their terms
// of `count` others from `from` on.
struct Piece {
  int to, n, from, count;
  bool first;       // whether the sums start here, or go on from an earlier piece
  int64_t weights;  // where its weights begin, among the layer's panels or, on the way back, in W
};

// How the inputs and outputs of a masked linear layer, both sorted by degree, are tied: an output reads the inputs whose
// degree is not above its own. Pieces are sorted by the degree at which their terms are known.
struct Mask {
  int n_degrees;
  const Piece *forward, *backward;
  const int *forward_start, *backward_start;  // (n_degrees + 1): number of the first piece of each degree
  const int *input_start, *output_start;      // (n_degrees + 1): number of the first input and output of each degree
  const int *first_output;                    // (n_in): the first output that an input enters
};

// One linear layer of a conditioner.
struct Linear {
  int n_in, n_out;
  int64_t weight, bias;            // offsets into the flat parameters: W (n_in, n_out), b (n_out)
  int64_t panels;                  // offset of W in panels
  int64_t grad_weight, grad_bias;  // offsets into a padded gradient, rows of n_out padded to pad_columns
  int grad_stride;
  int64_t output, derivative;  // offsets into the step's area: (n_out, tile) each; derivative < 0: not kept
  const Mask *mask;            // null: every output reads every input
  int64_t gradient;            // masked: offset in d_hidden[0] of the gradient of its outputs, (n_out, tile)
};

// Neighbours in B that have the same transform. A step of one kind of dimensions has one run.
struct Run {
  int from, to;  // positions in B
  int32_t transform, n_theta;
  int64_t theta;  // where theta of the first one begins, in numbers of a row
  double options[max_options];
};

struct Step {
  int32_t kind, explicit_to_data, conditioner, activation, n_linear;
  int n_a, n_b, n_u;  // dimensions read and changed, width of the conditioner's input: the context, then A
  int n_context;      // features of the context among them
  int n_runs;
  const int64_t *a, *b;
  const Linear *linear;
  const Run *runs;  // that make up B, in order
  const int
      *features;     // of each dimension that the conditioner reads the first feature, and their number; null: one each
  int64_t n_theta;   // numbers of theta a row
  int64_t params;    // offset of free theta
  int64_t grad;      // offset of its gradient in a padded gradient
  int64_t kept;      // offset of the old values of B, (n_b, tile), in the kept store
  int64_t area;      // offset of the activations in the kept store
  int64_t input;     // offsets in the area: conditioner input (n_u, tile),
  int64_t theta;     // theta (n_theta, tile)
  int64_t start;     // offset in Tile::starts
  int64_t external;  // offset in Tile::theta and in Tile::external_gradient, -1: theta is not external
  int64_t area_size;
  // lu_linear: P as the row of L U x that each output takes, signs of the diagonal of U, and the packed triangles
  const int64_t *order, *signs;
  int64_t bias, grad_bias;  // as params and grad, of b
  int64_t panels, panel_size;
};

// Dimensions of the latent side that have a base density of one kind.
struct BaseBlock {
  int32_t kind;
  bool circle;  // whose numbers are all angles
  int n;
  const int64_t *dims;   // slots, rising
  double constant;       // what each row gets of it in log p
  double lo, hi;         // of a uniform one; of a Student t bounds of its degrees of freedom
  double least, most;    // draws of a uniform one
  const double *fixed;   // logarithms of degrees of freedom that nothing learns, or null
  int components;        // of a mixture; 1 of a normal
  int64_t n_numbers;     // that are learned
  int64_t params, grad;  // as those of a step, where they are free
  int network;           // number of the step whose theta they are, or -1
};

struct PlanView {
  int dim, context_dim, n_steps;
  int n_context;                 // features of the context that conditioners read
  const int64_t *context_slots;  // of each column of the context its first feature: a circle has two; null: in order
  const Step *steps;
  const Step *embedding;    // the network between the context and those features, or null
  const int64_t *boundary;  // (n_steps + 1, dim): slot of each dimension
  int n_base;
  const BaseBlock *base;
  int n_normals;    // slots up to the last one that begins as a normal draw
  int n_all_steps;  // with those of networks of the base behind the others
};

}  // namespace penstock
