// The autoregressive layer over a tile: theta of each dimension comes from those before it in the layer's order.
//   parallel    y_i = g(x_i; h(x_<i))       all of x is known: a pass through the network, then all transforms
//   sequential  x_i = g^-1(y_i; h(x_<i))    when x_i is known, the units of degree i + 1 are, in every hidden layer, then
//               theta of the next dimension, then that dimension: every unit once, the arithmetic of the parallel way
// B holds the dimensions in the layer's order. The conditioner reads the context, of degree 0, then x_0, x_1, ..., of
// degrees 1, 2, ..., but for the last, which nobody reads. Of a circle it reads cos x_i and sin x_i, of the same degree.
#pragma once

#include "conditioners/inputs.hpp"
#include "conditioners/masked_mlp.hpp"
#include "layers/elementwise.hpp"

namespace penstock::PENSTOCK_ISA {

template <class V>
PENSTOCK_FUNCTION void autoregressive_forward(const Step &step, const PackedView<Element<V>> &packed, bool inverse,
                                              bool keep, int n_vectors, const Tile<Element<V>> &tile, Element<V> *area,
                                              Element<V> *kept) {
  const int n = step.n_b, span = inverse ? 1 : n;
  gather_features<V>(step, n_vectors, tile, area);
  if (!inverse) {
    gather_dimensions<V>(step, step.b, 0, n - 1, n_vectors, tile, area);
  }
  for (int i = 0; i < n; i += span) {
    masked_forward<V>(step, i, i + span, packed, context_part(step, tile.context), n_vectors, keep, area);
    transform_forward<V, false>(step, {i, i + span}, inverse, n_vectors, area + step.theta, tile.state, tile.log_det,
                                kept);
    if (inverse && i + 1 < n) {
      gather_dimensions<V>(step, step.b, i, i + 1, n_vectors, tile, area);
    }
  }
}

// The conditioner read the input of the step in the parallel direction, its output in the sequential one. In the latter
// degrees are walked downwards: the gradient of a dimension is complete once all units that read the dimension are done.
template <class V>
PENSTOCK_FUNCTION void autoregressive_backward(const Step &step, const PackedView<Element<V>> &packed, bool inverse,
                                               bool recompute, bool want_input, int n_vectors,
                                               const Tile<Element<V>> &tile, const TileGradient<Element<V>> &gradient,
                                               Element<V> *area, const Element<V> *kept) {
  const int n = step.n_b, span = inverse ? 1 : n;
  if (recompute) {
    for (int64_t i = 0; !inverse && i < n; i++) {
      copy_features<V>(1, n_vectors, kept + i * tile_stride, tile.state + step.b[i] * tile_stride);
    }
    gather_features<V>(step, n_vectors, tile, area);
    gather_dimensions<V>(step, step.b, 0, n - 1, n_vectors, tile, area);
    masked_forward<V>(step, 0, n, packed, context_part(step, tile.context), n_vectors, true, area);
  }
  const bool want_context = gradient.of_context != Gradient::ignore && step.n_context > 0;
  for (int i = n - span; i >= 0; i -= span) {
    if (inverse && i + 1 < n) {
      scatter_dimensions<V>(step, step.b, i, i + 1, n_vectors, gradient.hidden[0], area, gradient);
    }
    transform_backward<V, false>(step, {i, i + span}, inverse, n_vectors, area + step.theta, tile, gradient, kept,
                                 gradient.theta);
    masked_backward<V>(step, i, i + span, packed, n_vectors, want_input || inverse || want_context, gradient, area);
  }
  if (!inverse && want_input) {
    scatter_dimensions<V>(step, step.b, 0, n - 1, n_vectors, gradient.hidden[0], area, gradient);
  }
  if (want_context) {
    add_features<V>(step.n_context, n_vectors, gradient.hidden[0], gradient.context);
  }
  if (gradient.of_params != Gradient::ignore) {
    masked_gradient<V>(step, tile.rows, gradient, area);
  }
}

template <class V>
PENSTOCK_FUNCTION void autoregressive_row(const Step &step, const PackedView<Element<V>> &packed, bool inverse,
                                          const TileContext<Element<V>> &context, Element<V> *state, double *log_det,
                                          Element<V> *area) {
  const int n = step.n_b, span = inverse ? 1 : n;
  const Element<V> *start = context_part(step, context);
  gather_row(step, context, state, area);
  masked_row_start(step, packed.params, start, area);
  if (!inverse) {
    gather_row_dimensions(step, step.b, 0, n - 1, state, area);
  }
  for (int i = 0; i < n; i += span) {
    masked_row<V>(step, i, i + span, packed.params, start != nullptr, area);
    transform_row(step, {i, i + span}, inverse, area + step.theta / tile_stride, state, log_det);
    if (inverse && i + 1 < n) {
      gather_row_dimensions(step, step.b, i, i + 1, state, area);
    }
  }
}

}  // namespace penstock::PENSTOCK_ISA
