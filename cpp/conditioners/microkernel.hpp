// The one microkernel:  out[n][lanes] (+)= sum_k w[n][k] in[k][lanes], in register blocks, k ascending.
//
// It serves the three products of a linear layer h = u W + b (W is (in, out)):
//   forward          lanes are rows,    n outputs,  k inputs    w: panels of W
//   input gradient   lanes are rows,    n inputs,   k outputs   w: W as it lies
//   weight gradient  lanes are outputs, n inputs,   k rows      w: the tile of inputs itself
// A panel holds [k][n] for the outputs of one register block; without panels w is [n][w_stride], k along its rows. The
// index that is summed over is never a lane, so a number's arithmetic does not depend on the width of the vectors.
#pragma once

#include "core/lanes.hpp"
#include "core/tile.hpp"

namespace penstock::PENSTOCK_ISA {

#if defined(PENSTOCK_DEVICE)
inline constexpr int block_vectors = 1;  // a thread's row
#elif defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int block_vectors = 4;  // 24 accumulators in 32 registers
#else
inline constexpr int block_vectors = 2;  // 12 in 16
#endif

enum class Start { bias, zero, load };            // what an accumulator holds before the sum
enum class Finish { none, relu, relu_gradient };  // what happens to it before the store

template <class T>
struct Operands {
  const T *w;
  int64_t w_stride;  // unused with panels
  const T *in;
  int64_t in_stride;
  T *out;
  int64_t out_stride;
  const T *bias;  // Start::bias
  const T *mask;  // Finish::relu_gradient: activations, laid out as out
  int k;
  int skip = 0;  // rows of W at the head of each panel that have no part in the sum
  const int64_t *in_slots = nullptr, *out_slots = nullptr;  // by_slot: where its rows lie in in and out
};

template <class V, int NR, int MR, bool panels, Start start, Finish finish, bool by_slot>
PENSTOCK_INLINE void register_block(const Operands<Element<V>> &o) {
  using T = Element<V>;
  constexpr int L = lanes<V>;
  const auto out = [&](int n)
                       __attribute__((always_inline)) { return o.out + (by_slot ? o.out_slots[n] : n) * o.out_stride; };
  V sum[NR][MR];
#pragma GCC unroll 8
  for (int n = 0; n < NR; n++) {
#pragma GCC unroll 8
    for (int m = 0; m < MR; m++) {
      if constexpr (start == Start::bias) {
        sum[n][m] = splat<V>(o.bias[n]);
      } else if constexpr (start == Start::zero) {
        sum[n][m] = V{};
      } else {
        sum[n][m] = load<V>(out(n) + m * L);
      }
    }
  }
  const T *w = o.w;
  const T *in = o.in;
  const int64_t w_n = panels ? 1 : o.w_stride;
  for (int k = 0; k < o.k; k++) {
    if constexpr (by_slot) {
      in = o.in + o.in_slots[k] * o.in_stride;
    }
    V x[MR];
#pragma GCC unroll 8
    for (int m = 0; m < MR; m++) {
      x[m] = load<V>(in + m * L);
    }
#pragma GCC unroll 8
    for (int n = 0; n < NR; n++) {
      const V weight = splat<V>(w[n * w_n]);
#pragma GCC unroll 8
      for (int m = 0; m < MR; m++) {
        sum[n][m] = fma<V>(weight, x[m], sum[n][m]);
      }
    }
    w += panels ? NR : 1;
    in += by_slot ? 0 : o.in_stride;
  }
#pragma GCC unroll 8
  for (int n = 0; n < NR; n++) {
#pragma GCC unroll 8
    for (int m = 0; m < MR; m++) {
      V y = sum[n][m];
      if constexpr (finish == Finish::relu) {
        y = select(y < V{}, V{}, y);
      } else if constexpr (finish == Finish::relu_gradient) {
        y = select(load<V>(o.mask + n * o.out_stride + m * L) <= V{}, V{}, y);
      }
      store(out(n) + m * L, y);
    }
  }
}

// One register block of nr outputs.
template <class V, int MR, bool panels, Start start, Finish finish, bool by_slot = false>
PENSTOCK_INLINE void block_of(int nr, const Operands<Element<V>> &o) {
  switch (nr) {
#define PENSTOCK_BLOCK(NR)                                        \
  case NR:                                                        \
    register_block<V, NR, MR, panels, start, finish, by_slot>(o); \
    break;
    PENSTOCK_BLOCK(1)
    PENSTOCK_BLOCK(2)
    PENSTOCK_BLOCK(3)
    PENSTOCK_BLOCK(4)
    PENSTOCK_BLOCK(5)
    PENSTOCK_BLOCK(6)
#undef PENSTOCK_BLOCK
  }
}

// All outputs of one column of MR vectors.
template <class V, int MR, bool panels, Start start, Finish finish>
PENSTOCK_FUNCTION void column(int n_outputs, const Operands<Element<V>> &whole) {
  const int blocks = block_count(n_outputs);
  for (int i = 0; i < blocks; i++) {
    const int n0 = block_start(n_outputs, i), nr = block_start(n_outputs, i + 1) - n0;
    Operands<Element<V>> o = whole;
    o.w += panels ? static_cast<int64_t>(n0) * (whole.skip + whole.k) + static_cast<int64_t>(nr) * whole.skip
                  : n0 * whole.w_stride;
    o.out += n0 * whole.out_stride;
    o.bias += start == Start::bias ? n0 : 0;
    o.mask += finish == Finish::relu_gradient ? n0 * whole.out_stride : 0;
    block_of<V, MR, panels, start, finish>(nr, o);
  }
}

template <class V, bool panels, Start start, Finish finish, int MR>
PENSTOCK_INLINE void columns(int n_outputs, int &vector, int n_vectors, const Operands<Element<V>> &whole) {
  for (; vector + MR <= n_vectors; vector += MR) {
    Operands<Element<V>> o = whole;
    o.in += vector * lanes<V>;
    o.out += vector * lanes<V>;
    o.mask += finish == Finish::relu_gradient ? vector * lanes<V> : 0;
    column<V, MR, panels, start, finish>(n_outputs, o);
  }
}

// The product for n_vectors vectors of lanes.
template <class V, bool panels, Start start, Finish finish>
PENSTOCK_FUNCTION void product(int n_outputs, int n_vectors, const Operands<Element<V>> &o) {
  int vector = 0;
  columns<V, panels, start, finish, block_vectors>(n_outputs, vector, n_vectors, o);
  if constexpr (block_vectors > 2) {
    columns<V, panels, start, finish, 2>(n_outputs, vector, n_vectors, o);
  }
  columns<V, panels, start, finish, 1>(n_outputs, vector, n_vectors, o);
}

// Rows [from, to) of W (n_in, n_out) into panels of outputs.
template <class T>
PENSTOCK_FUNCTION void pack_panels(const T *weight, int n_in, int n_out, int from, int to, T *panels) {
  const int blocks = block_count(n_out);
  for (int i = 0; i < blocks; i++) {
    const int n0 = block_start(n_out, i), nr = block_start(n_out, i + 1) - n0;
    T *panel = panels + static_cast<int64_t>(n0) * n_in;
    for (int k = from; k < to; k++) {
      const T *row = weight + static_cast<int64_t>(k) * n_out + n0;
      T *p = panel + static_cast<int64_t>(k) * nr;
      if (nr == 6) {
        __builtin_memcpy(p, row, 6 * sizeof(T));
      } else if (nr == 5) {
        __builtin_memcpy(p, row, 5 * sizeof(T));
      } else {
        for (int n = 0; n < nr; n++) {
          p[n] = row[n];
        }
      }
    }
  }
}

// in (n, tile) -> out (rows, stride): each row's numbers side by side, columns filled up to a whole vector.
template <class V>
PENSTOCK_FUNCTION void transpose_tile(const Element<V> *in, int n, int rows, Element<V> *out, int stride) {
  constexpr int L = lanes<V>;
  for (int r = 0; r < rows; r += L) {
    for (int c = 0; c < n; c += L) {
      V block[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; i++) {
        block[i] = load<V>(in + static_cast<int64_t>(c + i) * tile_stride + r);
      }
      transpose_block(block);
#pragma GCC unroll 16
      for (int i = 0; i < L; i++) {
        store(out + static_cast<int64_t>(r + i) * stride + c, block[i]);
      }
    }
  }
}

}  // namespace penstock::PENSTOCK_ISA
