// The one way to sum over rows: 16 partial sums (row mod 16), then a fixed tree, whatever the width of the vectors.
#pragma once

#include "core/lanes.hpp"

namespace penstock::PENSTOCK_ISA {

template <class T>
PENSTOCK_INLINE T sum_partials(T (&partial)[16]) {
  PENSTOCK_UNROLL(4)
  for (int stride = 1; stride < 16; stride *= 2) {
    for (int i = 0; i < 16; i += 2 * stride) {
      partial[i] = partial[i] + partial[i + stride];
    }
  }
  return partial[0];
}

template <class T>
PENSTOCK_FUNCTION T sum_rows(const T *x, int64_t rows) {
  T partial[16] = {};
  int64_t r = 0;
  for (; r + 16 <= rows; r += 16) {
    for (int i = 0; i < 16; i++) {
      partial[i] = partial[i] + x[r + i];
    }
  }
  for (int i = 0; r < rows; r++, i++) {
    partial[i] = partial[i] + x[r];
  }
  return sum_partials(partial);
}

}  // namespace penstock::PENSTOCK_ISA
