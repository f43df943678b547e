// What core/lanes.hpp has, for a thread of a device. The thread is a lane: it walks a flow with one row, as if that were a tile
// of one row whose features lie tile_stride numbers apart, since the rows of a block's threads stand side by side. All that is
// written on the lane type means the same there, and gives the same bits. Only products of whole layers are done by the threads
// of a block together: see cuda/linear.hpp.
#pragma once

#include "core/layout.hpp"
#include "core/scalar.hpp"

#ifndef PENSTOCK_DEVICE_ROWS
#  error "compile with -DPENSTOCK_DEVICE_ROWS=<32|64|128>"
#endif

namespace penstock::PENSTOCK_ISA {

inline constexpr int block_rows = PENSTOCK_DEVICE_ROWS;  // rows and threads of a block
// In place of those of a tile of the processor, which these names hide.
inline constexpr int tile_rows = 1, tile_stride = block_rows;

template <class T>
inline constexpr int lanes_native = 1;
template <class T>
using Native = T;
template <class T, int N>
using Vector = T;
template <class V>
using Wide = V;
template <class V>
inline constexpr bool paired = false;
template <class V>
struct Halves {
  using type = V;
};

template <int... J>
struct Indices {};
template <int N, int... J>
struct IndicesUpTo : IndicesUpTo<N - 1, N - 1, J...> {};
template <int... J>
struct IndicesUpTo<0, J...> {
  using type = Indices<J...>;
};

template <class V>
PENSTOCK_INLINE Bits<V> lane_numbers() {
  return 0;
}

template <class V>
PENSTOCK_INLINE void transpose_block(V (&)[1]) {}

}  // namespace penstock::PENSTOCK_ISA
