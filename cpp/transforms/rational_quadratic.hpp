// Rational-quadratic spline:  y = g(x) on [-B, B], y = x outside    theta = (u_0 .. u_K-1, v_0 .. v_K-1, t_1 .. t_K-1)
//   forward    y = y_k + h N / D,                                    log_det = log slope,  slope = (s / D)^2 E
//   inverse    xi = 2 s Y / (b + R), where b < 0 (R - b) / 2 a,      x = x_k + w xi,  log_det = -log slope
//   backward   dx = dxi / w,  du_j = w'_j (G_j - M),  dv_j likewise from dy_k and dh,  dt_j = dd_j sigmoid(t_j + c)
//   knots      x_0 = -B,  x_j+1 = x_j + w_j,  w_j = 2 B m_w + w'_j,  w'_j = 2 B (1 - K m_w) e^u_j / sum_i e^u_i
//              y_j and h_j from v and m_h;  d_j = m_d + softplus(t_j + c), at most 10^6;  t_0 = t_K = 0, where d = 1
//   bin k      w = w_k,  h = h_k,  s = h / w,  xi = (x - x_k) / w,  q = xi (1 - xi),  p = 1 - 2 q,  d = d_k,  e = d_k+1
//              N = xi (s xi + d (1 - xi)),  D = s p + (d + e) q,  E = e xi^2 + 2 s q + d (1 - xi)^2
//              Y = y - y_k,  T = d + e - 2 s,  a = h (s - d) + Y T,  b = h d - Y T,  R = sqrt(b^2 + 4 a s Y)
//   gradients  dxi = dy h s E / D^2 + dlog_det ((2 e xi + 2 s (1 - 2 xi) - 2 d (1 - xi)) / E - 2 T (1 - 2 xi) / D)
//              ds = dy h (xi^2 - p N / D) / D + dlog_det (2 / s + 2 q / E - 2 p / D)
//              dd = dy h q (1 - N / D) / D + dlog_det ((1 - xi)^2 / E - 2 q / D)
//              de = -dy h q N / D^2 + dlog_det (xi^2 / E - 2 q / D)
//              dy_k = dy,  dh = dy N / D + ds / w,  dx_k = -dxi / w,  dw = -(dxi xi + ds s) / w
//              G_j = dx_k for j < k, dw for j = k, 0 beyond;  M = sum_j w'_j G_j / (2 B (1 - K m_w))
//   options    K, B, m_w, m_h, m_d, c
// Durkan, Bekasov, Murray, Papamakarios, "Neural Spline Flows" (2019), eqs. 4-8.
#pragma once

#include "core/math.hpp"
#include "core/plan.hpp"

namespace penstock::PENSTOCK_ISA {

struct rational_quadratic {
  static constexpr float steepest = 1e6F;

  // What has the two ends of [-B, B]: slopes of 1, one slope that both share, or one each.
  enum class Ends { line, circle, box };

  // Powers e^(u_j - top) of an axis: in an array, or where an accessor of theta that has put() keeps them, over theta for
  // instance: a thread of a device has no room for an array.
  template <class V, class Theta>
  struct Powers {
    V e[most_bins];
    PENSTOCK_INLINE void put(const Theta &, int, int j, V power) { e[j] = power; }
    PENSTOCK_INLINE V operator[](int j) const { return e[j]; }
  };
  template <class V, class Theta>
    requires requires(Theta theta, V power) { theta.put(0, power); }
  struct Powers<V, Theta> {
    Theta theta;
    int first;
    PENSTOCK_INLINE void put(const Theta &of, int from, int j, V power) {
      theta = of;
      first = from;
      theta.put(from + j, power);
    }
    PENSTOCK_INLINE V operator[](int j) const { return theta.kept(first + j); }
  };

  // K numbers u: w'_j = scale e[j], and w_j = w'_j + least.
  template <class V, class Theta>
  struct Axis {
    Powers<V, Theta> e;
    V scale;
    Element<V> least, free;  // 2 B m_w, 2 B (1 - K m_w)
  };

