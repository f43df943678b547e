// What a conditioner reads: the context, then features of the dimensions of A: x itself, or of a circle cos x and sin x. Its
// inputs in a tile and for one row, the part of a context that all rows share, and the way back of gradients.
#pragma once

#include "conditioners/mlp.hpp"
#include "transforms/parts.hpp"

namespace penstock::PENSTOCK_ISA {

// Whether a conditioner reads more than the context.
PENSTOCK_INLINE bool reads_dimensions(const Step &step) { return step.n_a > 0 || step.kind == step_autoregressive; }

PENSTOCK_INLINE bool has_rows(ContextKind kind) {
  return kind == ContextKind::rows || kind == ContextKind::rows_and_part;
}
PENSTOCK_INLINE bool has_part(ContextKind kind) {
  return kind == ContextKind::part || kind == ContextKind::rows_and_part;
}

// What the first products of a conditioner begin with, for mlp_forward; null for the bias.
template <class T>
PENSTOCK_INLINE const T *context_part(const Step &step, const TileContext<T> &context) {
  return has_part(context.kind) && step.n_context > 0 && reads_dimensions(step) ? context.part + step.start : nullptr;
}

// Theta of a step that reads nothing but a context that all rows share; null where rows have theta of their own.
template <class T>
PENSTOCK_INLINE const T *shared_theta(const Step &step, const TileContext<T> &context) {
  return context.kind == ContextKind::part && !reads_dimensions(step) ? context.part + step.start : nullptr;
}

template <class V>
PENSTOCK_FUNCTION void copy_features(int64_t n, int n_vectors, const Element<V> *from, Element<V> *to) {
  for (int64_t i = 0; i < n; i++) {
    for (int v = 0; v < n_vectors; v++) {
      store(to + i * tile_stride + v * lanes<V>, load<V>(from + i * tile_stride + v * lanes<V>));
    }
  }
}

template <class V>
PENSTOCK_FUNCTION void add_features(int64_t n, int n_vectors, const Element<V> *from, Element<V> *to) {
  for (int64_t i = 0; i < n; i++) {
    for (int v = 0; v < n_vectors; v++) {
      const int64_t at = i * tile_stride + v * lanes<V>;
      store(to + at, load<V>(to + at) + load<V>(from + at));
    }
  }
}

// The first feature of a dimension that the conditioner reads, and whether there are two, cos and sin.
PENSTOCK_INLINE int64_t feature_of(const Step &step, int64_t i) {
  return step.n_context + (has<part_supports> && step.features != nullptr ? step.features[i] : i);
}
PENSTOCK_INLINE bool is_circle(const Step &step, int64_t i) {
  return has<part_supports> && step.features != nullptr && step.features[i + 1] - step.features[i] > 1;
}

// Dimensions [from, to) of those that the conditioner reads, as they are in the state, into its input. Rows are copied so
// that the product reads one run a feature whatever the slots.
template <class V>
PENSTOCK_FUNCTION void gather_dimensions(const Step &step, const int64_t *slots, int64_t from, int64_t to,
                                         int n_vectors, const Tile<Element<V>> &tile, Element<V> *area) {
  for (int64_t i = from; i < to; i++) {
    const Element<V> *x = tile.state + slots[i] * tile_stride;
    Element<V> *u = area + step.input + feature_of(step, i) * tile_stride;
    if (!is_circle(step, i)) {
      copy_features<V>(1, n_vectors, x, u);
      continue;
    }
    for (int v = 0; v < n_vectors; v++) {
      V sine, cosine;
      sincos<V>(load<V>(x + v * lanes<V>), sine, cosine);
      store(u + v * lanes<V>, cosine);
      store(u + tile_stride + v * lanes<V>, sine);
    }
  }
}

// The gradients of those dimensions get what comes through the network, du of its input, which is still there.
template <class V>
PENSTOCK_FUNCTION void scatter_dimensions(const Step &step, const int64_t *slots, int64_t from, int64_t to,
                                          int n_vectors, const Element<V> *du, const Element<V> *area,
                                          const TileGradient<Element<V>> &gradient) {
  for (int64_t i = from; i < to; i++) {
    const int64_t at = feature_of(step, i) * tile_stride;
    Element<V> *dx = gradient.state + slots[i] * tile_stride;
    if (!is_circle(step, i)) {
      add_features<V>(1, n_vectors, du + at, dx);
      continue;
    }
    const Element<V> *u = area + step.input + at;
    for (int v = 0; v < n_vectors; v++) {
      const int lane = v * lanes<V>;
      const V cosine = load<V>(u + lane), sine = load<V>(u + tile_stride + lane);
      const V turn = cosine * load<V>(du + at + tile_stride + lane) - sine * load<V>(du + at + lane);
      store(dx + lane, load<V>(dx + lane) + turn);
    }
  }
}

// Fills the conditioner's input (n_u, tile): the feature map.
template <class V>
PENSTOCK_FUNCTION void gather_features(const Step &step, int n_vectors, const Tile<Element<V>> &tile,
                                       Element<V> *area) {
  if (has_rows(tile.context.kind)) {
    copy_features<V>(step.n_context, n_vectors, tile.context.rows, area + step.input);
  }
  gather_dimensions<V>(step, step.a, 0, step.n_a, n_vectors, tile, area);
}

// The first input whose gradient is wanted; n_u if none is.
template <class T>
PENSTOCK_INLINE int first_wanted(const Step &step, bool want_input, const TileGradient<T> &gradient) {
  if (gradient.of_context != Gradient::ignore && step.n_context > 0) {
    return 0;
  }
  return want_input ? step.n_context : step.n_u;
}

// Adds the gradient of the conditioner's input to those of the context and of the state.
template <class V>
PENSTOCK_FUNCTION void scatter_gradient(const Step &step, int n_vectors, const Element<V> *du, const Element<V> *area,
                                        const TileGradient<Element<V>> &gradient) {
  if (du == nullptr) {
    return;
  }
  if (gradient.of_context != Gradient::ignore) {
    add_features<V>(step.n_context, n_vectors, du, gradient.context);
  }
  scatter_dimensions<V>(step, step.a, 0, step.n_a, n_vectors, du, area, gradient);
}

// One row: one number a feature.
template <class T>
PENSTOCK_FUNCTION void gather_row_dimensions(const Step &step, const int64_t *slots, int64_t from, int64_t to,
                                             const T *state, T *area) {
  T *u = area + step.input / tile_stride;
  for (int64_t i = from; i < to; i++) {
    const int64_t at = feature_of(step, i);
    if (is_circle(step, i)) {
      sincos<T>(state[slots[i]], u[at + 1], u[at]);
    } else {
      u[at] = state[slots[i]];
    }
  }
}

template <class T>
PENSTOCK_FUNCTION void gather_row(const Step &step, const TileContext<T> &context, const T *state, T *area) {
  T *u = area + step.input / tile_stride;
  for (int64_t i = 0; has_rows(context.kind) && i < step.n_context; i++) {
    u[i] = context.rows[i];
  }
  gather_row_dimensions(step, step.a, 0, step.n_a, state, area);
}

// What a context, of one number a feature, contributes to a step: its piece of TileContext::part. The context comes first
// in the order of the sum, so a product that begins with it gives the bits of one over all inputs.
template <class V>
PENSTOCK_FUNCTION void make_step_part(const Step &step, const PackedView<Element<V>> &packed,
                                      const TileContext<Element<V>> &context, Element<V> *area, Element<V> *part) {
  if (reads_dimensions(step)) {
    Linear head = step.linear[0];
    head.n_in = step.n_context;
    return linear_row<V>(head, packed.params, packed.params + head.bias, context.rows, part + step.start);
  }
  gather_row<Element<V>>(step, context, nullptr, area);
  mlp_row<V>(step, packed.params, nullptr, area);
  const Element<V> *theta = area + step.theta / tile_stride;
  for (int64_t i = 0; i < step.n_theta; i++) {
    part[step.start + i] = theta[i];
  }
}

}  // namespace penstock::PENSTOCK_ISA
