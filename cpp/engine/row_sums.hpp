// Gradients that are sums over rows of a batch, one for each row of the context or for all rows: each slice adds up its own,
// tile by tile, and the sums of slices are added up in order. Memory does not grow with the batch.
#pragma once

#include <vector>

#include "engine/engine.hpp"
#include "engine/walk.hpp"

namespace penstock {

// Sums of numbers of the rows that share a row of context.
template <class T>
class ContextSums {
 public:
  ContextSums(const Plan &plan, const Context &context, const Slices &slices, double *result)
      : n_(plan.context_dim),
        block_(context.shared ? slices.rows : context.block),
        slices_(slices),
        result_(result),
        by_row_(result != nullptr ? slices.rows * n_ : 0) {}

  // Adds a tile of slice s; by_row (tile, context_dim).
  void add(int64_t, const TileRows &rows, const T *by_row) {
    std::copy_n(by_row, rows.count * n_, by_row_.data() + rows.first * n_);
  }

  // What is left to be added once all slices are done.
  void finish() {
    std::vector<double> column(static_cast<size_t>(block_));
    for (int64_t first = 0; result_ != nullptr && first < slices_.rows; first += block_) {
      for (int64_t i = 0; i < n_; i++) {
        for (int64_t r = 0; r < block_; r++) {
          column[static_cast<size_t>(r)] = static_cast<double>(by_row_.data()[(first + r) * n_ + i]);
        }
        result_[first / block_ * n_ + i] += kernels<T>().sum_rows(column.data(), block_);
      }
    }
  }

 private:
  int64_t n_, block_;
  const Slices &slices_;
  double *result_;
  Aligned<T> by_row_;
};

// Gradients of external thetas: of each row, or sums over all.
template <class T>
class ExternalSums {
 public:
  ExternalSums(const Plan &plan, const Slices &slices, const ExternalGradient<T> *gradients)
      : plan_(plan), gradients_(gradients), n_slices_(slices.n) {
    if (sums()) {
      sums_.resize(static_cast<size_t>(slices.n * plan.external_features));
    }
  }

  // Whether a sum is wanted at all.
  bool sums() const {
    bool any = false;
    for (size_t i = 0; gradients_ != nullptr && i < plan_.externals.size(); i++) {
      any = any || gradients_[i].sum != nullptr;
    }
    return any;
  }

  // Takes the gradients (external features, tile) of a tile of slice s; those of steps outside the range are zero.
  void take(int64_t s, const TileRows &rows, const Range &range, const T *tile) {
    for (size_t k = 0; gradients_ != nullptr && k < plan_.externals.size(); k++) {
      const External &external = plan_.externals[k];
      const bool walked = range.first <= external.step && external.step < range.last;
      const T *from = tile + external.offset * tile_stride;
      if (T *to = gradients_[k].rows; to != nullptr) {
        to += rows.first * external.n;
        if (walked) {
          kernels<T>().features_out(from, external.n, rows.count, to);
        } else {
          std::fill_n(to, rows.count * external.n, T{0});
        }
      }
      double *sums = sums_.data() + s * plan_.external_features + external.offset;
      for (int64_t i = 0; gradients_[k].sum != nullptr && walked && i < external.n; i++) {
        double column[tile_rows];
        for (int r = 0; r < rows.count; r++) {
          column[r] = static_cast<double>(from[i * tile_stride + r]);
        }
        sums[i] += kernels<T>().sum_rows(column, rows.count);
      }
    }
  }

  void finish() {
    for (size_t k = 0; gradients_ != nullptr && k < plan_.externals.size(); k++) {
      for (int64_t i = 0; gradients_[k].sum != nullptr && i < plan_.externals[k].n; i++) {
        std::vector<double> parts;
        for (int64_t s = 0; s < n_slices_; s++) {
          parts.push_back(sums_[static_cast<size_t>(s * plan_.external_features + plan_.externals[k].offset + i)]);
        }
        gradients_[k].sum[i] += combine_numbers(parts.data(), n_slices_);
      }
    }
  }

 private:
  const Plan &plan_;
  const ExternalGradient<T> *gradients_;
  int n_slices_;
  std::vector<double> sums_;  // (slices, external features)
};

}  // namespace penstock
