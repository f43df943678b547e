// Rational-quadratic spline on a circle:  y = wrap(g(wrap(x)) + r)   theta = (u_0 .. u_K-1, v_0 .. v_K-1, t_0 .. t_K-1, r)
//   forward    i = wrap(x),  y = wrap(g(i) + r),      log_det = log slope,  slope = g'(i)
//   inverse    o = wrap(y - r),  x = g^-1(o),         log_det = -log slope
//   backward   as rational_quadratic, with dt_0 from both ends of the box;  dr = dy
//   g          as rational_quadratic, but that both ends of the box have the slope d_0 = d_K = m_d + softplus(t_0 + c)
//   wrap(x)    x - 2 B round(x / 2 B), clamped to [-B, B]
//   options    K, B, m_w, m_h, m_d, c
// Rezende, Papamakarios, Racaniere et al., "Normalizing Flows on Tori and Spheres" (2020), section 2.1.3.
#pragma once

#include "transforms/rational_quadratic.hpp"

namespace penstock::PENSTOCK_ISA {

struct circular_rational_quadratic {
  using spline = rational_quadratic;

  template <class V>
  PENSTOCK_INLINE static V wrap(V x, const Element<V> *options) {
    const Element<V> B = options[1];
    const V turns = x * splat<V>(1 / (2 * B)), round = splat<V>(Constants<Element<V>>::round);
    // beyond the digits of a number there is no angle left in it, and any will do
    return clamp(fma<V>(splat<V>(-2 * B), (turns + round) - round, x), -B, B);
  }

  template <class V, class Theta>
  PENSTOCK_INLINE static void find(V number, bool is_y, Theta theta, const Element<V> *options,
                                   spline::Axis<V, Theta> &u, spline::Axis<V, Theta> &v, spline::Bin<V> &bin) {
    spline::axis<V>(theta, 0, options, options[2], u);
    spline::axis<V>(theta, static_cast<int>(options[0]), options, options[3], v);
    spline::search<V, spline::Ends::circle>(number, is_y, theta, options, u, v, bin);
  }

  template <class V, class Theta>
  PENSTOCK_INLINE static void forward(V x, Theta theta, const Element<V> *options, V &y, V &log_det, V &slope) {
    const V i = wrap<V>(x, options);
    spline::Axis<V, Theta> u, v;
    spline::Bin<V> bin;
    find<V>(i, false, theta, options, u, v, bin);
    spline::Place<V> at;
    spline::measure<V>(bin, (i - bin.x) / bin.w, at);
    y = wrap<V>(fma<V>(bin.h, at.N * at.over_D, bin.y) + theta(3 * static_cast<int>(options[0])), options);
    slope = at.slope;
    log_det = log<V>(at.slope) + at.over_D * V{};  // a logarithm does not pass NaN
  }

  template <class V, class Theta>
  PENSTOCK_INLINE static void inverse(V y, Theta theta, const Element<V> *options, V &x, V &log_det) {
    const V o = wrap<V>(y - theta(3 * static_cast<int>(options[0])), options);
    spline::Axis<V, Theta> u, v;
    spline::Bin<V> bin;
    find<V>(o, true, theta, options, u, v, bin);
    spline::Place<V> at;
    spline::measure<V>(bin, spline::root<V>(bin, o), at);
    x = fma<V>(bin.w, at.xi, bin.x);
    log_det = -log<V>(at.slope) + at.over_D * V{};
  }

  template <class V, class Theta, class ThetaGradient>
  PENSTOCK_INLINE static void backward(V x, Theta theta, const Element<V> *options, V dy, V dlog_det, V &dx,
                                       ThetaGradient dtheta) {
    const int K = static_cast<int>(options[0]);
    const V i = wrap<V>(x, options), B = splat<V>(options[1]), one = splat<V>(1);
    spline::Axis<V, Theta> u, v;
    spline::Bin<V> bin;
    find<V>(i, false, theta, options, u, v, bin);
    spline::Place<V> at;
    spline::measure<V>(bin, (i - bin.x) / bin.w, at);
    spline::Pull<V> own;
    spline::pull<V>(bin, at, dy, dlog_det, own);
    dx = own.dx;
    spline::spread<V>(u, bin.k, bin.x + B, bin.w, -own.dx, own.dw, 0, K, dtheta);
    spline::spread<V>(v, bin.k, bin.y + B, bin.h, dy, own.dh, K, K, dtheta);
    const V next = select(bin.k + one >= splat<V>(options[0]), V{}, bin.k + one);
    for (int j = 0; j < K; j++) {
      const V number = splat<V>(static_cast<Element<V>>(j));
      dtheta(2 * K + j, select(number != next, select(number != bin.k, V{}, own.dd), own.de));
    }
    dtheta(3 * K, dy);
  }
};

}  // namespace penstock::PENSTOCK_ISA
