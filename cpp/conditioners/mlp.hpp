// Multilayer perceptron over a tile, forward and backward, plain or residual, and for one row.
//   plain      h_i = act(h_{i-1} W_i + b_i)
//   residual   h_i = h_{i-1} + act(h_{i-1} W_i + b_i) for i > 0
//   theta      h_last W + b
// Activations live in the step's area; a derivative is kept only where it can't be had from the activation.
#pragma once

#include "conditioners/activations.hpp"
#include "conditioners/linear.hpp"

namespace penstock::PENSTOCK_ISA {

// Reads area + step.input, fills area + step.theta and all that lies between. start: what the first layer's products
// begin with instead of the bias, the part of the context in them, which is then not read; or null.
template <class V>
PENSTOCK_FUNCTION void mlp_forward(const Step &step, const PackedView<Element<V>> &packed, const Element<V> *start,
                                   int n_vectors, bool keep, Element<V> *area) {
  using T = Element<V>;
  const bool residual = step.conditioner == conditioner_residual_mlp;
  const T *in = area + step.input;
  for (int i = 0; i < step.n_linear; i++) {
    const Linear &linear = step.linear[i];
    T *out = area + linear.output;
    const bool started = i == 0 && start != nullptr;
    const int skip = started ? step.n_context : 0;
    const T *first = started ? start : nullptr;
    const bool rectified = i + 1 < step.n_linear && step.activation == act_relu && !residual;
    forward_product<V>(linear, packed, first, skip, rectified, n_vectors, in, out);
    if (i + 1 < step.n_linear && !rectified) {
      T *derivative = keep && linear.derivative >= 0 ? area + linear.derivative : nullptr;
      const int n = n_vectors * lanes<V>;
      for (int64_t j = 0; j < linear.n_out; j++) {
        activate_all<V>(step.activation, n, out + j * tile_stride, residual && i > 0 ? in + j * tile_stride : nullptr,
                        derivative != nullptr ? derivative + j * tile_stride : nullptr);
      }
    }
    in = out;
  }
}

// From gradient.theta to the gradient of the conditioner's input, (n_u, tile), from number `from` on; null if that leaves
// none.
template <class V>
PENSTOCK_FUNCTION Element<V> *mlp_backward(const Step &step, const PackedView<Element<V>> &packed, int rows,
                                           int n_vectors, int from, const TileGradient<Element<V>> &gradient,
                                           const Element<V> *area) {
  using T = Element<V>;
  const bool residual = step.conditioner == conditioner_residual_mlp;
  const int n = n_vectors * lanes<V>;
  const T *d = gradient.theta;
  T *hidden = gradient.hidden[0], *other = gradient.hidden[1];  // residual: gradients of h_i, and of its pre-activation
  for (int i = step.n_linear - 1; i >= 0; i--) {
    const Linear &linear = step.linear[i];
    if (residual && i + 1 < step.n_linear) {
      for (int64_t j = 0; j < linear.n_out; j++) {
        scale_by_derivative<V>(step.activation, n, hidden + j * tile_stride, nullptr,
                               area + linear.derivative + j * tile_stride, other + j * tile_stride);
      }
      d = other;
    }
    if (gradient.of_params != Gradient::ignore) {
      linear_gradient<V>(linear, rows, gradient, area + (i > 0 ? step.linear[i - 1].output : step.input), d);
    }
    if (i == 0 && from == step.n_u) {
      return nullptr;
    }
    T *out = d == hidden ? other : hidden;
    const T *rectified = nullptr;
    if (i == 0 || residual) {
      out = residual || d == other ? hidden : other;
    } else if (step.activation == act_relu) {
      rectified = area + step.linear[i - 1].output;
    }
    const bool adds = residual && i > 0 && i + 1 < step.n_linear;
    input_gradient<V>(linear, packed, n_vectors, d, rectified, adds, out, i == 0 ? from : 0);
    if (i == 0) {
      return out;
    }
    if (residual) {
      continue;
    }
    if (rectified == nullptr) {
      const Linear &below = step.linear[i - 1];
      for (int64_t j = 0; j < below.n_out; j++) {
        scale_by_derivative<V>(step.activation, n, out + j * tile_stride, area + below.output + j * tile_stride,
                               below.derivative >= 0 ? area + below.derivative + j * tile_stride : nullptr,
                               out + j * tile_stride);
      }
    }
    d = out;
  }
  return nullptr;
}

// One row: the lanes run over outputs and W is read as it lies in the flat parameters. Same order of additions, so the
// same bits as a tile. in and out (n) are plain vectors.
template <class V, int count>
PENSTOCK_INLINE void row_block(const Element<V> *weight, const Element<V> *bias, int n_in, int n_out, int from,
                               const Element<V> *in, Element<V> *out) {
  V sum[count];
#pragma GCC unroll 8
  for (int v = 0; v < count; v++) {
    sum[v] = load<V>(bias + from + v * lanes<V>);
  }
  const Element<V> *w = weight + from;
  for (int k = 0; k < n_in; k++) {
    const V x = splat<V>(in[k]);
#pragma GCC unroll 8
    for (int v = 0; v < count; v++) {
      sum[v] = fma<V>(x, load<V>(w + v * lanes<V>), sum[v]);
    }
    w += n_out;
  }
#pragma GCC unroll 8
  for (int v = 0; v < count; v++) {
    store(out + from + v * lanes<V>, sum[v]);
  }
}

template <class V>
PENSTOCK_FUNCTION void linear_row(const Linear &linear, const Element<V> *params, const Element<V> *bias,
                                  const Element<V> *in, Element<V> *out) {
  using T = Element<V>;
  const T *weight = params + linear.weight;
  int n = 0;
  for (; n + 8 * lanes<V> <= linear.n_out; n += 8 * lanes<V>) {
    row_block<V, 8>(weight, bias, linear.n_in, linear.n_out, n, in, out);
  }
  for (; n + 2 * lanes<V> <= linear.n_out; n += 2 * lanes<V>) {
    row_block<V, 2>(weight, bias, linear.n_in, linear.n_out, n, in, out);
  }
  for (; n + lanes<V> <= linear.n_out; n += lanes<V>) {
    row_block<V, 1>(weight, bias, linear.n_in, linear.n_out, n, in, out);
  }
  using Small = Vector<T, 16 / sizeof(T)>;
  for (; n + lanes<Small> <= linear.n_out; n += lanes<Small>) {
    row_block<Small, 1>(weight, bias, linear.n_in, linear.n_out, n, in, out);
  }
  for (; n < linear.n_out; n++) {
    T sum = bias[n];
    for (int k = 0; k < linear.n_in; k++) {
      sum = fma<T>(in[k], weight[static_cast<int64_t>(k) * linear.n_out + n], sum);
    }
    out[n] = sum;
  }
}

// Activates n outputs of one row.
template <class V>
PENSTOCK_FUNCTION void activate_row(int kind, int n, Element<V> *h, const Element<V> *skip) {
  const int whole = n / lanes<V> * lanes<V>;
  activate_all<V>(kind, whole, h, skip, nullptr);
  activate_all<Element<V>>(kind, n - whole, h + whole, skip != nullptr ? skip + whole : nullptr, nullptr);
}

// The area is used with one number a feature instead of a tile's run; offsets shrink by tile_stride. start: as in mlp_forward.
template <class V>
PENSTOCK_FUNCTION void mlp_row(const Step &step, const Element<V> *params, const Element<V> *start, Element<V> *area) {
  using T = Element<V>;
  const bool residual = step.conditioner == conditioner_residual_mlp;
  const T *in = area + step.input / tile_stride;
  for (int i = 0; i < step.n_linear; i++) {
    const Linear &linear = step.linear[i];
    T *out = area + linear.output / tile_stride;
    if (i == 0 && start != nullptr) {
      Linear rest = linear;
      rest.weight += static_cast<int64_t>(step.n_context) * linear.n_out;
      rest.n_in -= step.n_context;
      linear_row<V>(rest, params, start, in + step.n_context, out);
    } else {
      linear_row<V>(linear, params, params + linear.bias, in, out);
    }
    if (i + 1 < step.n_linear) {
      activate_row<V>(step.activation, linear.n_out, out, residual && i > 0 ? in : nullptr);
    }
    in = out;
  }
}

}  // namespace penstock::PENSTOCK_ISA
