// Columns of a tile's rows in float64, in which their bijections are computed.
#pragma once

#include "core/math.hpp"
#include "isa/rows.hpp"

namespace penstock::PENSTOCK_ISA {

// The numbers of a tile's rows that a vector of float64 goes with.
template <class D, class T>
using Along = Lanes<T, lanes<D>>;

template <class D, class T>
PENSTOCK_INLINE D widened(const T *p) {
  return convert<D>(load<Along<D, T>>(p));
}
template <class T, class D>
PENSTOCK_INLINE void narrow(T *p, D v) {
  store(p, convert<Along<D, T>>(limit<T>(v)));
}

inline constexpr double smallest_normal = 2.2250738585072014e-308;

// At least the smallest normal number, as the logarithm needs it; NaN passes.
template <class D>
PENSTOCK_INLINE D normal(D x) {
  const D least = splat<D>(smallest_normal);
  return select(x < least, least, x);
}

// The part of a distance by which rounding to T moves a row visibly: its density shows it.
template <class T>
inline constexpr double shown = 64 * (sizeof(T) == 4 ? 0x1p-23 : 0x1p-52);

// One column of a tile's rows, in float64: n of them from `first` on; what goes beyond the last row repeats it.
PENSTOCK_INLINE void gather(const RowPointers &pointers, int64_t column, int first, int n, double *x) {
  const int64_t at = column * pointers.in.column_stride;
  for (int r = 0; r < n; r++) {
    const char *p = pointers(first + r) + at;
    x[r] = pointers.in.item_size == 4 ? static_cast<double>(load<float>(p)) : load<double>(p);
  }
}

// A vector of them.
template <class D>
PENSTOCK_INLINE D gathered(const RowPointers &pointers, int64_t column, int first) {
  double x[lanes<D>];
  gather(pointers, column, first, lanes<D>, x);
  return load<D>(x);
}

}  // namespace penstock::PENSTOCK_ISA
