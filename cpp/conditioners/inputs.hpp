// What a conditioner reads: the context, then the dimensions of A. Its inputs in a tile and for one row, the part of a
// context that all rows share, and the way back of gradients.
#pragma once

#include "conditioners/mlp.hpp"

namespace penstock::PENSTOCK_ISA {

// What the first products of a conditioner begin with, for mlp_forward; null for the bias.
template <class T>
PENSTOCK_INLINE const T *shared_start(const Step &step, const Tile<T> &tile) {
  return tile.starts != nullptr && step.n_context > 0 && step.n_a > 0 ? tile.starts + step.start : nullptr;
}

// Theta of a step that reads nothing but a context that all rows share; null where rows have theta of their own.
template <class T>
PENSTOCK_INLINE const T *shared_theta(const Step &step, const Tile<T> &tile) {
  return tile.context == nullptr && step.n_a == 0 ? tile.starts + step.start : nullptr;
}

template <class V>
void copy_features(int64_t n, int n_vectors, const Element<V> *from, Element<V> *to) {
  for (int64_t i = 0; i < n; i++) {
    for (int v = 0; v < n_vectors; v++) {
      store(to + i * tile_stride + v * lanes<V>, load<V>(from + i * tile_stride + v * lanes<V>));
    }
  }
}

template <class V>
void add_features(int64_t n, int n_vectors, const Element<V> *from, Element<V> *to) {
  for (int64_t i = 0; i < n; i++) {
    for (int v = 0; v < n_vectors; v++) {
      const int64_t at = i * tile_stride + v * lanes<V>;
      store(to + at, load<V>(to + at) + load<V>(from + at));
    }
  }
}

// Fills the conditioner's input (n_u, tile): the feature map. Rows are copied so that the product reads one run a
// feature whatever the slots.
template <class V>
void gather_features(const Step &step, int n_vectors, const Tile<Element<V>> &tile, Element<V> *area) {
  Element<V> *u = area + step.input;
  if (tile.context != nullptr) {
    copy_features<V>(step.n_context, n_vectors, tile.context, u);
  }
  for (int64_t i = 0; i < step.n_a; i++) {
    copy_features<V>(1, n_vectors, tile.state + step.a[i] * tile_stride, u + (step.n_context + i) * tile_stride);
  }
}

// The first input whose gradient is wanted; n_u if none is.
template <class T>
PENSTOCK_INLINE int first_wanted(const Step &step, bool want_input, const Tile<T> &tile) {
  if (tile.d_context != nullptr && step.n_context > 0) {
    return 0;
  }
  return want_input ? step.n_context : step.n_u;
}

// Adds the gradient of the conditioner's input to those of the context and of the state.
template <class V>
void scatter_gradient(const Step &step, int n_vectors, const Element<V> *du, const Tile<Element<V>> &tile) {
  if (du == nullptr) {
    return;
  }
  if (tile.d_context != nullptr) {
    add_features<V>(step.n_context, n_vectors, du, tile.d_context);
  }
  for (int64_t i = 0; i < step.n_a; i++) {
    add_features<V>(1, n_vectors, du + (step.n_context + i) * tile_stride, tile.gradient + step.a[i] * tile_stride);
  }
}

// One row: one number a feature.
template <class T>
void gather_row(const Step &step, const T *context, const T *state, T *area) {
  T *u = area + step.input / tile_stride;
  for (int64_t i = 0; i < step.n_context; i++) {
    u[i] = context[i];
  }
  for (int64_t i = 0; i < step.n_a; i++) {
    u[step.n_context + i] = state[step.a[i]];
  }
}

// A step's part of Tile::starts, from a context of one number a feature. The context comes first in the order of the
// sum, so a product that begins with it gives the bits of one over all inputs.
template <class V>
void start_shared(const Step &step, const PackedView<Element<V>> &packed, const Element<V> *context, Element<V> *area,
                  Element<V> *starts) {
  if (step.n_a > 0) {
    Linear head = step.linear[0];
    head.n_in = step.n_context;
    return linear_row<V>(head, packed.params, context, starts + step.start);
  }
  gather_row<Element<V>>(step, context, nullptr, area);
  mlp_row<V>(step, packed.params, area);
  const Element<V> *theta = area + step.theta / tile_stride;
  for (int64_t i = 0; i < static_cast<int64_t>(step.n_b) * step.n_theta; i++) {
    starts[step.start + i] = theta[i];
  }
}

}  // namespace penstock::PENSTOCK_ISA
