// Bijections of columns whose support is not the whole line, in float64, and what each row adds to log_det through them: to the
// line, of a circle to angles, and of a box to [-1, 1].
//   half-line   t = (x - lo) / s,  w = 1 - e^-t       u = t + log w = log(e^t - 1)    log_det = -log w
//               x = lo + s log(1 + e^u)                                               log_det = log sigmoid(u)
//               below hi: the same of -x and -u
//   interval    r = (x - lo) / h,  q = (hi - x) / h   u = log r - log q               log_det = -log r - log q
//               x = lo + h sigmoid(u)                                                 log_det = log sigmoid(u) sigmoid(-u)
//   circle      h = 2 pi / (hi - lo)                  u = h (x - lo) - pi by whole turns into [-pi, pi], at both ends -pi
//               x = mid + u / h by whole turns, in [lo, hi)
//   box         t = (x - m) / s,  V = t / (1 + t^2)^1/2    u = 2 (V - V_lo) / W - 1   log_det = -3/2 log(1 + t^2)
//               V = V_lo + W (u + 1) / 2,  t = V / (1 - V^2)^1/2,  x = m + s t        log_det = 3/2 log(1 + t^2)
//               V_lo and V_hi of the ends,  W = V_hi - V_lo; far out 1 - |V| in the place of V
// What every row adds, log s, log h of an interval, log 1 / h of a circle or log(s W / 2), is where log_det begins (ends.hpp).
// Outside a support, the ends that do not belong to it included, the density is zero: log_det is -inf, and the image the
// middle. On a circle any number is an angle. Columns that come in groups: groups.hpp.
#pragma once

#include "isa/doubles.hpp"
#include "isa/groups.hpp"

