// The LU layer over a tile:  y = P L U x + b        params = (M, b)
//   U upper, U_ii = sign_i e^(M_ii), U_ij = M_ij;  L unit lower, L_ij = M_ij;  P: y_j = (L U x)_order[j] + b_j
//   forward    v = U x,  c = L v,  y = P c + b                    log_det = sum_i M_ii
//   inverse    c = P'(y - b),  v = L^-1 c,  x = U^-1 v            log_det = -sum_i M_ii
//   backward   dc = P' dy,  dv = L' dc,  dx = U' dv
//              db = dy,  dL = dc v',  dU = dv x',  dM_ii = U_ii dU_ii + dlog_det
// A triangle is a product over less than all inputs, in register blocks whose corners are filled with zeros; its inverse
// is one too: the blocks on the diagonal are inverted, and multiplied into the rest, when the triangle is packed. The sums
// of L start from P'b, those of its inverse from -P'b. So all of it runs on the microkernel, in place on the state where
// nothing is kept, and P is a name for slots.
#pragma once

#include "conditioners/inputs.hpp"

namespace penstock::PENSTOCK_ISA {

// The packed triangles of a step, panel_size numbers each: what the n sums start from, then the panels of the register
// blocks. A solve takes the same shape as its triangle.
enum Triangle { tri_upper, tri_lower, tri_upper_t, tri_lower_t, tri_solves };  // + tri_solves: the inverse of each

PENSTOCK_INLINE constexpr bool is_upper(int triangle) {
  return triangle % tri_solves == tri_upper || triangle % tri_solves == tri_lower_t;
}

// One triangle: entry(n, k) inside it, whatever outside. Inverses of the diagonal blocks are taken in float64, and
// multiplied into the starts.
template <class T, class Entry>
PENSTOCK_FUNCTION void pack_triangle(bool upper, bool solve, int n, Entry entry, T *starts) {
  T *panels = starts + n;
  for (int i = 0; i < block_count(n); i++) {
    const int n0 = block_start(n, i), n1 = block_start(n, i + 1), nr = n1 - n0;
    const auto [first, count] = reach(upper, n, n0, n1);
    const auto inside = [&](int a, int k) { return upper ? k >= a : k <= a; };
    if (!solve) {
      for (int k = first; k < first + count; k++) {
        for (int a = n0; a < n1; a++) {
          *panels++ = inside(a, k) ? static_cast<T>(entry(a, k)) : T{0};
        }
      }
      continue;
    }
    double inverted[block_outputs][block_outputs] = {};  // by substitution, a column at a time
    for (int column = 0; column < nr; column++) {
      for (int s = 0; s < nr; s++) {
        const int a = upper ? nr - 1 - s : s;
        double sum = a == column ? 1.0 : 0.0;
        for (int k = upper ? a + 1 : 0; k < (upper ? nr : a); k++) {
          sum = sum - static_cast<double>(entry(n0 + a, n0 + k)) * inverted[k][column];
        }
        inverted[a][column] = sum / static_cast<double>(entry(n0 + a, n0 + a));
      }
    }
    double start[block_outputs];
    for (int m = 0; m < nr; m++) {
      start[m] = static_cast<double>(starts[n0 + m]);
    }
    for (int a = 0; a < nr; a++) {
      double sum = 0;
      for (int m = 0; m < nr; m++) {
        sum = sum + inverted[a][m] * start[m];
      }
      starts[n0 + a] = static_cast<T>(sum);
    }
    for (int k = first; k < first + count; k++) {
      for (int a = 0; a < nr; a++) {
        if (k >= n0 && k < n1) {
          *panels++ = static_cast<T>(inverted[a][k - n0]);
          continue;
        }
        double sum = 0;
        for (int m = 0; m < nr; m++) {
          sum = sum - inverted[a][m] * static_cast<double>(entry(n0 + m, k));
        }
        *panels++ = static_cast<T>(sum);
      }
    }
  }
}

// Triangle number t of a step.
template <class T>
PENSTOCK_FUNCTION void pack_lu(const Step &step, int t, const T *params, T *panels) {
  const int n = step.n_b;
  const T *M = params + step.params;
  const auto upper = [&](int i, int j) {
    const T m = M[static_cast<int64_t>(i) * n + j];
    return i == j ? static_cast<T>(step.signs[i]) * exp<T>(m) : m;
  };
  const auto lower = [&](int i, int j) { return i == j ? T{1} : M[static_cast<int64_t>(i) * n + j]; };
  T *to = panels + step.panels + t * step.panel_size;
  const bool solve = t >= tri_solves;
  for (int j = 0; j < n; j++) {
    const T b = t % tri_solves == tri_lower ? params[step.bias + j] : T{0};
    to[step.order[j]] = solve ? -b : b;
  }
  switch (t % tri_solves) {
    case tri_upper:
      return pack_triangle(true, solve, n, upper, to);
    case tri_lower:
      return pack_triangle(false, solve, n, lower, to);
    case tri_upper_t:
      return pack_triangle(false, solve, n, [&](int i, int j) { return upper(j, i); }, to);
    default:
      return pack_triangle(true, solve, n, [&](int i, int j) { return lower(j, i); }, to);
  }
}

// The product or solve of one packed triangle for one column of MR vectors. A product may run in place, a solve must: a
// block reads what is solved already, and its own inputs. With slots, in and out are the state.
template <class V, int MR, bool by_slot>
PENSTOCK_FUNCTION void triangle_column(int t, int n, int stride, const Element<V> *starts, const int64_t *slots,
                                       const Element<V> *in, Element<V> *out) {
  const bool upper = is_upper(t), solve = t >= tri_solves;
  const int blocks = block_count(n);
  const bool ascending = upper != solve;
  const Element<V> *panel = starts + n;
  if (!ascending) {
    for (int i = 0; i < blocks; i++) {
      const int n0 = block_start(n, i), n1 = block_start(n, i + 1);
      panel += static_cast<int64_t>(reach(upper, n, n0, n1).count) * (n1 - n0);
    }
  }
  for (int s = 0; s < blocks; s++) {
    const int i = ascending ? s : blocks - 1 - s;
    const int n0 = block_start(n, i), n1 = block_start(n, i + 1);
    const auto [first, count] = reach(upper, n, n0, n1);
    const int64_t size = static_cast<int64_t>(count) * (n1 - n0);
    panel -= ascending ? 0 : size;
    Operands<Element<V>> o{panel, 0, in, stride, out, stride, starts + n0, nullptr, count};
    if constexpr (by_slot) {
      o.in_slots = slots + first;
      o.out_slots = slots + n0;
    } else {
      o.in += static_cast<int64_t>(first) * stride;
      o.out += static_cast<int64_t>(n0) * stride;
    }
    block_of<V, MR, true, Start::bias, Finish::none, by_slot>(n1 - n0, o);
    panel += ascending ? size : 0;
  }
}

template <class V, bool by_slot = false>
PENSTOCK_APART void triangle(const Step &step, int t, const PackedView<Element<V>> &packed, int n_vectors, int stride,
                             const Element<V> *in, Element<V> *out) {
  const Element<V> *starts = packed.panels + step.panels + t * step.panel_size;
  int v = 0;
  for (; v + block_vectors <= n_vectors; v += block_vectors) {
    triangle_column<V, block_vectors, by_slot>(t, step.n_b, stride, starts, step.b, in + v * lanes<V>,
                                               out + v * lanes<V>);
  }
  for (; v < n_vectors; v++) {
    triangle_column<V, 1, by_slot>(t, step.n_b, stride, starts, step.b, in + v * lanes<V>, out + v * lanes<V>);
  }
}

// Where a step's numbers lie in its area: x, v and c, (n, tile) each.
template <class T>
struct LuArea {
  T *x, *v, *c;
  PENSTOCK_FUNCTION LuArea(const Step &step, T *area)
      : x(area),
        v(area + static_cast<int64_t>(step.n_b) * tile_stride),
        c(area + 2 * static_cast<int64_t>(step.n_b) * tile_stride) {}
};

// state (dim, tile) by slot into (n, tile) in order, and back.
template <class V>
PENSTOCK_INLINE void gather_slots(const Step &step, int n_vectors, const Element<V> *state, Element<V> *to) {
  for (int64_t i = 0; i < step.n_b; i++) {
    for (int v = 0; v < n_vectors; v++) {
      store(to + i * tile_stride + v * lanes<V>, load<V>(state + step.b[i] * tile_stride + v * lanes<V>));
    }
  }
}

template <class V>
PENSTOCK_INLINE void scatter_slots(const Step &step, int n_vectors, const Element<V> *from, Element<V> *state) {
  for (int64_t i = 0; i < step.n_b; i++) {
    for (int v = 0; v < n_vectors; v++) {
      store(state + step.b[i] * tile_stride + v * lanes<V>, load<V>(from + i * tile_stride + v * lanes<V>));
    }
  }
}

// From what went in, (n, tile), to what comes out: c + P'b (forward) or x (inverse); x and v stay in the area.
template <class V>
PENSTOCK_FUNCTION Element<V> *lu_map(const Step &step, const PackedView<Element<V>> &packed, bool inverse,
                                     int n_vectors, const Element<V> *in, const LuArea<Element<V>> &area) {
  if (!inverse) {
    triangle<V>(step, tri_upper, packed, n_vectors, tile_stride, in, area.v);
    triangle<V>(step, tri_lower, packed, n_vectors, tile_stride, area.v, area.c);
    return area.c;
  }
  copy_features<V>(step.n_b, n_vectors, in, area.v);
  triangle<V>(step, tri_solves + tri_lower, packed, n_vectors, tile_stride, area.v, area.v);
  copy_features<V>(step.n_b, n_vectors, area.v, area.x);
  triangle<V>(step, tri_solves + tri_upper, packed, n_vectors, tile_stride, area.x, area.x);
  return area.x;
}

// sum_i M_ii in float64, in order.
template <class T>
PENSTOCK_FUNCTION double lu_log_det(const Step &step, const T *params) {
  double sum = 0;
  for (int64_t i = 0; i < step.n_b; i++) {
    sum = sum + static_cast<double>(params[step.params + i * (step.n_b + 1)]);
  }
  return sum;
}

// Tile or row (stride 1, V a plain number): changes the state, adds to log_det; what went in goes to kept if given.
template <class V>
PENSTOCK_FUNCTION void lu_forward(const Step &step, const PackedView<Element<V>> &packed, bool inverse, int n_vectors,
                                  int stride, Element<V> *state, double *log_det, Element<V> *area, Element<V> *kept) {
  if (kept != nullptr) {
    gather_slots<V>(step, n_vectors, state, kept);
    scatter_slots<V>(step, n_vectors, lu_map<V>(step, packed, inverse, n_vectors, kept, {step, area}), state);
  } else {
    triangle<V, true>(step, inverse ? tri_solves + tri_lower : tri_upper, packed, n_vectors, stride, state, state);
    triangle<V, true>(step, inverse ? tri_solves + tri_upper : tri_lower, packed, n_vectors, stride, state, state);
  }
  const double sum = lu_log_det(step, packed.params), change = inverse ? -sum : sum;
  for (int r = 0; r < n_vectors * lanes<V>; r++) {
    log_det[r] = log_det[r] + change;
  }
}

#if !defined(PENSTOCK_DEVICE)

// Entries of dM on one side of the diagonal:  M_ij (+)= sum_r d_i(r) x_j(r). Vectors of j that the diagonal crosses are
// computed aside, and only their part of this side is taken over.
template <class V>
PENSTOCK_FUNCTION void lu_side_gradient(const Step &step, bool upper, int n_rows,
                                        const TileGradient<Element<V>> &gradient, const Element<V> *d,
                                        const Element<V> *x) {
  using T = Element<V>;
  constexpr int L = lanes<V>;
  const int n = step.n_b, stride = static_cast<int>(padded(n)), t_stride = transposed_stride(stride);
  const bool overwrite = gradient.of_params == Gradient::overwrite;
  transpose_tile<V>(x, n, n_rows, gradient.transposed, t_stride);
  T *M = gradient.params + step.grad;
  for (int i = 0; i < block_count(n); i++) {
    const int n0 = block_start(n, i), n1 = block_start(n, i + 1);
    const auto run = [&](T *out, int64_t out_stride, int vector, int count) __attribute__((always_inline)) {
      const Operands<T> o{d + static_cast<int64_t>(n0) * tile_stride,
                          tile_stride,
                          gradient.transposed + vector * L,
                          t_stride,
                          out,
                          out_stride,
                          nullptr,
                          nullptr,
                          n_rows};
      if (overwrite) {
        product<V, false, Start::zero, Finish::none>(n1 - n0, count, o);
      } else {
        product<V, false, Start::load, Finish::none>(n1 - n0, count, o);
      }
    };
    // vectors [begin, end) hold some of this side; [whole_begin, whole_end) nothing else, or columns of padding
    const int vectors = (n + L - 1) / L;
    const int begin = upper ? (n0 + 1) / L : 0, end = upper ? vectors : (n1 - 1 + L - 1) / L;
    const int whole_begin = upper ? (n1 + L - 1) / L : 0, whole_end = upper ? vectors : n0 / L;
    T *rows = M + static_cast<int64_t>(n0) * stride;
    if (whole_begin < whole_end) {
      run(rows + whole_begin * L, stride, whole_begin, whole_end - whole_begin);
    }
    for (int v = upper ? begin : whole_end; v < (upper && whole_begin < end ? whole_begin : end); v++) {
      T aside[block_outputs * L];
      for (int a = 0; a < n1 - n0; a++) {
        store(aside + a * L, overwrite ? V{} : load<V>(rows + static_cast<int64_t>(a) * stride + v * L));
      }
      run(aside, L, v, 1);
      for (int a = 0; a < n1 - n0; a++) {
        for (int lane = 0; lane < L; lane++) {
          const int j = v * L + lane;
          if (upper ? j > n0 + a : j < n0 + a) {
            rows[static_cast<int64_t>(a) * stride + j] = aside[a * L + lane];
          }
        }
      }
    }
  }
}

// dM and db from dc and dv; with sign -1 for the inverse direction, where both enter negated.
template <class V>
PENSTOCK_FUNCTION void lu_gradient(const Step &step, const PackedView<Element<V>> &packed, int n_rows,
                                   const TileGradient<Element<V>> &gradient, int n_vectors, Element<V> sign,
                                   const LuArea<Element<V>> &area, const Element<V> *dc, const Element<V> *dv) {
  using T = Element<V>;
  lu_side_gradient<V>(step, true, n_rows, gradient, dv, area.x);
  lu_side_gradient<V>(step, false, n_rows, gradient, dc, area.v);
  const int n = step.n_b, stride = static_cast<int>(padded(n));
  T *M = gradient.params + step.grad, *b = gradient.params + step.grad_bias;
  const auto add = [&](T *sum, const T *rows) {
    const T more = sum_rows(rows, n_rows);
    *sum = gradient.of_params == Gradient::overwrite ? more : *sum + more;
  };
  T diagonal[tile_rows];
  for (int64_t i = 0; i < n; i++) {
    const T u = static_cast<T>(step.signs[i]) * exp<T>(packed.params[step.params + i * (n + 1)]);
    for (int lane = 0; lane < n_vectors * lanes<V>; lane += lanes<V>) {
      const V product = load<V>(dv + i * tile_stride + lane) * load<V>(area.x + i * tile_stride + lane);
      store(diagonal + lane, fma<V>(u, product, splat<V>(sign) * load<V>(gradient.log_det + lane)));
    }
    add(M + i * (stride + 1), diagonal);
    add(b + i, dc + step.order[i] * tile_stride);
  }
}

#endif

// Puts the state back to the input of the step, and turns the gradient of its output into that of its input.
template <class V>
PENSTOCK_FUNCTION void lu_backward(const Step &step, const PackedView<Element<V>> &packed, bool inverse, bool recompute,
                                   int n_vectors, const Tile<Element<V>> &tile,
                                   const TileGradient<Element<V>> &gradient, Element<V> *area_memory,
                                   const Element<V> *kept) {
  using T = Element<V>;
  const LuArea<T> area(step, area_memory);
  if (recompute) {
    lu_map<V>(step, packed, inverse, n_vectors, kept, area);
  }
  T *first = gradient.hidden[0], *second = gradient.hidden[1];
  gather_slots<V>(step, n_vectors, gradient.state, first);
  if (!inverse) {
    copy_features<V>(step.n_b, n_vectors, kept, area.x);
    triangle<V>(step, tri_lower_t, packed, n_vectors, tile_stride, first, second);
    triangle<V>(step, tri_upper_t, packed, n_vectors, tile_stride, second, area.c);
    scatter_slots<V>(step, n_vectors, area.c, gradient.state);
    if (gradient.of_params != Gradient::ignore) {
      lu_gradient<V>(step, packed, tile.rows, gradient, n_vectors, T{1}, area, first, second);
    }
  } else {
    copy_features<V>(step.n_b, n_vectors, first, second);
    triangle<V>(step, tri_solves + tri_upper_t, packed, n_vectors, tile_stride, second, second);
    copy_features<V>(step.n_b, n_vectors, second, first);
    triangle<V>(step, tri_solves + tri_lower_t, packed, n_vectors, tile_stride, first, first);
    scatter_slots<V>(step, n_vectors, first, gradient.state);
    if (gradient.of_params != Gradient::ignore) {
      for (int64_t i = 0; i < step.n_b; i++) {
        for (int lane = 0; lane < n_vectors * lanes<V>; lane += lanes<V>) {
          const int64_t k = i * tile_stride + lane;
          store(first + k, -load<V>(first + k));
          store(second + k, -load<V>(second + k));
        }
      }
      lu_gradient<V>(step, packed, tile.rows, gradient, n_vectors, T{-1}, area, first, second);
    }
  }
  scatter_slots<V>(step, n_vectors, kept, tile.state);
}

}  // namespace penstock::PENSTOCK_ISA
