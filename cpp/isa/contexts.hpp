// Columns of the context whose support is not the whole line, in float64: through the bijections of supports.hpp, and of a circle
// what conditioners read, cosine and sine.
//   in      v = (u(x) - loc) / scale          of a circle cos u, sin u
//   back    dx = dv u' / scale                of a circle dx = (cos u dsin - sin u dcos) u'
// A context outside its support has no density given it: NaN.
#pragma once

#include "isa/supports.hpp"

namespace penstock::PENSTOCK_ISA {

// Where a column of the context begins among its features.
PENSTOCK_INLINE int64_t first_feature(const PlanView &plan, int64_t column) {
  return plan.context_slots != nullptr ? plan.context_slots[column] : column;
}

// The mapped columns into features of a tile, in the place of what stands there.
template <class D, class T>
PENSTOCK_FUNCTION void mapped_context_in(const PlanView &plan, const PackedView<T> &packed, const RowPointers &pointers,
                                         int stride, T *tile) {
  double x[tile_rows];
  const int n = stride == 1 ? 1 : whole_vectors<T>(pointers.rows);
  const D none = splat<D>(__builtin_nan(""));
  for (int i = 0; i < packed.n_context_mapped; i++) {
    const MappedColumn &c = packed.context_mapped[i];
    const D loc = splat<D>(packed.context_loc[c.column]), inverse = splat<D>(packed.context_inverse[c.column]);
    T *to = tile + first_feature(plan, c.column) * stride;
    gather(pointers, c.column, 0, n, x);
    for (int r = 0; r < n; r += lanes<D>) {
      D u, log_slope;
      to_line<D>(c, 1, load<D>(x + r), none, u, log_slope);
      if (c.map == map_wrap) {
        D sine, cosine;
        sincos<D>(u, sine, cosine);
        narrow<T>(to + r, cosine);
        narrow<T>(to + stride + r, sine);
      } else {
        narrow<T>(to + r, (u - loc) * inverse);
      }
    }
  }
}

// Their way back, from cotangents of features into rows of an array.
template <class D, class T>
PENSTOCK_FUNCTION void mapped_context_backward(const PlanView &plan, const PackedView<T> &packed,
                                               const RowPointers &pointers, const T *d_tile,
                                               const RowsOut<T> &d_context) {
  double x[tile_rows], d[tile_rows];
  const int n = whole_vectors<T>(pointers.rows);
  const D none = splat<D>(__builtin_nan(""));
  for (int i = 0; i < packed.n_context_mapped; i++) {
    const MappedColumn &c = packed.context_mapped[i];
    const D inverse = splat<D>(packed.context_inverse[c.column]);
    const T *from = d_tile + first_feature(plan, c.column) * tile_stride;
    gather(pointers, c.column, 0, n, x);
    for (int r = 0; r < n; r += lanes<D>) {
      D slope, bend, d_u = widened<D>(from + r) * inverse;
      to_line_backward<D>(c, 1, load<D>(x + r), slope, bend);
      if (c.map == map_wrap) {
        D u, log_slope, sine, cosine;
        to_line<D>(c, 1, load<D>(x + r), none, u, log_slope);
        sincos<D>(u, sine, cosine);
        d_u = cosine * widened<D>(from + tile_stride + r) - sine * widened<D>(from + r);
      }
      store(d + r, limit<T>(d_u * slope));
    }
    for (int r = 0; r < pointers.rows; r++) {
      d_context.data[r * d_context.stride + c.column] = static_cast<T>(d[r]);
    }
  }
}

}  // namespace penstock::PENSTOCK_ISA
