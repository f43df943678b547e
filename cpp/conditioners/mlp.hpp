// Multilayer perceptron over a tile, forward and backward, plain or residual, and for one row.
//   plain      h_i = act(h_{i-1} W_i + b_i)
//   residual   h_i = h_{i-1} + act(h_{i-1} W_i + b_i) for i > 0
//   theta      h_last W + b
// Activations live in the step's area; a derivative is kept only where it can't be had from the activation.
#pragma once

#include "conditioners/activations.hpp"
#include "conditioners/microkernel.hpp"

namespace penstock::PENSTOCK_ISA {

// Reads area + step.input, fills area + step.theta and all that lies between. start: what the first layer's products
// begin with instead of the bias, the part of the context in them, which is then not read; or null.
template <class V>
void mlp_forward(const Step &step, const PackedView<Element<V>> &packed, const Element<V> *start, int n_vectors,
                 bool keep, Element<V> *area) {
  using T = Element<V>;
  const bool residual = step.conditioner == conditioner_residual_mlp;
  const T *in = area + step.input;
  for (int i = 0; i < step.n_linear; i++) {
    const Linear &linear = step.linear[i];
    T *out = area + linear.output;
    const bool started = i == 0 && start != nullptr;
    const int skip = started ? step.n_context : 0;
    const T *bias = started ? start : packed.params + linear.bias;
    const Operands<T> o{packed.panels + linear.panels,
                        0,
                        in + skip * tile_stride,
                        tile_stride,
                        out,
                        tile_stride,
                        bias,
                        nullptr,
                        linear.n_in - skip,
                        skip};
    if (i + 1 == step.n_linear) {
      product<V, true, Start::bias, Finish::none>(linear.n_out, n_vectors, o);
    } else if (step.activation == act_relu && !residual) {
      product<V, true, Start::bias, Finish::relu>(linear.n_out, n_vectors, o);
    } else {
      product<V, true, Start::bias, Finish::none>(linear.n_out, n_vectors, o);
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

// sum (+)= the rows of M vectors, in order; M chains of additions at a time hide their latency.
template <class V, int M>
PENSTOCK_INLINE void column_sums(const Element<V> *in, int stride, int rows, bool overwrite, Element<V> *sum) {
  V total[M];
#pragma GCC unroll 4
  for (int m = 0; m < M; m++) {
    total[m] = overwrite ? V{} : load<V>(sum + m * lanes<V>);
  }
  for (int64_t r = 0; r < rows; r++) {
#pragma GCC unroll 4
    for (int m = 0; m < M; m++) {
      total[m] = total[m] + load<V>(in + r * stride + m * lanes<V>);
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < M; m++) {
    store(sum + m * lanes<V>, total[m]);
  }
}

// Gradients of W and b of one linear layer, from the gradient d of its outputs: sums over the tile's rows, in order.
template <class V>
void linear_gradient(const Linear &linear, int rows, const TileGradient<Element<V>> &gradient, const Element<V> *in,
                     const Element<V> *d) {
  using T = Element<V>;
  const int stride = linear.grad_stride;
  const int t_stride = transposed_stride(stride);
  const bool overwrite = gradient.of_params == Gradient::overwrite;
  transpose_tile<V>(d, linear.n_out, rows, gradient.transposed, t_stride);
  T *weight = gradient.params + linear.grad_weight, *bias = gradient.params + linear.grad_bias;
  const int n_vectors = (linear.n_out + lanes<V> - 1) / lanes<V>;
  // inputs [from, to), outputs from `column` on
  const auto weights = [&](int64_t from, int64_t to, int column) __attribute__((always_inline)) {
    const Operands<T> o{in + from * tile_stride,
                        tile_stride,
                        gradient.transposed + column,
                        t_stride,
                        weight + from * stride + column,
                        stride,
                        nullptr,
                        nullptr,
                        rows};
    const int n_inputs = static_cast<int>(to - from), n = n_vectors - column / lanes<V>;
    if (overwrite) {
      product<V, false, Start::zero, Finish::none>(n_inputs, n, o);
    } else {
      product<V, false, Start::load, Finish::none>(n_inputs, n, o);
    }
  };
  if (linear.mask == nullptr) {
    weights(0, linear.n_in, 0);
  } else {  // whole vectors from the first one that a register block of inputs enters; what is masked of them becomes 0
    const int *first = linear.mask->first_output;
    for (int i = 0; i < block_count(linear.n_in); i++) {
      const int k0 = block_start(linear.n_in, i), k1 = block_start(linear.n_in, i + 1);
      const int column = first[k0] / lanes<V> * lanes<V>;
      weights(k0, k1, column);
      for (int k = k0; k < k1; k++) {
        for (int n = overwrite ? 0 : column; n < first[k]; n++) {
          weight[static_cast<int64_t>(k) * stride + n] = 0;
        }
      }
    }
  }
  int v = 0;  // a bias is the weight of a constant input
  for (; v + 4 <= n_vectors; v += 4) {
    column_sums<V, 4>(gradient.transposed + v * lanes<V>, t_stride, rows, overwrite, bias + v * lanes<V>);
  }
  for (; v < n_vectors; v++) {
    column_sums<V, 1>(gradient.transposed + v * lanes<V>, t_stride, rows, overwrite, bias + v * lanes<V>);
  }
}

// out (+)= W d: gradient of a linear layer's inputs, the first `from` of them left out.
template <class V, Start start, Finish finish>
PENSTOCK_INLINE void input_gradient(const Linear &linear, const PackedView<Element<V>> &packed, int n_vectors,
                                    const Element<V> *d, const Element<V> *mask, Element<V> *out, int64_t from = 0) {
  const Operands<Element<V>> o{packed.params + linear.weight + from * linear.n_out,
                               linear.n_out,
                               d,
                               tile_stride,
                               out + from * tile_stride,
                               tile_stride,
                               nullptr,
                               mask,
                               linear.n_out};
  product<V, false, start, finish>(linear.n_in - static_cast<int>(from), n_vectors, o);
}

// From gradient.theta to the gradient of the conditioner's input, (n_u, tile), from number `from` on; null if that leaves
// none.
template <class V>
Element<V> *mlp_backward(const Step &step, const PackedView<Element<V>> &packed, int rows, int n_vectors, int from,
                         const TileGradient<Element<V>> &gradient, const Element<V> *area) {
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
    if (i == 0) {
      T *out = residual || d == other ? hidden : other;
      input_gradient<V, Start::zero, Finish::none>(linear, packed, n_vectors, d, nullptr, out, from);
      return out;
    }
    if (residual) {
      if (i + 1 == step.n_linear) {
        input_gradient<V, Start::zero, Finish::none>(linear, packed, n_vectors, d, nullptr, hidden);
      } else {
        input_gradient<V, Start::load, Finish::none>(linear, packed, n_vectors, d, nullptr, hidden);
      }
      continue;
    }
    const Linear &below = step.linear[i - 1];
    T *out = d == hidden ? other : hidden;
    if (step.activation == act_relu) {
      input_gradient<V, Start::zero, Finish::relu_gradient>(linear, packed, n_vectors, d, area + below.output, out);
    } else {
      input_gradient<V, Start::zero, Finish::none>(linear, packed, n_vectors, d, nullptr, out);
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
void linear_row(const Linear &linear, const Element<V> *params, const Element<V> *bias, const Element<V> *in,
                Element<V> *out) {
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
void activate_row(int kind, int n, Element<V> *h, const Element<V> *skip) {
  const int whole = n / lanes<V> * lanes<V>;
  activate_all<V>(kind, whole, h, skip, nullptr);
  activate_all<Element<V>>(kind, n - whole, h + whole, skip != nullptr ? skip + whole : nullptr, nullptr);
}

// The area is used with one number a feature instead of a tile's run; offsets shrink by tile_stride. start: as in mlp_forward.
template <class V>
void mlp_row(const Step &step, const Element<V> *params, const Element<V> *start, Element<V> *area) {
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