namespace penstock::PENSTOCK_ISA {

// The part of a half-line or an interval that lies below x, and above, in its scale.
template <class D>
PENSTOCK_INLINE D below(const MappedColumn &c, D x) {
  return normal<D>((x - splat<D>(c.lo)) / splat<D>(c.scale));
}
template <class D>
PENSTOCK_INLINE D above(const MappedColumn &c, D x) {
  return normal<D>((splat<D>(c.hi) - x) / splat<D>(c.scale));
}

// sqrt(1 + t^2).
template <class D>
PENSTOCK_INLINE D hypotenuse(D t) {
  const D a = absolute(t), far = splat<D>(0x1p500), near = select(a > far, far, a);
  return select(a > far, a, sqrt<D>(fma<D>(near, near, splat<D>(1))));
}

inline constexpr double pi = 3.14159265358979323846;

// A way along a circle without its whole turns; of a long one no digit may be left.
template <class D>
PENSTOCK_INLINE D rest(const MappedColumn &c, D way) {
  const double turn = c.hi - c.lo;
  const D round = splat<D>(Constants<double>::round), turns = (way / splat<D>(turn) + round) - round;
  return clamp(fma<D>(turns, splat<D>(-turn), way), -0.5 * turn, 0.5 * turn);
}

// u(x) of a circle: counted from lo, so that lo and hi are one place to the last bit.
template <class D>
PENSTOCK_INLINE D angle(const MappedColumn &c, D x) {
  const D way = rest(c, x - splat<D>(c.lo));
  return clamp(way / splat<D>(c.scale) + select(way < D{}, splat<D>(pi), splat<D>(-pi)), -pi, pi);
}

// u(x) of a box.
template <class D>
PENSTOCK_INLINE D within_box(const MappedColumn &c, D t) {
  const D one = splat<D>(1), part = splat<D>(2 / (c.upper - c.lower)), a = absolute(t), root = hypotenuse(t);
  const D V = t / root, gap = one / (root * (root + a));  // 1 - |V|
  const D rise = select(t < -one, gap - splat<D>(c.lower_gap), V - splat<D>(c.lower));
  const D fall = select(t > one, gap - splat<D>(c.upper_gap), splat<D>(c.upper) - V);
  return clamp(select(rise < fall, rise * part - one, one - fall * part), -1, 1);
}

// t(u) of a box.
template <class D>
PENSTOCK_INLINE D from_box(const MappedColumn &c, D u) {
  const D w = clamp(u, -1, 1), one = splat<D>(1), half = splat<D>(0.5 * (c.upper - c.lower));
  const D fall = (one - w) * half, rise = (w + one) * half;
  const auto right = w > D{};
  const D V = select(right, splat<D>(c.upper) - fall, splat<D>(c.lower) + rise);
  const D gap = select(right, splat<D>(c.upper_gap) + fall, splat<D>(c.lower_gap) + rise);  // 1 - |V| where it is small
  const D square = select(absolute(V) > splat<D>(0.5), gap * (one + one - gap), one - V * V);
  return V / sqrt<D>(square);
}

// u(x), and what the row adds to log_det, of rows of float or (item 1) of double; `middle` is the image of what lies outside.
template <class D>
PENSTOCK_INLINE void to_line(const MappedColumn &c, int item, D x, D middle, D &u, D &log_slope) {
  if (c.map == map_wrap) {
    u = angle(c, x);
    log_slope = D{};
  } else if (c.map == map_box) {
    const D t = (x - splat<D>(c.middle)) / splat<D>(c.unit);
    u = within_box(c, t);
    log_slope = splat<D>(-3) * log<D>(hypotenuse(t));
  } else if (c.map == map_logit) {
    const D log_r = log<D>(below(c, x)), log_q = log<D>(above(c, x));
    u = log_r - log_q;
    log_slope = -(log_r + log_q);
  } else {
    const D t = c.mirrored ? above(c, x) : below(c, x);
    const D log_w = log<D>(-expm1<D>(-t));
    u = c.mirrored ? -(t + log_w) : t + log_w;
    log_slope = -log_w;
  }
  const D first = splat<D>(c.first[item]), last = splat<D>(c.last[item]), infinity = splat<D>(__builtin_inf());
  const auto inside = (x >= first) & (x <= last), outside = (x < first) | (x > last);  // neither: NaN
  u = select(outside, middle, select(inside, u, x));
  log_slope = select(outside, -infinity, select(inside, log_slope, x));
}

// du/dx, and the derivative of log du/dx; zero outside.
template <class D>
PENSTOCK_INLINE void to_line_backward(const MappedColumn &c, int item, D x, D &slope, D &bend) {
  const D one = splat<D>(1), scale = splat<D>(c.scale);
  if (c.map == map_wrap) {
    slope = one / scale;
    bend = D{};
  } else if (c.map == map_box) {
    const D t = (x - splat<D>(c.middle)) / splat<D>(c.unit), root = hypotenuse(t);
    slope = one / (scale * root * root * root);
    bend = splat<D>(-3) * (t / root) / (splat<D>(c.unit) * root);
  } else if (c.map == map_logit) {
    const D r = below(c, x), q = above(c, x);
    slope = one / (scale * r * q);
    bend = (one / q - one / r) / scale;
  } else {
    const D t = c.mirrored ? above(c, x) : below(c, x);
    const D w = -expm1<D>(-t);
    slope = one / (scale * w);
    bend = (c.mirrored ? one - w : w - one) * slope;
  }
  const auto outside = (x < splat<D>(c.first[item])) | (x > splat<D>(c.last[item]));
  slope = select(outside, D{}, slope);
  bend = select(outside, D{}, bend);
}

// x(u), what the row adds to log_det, and what rounding of x counts against: its distance from the nearer end, or in a box the
// lesser of dx/du and 1 / |d log(du/dx) / dx|.
template <class D>
PENSTOCK_INLINE void from_line(const MappedColumn &c, D u, D &x, D &measure, D &log_slope) {
  const D one = splat<D>(1), scale = splat<D>(c.scale), lo = splat<D>(c.lo), hi = splat<D>(c.hi);
  if (c.map == map_wrap) {
    x = splat<D>(c.middle) + rest(c, u * scale);
    measure = log_slope = D{};
    return;
  }
  if (c.map == map_box) {
    const D t = from_box(c, u), root = hypotenuse(t);
    x = select(u <= -one, lo, select(u >= one, hi, splat<D>(c.middle) + splat<D>(c.unit) * t));
    // rounding shows in u, and far from m more in log du/dx
    const D in_u = scale * root, in_slope = splat<D>(c.unit) / (splat<D>(3) * absolute(t));
    measure = select(in_slope < in_u, in_slope, in_u) * root * root;
    log_slope = splat<D>(3) * log<D>(root);
    return;
  }
  const D e = exp<D>(-absolute(u)), l = log1p<D>(e);
  if (c.map == map_logit) {
    measure = scale * (e / (one + e));
    x = select(u < D{}, lo + measure, hi - measure);
    log_slope = -absolute(u) - (l + l);
  } else {
    const D v = c.mirrored ? -u : u;
    measure = scale * (select(v > D{}, v, D{}) + l);
    x = c.mirrored ? hi - measure : lo + measure;
    log_slope = select(v < D{}, v, D{}) - l;
  }
}

// dx/du, and the derivative of log dx/du.
template <class D>
PENSTOCK_INLINE void from_line_backward(const MappedColumn &c, D u, D &slope, D &bend) {
  const D scale = splat<D>(c.scale);
  if (c.map == map_wrap) {
    slope = scale;
    bend = D{};
    return;
  }
  if (c.map == map_box) {
    const D t = from_box(c, u), root = hypotenuse(t);
    slope = scale * root * root * root;
    bend = splat<D>(1.5 * (c.upper - c.lower)) * (t * root);
    return;
  }
  const D up = sigmoid<D>(u), down = sigmoid<D>(-u);
  if (c.map == map_logit) {
    slope = scale * (up * down);
    bend = down - up;
  } else {
    slope = scale * (c.mirrored ? down : up);
    bend = c.mirrored ? -up : down;
  }
}

// x as it is stored, by a number of T within the support.
template <class D, class T>
PENSTOCK_INLINE D stored(const MappedColumn &c, D x) {
  if (c.map == map_wrap) {
    x = convert<D>(convert<Along<D, T>>(limit<T>(x)));
    return select((x < splat<D>(c.least)) | (x > splat<D>(c.most)), splat<D>(c.least),
                  x);  // the end of a turn begins one
  }
  return convert<D>(convert<Along<D, T>>(clamp(x, c.least, c.most)));
}

// Above 0 where storing x as `now` has moved it by a part that the density shows.
template <class D, class T>
PENSTOCK_INLINE D movement(const MappedColumn &c, D u, D x, D now, D measure) {
  if (c.map == map_wrap) {
    return D{};
  }
  if (c.map == map_box) {
    return absolute(now - x) - splat<D>(shown<T>) * measure;
  }
  const D rise = now - splat<D>(c.lo), fall = splat<D>(c.hi) - now;
  const D distance = c.map == map_logit ? select(u < D{}, rise, fall) : c.mirrored ? fall : rise;
  // distances below normal numbers are themselves rounded
  return absolute(distance - measure) + splat<D>(smallest_normal) - splat<D>(shown<T>) * measure;
}

// The mapped columns of rows into the state, in the place of what stands there; the rows that lie outside.
template <class D, class T>
PENSTOCK_FUNCTION uint64_t mapped_in(const PackedView<T> &packed, const int64_t *slots, const RowPointers &pointers,
                                     int stride, T *state, double *log_det) {
  double x[tile_rows];
  const int n = stride == 1 ? 1 : whole_vectors<T>(pointers.rows), item = pointers.in.item_size == 4 ? 0 : 1;
  for (int i = 0; i < packed.n_alone; i++) {
    const MappedColumn &c = packed.mapped[i];
    const D loc = splat<D>(packed.loc[c.column]), inverse = splat<D>(packed.inverse[c.column]);
    T *to = state + slots[c.column] * stride;
    gather(pointers, c.column, 0, n, x);
    for (int r = 0; r < n; r += lanes<D>) {
      D u, log_slope;
      to_line<D>(c, item, load<D>(x + r), loc, u, log_slope);
      narrow<T>(to + r, (u - loc) * inverse);
      store(log_det + r, load<D>(log_det + r) + log_slope);
    }
  }
  if (packed.n_alone < packed.n_mapped) {
    groups_in<D>(packed, slots, pointers, stride, state, log_det);
  }
  uint64_t outside = 0;
  for (int r = 0; r < pointers.rows; r++) {
    outside |= static_cast<uint64_t>(log_det[r] == -__builtin_inf()) << r;
  }
  return outside;
}

// The mapped columns of the state into rows, if they are wanted, within the supports; the rows that rounding to T has moved
// there by a part that their density shows.
template <class D, class T>
PENSTOCK_FUNCTION uint64_t mapped_out(const PackedView<T> &packed, const int64_t *slots, const T *state, int rows,
                                      int stride, const RowsOut<T> &out, double *log_det) {
  double x[tile_rows], moved[tile_rows];
  uint64_t coarse = 0;
  const int n = stride == 1 ? 1 : whole_vectors<T>(rows);
  for (int i = 0; i < packed.n_alone; i++) {
    const MappedColumn &c = packed.mapped[i];
    const D loc = splat<D>(packed.loc[c.column]), scale = splat<D>(packed.scale[c.column]);
    const T *from = state + slots[c.column] * stride;
    for (int r = 0; r < n; r += lanes<D>) {
      const D u = loc + scale * widened<D>(from + r);
      D v, measure, log_slope;
      from_line<D>(c, u, v, measure, log_slope);
      store(log_det + r, load<D>(log_det + r) + log_slope);
      const D now = stored<D, T>(c, v);
      store(x + r, now);
      store(moved + r, movement<D, T>(c, u, v, now, measure));
    }
    for (int r = 0; out.data != nullptr && r < rows; r++) {
      out.data[r * out.stride + c.column] = static_cast<T>(x[r]);
      coarse |= static_cast<uint64_t>(moved[r] > 0) << r;
    }
  }
  if (packed.n_alone < packed.n_mapped) {
    coarse |= groups_out<D>(packed, slots, state, rows, stride, out, log_det);
  }
  return coarse;
}

// The way back of mapped_out, from cotangents of rows, or none, and of log_det.
template <class D, class T>
PENSTOCK_FUNCTION void mapped_cotangents_in(const PackedView<T> &packed, const int64_t *slots, int64_t dim,
                                            const T *d_out, const T *state, const T *d_log_det, int rows, T *d_state) {
  double d[tile_rows] = {};
  for (int i = 0; i < packed.n_alone; i++) {
    const MappedColumn &c = packed.mapped[i];
    const D loc = splat<D>(packed.loc[c.column]), scale = splat<D>(packed.scale[c.column]);
    const int64_t at = slots[c.column] * tile_stride;
    for (int r = 0; d_out != nullptr && r < whole_vectors<T>(rows); r++) {
      d[r] = static_cast<double>(d_out[(r < rows ? r : rows - 1) * dim + c.column]);
    }
    for (int r = 0; r < whole_vectors<T>(rows); r += lanes<D>) {
      D slope, bend;
      from_line_backward<D>(c, loc + scale * widened<D>(state + at + r), slope, bend);
      narrow<T>(d_state + at + r, (load<D>(d + r) * slope + widened<D>(d_log_det + r) * bend) * scale);
    }
  }
  if (packed.n_alone < packed.n_mapped) {
    groups_cotangents_in<D>(packed, slots, dim, d_out, state, d_log_det, rows, d_state);
  }
}

// The way back of mapped_in, from cotangents of the state and of log_det; it reads the rows again.
template <class D, class T>
PENSTOCK_FUNCTION void mapped_cotangents_out(const PackedView<T> &packed, const int64_t *slots,
                                             const RowPointers &pointers, const T *d_state, const T *d_log_det,
                                             const RowsOut<T> &d_in) {
  double x[tile_rows], d[tile_rows];
  const int n = whole_vectors<T>(pointers.rows), item = pointers.in.item_size == 4 ? 0 : 1;
  for (int i = 0; i < packed.n_alone; i++) {
    const MappedColumn &c = packed.mapped[i];
    const D inverse = splat<D>(packed.inverse[c.column]);
    gather(pointers, c.column, 0, n, x);
    for (int r = 0; r < n; r += lanes<D>) {
      D slope, bend;
      to_line_backward<D>(c, item, load<D>(x + r), slope, bend);
      const D d_u = widened<D>(d_state + slots[c.column] * tile_stride + r) * inverse;
      store(d + r, limit<T>(d_u * slope + widened<D>(d_log_det + r) * bend));
    }
    for (int r = 0; r < pointers.rows; r++) {
      d_in.data[r * d_in.stride + c.column] = static_cast<T>(d[r]);
    }
  }
  if (packed.n_alone < packed.n_mapped) {
    groups_cotangents_out<D>(packed, slots, pointers, d_state, d_log_det, d_in);
  }
}

}  // namespace penstock::PENSTOCK_ISA
