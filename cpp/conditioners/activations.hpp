// Activations and their derivatives on the lane type.
//   relu        x < 0 ? 0 : x           leaky_relu  x < 0 ? 0.01 x : x
//   tanh        tanh x                  silu        x sigmoid(x)               gelu   x Phi(x)
#pragma once

#include "core/math.hpp"
#include "core/plan.hpp"
#include "transforms/parts.hpp"

namespace penstock::PENSTOCK_ISA {

template <int kind, class V>
PENSTOCK_INLINE void activate(V x, V &y, V &derivative) {
  using T = Element<V>;
  const V one = splat<V>(1), zero{};
  if constexpr (kind == act_relu) {
    y = select(x < zero, zero, x);
    derivative = select(x <= zero, zero, one);
  } else if constexpr (kind == act_leaky_relu) {
    const V slope = splat<V>(static_cast<T>(0.01));
    y = select(x < zero, slope * x, x);
    derivative = select(x <= zero, slope, one);
  } else if constexpr (kind == act_tanh) {
    y = tanh<V>(x);
    derivative = one - y * y;
  } else if constexpr (kind == act_silu) {
    const V s = sigmoid<V>(x);
    y = x * s;
    derivative = fma<V>(y, one - s, s);
  } else {
    V density;
    const V p = normal_cdf<V>(x, density);
    y = x * p;
    derivative = fma<V>(x, density, p);
  }
}

template <int kind, class V>
PENSTOCK_INLINE V derivative_of_output(V y) {
  using T = Element<V>;
  const V one = splat<V>(1), zero{};
  if constexpr (kind == act_relu) {
    return select(y <= zero, zero, one);
  } else if constexpr (kind == act_leaky_relu) {
    return select(y <= zero, splat<V>(static_cast<T>(0.01)), one);
  } else {
    return one - y * y;
  }
}

// In place on n numbers, n a multiple of the lanes: h = act(h), plus skip if given; derivative kept if asked for.
template <int kind, class V>
PENSTOCK_FUNCTION void activate_all(int64_t n, Element<V> *h, const Element<V> *skip, Element<V> *derivative) {
  for (int64_t i = 0; i < n; i += lanes<V>) {
    V y, d;
    activate<kind, V>(load<V>(h + i), y, d);
    store(h + i, skip != nullptr ? load<V>(skip + i) + y : y);
    if (derivative != nullptr) {
      store(derivative + i, d);
    }
  }
}

template <class V>
PENSTOCK_FUNCTION void activate_all(int kind, int64_t n, Element<V> *h, const Element<V> *skip,
                                    Element<V> *derivative) {
  if constexpr (!has<part_activations>) {
    return activate_all<act_relu, V>(n, h, skip, derivative);
  }
  switch (kind) {
    case act_relu:
      return activate_all<act_relu, V>(n, h, skip, derivative);
    case act_tanh:
      return activate_all<act_tanh, V>(n, h, skip, derivative);
    case act_silu:
      return activate_all<act_silu, V>(n, h, skip, derivative);
    case act_gelu:
      return activate_all<act_gelu, V>(n, h, skip, derivative);
    default:
      return activate_all<act_leaky_relu, V>(n, h, skip, derivative);
  }
}

// d = d * act'(x), from the kept derivative or else from the activation. d may be scaled into another array.
template <class V>
PENSTOCK_FUNCTION void scale_by_derivative(int kind, int64_t n, const Element<V> *d, const Element<V> *output,
                                           const Element<V> *derivative, Element<V> *scaled) {
  for (int64_t i = 0; i < n; i += lanes<V>) {
    const V v = load<V>(d + i);
    if (derivative != nullptr) {
      store(scaled + i, v * load<V>(derivative + i));
    } else if (kind == act_tanh) {
      store(scaled + i, v * derivative_of_output<act_tanh>(load<V>(output + i)));
    } else if (kind == act_leaky_relu) {
      store(scaled + i, v * derivative_of_output<act_leaky_relu>(load<V>(output + i)));
    } else {
      store(scaled + i, v * derivative_of_output<act_relu>(load<V>(output + i)));
    }
  }
}

}  // namespace penstock::PENSTOCK_ISA
