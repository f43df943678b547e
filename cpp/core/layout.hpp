// What engine and kernels agree on about where numbers lie: tiles, padding, register blocks, packed triangles. Shared by
// rooms compiled for different machines: everything here is a constant or is inlined.
#pragma once

#include <cstdint>

#include "core/codes.hpp"

#if defined(__CUDACC__)
#  define PENSTOCK_LAYOUT __host__ __device__ __forceinline__ constexpr
#else
#  define PENSTOCK_LAYOUT [[gnu::always_inline]] constexpr
#endif

namespace penstock {

inline constexpr int tile_rows = 64;  // rows of a tile, and of the smallest slice of a batch
// Numbers from one feature of a tile to the next: an odd number of cache lines of floats, since a power of two would
// crowd a column of features into a few sets of the cache.
inline constexpr int tile_stride = 80;
inline constexpr int block_outputs = 6;  // outputs of a register block, and of a panel of packed weights
inline constexpr int pad_columns = 16;   // gradients of weights are stored with rows padded to this many numbers
inline constexpr int lu_triangles = 8;   // packed triangles of an LU step

// The length of a row of n numbers with its padding.
PENSTOCK_LAYOUT int64_t padded(int64_t n) { return (n + pad_columns - 1) / pad_columns * pad_columns; }

// Numbers from one row to the next where a tile of rows with so many numbers is transposed: odd in units of the padding,
// as tile_stride is.
PENSTOCK_LAYOUT int transposed_stride(int row) { return row / pad_columns % 2 == 0 ? row + pad_columns : row; }

// Outputs are dealt evenly to register blocks: block i of ceil(n / block_outputs) begins at output block_start(n, i).
PENSTOCK_LAYOUT int block_count(int n) { return (n + block_outputs - 1) / block_outputs; }
PENSTOCK_LAYOUT int block_start(int n, int i) { return static_cast<int>(static_cast<int64_t>(i) * n / block_count(n)); }

// The inputs that a register block of outputs [n0, n1) of a triangle with n rows reads.
struct Reach {
  int first, count;
};
PENSTOCK_LAYOUT Reach reach(bool upper, int n, int n0, int n1) { return upper ? Reach{n0, n - n0} : Reach{0, n1}; }

// Numbers of a packed triangle: what the n sums start from, then the panels of its register blocks, corners included.
// The larger of the two kinds, padded.
PENSTOCK_LAYOUT int64_t triangle_size(int n) {
  int64_t upper = n, lower = n;
  for (int i = 0; i < block_count(n); i++) {
    const int n0 = block_start(n, i), n1 = block_start(n, i + 1);
    upper += static_cast<int64_t>(reach(true, n, n0, n1).count) * (n1 - n0);
    lower += static_cast<int64_t>(reach(false, n, n0, n1).count) * (n1 - n0);
  }
  return padded(upper > lower ? upper : lower);
}

// Whether the derivative of an activation can be had from its value; otherwise the forward pass has to keep it.
PENSTOCK_LAYOUT bool derivative_from_output(int activation) {
  return activation == act_relu || activation == act_leaky_relu || activation == act_tanh;
}

}  // namespace penstock

#undef PENSTOCK_LAYOUT
