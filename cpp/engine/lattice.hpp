// Columns whose values lie on a lattice, origin + k step with whole numbers k: draws are rounded to it, as by
// src/penstock/lattice.py.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tile.hpp"

namespace penstock {

class Lattice {
 public:
  Lattice() = default;
  // A step of 0 is a column that has none. wholes: columns of each simplex, in the order of the plan.
  Lattice(std::vector<double> steps, std::vector<double> origins, std::vector<std::vector<int64_t>> wholes);

  // Whether no column has one.
  bool empty() const { return steps_.empty(); }

  // Moves n rows to the nearest values. Parts of a whole stay within it.
  template <class T>
  void round(const RowsOut<T> &rows, int64_t n) const;

 private:
  // Columns whose sum is at most 1, and some of which have a lattice.
  struct Whole {
    std::vector<int64_t> columns;
    double most;
  };

  double nearest(double x, int64_t column) const;
  template <class T>
  void round_whole(const Whole &whole, T *raw, T *row) const;

  std::vector<double> steps_, origins_;
  std::vector<int64_t> alone_;  // that have one and are no parts
  std::vector<Whole> wholes_;
  size_t widest_ = 0;  // columns of a whole
};

}  // namespace penstock
