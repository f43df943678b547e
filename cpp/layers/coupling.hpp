// The coupling layer over a tile: a conditioner reads the dimensions of A, its theta transforms those of B.
#pragma once

#include "conditioners/mlp.hpp"
#include "layers/elementwise.hpp"

namespace penstock::PENSTOCK_ISA {

// Fills the conditioner's input (n_u, tile) from the state: the feature map. Rows are copied so that the product reads
// one run a feature whatever the slots.
template <class V>
void gather_features(const Step &step, int n_vectors, const Element<V> *state, Element<V> *area) {
  Element<V> *u = area + step.input;
  for (int64_t i = 0; i < step.n_a; i++) {
    for (int v = 0; v < n_vectors; v++) {
      store(u + i * tile_stride + v * lanes<V>, load<V>(state + step.a[i] * tile_stride + v * lanes<V>));
    }
  }
}

template <class V>
void coupling_forward(const Step &step, const PackedView<Element<V>> &packed, bool inverse, bool keep, int n_vectors,
                      const Tile<Element<V>> &tile, Element<V> *area, Element<V> *kept) {
  gather_features<V>(step, n_vectors, tile.state, area);
  mlp_forward<V>(step, packed, n_vectors, keep, area);
  transform_forward<V, false>(step, all_of(step), inverse, n_vectors, area + step.theta, tile.state, tile.log_det,
                              kept);
}

// A is the same before and after, so with recompute the activations come back from the state as it is now.
template <class V>
void coupling_backward(const Step &step, const PackedView<Element<V>> &packed, bool inverse, bool recompute,
                       bool want_input, int n_vectors, const Tile<Element<V>> &tile, Element<V> *area,
                       const Element<V> *kept) {
  if (recompute) {
    gather_features<V>(step, n_vectors, tile.state, area);
    mlp_forward<V>(step, packed, n_vectors, true, area);
  }
  transform_backward<V, false>(step, all_of(step), inverse, n_vectors, area + step.theta, tile, kept, tile.d_theta);
  const Element<V> *du = mlp_backward<V>(step, packed, n_vectors, want_input, tile, area);
  if (du == nullptr) {
    return;
  }
  for (int64_t i = 0; i < step.n_a; i++) {
    Element<V> *gradient = tile.gradient + step.a[i] * tile_stride;
    for (int v = 0; v < n_vectors; v++) {
      const int lane = v * lanes<V>;
      store(gradient + lane, load<V>(gradient + lane) + load<V>(du + i * tile_stride + lane));
    }
  }
}

template <class V>
void coupling_row(const Step &step, const PackedView<Element<V>> &packed, bool inverse, Element<V> *state,
                  double *log_det, Element<V> *area) {
  Element<V> *u = area + step.input / tile_stride;
  for (int64_t i = 0; i < step.n_a; i++) {
    u[i] = state[step.a[i]];
  }
  mlp_row<V>(step, packed.params, area);
  transform_row(step, all_of(step), inverse, area + step.theta / tile_stride, state, log_det);
}

}  // namespace penstock::PENSTOCK_ISA