  // The bin that a number lies in.
  template <class V>
  struct Bin {
    V k, x, w, y, h, s, d, e, t_d, t_e;
  };

  // What value, slope and gradients have in common at a place xi of a bin.
  template <class V>
  struct Place {
    V xi, rest, q, p, N, over_D, E, slope;  // rest = 1 - xi
  };

  // Gradients of what a bin is made of, and of xi over w.
  template <class V>
  struct Pull {
    V dx, dw, dh, dd, de;
  };

  // e^(u - top).
  template <class V>
  PENSTOCK_INLINE static V power(V u, V top) {
    return exp2<V>((u - top) * splat<V>(static_cast<Element<V>>(1.44269504088896340736)));
  }

  template <class V, class Theta>
  PENSTOCK_OUTLINE static void axis(Theta theta, int first, const Element<V> *options, Element<V> m,
                                    Axis<V, Theta> &out) {
    const int K = static_cast<int>(options[0]);
    V top = theta(first), sum{};
    for (int j = 1; j < K; j++) {
      const V u = theta(first + j);
      top = select(u > top, u, top);
    }
    for (int j = 0; j < K; j++) {
      const V e = power<V>(theta(first + j), top);
      out.e.put(theta, first, j, e);
      sum = sum + e;
    }
    out.least = 2 * options[1] * m;
    out.free = 2 * options[1] * (1 - options[0] * m);
    out.scale = splat<V>(out.free) / sum;
  }

  // d at a number t + c, and its derivative.
  template <class V>
  PENSTOCK_INLINE static V knot_slope(V t, const Element<V> *options) {
    const V d = select(t < V{}, V{}, t) + log<V>(splat<V>(1) + exp<V>(-absolute(t)));
    return select(t > splat<V>(steepest), splat<V>(steepest), d) + splat<V>(options[4]);
  }
  template <class V>
  PENSTOCK_INLINE static V knot_slope_derivative(V t) {
    return select(t > splat<V>(steepest), V{}, sigmoid<V>(t));
  }

  // t_j. On a circle the first knot is the last one, too.
  template <class V, Ends ends, class Theta>
  PENSTOCK_INLINE static V knot_number(Theta theta, int K, int j) {
    if constexpr (ends == Ends::line) {
      return j == 0 || j == K ? V{} : theta(2 * K + j - 1);
    }
    return theta(2 * K + (ends == Ends::circle ? j % K : j));
  }

  // Passes every knot and drops what lies left of it; number is an x, or a y.
  template <class V, Ends ends, class Theta>
  PENSTOCK_OUTLINE static void search(V number, bool is_y, Theta theta, const Element<V> *options,
                                      const Axis<V, Theta> &u, const Axis<V, Theta> &v, Bin<V> &bin) {
    const int K = static_cast<int>(options[0]);
    V x = splat<V>(-options[1]), y = x, t = knot_number<V, ends>(theta, K, 1);
    V w = fma<V>(u.scale, u.e[0], splat<V>(u.least)), h = fma<V>(v.scale, v.e[0], splat<V>(v.least));
    // not in bin, which might be theta for all that the compiler knows, and would be written in every turn
    V k{}, x_k = x, w_k = w, y_k = y, h_k = h, t_d = knot_number<V, ends>(theta, K, 0), t_e = t;
    for (int j = 1; j < K; j++) {
      x = x + w;
      y = y + h;
      w = fma<V>(u.scale, u.e[j], splat<V>(u.least));
      h = fma<V>(v.scale, v.e[j], splat<V>(v.least));
      const auto passed = number >= (is_y ? y : x);
      k = select(passed, k + splat<V>(1), k);
      x_k = select(passed, x, x_k);
      w_k = select(passed, w, w_k);
      y_k = select(passed, y, y_k);
      h_k = select(passed, h, h_k);
      t_d = select(passed, t, t_d);
      t = knot_number<V, ends>(theta, K, j + 1);
      t_e = select(passed, t, t_e);
    }
    t_d = t_d + splat<V>(options[5]);
    t_e = t_e + splat<V>(options[5]);
    bin = {k, x_k, w_k, y_k, h_k, h_k / w_k, knot_slope<V>(t_d, options), knot_slope<V>(t_e, options), t_d, t_e};
  }

