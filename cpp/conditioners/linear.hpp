// One linear layer over a tile, h = u W + b: its product, the gradient of its inputs, and gradients of parameters, which are
// sums over rows.
#pragma once

#if defined(PENSTOCK_DEVICE)
#  include "cuda/linear.hpp"
#else

#  include "conditioners/microkernel.hpp"
#  include "core/rowsum.hpp"

namespace penstock::PENSTOCK_ISA {

// out = in W + b, rectified if asked for. The first `skip` inputs are not read where `start` stands for the bias and their part of
// the product; else it is null.
template <class V>
PENSTOCK_INLINE void forward_product(const Linear &linear, const PackedView<Element<V>> &packed,
                                     const Element<V> *start, int skip, bool rectified, int n_vectors,
                                     const Element<V> *in, Element<V> *out) {
  const Operands<Element<V>> o{packed.panels + linear.panels,
                               0,
                               in + skip * tile_stride,
                               tile_stride,
                               out,
                               tile_stride,
                               start != nullptr ? start : packed.params + linear.bias,
                               nullptr,
                               linear.n_in - skip,
                               skip};
  if (rectified) {
    product<V, true, Start::bias, Finish::relu>(linear.n_out, n_vectors, o);
  } else {
    product<V, true, Start::bias, Finish::none>(linear.n_out, n_vectors, o);
  }
}

// sum (+)= the rows of M vectors, in order; M chains of additions at a time hide their latency.
template <class V, int M>
PENSTOCK_INLINE void column_sums(const Element<V> *in, int stride, int rows, bool overwrite, Element<V> *sum) {
  V total[M];
#  pragma GCC unroll 4
  for (int m = 0; m < M; m++) {
    total[m] = overwrite ? V{} : load<V>(sum + m * lanes<V>);
  }
  for (int64_t r = 0; r < rows; r++) {
#  pragma GCC unroll 4
    for (int m = 0; m < M; m++) {
      total[m] = total[m] + load<V>(in + r * stride + m * lanes<V>);
    }
  }
#  pragma GCC unroll 4
  for (int m = 0; m < M; m++) {
    store(sum + m * lanes<V>, total[m]);
  }
}

// Gradients of W and b of one linear layer, from the gradient d of its outputs: sums over the tile's rows, in order.
template <class V>
PENSTOCK_FUNCTION void linear_gradient(const Linear &linear, int rows, const TileGradient<Element<V>> &gradient,
                                       const Element<V> *in, const Element<V> *d) {
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

// out = W d, or added to it: the gradient of a linear layer's inputs, the first `from` of them left out; 0 where what was rectified,
// laid out as out, is 0, if that is given.
template <class V>
PENSTOCK_INLINE void input_gradient(const Linear &linear, const PackedView<Element<V>> &packed, int n_vectors,
                                    const Element<V> *d, const Element<V> *rectified, bool adds, Element<V> *out,
                                    int64_t from) {
  const Operands<Element<V>> o{packed.params + linear.weight + from * linear.n_out,
                               linear.n_out,
                               d,
                               tile_stride,
                               out + from * tile_stride,
                               tile_stride,
                               nullptr,
                               rectified,
                               linear.n_out};
  const int n = linear.n_in - static_cast<int>(from);
  if (rectified != nullptr) {
    product<V, false, Start::zero, Finish::relu_gradient>(n, n_vectors, o);
  } else if (adds) {
    product<V, false, Start::load, Finish::none>(n, n_vectors, o);
  } else {
    product<V, false, Start::zero, Finish::none>(n, n_vectors, o);
  }
}

// Gradients of n free numbers, `grad` of a padded gradient on, from those of each row, (n, tile).
template <class T>
PENSTOCK_FUNCTION void free_gradient(const TileGradient<T> &gradient, int64_t grad, int64_t n, const T *rows,
                                     int n_rows) {
  T *sum = gradient.params + grad;
  for (int64_t i = 0; i < n; i++) {
    const T more = sum_rows(rows + i * tile_stride, n_rows);
    sum[i] = gradient.of_params == Gradient::overwrite ? more : sum[i] + more;
  }
}

}  // namespace penstock::PENSTOCK_ISA

#endif
