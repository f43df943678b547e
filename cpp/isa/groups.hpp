// Bijections of groups of columns, in float64, and what each row adds to log_det through them: a member of a group has the
// bijection of an interval, of which the members before it move one end, E.
//   ordered     rising: above L = E, the member before, or lo where it is the first; below hi
//               falling, where there is hi alone: below H = E, the member before, or hi
//     no ends   first: u = x                              log_det = 0
//     one end   t = (x - L) / s or (H - x) / s            the half-line of supports.hpp
//     both      r = x - L,  q = hi - x,  p = hi - L       the interval
//   simplex     r = x,  q = H - x,  p = H                 the interval; H = E is what the members before it leave of 1
//   half-line   w = 1 - e^-t,  u = t + log w              log_det = -log w         du/dE = -du/dx
//   interval    u = log r - log q                         log_det = log p - log r - log q
//               x = L + p sigmoid(u)                      log_det = log p + log sigmoid(u) sigmoid(-u)
// What every row adds, log s of a half-line, is where log_det begins (ends.hpp). Outside a group, its ends and rows with equal
// members included, the density is zero: see supports.hpp. On the way out E is made of the numbers as they are stored, so
// that the density is that of the row which is stored; each leaves room for those behind it.
#pragma once

#include "isa/doubles.hpp"

