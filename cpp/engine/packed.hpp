// An immutable snapshot of a flow's numbers, in the layouts that the kernels read.
#pragma once

#include <cstdint>
#include <new>
#include <vector>

#include "core/tile.hpp"
#include "engine/layout.hpp"

namespace penstock {

// Numbers at a 64-byte boundary, never resized.
template <class T>
class Aligned {
 public:
  explicit Aligned(int64_t n) : size_(n), data_(static_cast<T *>(operator new(bytes(n), alignment))) {}
  Aligned(const Aligned &) = delete;
  Aligned &operator=(const Aligned &) = delete;
  ~Aligned() { operator delete(data_, alignment); }
  T *data() { return data_; }
  const T *data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  static constexpr std::align_val_t alignment{64};
  static size_t bytes(int64_t n) { return static_cast<size_t>(n > 0 ? n : 1) * sizeof(T); }
  int64_t size_;
  T *data_;
};

template <class T>
class Packed {
 public:
  Packed(const Plan &plan, const T *params, const double *buffers);
  PackedView<T> view() const;
  // Whether this was packed for the plan, or for another one of the same table.
  bool fits(const Plan &plan) const { return plan.digest() == digest_; }
  T *params() { return params_.data(); }
  const T *params() const { return params_.data(); }
  T *panels() { return panels_.data(); }

 private:
  uint64_t digest_;
  int64_t dim_;
  Aligned<T> params_, panels_;
  Aligned<double> standardisation_;  // loc, scale, 1 / scale, zeros; then of the context loc and 1 / scale
  double log_scale_ = 0;
  std::vector<MappedColumn> mapped_, context_mapped_;
  int n_alone_;
};

}  // namespace penstock
