// Rational-quadratic spline on a box:  y = g(x) on [-B, B]         theta = (u_0 .. u_K-1, v_0 .. v_K-1, t_0 .. t_K)
//   forward    i = clamp(x),  y = clamp(g(i)),        log_det = log slope,  slope = g'(i)
//   inverse    o = clamp(y),  x = clamp(g^-1(o)),     log_det = -log slope
//   backward   as rational_quadratic, with dt_0 and dt_K; beyond the box as at its nearer end
//   g          as rational_quadratic, but that both ends of the box have slopes d_0 and d_K of their own, as the other knots have
//   clamp(x)   to [-B, B]
//   options    K, B, m_w, m_h, m_d, c
// Durkan, Bekasov, Murray, Papamakarios, "Neural Spline Flows" (2019), eqs. 4-8; nothing outside ties the slopes at the ends.
#pragma once

#include "transforms/rational_quadratic.hpp"

namespace penstock::PENSTOCK_ISA {

struct box_rational_quadratic {
  using spline = rational_quadratic;

  template <class V, class Theta>
  PENSTOCK_INLINE static void find(V number, bool is_y, Theta theta, const Element<V> *options,
                                   spline::Axis<V, Theta> &u, spline::Axis<V, Theta> &v, spline::Bin<V> &bin) {
    spline::axis<V>(theta, 0, options, options[2], u);
    spline::axis<V>(theta, static_cast<int>(options[0]), options, options[3], v);
    spline::search<V, spline::Ends::box>(number, is_y, theta, options, u, v, bin);
  }

  template <class V, class Theta>
  PENSTOCK_INLINE static void forward(V x, Theta theta, const Element<V> *options, V &y, V &log_det, V &slope) {
    const Element<V> B = options[1];
    const V i = clamp(x, -B, B);
    spline::Axis<V, Theta> u, v;
    spline::Bin<V> bin;
    find<V>(i, false, theta, options, u, v, bin);
    spline::Place<V> at;
    spline::measure<V>(bin, (i - bin.x) / bin.w, at);
    y = clamp(fma<V>(bin.h, at.N * at.over_D, bin.y), -B, B);  // the last knot may lie a rounding beyond B
    slope = at.slope;
    log_det = log<V>(at.slope) + at.over_D * V{};  // a logarithm does not pass NaN
  }

  template <class V, class Theta>
  PENSTOCK_INLINE static void inverse(V y, Theta theta, const Element<V> *options, V &x, V &log_det) {
    const Element<V> B = options[1];
    const V o = clamp(y, -B, B);
    spline::Axis<V, Theta> u, v;
    spline::Bin<V> bin;
    find<V>(o, true, theta, options, u, v, bin);
    spline::Place<V> at;
    spline::measure<V>(bin, spline::root<V>(bin, o), at);
    x = clamp(fma<V>(bin.w, at.xi, bin.x), -B, B);
    log_det = -log<V>(at.slope) + at.over_D * V{};
  }

  template <class V, class Theta, class ThetaGradient>
  PENSTOCK_INLINE static void backward(V x, Theta theta, const Element<V> *options, V dy, V dlog_det, V &dx,
                                       ThetaGradient dtheta) {
    const int K = static_cast<int>(options[0]);
    const V i = clamp(x, -options[1], options[1]), B = splat<V>(options[1]), one = splat<V>(1);
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
    const V next = bin.k + one;
    for (int j = 0; j <= K; j++) {
      const V number = splat<V>(static_cast<Element<V>>(j));
      dtheta(2 * K + j, select(number != next, select(number != bin.k, V{}, own.dd), own.de));
    }
  }
};

}  // namespace penstock::PENSTOCK_ISA