namespace penstock::PENSTOCK_ISA {

// E of the first member.
template <class D>
PENSTOCK_INLINE D opening(const MappedColumn &c) {
  return splat<D>(c.mirrored ? c.hi : c.lo);
}

// Both ends of a member.
template <class D>
PENSTOCK_INLINE D lower_end(const MappedColumn &c, D end) {
  return c.mirrored ? splat<D>(c.lo) : end;
}
template <class D>
PENSTOCK_INLINE D upper_end(const MappedColumn &c, D end) {
  return c.mirrored ? end : splat<D>(c.hi);
}

// E of the next member.
template <class D>
PENSTOCK_INLINE D moved(const MappedColumn &c, D end, D x) {
  return c.map == map_simplex ? end - x : x;
}

// The same of a row that is given: behind a member that lies outside nothing is within.
template <class D>
PENSTOCK_INLINE D moved_within(const MappedColumn &c, D end, D x) {
  const auto outside = (x <= lower_end(c, end)) | (x >= upper_end(c, end));
  const double infinity = __builtin_inf();
  return select(outside, splat<D>(c.mirrored ? -infinity : infinity), moved(c, end, x));
}

// u(x), and what the row adds to log_det; `middle` is the image of what lies outside.
template <class D>
PENSTOCK_INLINE void member_to_line(const MappedColumn &c, D end, D x, D middle, D &u, D &log_slope) {
  const D low = lower_end(c, end), high = upper_end(c, end), infinity = splat<D>(__builtin_inf());
  if (c.shape == member_interval) {
    const D log_r = log<D>(normal<D>(x - low)), log_q = log<D>(normal<D>(high - x));
    u = log_r - log_q;
    log_slope = log<D>(normal<D>(high - low)) - log_r - log_q;
  } else if (c.shape == member_half_line) {
    const D t = normal<D>((c.mirrored ? high - x : x - low) / splat<D>(c.scale));
    const D log_w = log<D>(-expm1<D>(-t));
    u = c.mirrored ? -(t + log_w) : t + log_w;
    log_slope = -log_w;
  } else {
    u = x;
    log_slope = D{};
  }
  const auto inside = (x > low) & (x < high), outside = (x <= low) | (x >= high);  // neither: NaN
  u = select(outside, middle, select(inside, u, x));
  log_slope = select(outside, -infinity, select(inside, log_slope, x + end));
}

// 1 / x, and a cotangent, kept so far from the largest number that sums of a few stay numbers.
template <class D>
PENSTOCK_INLINE D reciprocal(D x) {
  const D least = splat<D>(0x1p-900);
  return splat<D>(1) / select(x < least, least, x);
}
template <class D>
PENSTOCK_INLINE D bounded(D d) {
  return clamp(d, -0x1p1020, 0x1p1020);
}

// du/dx, du/dE, and the derivatives of log du/dx; zero outside.
template <class D>
struct MemberSlopes {
  D slope, end_slope, bend, end_bend;
};

template <class D>
PENSTOCK_INLINE MemberSlopes<D> member_to_line_backward(const MappedColumn &c, D end, D x) {
  const D low = lower_end(c, end), high = upper_end(c, end), one = splat<D>(1);
  MemberSlopes<D> s{one, D{}, D{}, D{}};
  if (c.shape == member_interval) {
    const D r = reciprocal<D>(x - low), q = reciprocal<D>(high - x), p = reciprocal<D>(high - low);
    s = {r + q, c.mirrored ? -q : -r, q - r, c.mirrored ? p - q : r - p};
  } else if (c.shape == member_half_line) {
    const D scale = splat<D>(c.scale), t = normal<D>((c.mirrored ? high - x : x - low) / scale);
    const D w = -expm1<D>(-t);
    s.slope = reciprocal<D>(scale * w);
    s.end_slope = -s.slope;
    s.bend = (c.mirrored ? one - w : w - one) * s.slope;
    s.end_bend = -s.bend;
  }
  const auto outside = (x <= low) | (x >= high);
  return {select(outside, D{}, s.slope), select(outside, D{}, s.end_slope), select(outside, D{}, s.bend),
          select(outside, D{}, s.end_bend)};
}

// x(u), its distance from the nearer end, which rounding of x counts against, and what the row adds to log_det.
template <class D>
PENSTOCK_INLINE void member_from_line(const MappedColumn &c, D end, D u, D &x, D &distance, D &log_slope) {
  const D low = lower_end(c, end), high = upper_end(c, end), one = splat<D>(1);
  if (c.shape == member_real) {
    x = u;
    distance = log_slope = D{};
    return;
  }
  const D e = exp<D>(-absolute(u)), l = log1p<D>(e);
  if (c.shape == member_interval) {
    const D p = normal<D>(high - low);
    distance = p * (e / (one + e));
    x = select(u < D{}, low + distance, high - distance);
    log_slope = log<D>(p) - absolute(u) - (l + l);
  } else {
    const D v = c.mirrored ? -u : u;
    distance = splat<D>(c.scale) * (select(v > D{}, v, D{}) + l);
    x = c.mirrored ? high - distance : low + distance;
    log_slope = select(v < D{}, v, D{}) - l;
  }
}

// dx/du, dx/dE, and the derivatives of log dx/du.
template <class D>
PENSTOCK_INLINE MemberSlopes<D> member_from_line_backward(const MappedColumn &c, D end, D u) {
  const D one = splat<D>(1), up = sigmoid<D>(u), down = sigmoid<D>(-u);
  if (c.shape == member_interval) {
    const D p = normal<D>(upper_end(c, end) - lower_end(c, end));
    const D inverse = reciprocal<D>(p);
    return {p * (up * down), c.mirrored ? up : down, down - up, c.mirrored ? inverse : -inverse};
  }
  if (c.shape == member_half_line) {
    return {splat<D>(c.scale) * (c.mirrored ? down : up), one, c.mirrored ? -up : down, D{}};
  }
  return {one, D{}, D{}, D{}};
}

// The number of T next to one, upwards and downwards.
template <class T>
PENSTOCK_INLINE T next_up(T x) {
  return from_bits<T>(x == 0 ? Bits<T>{1} : bits<T>(x) + (x > 0 ? 1 : -1));
}
template <class T>
PENSTOCK_INLINE T next_down(T x) {
  return -next_up<T>(-x);
}

// x of one row as it is stored, by a number of T that lies strictly within and leaves room for the members behind; NaN passes.
template <class T>
PENSTOCK_INLINE double stored_member(const MappedColumn &c, double end, double x) {
  T now = static_cast<T>(limit<T>(x));
  if (c.map == map_simplex) {
    T most = static_cast<T>(end - c.room);
    most = end - static_cast<double>(most) < c.room ? next_down<T>(most) : most;
    now = now > most ? most : now;
  } else if (!c.opens && c.mirrored && static_cast<double>(now) >= end) {
    now = next_down<T>(static_cast<T>(end));
  } else if (!c.opens && !c.mirrored && static_cast<double>(now) <= end) {
    now = next_up<T>(static_cast<T>(end));
  }
  return clamp(static_cast<double>(now), c.least, c.most);
}

template <class D, class T>
PENSTOCK_INLINE D stored_members(const MappedColumn &c, D end, D x) {
  double ends[lanes<D>], now[lanes<D>];
  store(ends, end);
  store(now, x);
  for (int i = 0; i < lanes<D>; i++) {
    now[i] = stored_member<T>(c, ends[i], now[i]);
  }
  return load<D>(now);
}

// Above 0 where storing x as `now` has moved it by a part of that distance which the density shows.
template <class D, class T>
PENSTOCK_INLINE D member_movement(const MappedColumn &c, D end, D u, D now, D distance) {
  if (c.shape == member_real) {
    return D{};
  }
  const D rise = now - lower_end(c, end), fall = upper_end(c, end) - now;
  const D found = c.shape == member_interval ? select(u < D{}, rise, fall) : c.mirrored ? fall : rise;
  return absolute(found - distance) + splat<D>(smallest_normal) - splat<D>(shown<T>) * distance;
}

// Groups stand behind the columns that are mapped by themselves, the members of each in the order of their ends.

// The members of rows into the state, in the place of what stands there.
template <class D, class T>
PENSTOCK_FUNCTION void groups_in(const PackedView<T> &packed, const int64_t *slots, const RowPointers &pointers,
                                 int stride, T *state, double *log_det) {
  const int n = stride == 1 ? 1 : whole_vectors<T>(pointers.rows);
  for (int r = 0; r < n; r += lanes<D>) {
    D end{};
    for (int i = packed.n_alone; i < packed.n_mapped; i++) {
      const MappedColumn &c = packed.mapped[i];
      const D loc = splat<D>(packed.loc[c.column]), x = gathered<D>(pointers, c.column, r);
      end = c.opens ? opening<D>(c) : end;
      D u, log_slope;
      member_to_line<D>(c, end, x, loc, u, log_slope);
      narrow<T>(state + slots[c.column] * stride + r, (u - loc) * splat<D>(packed.inverse[c.column]));
      store(log_det + r, load<D>(log_det + r) + log_slope);
      end = moved_within(c, end, x);
    }
  }
}

// The members of the state into rows, if they are wanted, within the groups; the rows that rounding to T has moved there by a
// part that their density shows.
template <class D, class T>
PENSTOCK_FUNCTION uint64_t groups_out(const PackedView<T> &packed, const int64_t *slots, const T *state, int rows,
                                      int stride, const RowsOut<T> &out, double *log_det) {
  uint64_t coarse = 0;
  const int n = stride == 1 ? 1 : whole_vectors<T>(rows);
  for (int r = 0; r < n; r += lanes<D>) {
    D end{};
    for (int i = packed.n_alone; i < packed.n_mapped; i++) {
      const MappedColumn &c = packed.mapped[i];
      end = c.opens ? opening<D>(c) : end;
      const D u = splat<D>(packed.loc[c.column]) +
                  splat<D>(packed.scale[c.column]) * widened<D>(state + slots[c.column] * stride + r);
      D x, distance, log_slope;
      member_from_line<D>(c, end, u, x, distance, log_slope);
      store(log_det + r, load<D>(log_det + r) + log_slope);
      const D now = stored_members<D, T>(c, end, x);
      double numbers[lanes<D>], movement[lanes<D>];
      store(numbers, now);
      store(movement, member_movement<D, T>(c, end, u, now, distance));
      for (int j = 0; out.data != nullptr && j < lanes<D> && r + j < rows; j++) {
        out.data[(r + j) * out.stride + c.column] = static_cast<T>(numbers[j]);
        coarse |= static_cast<uint64_t>(movement[j] > 0) << (r + j);
      }
      end = moved(c, end, now);
    }
  }
  return coarse;
}

// Walks a vector of rows through the members from the last to the first, some at a time, since what they are given on the way,
// E of each, has to be found from the first on: next(c, end) gives E behind a member, and take(c, end) is the way back.
template <class D, class T, class Next, class Take>
PENSTOCK_INLINE void members_backward(const PackedView<T> &packed, Next &&next, Take &&take) {
  constexpr int room = 4 * tile_rows / lanes<D>;
  double ends[room * lanes<D>];
  for (int last = packed.n_mapped; last > packed.n_alone;) {
    const int first = last - room > packed.n_alone ? last - room : packed.n_alone;
    int i = first;
    while (!packed.mapped[i].opens) {
      i--;
    }
    D end{};
    for (; i < last; i++) {
      const MappedColumn &c = packed.mapped[i];
      end = c.opens ? opening<D>(c) : end;
      if (i >= first) {
        store(ends + (i - first) * lanes<D>, end);
      }
      end = next(c, end);
    }
    for (i = last - 1; i >= first; i--) {
      take(packed.mapped[i], load<D>(ends + (i - first) * lanes<D>));
    }
    last = first;
  }
}

// The cotangent of x of a member, from its own and that of E behind it; and of E before it, from those of the member's image
// and of log_det.
template <class D>
PENSTOCK_INLINE D with_end(const MappedColumn &c, D d, D d_end) {
  return c.map == map_simplex ? bounded<D>(d) - d_end : bounded<D>(d) + d_end;
}
template <class D>
PENSTOCK_INLINE D end_before(const MappedColumn &c, D own, D d_end) {
  return c.opens ? D{} : bounded<D>(c.map == map_simplex ? d_end + bounded<D>(own) : own);
}

// The way back of groups_out, from cotangents of rows, or none, and of log_det.
template <class D, class T>
PENSTOCK_FUNCTION void groups_cotangents_in(const PackedView<T> &packed, const int64_t *slots, int64_t dim,
                                            const T *d_out, const T *state, const T *d_log_det, int rows, T *d_state) {
  for (int r = 0; r < whole_vectors<T>(rows); r += lanes<D>) {
    const auto image = [&](const MappedColumn &c) __attribute__((always_inline)) {
      return splat<D>(packed.loc[c.column]) +
             splat<D>(packed.scale[c.column]) * widened<D>(state + slots[c.column] * tile_stride + r);
    };
    const D d_value = widened<D>(d_log_det + r);
    D d_end{};
    members_backward<D>(
        packed,
        [&](const MappedColumn &c, D end) __attribute__((always_inline)) {
          D x, distance, log_slope;
          member_from_line<D>(c, end, image(c), x, distance, log_slope);
          return moved(c, end, stored_members<D, T>(c, end, x));
        },
        [&](const MappedColumn &c, D end) __attribute__((always_inline)) {
          double d[lanes<D>] = {};
          for (int j = 0; d_out != nullptr && j < lanes<D>; j++) {
            d[j] = static_cast<double>(d_out[(r + j < rows ? r + j : rows - 1) * dim + c.column]);
          }
          const MemberSlopes<D> s = member_from_line_backward<D>(c, end, image(c));
          const D d_x = with_end(c, load<D>(d), d_end);
          narrow<T>(d_state + slots[c.column] * tile_stride + r,
                    (d_x * s.slope + d_value * s.bend) * splat<D>(packed.scale[c.column]));
          d_end = end_before(c, d_x * s.end_slope + d_value * s.end_bend, d_end);
        });
  }
}

// The way back of groups_in, from cotangents of the state and of log_det; it reads the rows again.
template <class D, class T>
PENSTOCK_FUNCTION void groups_cotangents_out(const PackedView<T> &packed, const int64_t *slots,
                                             const RowPointers &pointers, const T *d_state, const T *d_log_det,
                                             const RowsOut<T> &d_in) {
  for (int r = 0; r < whole_vectors<T>(pointers.rows); r += lanes<D>) {
    const D d_value = widened<D>(d_log_det + r);
    D d_end{};
    members_backward<D>(
        packed,
        [&](const MappedColumn &c, D end)
            __attribute__((always_inline)) { return moved_within(c, end, gathered<D>(pointers, c.column, r)); },
        [&](const MappedColumn &c, D end) __attribute__((always_inline)) {
          const MemberSlopes<D> s = member_to_line_backward<D>(c, end, gathered<D>(pointers, c.column, r));
          const D d_u = widened<D>(d_state + slots[c.column] * tile_stride + r) * splat<D>(packed.inverse[c.column]);
          double d[lanes<D>];
          store(d, limit<T>(with_end(c, d_u * s.slope + d_value * s.bend, d_end)));
          for (int j = 0; j < lanes<D> && r + j < pointers.rows; j++) {
            d_in.data[(r + j) * d_in.stride + c.column] = static_cast<T>(d[j]);
          }
          d_end = end_before(c, d_u * s.end_slope + d_value * s.end_bend, d_end);
        });
  }
}

}  // namespace penstock::PENSTOCK_ISA
