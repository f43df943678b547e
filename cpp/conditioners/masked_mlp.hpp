// Masked multilayer perceptron over a tile: mlp.hpp with a degree for every feature, sorted by it, and every output reading
// the inputs whose degree is not above its own. The zeros of such a matrix are never multiplied: a register block of outputs
// takes the inputs that all of them read at full width, then the rest in pieces, degree by degree.
//        outputs of the block      4 4 5 5 6 6
//        inputs of degree <= 4     x x x x x x    a piece of 6 outputs
//                            5         x x x x    of 4, which go on with their sums
//                            6             x x    of 2
// Whether degrees come one at a time, each when its inputs are known, or all at once: the same pieces, so the same bits, k
// ascending. The way back does likewise with the outputs that an input enters, from the last degree down.
#pragma once

#include "conditioners/mlp.hpp"

namespace penstock::PENSTOCK_ISA {

// One piece for one column of MR vectors.
template <class V, int MR, bool panels>
PENSTOCK_INLINE void piece_column(const Piece &piece, const Operands<Element<V>> &layer) {
  Operands<Element<V>> o = layer;
  o.w += piece.weights;
  o.in += piece.from * layer.in_stride;
  o.out += piece.to * layer.out_stride;
  o.k = piece.count;
  if (piece.first) {
    o.w += static_cast<int64_t>(layer.skip) * piece.n;
    o.in += layer.skip * layer.in_stride;
    o.k -= layer.skip;
    o.bias += panels ? piece.to : 0;
    block_of<V, MR, panels, panels ? Start::bias : Start::zero, Finish::none>(piece.n, o);
  } else {
    block_of<V, MR, panels, Start::load, Finish::none>(piece.n, o);
  }
}

// Pieces [from, to) of a layer: outputs from inputs in order, or gradients of inputs from those of outputs backwards. Operands come
// by value: what a function of its own is pointed to would have to lie in memory on a GPU.
template <class V, bool forward>
PENSTOCK_APART void pieces(const Piece *list, int from, int to, int n_vectors, Operands<Element<V>> layer) {
  int vector = 0;
  const auto columns = [&]<int MR>() __attribute__((always_inline)) {
    for (; vector + MR <= n_vectors; vector += MR) {
      Operands<Element<V>> o = layer;
      o.in += vector * lanes<V>;
      o.out += vector * lanes<V>;
      for (int i = 0; i < to - from; i++) {
        piece_column<V, MR, forward>(list[forward ? from + i : to - 1 - i], o);
      }
    }
  };
  columns.template operator()<block_vectors>();
  if constexpr (block_vectors > 2) {
    columns.template operator()<2>();
  }
  columns.template operator()<1>();
}

// Computes what has a degree in [from, to), in every layer, once the input of those degrees stands at area + step.input.
// start: as for mlp_forward.
template <class V>
PENSTOCK_FUNCTION void masked_forward(const Step &step, int from, int to, const PackedView<Element<V>> &packed,
                                      const Element<V> *start, int n_vectors, bool keep, Element<V> *area) {
  using T = Element<V>;
  const bool residual = step.conditioner == conditioner_residual_mlp;
  const T *in = area + step.input;
  for (int i = 0; i < step.n_linear; i++) {
    const Linear &linear = step.linear[i];
    const Mask &mask = *linear.mask;
    T *out = area + linear.output;
    const bool started = i == 0 && start != nullptr;
    pieces<V, true>(mask.forward, mask.forward_start[from], mask.forward_start[to], n_vectors,
                    {packed.panels + linear.panels, 0, in, tile_stride, out, tile_stride,
                     started ? start : packed.params + linear.bias, nullptr, 0, started ? step.n_context : 0});
    if (i + 1 < step.n_linear) {
      T *derivative = keep && linear.derivative >= 0 ? area + linear.derivative : nullptr;
      for (int64_t j = mask.output_start[from]; j < mask.output_start[to]; j++) {
        activate_all<V>(step.activation, n_vectors * lanes<V>, out + j * tile_stride,
                        residual && i > 0 ? in + j * tile_stride : nullptr,
                        derivative != nullptr ? derivative + j * tile_stride : nullptr);
      }
    }
    in = out;
  }
}

// The gradient of a layer's outputs, before the activation: theta's, or of hidden units, in d_hidden[0]. A residual
// network needs those of h_i there, and puts these in place of the derivatives.
template <class T>
PENSTOCK_INLINE T *output_gradient(const Step &step, int i, const TileGradient<T> &gradient, T *area) {
  const Linear &linear = step.linear[i];
  return i + 1 == step.n_linear                         ? gradient.theta
         : step.conditioner == conditioner_residual_mlp ? area + linear.derivative
                                                        : gradient.hidden[0] + linear.gradient;
}

// From gradient.theta of the degrees in [from, to), when all higher ones are done: gradients of the hidden units of those
// degrees, and of the inputs, with which hidden[0] begins, if want_input.
template <class V>
PENSTOCK_FUNCTION void masked_backward(const Step &step, int from, int to, const PackedView<Element<V>> &packed,
                                       int n_vectors, bool want_input, const TileGradient<Element<V>> &gradient,
                                       Element<V> *area) {
  using T = Element<V>;
  const bool residual = step.conditioner == conditioner_residual_mlp;
  const int n = n_vectors * lanes<V>;
  for (int i = step.n_linear - 1; i >= (want_input ? 0 : 1); i--) {
    const Linear &linear = step.linear[i];
    const Mask &mask = *linear.mask;
    T *out = gradient.hidden[0] + (i > 0 ? step.linear[i - 1].gradient : 0);
    pieces<V, false>(mask.backward, mask.backward_start[from], mask.backward_start[to], n_vectors,
                     {packed.params + linear.weight, linear.n_out, output_gradient(step, i, gradient, area),
                      tile_stride, out, tile_stride, nullptr, nullptr, 0});
    if (i == 0) {
      return;
    }
    const Linear &below = step.linear[i - 1];
    const T *skip = residual && i + 1 < step.n_linear ? gradient.hidden[0] + linear.gradient : nullptr;
    T *derivative = below.derivative >= 0 ? area + below.derivative : nullptr;
    for (int64_t j = mask.input_start[from] * int64_t{tile_stride}; j < mask.input_start[to] * int64_t{tile_stride};
         j += tile_stride) {
      for (int lane = 0; skip != nullptr && lane < n; lane += lanes<V>) {
        store(out + j + lane, load<V>(out + j + lane) + load<V>(skip + j + lane));
      }
      scale_by_derivative<V>(step.activation, n, out + j, area + below.output + j,
                             derivative != nullptr ? derivative + j : nullptr, (residual ? derivative : out) + j);
    }
  }
}

// Gradients of all weights and biases, once masked_backward is through.
template <class V>
PENSTOCK_FUNCTION void masked_gradient(const Step &step, int rows, const TileGradient<Element<V>> &gradient,
                                       Element<V> *area) {
  for (int i = 0; i < step.n_linear; i++) {
    linear_gradient<V>(step.linear[i], rows, gradient, area + (i > 0 ? step.linear[i - 1].output : step.input),
                       output_gradient(step, i, gradient, area));
  }
}

// Rows [from, to) of W into the panels of the pieces.
template <class T>
PENSTOCK_FUNCTION void pack_pieces(const T *weight, int n_out, const Mask &mask, int from, int to, T *panels) {
  for (int i = 0; i < mask.forward_start[mask.n_degrees]; i++) {
    const Piece &piece = mask.forward[i];
    const int end = piece.from + piece.count;
    for (int k = from > piece.from ? from : piece.from; k < (to < end ? to : end); k++) {
      const T *row = weight + static_cast<int64_t>(k) * n_out + piece.to;
      T *panel = panels + piece.weights + static_cast<int64_t>(k - piece.from) * piece.n;
      for (int n = 0; n < piece.n; n++) {
        panel[n] = row[n];
      }
    }
  }
}

// One row: outputs [n0, n1), which begin at a vector, or end with the last output and share their first lanes with the
// block before. Inputs [from, to) enter them, or those lanes that read them.
template <class V, int count>
PENSTOCK_INLINE void masked_row_block(const Element<V> *weight, int n_out, const int *first_output, int n0, int n1,
                                      int from, int to, const Element<V> *in, Element<V> *out) {
  using I = typename IntegerOf<Element<V>>::type;
  constexpr int L = lanes<V>;
  const int at = n1 - count * L;
  Bits<V> output[count];  // number of each lane's
  V sum[count];
#pragma GCC unroll 4
  for (int v = 0; v < count; v++) {
    output[v] = lane_numbers<V>() + static_cast<I>(at + v * L);
    sum[v] = load<V>(out + at + v * L);
  }
  int k = from;
  const Element<V> *w = weight + static_cast<int64_t>(from) * n_out + at;
  for (; k < to && first_output[k] <= n0; k++) {
#pragma GCC unroll 4
    for (int v = 0; v < count; v++) {
      sum[v] = fma<V>(splat<V>(in[k]), load<V>(w + v * L), sum[v]);
    }
    w += n_out;
  }
  for (; k < to && first_output[k] < n1; k++) {
    const auto first = static_cast<I>(first_output[k]);
#pragma GCC unroll 4
    for (int v = 0; v < count; v++) {
      sum[v] = select(output[v] >= first, fma<V>(splat<V>(in[k]), load<V>(w + v * L), sum[v]), sum[v]);
    }
    w += n_out;
  }
#pragma GCC unroll 4
  for (int v = 0; v < count; v++) {
    store(out + at + v * L, select(output[v] >= static_cast<I>(n0), sum[v], load<V>(out + at + v * L)));
  }
}

// Sums of what has a degree in [from, to), in blocks of 4 vectors, then of one. A block whose first output has a lower
// degree has the inputs of all lower degrees, and every sum has the first `skip` inputs.
template <class V>
PENSTOCK_FUNCTION void masked_row_linear(const Linear &linear, int from, int to, int skip, const Element<V> *weight,
                                         const Element<V> *in, Element<V> *out) {
  constexpr int L = lanes<V>;
  const Mask &mask = *linear.mask;
  const int n_out = linear.n_out, begin = mask.output_start[from], end = mask.output_start[to];
  const int wide = n_out / (4 * L) * (4 * L);
  int n0 = (begin < wide ? begin : wide) / (4 * L) * (4 * L);
  while (n0 < end) {
    const int size = n0 < wide ? 4 * L : L, n1 = n0 + size < n_out ? n0 + size : n_out;
    if (n1 > begin) {
      const int lower = n0 < begin ? mask.input_start[from] : 0, known = lower > skip ? lower : skip;
      if (n0 < wide) {
        masked_row_block<V, 4>(weight, n_out, mask.first_output, n0, n1, known, mask.input_start[to], in, out);
      } else {
        masked_row_block<V, 1>(weight, n_out, mask.first_output, n0, n1, known, mask.input_start[to], in, out);
      }
    }
    n0 = n1;
  }
}

// Before the first degree: every sum is its bias, or what `start` has of the first layer, as in mlp_forward.
template <class T>
PENSTOCK_FUNCTION void masked_row_start(const Step &step, const T *params, const T *start, T *area) {
  for (int i = 0; i < step.n_linear; i++) {
    const Linear &linear = step.linear[i];
    __builtin_memcpy(area + linear.output / tile_stride, i == 0 && start != nullptr ? start : params + linear.bias,
                     static_cast<size_t>(linear.n_out) * sizeof(T));
  }
}

// masked_forward of one row: the lanes run over outputs, as in mlp_row.
template <class V>
PENSTOCK_FUNCTION void masked_row(const Step &step, int from, int to, const Element<V> *params, bool started,
                                  Element<V> *area) {
  using T = Element<V>;
  using Small = Vector<T, 16 / sizeof(T)>;
  const bool residual = step.conditioner == conditioner_residual_mlp;
  const T *in = area + step.input / tile_stride;
  for (int i = 0; i < step.n_linear; i++) {
    const Linear &linear = step.linear[i];
    const int *start = linear.mask->output_start;
    const int skip = i == 0 && started ? step.n_context : 0;
    T *out = area + linear.output / tile_stride;
    if (linear.n_out >= lanes<V>) {
      masked_row_linear<V>(linear, from, to, skip, params + linear.weight, in, out);
    } else if (linear.n_out >= lanes<Small>) {
      masked_row_linear<Small>(linear, from, to, skip, params + linear.weight, in, out);
    } else {
      masked_row_linear<T>(linear, from, to, skip, params + linear.weight, in, out);
    }
    if (i + 1 < step.n_linear) {
      activate_row<V>(step.activation, start[to] - start[from], out + start[from],
                      residual && i > 0 ? in + start[from] : nullptr);
    }
    in = out;
  }
}

}  // namespace penstock::PENSTOCK_ISA