  template <class V>
  PENSTOCK_INLINE static void measure(const Bin<V> &bin, V xi, Place<V> &at) {
    const V one = splat<V>(1);
    at.xi = clamp(xi, 0, 1);  // the last bin may end a rounding before B
    at.rest = one - at.xi;
    at.q = at.xi * at.rest;
    at.p = one - (at.q + at.q);
    at.N = at.xi * fma<V>(bin.s, at.xi, bin.d * at.rest);
    at.over_D = one / fma<V>(bin.s, at.p, (bin.d + bin.e) * at.q);
    at.E = fma<V>(bin.e * at.xi, at.xi, fma<V>(bin.d * at.rest, at.rest, (bin.s + bin.s) * at.q));
    const V r = bin.s * at.over_D;
    at.slope = r * r * at.E;
  }

  // xi at a y of the bin.
  template <class V>
  PENSTOCK_INLINE static V root(const Bin<V> &bin, V y) {
    const V rise = y - bin.y, Y = select(rise > bin.h, bin.h, rise);
    const V T = bin.d + bin.e - (bin.s + bin.s);
    const V a = fma<V>(bin.h, bin.s - bin.d, Y * T), b = fma<V>(bin.h, bin.d, -(Y * T));
    const V square = fma<V>(b, b, splat<V>(4) * a * (bin.s * Y));
    const V R = sqrt<V>(select(square < V{}, V{}, square));
    const auto steep = b < V{};  // each form of the root where it cancels nothing
    return select(steep, R - b, (bin.s + bin.s) * Y) / select(steep, a + a, b + R);
  }

  template <class V>
  PENSTOCK_OUTLINE static void pull(const Bin<V> &bin, const Place<V> &at, V dy, V dlog_det, Pull<V> &out) {
    const V two = splat<V>(2), one = splat<V>(1);
    const V s = bin.s, d = bin.d, e = bin.e, xi = at.xi, q = at.q, p = at.p, rest = at.rest;
    const V over_D = at.over_D, over_E = one / at.E, over_w = one / bin.w;
    const V ratio = at.N * over_D, rise = dy * bin.h * over_D;
    const V T = d + e - two * s, turn = rest - xi;  // 1 - 2 xi
    const V dlog_E = dlog_det * over_E, dlog_D = two * dlog_det * over_D;
    const V dxi = fma<V>(rise, s * at.E * over_D, dlog_E * two * (e * xi + s * turn - d * rest) - dlog_D * T * turn);
    const V ds = fma<V>(rise, xi * xi - p * ratio, two * dlog_det / s + two * dlog_E * q - dlog_D * p);
    out.dx = dxi * over_w;
    out.dw = -((dxi * xi + ds * s) * over_w);
    out.dh = fma<V>(dy, ratio, ds * over_w);
    out.dd = fma<V>(rise, q * (one - ratio), dlog_E * (rest * rest) - dlog_D * q) * knot_slope_derivative<V>(bin.t_d);
    out.de = (dlog_E * (xi * xi) - dlog_D * q - rise * q * ratio) * knot_slope_derivative<V>(bin.t_e);
  }

