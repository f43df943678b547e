// Rows so far out that the arithmetic of a flow overflows. Their density is below every number: log p is -inf where it could
// not be computed. Their gradients are linear in cotangents, so that they are found from cotangents scaled down by a power of
// two, and scaled up again.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "engine/walk.hpp"

namespace penstock {

template <class T>
class FarRows {
 public:
  FarRows(const Plan &plan, const Packed<T> &packed, const Range &range, const Batch &batch)
      : plan_(plan),
        packed_(packed.view()),
        standardised_(!range.to_data && range.first < range.last && range.last == plan.n_steps),
        base_(range.base),
        batch_(batch) {}

  // In place of log p of a tile's rows that is NaN.
  void mend_values(const TileRows &rows, double *log_p) const {
    for (int r = 0; base_ && r < rows.count; r++) {
      if (std::isnan(log_p[r]) && exponent(rows[r]) != 0) {
        log_p[r] = -std::numeric_limits<double>::infinity();
      }
    }
  }

  // The exponent of a row's largest number, if it is far out; 0 for all others, and for rows with a NaN, also in their
  // context, or with a context outside its support.
  int exponent(int64_t row) const {
    double largest = 0;
    for (int64_t i = 0; i < plan_.dim; i++) {
      double u = number_of(batch_.x, row, i);
      if (standardised_) {
        u = (on_line(row, i, u) - packed_.loc[i]) * packed_.inverse[i];
      }
      if (std::isnan(u)) {
        return 0;
      }
      largest = std::max(largest, std::fabs(u));
    }
    const Context &context = batch_.context;
    const int64_t given = plan_.context_dim == 0 || context.shared ? 0 : row / context.block;
    for (int64_t i = 0; i < plan_.context_dim; i++) {
      if (std::isnan(number_of(context.rows, given, i))) {
        return 0;
      }
    }
    for (int m = 0; m < packed_.n_context_mapped; m++) {
      const MappedColumn &c = packed_.context_mapped[m];
      const double x = number_of(context.rows, given, c.column);
      if (x < c.first[0] || x > c.last[0] || (c.map == map_wrap && std::isinf(x))) {
        return 0;
      }
    }
    if (largest < far) {
      return 0;
    }
    return largest <= most ? std::ilogb(largest) : std::numeric_limits<T>::max_exponent;
  }

 private:
  // About the image of a number of a row in a column; of those with a support only a half-line has some that are far out, and
  // what begins a group without ends.
  double on_line(int64_t row, int64_t i, double x) const {
    for (int m = 0; m < packed_.n_mapped; m++) {
      if (const MappedColumn &c = packed_.mapped[m]; c.column == i) {
        if (c.map == map_positive) {
          return std::isnan(x) ? x : c.mirrored ? (x - c.hi) / c.scale : (x - c.lo) / c.scale;
        }
        if (c.shape == member_half_line) {
          const double end = c.opens ? (c.mirrored ? c.hi : c.lo) : number_of(batch_.x, row, c.before);
          return (x - end) / c.scale;
        }
        if (c.opens && c.shape == member_real) {
          return x;
        }
        const bool none = std::isnan(x) || (c.map == map_wrap && std::isinf(x));  // which is no angle
        return none ? std::numeric_limits<double>::quiet_NaN() : packed_.loc[i];
      }
    }
    return x;
  }

  // Below it, squares of numbers, times weights as training gives them, are numbers too.
  static constexpr double far = sizeof(T) == 4 ? 0x1p50 : 0x1p400;
  static constexpr double most = static_cast<double>(std::numeric_limits<T>::max());

  const Plan &plan_;
  PackedView<T> packed_;
  bool standardised_, base_;
  const Batch &batch_;
};

template <class T>
bool all_finite(const T *x, int64_t n) {
  using Word = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr Word exponent = sizeof(T) == 4 ? Word{0x7F800000} : static_cast<Word>(0x7FF0000000000000);
  int none = 0;
  for (int64_t i = 0; i < n; i++) {
    none |= static_cast<int>((std::bit_cast<Word>(x[i]) & exponent) == exponent);
  }
  return none == 0;
}

// Of all rows of n numbers; true where there are none.
template <class T>
bool all_finite(const RowsOut<T> &x, int64_t rows, int64_t n) {
  bool all = true;
  for (int64_t r = 0; x.data != nullptr && r < rows; r++) {
    all = all_finite(x.data + r * x.stride, n) && all;
  }
  return all;
}

// Gradients of a tile's far rows in which there is a number that is not finite: found again from cotangents times a power of
// two, 2^-shift, that lies between that of the row and its square as far as the type reaches.
template <class T>
class ScaledGradients {
 public:
  ScaledGradients(const FarRows<T> &far, const TileRows &rows) : rows_(rows) {
    for (int r = 0; r < rows.count; r++) {
      const int e = far.exponent(rows[r]);
      shift_[r] = std::min(e + e / 2, most);
    }
  }

  // Whether a row is to be found again, of which d (rows, n) is one gradient; d may be null.
  bool needed(const RowsOut<T> &d, int64_t n) const {
    for (int r = 0; d.data != nullptr && r < rows_.count; r++) {
      if (shift_[r] != 0 && !all_finite(from_row(d, r).data, n)) {
        return true;
      }
    }
    return false;
  }

  T scaled(int r, T cotangent) const { return std::ldexp(cotangent, -shift_[r]); }

  // Takes such rows from those that came of scaled cotangents. A number that is none there either has no direction: 0.
  void take(const T *scaled, int64_t n, const RowsOut<T> &d) const {
    for (int r = 0; d.data != nullptr && r < rows_.count; r++) {
      T *to = from_row(d, r).data;
      if (shift_[r] == 0 || all_finite(to, n)) {
        continue;
      }
      for (int64_t i = 0; i < n; i++) {
        const T found = scaled[r * n + i];
        to[i] = std::isnan(found) ? T{0} : std::ldexp(found, shift_[r]);
      }
    }
  }

 private:
  // Scaled cotangents of order one are still normal numbers, with some room below.
  static constexpr int most = sizeof(T) == 4 ? 120 : 1000;

  const TileRows &rows_;
  int shift_[tile_rows] = {};
};

}  // namespace penstock
