// The autoregressive layer over a tile: theta of each dimension comes from those before it in the layer's order.
//   parallel    y_i = g(x_i; h(x_<i))       all of x is known: a pass through the network, then all transforms
//   sequential  x_i = g^-1(y_i; h(x_<i))    when x_i is known, the units of degree i + 1 are, in every hidden layer, then
//               theta of the next dimension, then that dimension: every unit once, the arithmetic of the parallel way
// B holds the dimensions in the layer's order. The conditioner reads the context, of degree 0, then x_0, x_1, ..., of
// degrees 1, 2, ..., but for the last, which nobody reads.
#pragma once

#include "conditioners/masked_mlp.hpp"
#include "layers/elementwise.hpp"

namespace penstock::PENSTOCK_ISA {

// The input of the conditioner that dimension 0 of the order is.
PENSTOCK_INLINE int64_t first_feature(const Step &step) { return step.n_u - (step.n_b - 1); }

// Dimensions [from, to) of the order, as they are in the state, become inputs of the conditioner.
template <class V>
void features_from_state(const Step &step, int from, int to, int n_vectors, const Element<V> *state, Element<V> *area) {
  Element<V> *u = area + step.input + first_feature(step) * tile_stride;
  for (int64_t i = from; i < to; i++) {
    for (int lane = 0; lane < n_vectors * lanes<V>; lane += lanes<V>) {
      store(u + i * tile_stride + lane, load<V>(state + step.b[i] * tile_stride + lane));
    }
  }
}

template <class V>
void autoregressive_forward(const Step &step, const PackedView<Element<V>> &packed, bool inverse, bool keep,
                            int n_vectors, const Tile<Element<V>> &tile, Element<V> *area, Element<V> *kept) {
  const int n = step.n_b, span = inverse ? 1 : n;
  if (!inverse) {
    features_from_state<V>(step, 0, n - 1, n_vectors, tile.state, area);
  }
  for (int i = 0; i < n; i += span) {
    masked_forward<V>(step, i, i + span, packed, n_vectors, keep, area);
    transform_forward<V, false>(step, {i, i + span}, inverse, n_vectors, area + step.theta, tile.state, tile.log_det,
                                kept);
    if (inverse && i + 1 < n) {
      features_from_state<V>(step, i, i + 1, n_vectors, tile.state, area);
    }
  }
}

// The gradient of dimension i gets what comes through the network.
template <class V>
PENSTOCK_INLINE void add_input_gradient(const Step &step, int i, int n_vectors, const Tile<Element<V>> &tile) {
  const Element<V> *du = tile.d_hidden[0] + (first_feature(step) + i) * tile_stride;
  Element<V> *gradient = tile.gradient + step.b[i] * tile_stride;
  for (int lane = 0; lane < n_vectors * lanes<V>; lane += lanes<V>) {
    store(gradient + lane, load<V>(gradient + lane) + load<V>(du + lane));
  }
}

// What the conditioner read went in, in the parallel direction, and came out in the sequential one. There the degrees are
// walked downwards: the gradient of a dimension is complete once all units that read it are done.
template <class V>
void autoregressive_backward(const Step &step, const PackedView<Element<V>> &packed, bool inverse, bool recompute,
                             bool want_input, int n_vectors, const Tile<Element<V>> &tile, Element<V> *area,
                             const Element<V> *kept) {
  const int n = step.n_b, span = inverse ? 1 : n;
  if (recompute) {
    for (int64_t i = 0; !inverse && i < n; i++) {
      for (int lane = 0; lane < n_vectors * lanes<V>; lane += lanes<V>) {
        store(tile.state + step.b[i] * tile_stride + lane, load<V>(kept + i * tile_stride + lane));
      }
    }
    features_from_state<V>(step, 0, n - 1, n_vectors, tile.state, area);
    masked_forward<V>(step, 0, n, packed, n_vectors, true, area);
  }
  for (int i = n - span; i >= 0; i -= span) {
    if (inverse && i + 1 < n) {
      add_input_gradient<V>(step, i, n_vectors, tile);
    }
    transform_backward<V, false>(step, {i, i + span}, inverse, n_vectors, area + step.theta, tile, kept, tile.d_theta);
    masked_backward<V>(step, i, i + span, packed, n_vectors, want_input || inverse, tile, area);
  }
  for (int i = 0; !inverse && want_input && i + 1 < n; i++) {
    add_input_gradient<V>(step, i, n_vectors, tile);
  }
  if (tile.params_gradient != nullptr) {
    masked_gradient<V>(step, tile, area);
  }
}

template <class V>
void autoregressive_row(const Step &step, const PackedView<Element<V>> &packed, bool inverse, Element<V> *state,
                        double *log_det, Element<V> *area) {
  const int n = step.n_b, span = inverse ? 1 : n;
  Element<V> *u = area + step.input / tile_stride + first_feature(step);
  masked_row_start(step, packed.params, area);
  for (int i = 0; !inverse && i + 1 < n; i++) {
    u[i] = state[step.b[i]];
  }
  for (int i = 0; i < n; i += span) {
    masked_row<V>(step, i, i + span, packed.params, area);
    transform_row(step, {i, i + span}, inverse, area + step.theta / tile_stride, state, log_det);
    if (inverse && i + 1 < n) {
      u[i] = state[step.b[i]];
    }
  }
}

}  // namespace penstock::PENSTOCK_ISA
