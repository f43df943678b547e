// Additive:  y = x + t                   theta = (t)
//   forward    y = x + t                 log_det = 0,  slope = 1
//   inverse    x = y - t                 log_det = 0
//   backward   dx = dy,                  dt = dy
#pragma once

#include "core/lanes.hpp"

namespace penstock::PENSTOCK_ISA {

struct additive {
  template <class V, class Theta>
  PENSTOCK_INLINE static void forward(V x, Theta theta, const Element<V> * /*options*/, V &y, V &log_det, V &slope) {
    y = x + theta(0);
    log_det = V{};
    slope = splat<V>(1);
  }

  template <class V, class Theta>
  PENSTOCK_INLINE static void inverse(V y, Theta theta, const Element<V> * /*options*/, V &x, V &log_det) {
    x = y - theta(0);
    log_det = V{};
  }

  template <class V, class Theta, class ThetaGradient>
  PENSTOCK_INLINE static void backward(V /*x*/, Theta /*theta*/, const Element<V> * /*options*/, V dy, V /*dlog_det*/,
                                       V &dx, ThetaGradient dtheta) {
    dx = dy;
    dtheta(0, dy);
  }
};

}  // namespace penstock::PENSTOCK_ISA
