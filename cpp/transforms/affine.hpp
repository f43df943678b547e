// Affine:  y = e^s x + t                 theta = (r, t),  s = r q,  q = 1 / sqrt(1 + (r / B)^2),  B = options[0]
//   forward    y = e^s x + t             log_det = s,  slope = e^s
//   inverse    x = (y - t) e^-s          log_det = -s
//   backward   dx = e^s dy,              ds = e^s x dy + dlog_det,  dr = q^3 ds,  dt = dy
//   r is clamped to 10^9 B, so that its square stays finite; beyond, dr = 0
#pragma once

#include "core/math.hpp"

namespace penstock::PENSTOCK_ISA {

struct affine {
  template <class V, class Theta>
  PENSTOCK_INLINE static V log_scale(Theta theta, const Element<V> *options, V &q) {
    const Element<V> B = options[0];
    const V r = clamp(theta(0), -1e9F * B, 1e9F * B);  // so that the square stays finite
    const V u = r * splat<V>(1 / B);
    q = splat<V>(1) / sqrt<V>(fma<V>(u, u, splat<V>(1)));
    return r * q;
  }

  template <class V, class Theta>
  PENSTOCK_INLINE static void forward(V x, Theta theta, const Element<V> *options, V &y, V &log_det, V &slope) {
    V q;
    const V s = log_scale<V>(theta, options, q);
    slope = exp<V>(s);
    y = fma<V>(slope, x, theta(1));
    log_det = s;
  }

  template <class V, class Theta>
  PENSTOCK_INLINE static void inverse(V y, Theta theta, const Element<V> *options, V &x, V &log_det) {
    V q;
    const V s = log_scale<V>(theta, options, q);
    x = (y - theta(1)) * exp<V>(-s);
    log_det = -s;
  }

  template <class V, class Theta, class ThetaGradient>
  PENSTOCK_INLINE static void backward(V x, Theta theta, const Element<V> *options, V dy, V dlog_det, V &dx,
                                       ThetaGradient dtheta) {
    V q;
    const V s = log_scale<V>(theta, options, q);
    dx = exp<V>(s) * dy;
    const V ds = fma<V>(dx, x, dlog_det);
    dtheta(0, select(absolute<V>(theta(0)) > splat<V>(1e9F * options[0]), V{}, q * q * q * ds));
    dtheta(1, dy);
  }
};

}  // namespace penstock::PENSTOCK_ISA
