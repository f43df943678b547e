// The autoregressive layer over a tile: theta of each dimension comes from those before it in the layer's order.
//   parallel    y_i = g(x_i; h(x_<i))       all of x is known: a pass through the network, then all transforms
//   sequential  x_i = g^-1(y_i; h(x_<i))    when x_i is known, the units of degree i + 1 are, in every hidden layer, then
//               theta of the next dimension, then that dimension: every unit once, the arithmetic of the parallel way
// B holds the dimensions in the layer's order. The conditioner reads the context, of degree 0, then x_0, x_1, ..., of
// degrees 1, 2, ..., but for the last, which nobody reads.
#pragma once

#include "conditioners/inputs.hpp"
#include "conditioners/masked_mlp.hpp"
#include "layers/elementwise.hpp"

namespace penstock::PENSTOCK_ISA {

// Dimensions [from, to) of the order, as they are in the state, become inputs of the conditioner.
template <class V>
void gather_dimensions(const Step &step, int from, int to, int n_vectors, const Tile<Element<V>> &tile,
                       Element<V> *area) {
  Element<V> *u = area + step.input + step.n_context * tile_stride;
  for (int64_t i = from; i < to; i++) {
    copy_features<V>(1, n_vectors, tile.state + step.b[i] * tile_stride, u + i * tile_stride);
  }
}

template <class V>
void autoregressive_forward(const Step &step, const PackedView<Element<V>> &packed, bool inverse, bool keep,
                            int n_vectors, const Tile<Element<V>> &tile, Element<V> *area, Element<V> *kept) {
  const int n = step.n_b, span = inverse ? 1 : n;
  gather_features<V>(step, n_vectors, tile, area);
  if (!inverse) {
    gather_dimensions<V>(step, 0, n - 1, n_vectors, tile, area);
  }
  for (int i = 0; i < n; i += span) {
    masked_forward<V>(step, i, i + span, packed, context_part(step, tile.context), n_vectors, keep, area);
    transform_forward<V, false>(step, {i, i + span}, inverse, n_vectors, area + step.theta, tile.state, tile.log_det,
                                kept);
    if (inverse && i + 1 < n) {
      gather_dimensions<V>(step, i, i + 1, n_vectors, tile, area);
    }
  }
}

// The gradients of dimensions [from, to) of the order get what comes through the network.
template <class V>
void add_input_gradient(const Step &step, int from, int to, int n_vectors, const TileGradient<Element<V>> &gradient) {
  const Element<V> *du = gradient.hidden[0] + step.n_context * tile_stride;
  for (int64_t i = from; i < to; i++) {
    add_features<V>(1, n_vectors, du + i * tile_stride, gradient.state + step.b[i] * tile_stride);
  }
}

// The conditioner read the input of the step in the parallel direction, its output in the sequential one. In the latter
// degrees are walked downwards: the gradient of a dimension is complete once all units that read the dimension are done.
template <class V>
void autoregressive_backward(const Step &step, const PackedView<Element<V>> &packed, bool inverse, bool recompute,
                             bool want_input, int n_vectors, const Tile<Element<V>> &tile,
                             const TileGradient<Element<V>> &gradient, Element<V> *area, const Element<V> *kept) {
  const int n = step.n_b, span = inverse ? 1 : n;
  if (recompute) {
    for (int64_t i = 0; !inverse && i < n; i++) {
      copy_features<V>(1, n_vectors, kept + i * tile_stride, tile.state + step.b[i] * tile_stride);
    }
    gather_features<V>(step, n_vectors, tile, area);
    gather_dimensions<V>(step, 0, n - 1, n_vectors, tile, area);
    masked_forward<V>(step, 0, n, packed, context_part(step, tile.context), n_vectors, true, area);
  }
  const bool want_context = gradient.of_context != Gradient::ignore && step.n_context > 0;
  for (int i = n - span; i >= 0; i -= span) {
    if (inverse && i + 1 < n) {
      add_input_gradient<V>(step, i, i + 1, n_vectors, gradient);
    }
    transform_backward<V, false>(step, {i, i + span}, inverse, n_vectors, area + step.theta, tile, gradient, kept,
                                 gradient.theta);
    masked_backward<V>(step, i, i + span, packed, n_vectors, want_input || inverse || want_context, gradient, area);
  }
  if (!inverse && want_input) {
    add_input_gradient<V>(step, 0, n - 1, n_vectors, gradient);
  }
  if (want_context) {
    add_features<V>(step.n_context, n_vectors, gradient.hidden[0], gradient.context);
  }
  if (gradient.of_params != Gradient::ignore) {
    masked_gradient<V>(step, tile.rows, gradient, area);
  }
}

template <class V>
void autoregressive_row(const Step &step, const PackedView<Element<V>> &packed, bool inverse,
                        const TileContext<Element<V>> &context, Element<V> *state, double *log_det, Element<V> *area) {
  const int n = step.n_b, span = inverse ? 1 : n;
  const Element<V> *start = context_part(step, context);
  Element<V> *u = area + step.input / tile_stride + step.n_context;
  gather_row(step, context, state, area);
  masked_row_start(step, packed.params, start, area);
  for (int i = 0; !inverse && i + 1 < n; i++) {
    u[i] = state[step.b[i]];
  }
  for (int i = 0; i < n; i += span) {
    masked_row<V>(step, i, i + span, packed.params, start != nullptr, area);
    transform_row(step, {i, i + span}, inverse, area + step.theta / tile_stride, state, log_det);
    if (inverse && i + 1 < n) {
      u[i] = state[step.b[i]];
    }
  }
}

}  // namespace penstock::PENSTOCK_ISA
