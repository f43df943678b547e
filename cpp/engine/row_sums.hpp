// Gradients that are sums over rows of a batch, one for each row of the context or for all rows: each slice adds up its own,
// tile by tile, and the sums of slices are added up in order. Memory does not grow with the batch.
#pragma once

#include <vector>

#include "engine/engine.hpp"
#include "engine/walk.hpp"

namespace penstock {

// Sums of numbers of the rows that share a row of context. A slice adds straight to the result where no other slice has
// rows of that context: between its first and its last one.
template <class T>
class ContextSums {
 public:
  ContextSums(const Plan &plan, const Context &context, const Slices &slices, double *result)
      : n_(plan.context_dim),
        block_(context.shared ? slices.rows : context.block),
        slices_(slices),
        result_(result),
        edges_(result != nullptr ? static_cast<size_t>(2 * slices.n * n_) : 0) {}

  // Adds a tile of slice s; by_row (tile, context_dim).
  void add(int64_t s, const TileRows &rows, const T *by_row) {
    for (int begin = 0, end = 0; begin < rows.count; begin = end) {
      const int64_t context = rows[begin] / block_;
      end = static_cast<int>(std::min<int64_t>(rows.count, (context + 1) * block_ - rows.first));
      double *sums = context == first(s) ? edge(s, 0) : context == last(s) ? edge(s, 1) : result_ + context * n_;
      for (int64_t i = 0; i < n_; i++) {
        double column[tile_rows];
        for (int r = begin; r < end; r++) {
          column[r - begin] = static_cast<double>(by_row[r * n_ + i]);
        }
        sums[i] += kernels<T>().sum_rows(column, end - begin);
      }
    }
  }

  // What is left to be added once all slices are done.
  void finish() {
    for (int64_t s = 0; result_ != nullptr && s < slices_.n; s++) {
      for (int64_t i = 0; i < n_; i++) {
        result_[first(s) * n_ + i] += edge(s, 0)[i];
        result_[last(s) * n_ + i] += edge(s, 1)[i];  // zeros if it is the first
      }
    }
  }

 private:
  int64_t first(int64_t s) const { return slices_.first_tile(s) * tile_rows / block_; }
  int64_t last(int64_t s) const { return (std::min(slices_.rows, slices_.first_tile(s + 1) * tile_rows) - 1) / block_; }
  double *edge(int64_t s, int64_t i) { return edges_.data() + (2 * s + i) * n_; }

  int64_t n_, block_;
  const Slices &slices_;
  double *result_;
  std::vector<double> edges_;
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
        parts.reserve(static_cast<size_t>(n_slices_));
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
