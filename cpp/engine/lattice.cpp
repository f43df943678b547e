// Rounding to lattices: see lattice.hpp.
#include "engine/lattice.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "engine/floating_point.hpp"

namespace penstock {

Lattice::Lattice(std::vector<double> steps, std::vector<double> origins, std::vector<std::vector<int64_t>> wholes)
    : steps_(std::move(steps)), origins_(std::move(origins)) {
  constexpr double slack = 1e-3;  // of a step, by which the parts of a whole may be more than it, for rounding
  std::vector<bool> part(steps_.size());
  for (std::vector<int64_t> &columns : wholes) {
    double least = std::numeric_limits<double>::infinity();
    for (const int64_t j : columns) {
      part[static_cast<size_t>(j)] = true;
      if (const double step = steps_[static_cast<size_t>(j)]; step > 0) {
        least = std::min(least, step);
      }
    }
    if (std::isfinite(least)) {
      widest_ = std::max(widest_, columns.size());
      wholes_.push_back({std::move(columns), 1 + slack * least});
    }
  }
  for (size_t j = 0; j < steps_.size(); j++) {
    if (steps_[j] > 0 && !part[j]) {
      alone_.push_back(static_cast<int64_t>(j));
    }
  }
}

// In float64: of 0.01 and 0.1 those that are written so, and no -0.
double Lattice::nearest(double x, int64_t column) const {
  const double step = steps_[static_cast<size_t>(column)], origin = origins_[static_cast<size_t>(column)];
  const double k = std::nearbyint((x - origin) / step);
  const double parts = step < 1 ? std::nearbyint(1 / step) : 0;
  if (parts != 0 && step * parts == 1) {
    return (k + origin * parts) / parts + 0.0;
  }
  return origin + k * step + 0.0;
}

// Parts by which rounding made more than the whole are rounded down, those first that went up the most.
template <class T>
void Lattice::round_whole(const Whole &whole, T *raw, T *row) const {
  const size_t n = whole.columns.size();
  const auto has_step = [&](int64_t j) { return steps_[static_cast<size_t>(j)] > 0; };
  for (size_t i = 0; i < n; i++) {
    const int64_t j = whole.columns[i];
    raw[i] = row[j];
    row[j] = has_step(j) ? static_cast<T>(nearest(static_cast<double>(row[j]), j)) : row[j];
  }
  for (size_t turn = 0; turn < n; turn++) {
    double sum = 0;
    for (const int64_t j : whole.columns) {
      sum += static_cast<double>(row[j]);
    }
    if (!(sum > whole.most)) {
      return;
    }
    T most = -std::numeric_limits<T>::infinity();
    int64_t down = whole.columns.front();
    for (size_t i = 0; i < n; i++) {
      const int64_t j = whole.columns[i];
      if (const T up = row[j] - raw[i]; has_step(j) && up > most) {
        most = up;
        down = j;
      }
    }
    row[down] = static_cast<T>(nearest(static_cast<double>(row[down]) - steps_[static_cast<size_t>(down)], down));
  }
}

template <class T>
void Lattice::round(const RowsOut<T> &rows, int64_t n) const {
  const DefaultFloatingPoint environment;
  constexpr size_t few = 64;
  T of_few[few];
  std::vector<T> of_many(widest_ > few ? widest_ : 0);
  T *raw = widest_ > few ? of_many.data() : of_few;
  for (int64_t r = 0; r < n; r++) {
    T *row = rows.data + r * rows.stride;
    for (const int64_t j : alone_) {
      row[j] = static_cast<T>(nearest(static_cast<double>(row[j]), j));
    }
    for (const Whole &whole : wholes_) {
      round_whole(whole, raw, row);
    }
  }
}

template void Lattice::round(const RowsOut<float> &, int64_t) const;
template void Lattice::round(const RowsOut<double> &, int64_t) const;

}  // namespace penstock
