// Packs parameters: see packed.hpp.
#include "engine/packed.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "engine/floating_point.hpp"
#include "isa/dispatch.hpp"

namespace penstock {

namespace {

// The numbers of a column that buffers decide.
void set_numbers(const double *buffers, int64_t at, MappedColumn &column) {
  if (column.map == map_box) {
    column.middle = buffers[at];
    column.unit = buffers[at + 1];
    for (const auto &[x, V, gap] :
         {std::tie(column.lo, column.lower, column.lower_gap), std::tie(column.hi, column.upper, column.upper_gap)}) {
      const double t = std::clamp((x - column.middle) / column.unit, -0x1p500, 0x1p500);
      const double root = std::sqrt(1 + t * t);
      V = t / root;
      gap = 1 / (root * (root + std::abs(t)));
    }
    column.scale = column.unit * (0.5 * (column.upper - column.lower));
  } else if (at != no_index) {
    column.scale = buffers[at];
  }
}

}  // namespace

template <class T>
Packed<T>::Packed(const Plan &plan, const T *params, const double *buffers)
    : digest_(plan.digest()),
      dim_(plan.dim),
      params_(plan.n_params),
      panels_(plan.panels_size),
      standardisation_(4 * int64_t{plan.dim} + 2 * int64_t{plan.context_dim}),
      mapped_(plan.mapped()),
      context_mapped_(plan.context_mapped()),
      n_alone_(plan.n_alone()) {
  const DefaultFloatingPoint environment;
  std::copy_n(params, plan.n_params, params_.data());
  double *loc = standardisation_.data();
  for (int64_t d = 0; d < dim_; d++) {
    loc[d] = buffers[plan.loc()[static_cast<size_t>(d)]];
    loc[dim_ + d] = buffers[plan.scale()[static_cast<size_t>(d)]];
    loc[2 * dim_ + d] = 1.0 / loc[dim_ + d];
    loc[3 * dim_ + d] = 0.0;
    log_scale_ += std::log(loc[dim_ + d]);
  }
  for (size_t i = 0; i < mapped_.size(); i++) {
    set_numbers(buffers, plan.mapped_buffers()[i], mapped_[i]);
    log_scale_ += std::log(mapped_[i].scale);
  }
  for (size_t i = 0; i < context_mapped_.size(); i++) {
    set_numbers(buffers, plan.context_mapped_buffers()[i], context_mapped_[i]);
  }
  for (int64_t i = 0; i < plan.context_dim; i++) {
    const auto column = static_cast<size_t>(dim_ + i);
    loc[4 * dim_ + i] = buffers[plan.loc()[column]];
    loc[4 * dim_ + plan.context_dim + i] = 1.0 / buffers[plan.scale()[column]];
  }
  for (const Segment &segment : plan.segments) {
    if (segment.linear != nullptr) {
      kernels<T>().pack(*segment.linear, segment.from, segment.to, params_.data(), panels_.data());
    }
  }
  for (const int k : plan.lu_steps) {
    for (int t = 0; t < lu_triangles; t++) {
      kernels<T>().pack_lu(plan.evaluation().steps[k], t, params_.data(), panels_.data());
    }
  }
}

template <class T>
PackedView<T> Packed<T>::view() const {
  const double *loc = standardisation_.data(), *context_loc = loc + 4 * dim_;
  const int64_t context_dim = (standardisation_.size() - 4 * dim_) / 2;
  return {params_.data(),
          panels_.data(),
          loc,
          loc + dim_,
          loc + 2 * dim_,
          loc + 3 * dim_,
          log_scale_,
          context_loc,
          context_loc + context_dim,
          static_cast<int>(mapped_.size()),
          n_alone_,
          mapped_.data(),
          static_cast<int>(context_mapped_.size()),
          context_mapped_.data()};
}

template class Packed<float>;
template class Packed<double>;

}  // namespace penstock
