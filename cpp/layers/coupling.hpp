// The coupling layer over a tile: a conditioner reads the context and the dimensions of A, its theta transforms those of
// B. Where A is empty theta is a function of the context alone.
#pragma once

#include "conditioners/inputs.hpp"
#include "layers/elementwise.hpp"

namespace penstock::PENSTOCK_ISA {

template <class V>
PENSTOCK_FUNCTION void coupling_forward(const Step &step, const PackedView<Element<V>> &packed, bool inverse, bool keep,
                                        int n_vectors, const Tile<Element<V>> &tile, Element<V> *area,
                                        Element<V> *kept) {
  if (const Element<V> *theta = has<part_free> ? shared_theta(step, tile.context) : nullptr; theta != nullptr) {
    return transform_forward<V, true>(step, all_of(step), inverse, n_vectors, theta, tile.state, tile.log_det, kept);
  }
  gather_features<V>(step, n_vectors, tile, area);
  mlp_forward<V>(step, packed, context_part(step, tile.context), n_vectors, keep, area);
  transform_forward<V, false>(step, all_of(step), inverse, n_vectors, area + step.theta, tile.state, tile.log_det,
                              kept);
}

// A is the same before and after, so with recompute the activations come back from the state as it is now.
template <class V>
PENSTOCK_FUNCTION void coupling_backward(const Step &step, const PackedView<Element<V>> &packed, bool inverse,
                                         bool recompute, bool want_input, int n_vectors, const Tile<Element<V>> &tile,
                                         const TileGradient<Element<V>> &gradient, Element<V> *area,
                                         const Element<V> *kept) {
  if (const Element<V> *theta = has<part_free> ? shared_theta(step, tile.context) : nullptr; theta != nullptr) {
    return transform_backward<V, true>(step, all_of(step), inverse, n_vectors, theta, tile, gradient, kept,
                                       gradient.theta);
  }
  if (recompute) {
    gather_features<V>(step, n_vectors, tile, area);
    mlp_forward<V>(step, packed, context_part(step, tile.context), n_vectors, true, area);
  }
  transform_backward<V, false>(step, all_of(step), inverse, n_vectors, area + step.theta, tile, gradient, kept,
                               gradient.theta);
  const int from = first_wanted(step, want_input, gradient);
  const Element<V> *du = mlp_backward<V>(step, packed, tile.rows, n_vectors, from, gradient, area);
  scatter_gradient<V>(step, n_vectors, du, area, gradient);
}

template <class V>
PENSTOCK_FUNCTION void coupling_row(const Step &step, const PackedView<Element<V>> &packed, bool inverse,
                                    const TileContext<Element<V>> &context, Element<V> *state, double *log_det,
                                    Element<V> *area) {
  if (const Element<V> *theta = shared_theta(step, context)) {
    return transform_row(step, all_of(step), inverse, theta, state, log_det);
  }
  gather_row(step, context, state, area);
  mlp_row<V>(step, packed.params, context_part(step, context), area);
  transform_row(step, all_of(step), inverse, area + step.theta / tile_stride, state, log_det);
}

}  // namespace penstock::PENSTOCK_ISA