  // The gradients of K numbers from those of where bin k begins and of how wide it is.
  template <class V, class Theta, class ThetaGradient>
  PENSTOCK_OUTLINE static void spread(const Axis<V, Theta> &u, V k, V before, V own, V d_before, V d_own, int first,
                                      int K, ThetaGradient dtheta) {
    const V least = splat<V>(u.least);
    const V M = fma<V>(d_before, before - k * least, d_own * (own - least)) / splat<V>(u.free);
    for (int j = 0; j < K; j++) {
      const V at = splat<V>(static_cast<Element<V>>(j));
      const V G = select(at < k, d_before, select(at > k, V{}, d_own));
      dtheta(first + j, u.scale * u.e[j] * (G - M));
    }
  }

  template <class V, class Theta>
  PENSTOCK_INLINE static void forward(V x, Theta theta, const Element<V> *options, V &y, V &log_det, V &slope) {
    const Element<V> B = options[1];
    const V inner = clamp(x, -B, B);
    Axis<V, Theta> u, v;
    axis<V>(theta, 0, options, options[2], u);
    axis<V>(theta, static_cast<int>(options[0]), options, options[3], v);
    Bin<V> bin;
    search<V, Ends::line>(inner, false, theta, options, u, v, bin);
    Place<V> at;
    measure<V>(bin, (inner - bin.x) / bin.w, at);
    const auto inside = absolute(x) <= splat<V>(B);
    const V nothing = at.over_D * V{};  // NaN where theta is
    y = select(inside, fma<V>(bin.h, at.N * at.over_D, bin.y), x + nothing);
    slope = select(inside, at.slope, splat<V>(1) + nothing);
    log_det = select(inside, log<V>(at.slope), V{}) + nothing;  // a logarithm does not pass NaN
  }

  template <class V, class Theta>
  PENSTOCK_INLINE static void inverse(V y, Theta theta, const Element<V> *options, V &x, V &log_det) {
    const Element<V> B = options[1];
    const V inner = clamp(y, -B, B);
    Axis<V, Theta> u, v;
    axis<V>(theta, 0, options, options[2], u);
    axis<V>(theta, static_cast<int>(options[0]), options, options[3], v);
    Bin<V> bin;
    search<V, Ends::line>(inner, true, theta, options, u, v, bin);
    Place<V> at;
    measure<V>(bin, root<V>(bin, inner), at);
    const auto inside = absolute(y) <= splat<V>(B);
    const V nothing = at.over_D * V{};
    x = select(inside, fma<V>(bin.w, at.xi, bin.x), y + nothing);
    log_det = select(inside, -log<V>(at.slope), V{}) + nothing;
  }

  template <class V, class Theta, class ThetaGradient>
  PENSTOCK_INLINE static void backward(V x, Theta theta, const Element<V> *options, V dy, V dlog_det, V &dx,
                                       ThetaGradient dtheta) {
    const int K = static_cast<int>(options[0]);
    const Element<V> B = options[1];
    const V inner = clamp(x, -B, B);
    Axis<V, Theta> u, v;
    axis<V>(theta, 0, options, options[2], u);
    axis<V>(theta, K, options, options[3], v);
    Bin<V> bin;
    search<V, Ends::line>(inner, false, theta, options, u, v, bin);
    Place<V> at;
    measure<V>(bin, (inner - bin.x) / bin.w, at);
    const auto inside = absolute(x) <= splat<V>(B);

    Pull<V> own;
    pull<V>(bin, at, select(inside, dy, V{}), select(inside, dlog_det, V{}), own);
    dx = select(inside, own.dx, dy);
    spread<V>(u, bin.k, bin.x + splat<V>(B), bin.w, -own.dx, own.dw, 0, K, dtheta);
    spread<V>(v, bin.k, bin.y + splat<V>(B), bin.h, select(inside, dy, V{}), own.dh, K, K, dtheta);
    const V next = bin.k + splat<V>(1);
    for (int j = 1; j < K; j++) {
      const V number = splat<V>(static_cast<Element<V>>(j));
      dtheta(2 * K + j - 1, select(number != next, select(number != bin.k, V{}, own.dd), own.de));
    }
  }
};

}  // namespace penstock::PENSTOCK_ISA
