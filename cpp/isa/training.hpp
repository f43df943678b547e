// What training does to parameters and their gradients: packing, sums of gradients, their norm, Adam.
#pragma once

#include "core/rowsum.hpp"
#include "isa/kernels.hpp"
#include "layers/lu_linear.hpp"

namespace penstock::PENSTOCK_ISA {

template <class T>
PENSTOCK_FUNCTION void pack(const Linear &linear, int from, int to, const T *params, T *panels) {
  if (linear.mask != nullptr) {
    return pack_pieces(params + linear.weight, linear.n_out, *linear.mask, from, to, panels + linear.panels);
  }
  pack_panels(params + linear.weight, linear.n_in, linear.n_out, from, to, panels + linear.panels);
}

template <class T>
PENSTOCK_FUNCTION void combine(T *gradients, int64_t stride, int n, int64_t count) {
  for (int64_t begin = 0; begin < count; begin += 1024) {  // a piece of every gradient at a time stays in cache
    const int64_t end = begin + 1024 < count ? begin + 1024 : count;
    for (int step = 1; step < n; step *= 2) {
      for (int i = 0; i + step < n; i += 2 * step) {
        T *a = gradients + i * stride;
        const T *b = gradients + (i + step) * stride;
        for (int64_t j = begin; j < end; j++) {
          a[j] = a[j] + b[j];
        }
      }
    }
  }
}

inline PENSTOCK_FUNCTION double sum_rows_double(const double *x, int64_t rows) { return sum_rows(x, rows); }

template <class T>
PENSTOCK_FUNCTION double sum_squares(const T *x, int64_t n, double scale) {
  double partial[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int j = 0; j < 16; j++) {
      const double v = static_cast<double>(x[i + j]) * scale;
      partial[j] = partial[j] + v * v;
    }
  }
  for (int j = 0; i < n; i++, j++) {
    const double v = static_cast<double>(x[i]) * scale;
    partial[j] = partial[j] + v * v;
  }
  return sum_partials(partial);
}

// A moment, or 0 if it is negligible: decay alone would end at a denormal, where a product rounds to itself, and denormals
// are slow.
template <class V>
PENSTOCK_INLINE V flushed(V moment) {
  const V least = splat<V>(static_cast<Element<V>>(1e-30));
  return select((moment < least) & (moment > -least), V{}, moment);
}

// Kingma, Ba, "Adam" (2015), algorithm 1; decoupled decay as in Loshchilov, Hutter (2019), added to the step, since a factor
// 1 - rate * decay may round to 1.
template <class V>
PENSTOCK_INLINE void adam_lanes(const AdamSettings &a, bool decay, const Element<V> *gradient, double scale,
                                Element<V> *params, Element<V> *m, Element<V> *v) {
  using T = Element<V>;
  const auto constant = [](double x) __attribute__((always_inline)) { return splat<V>(static_cast<T>(x)); };
  const V p = load<V>(params);
  V g = load<V>(gradient) * constant(scale);
  if (decay && !a.decoupled) {
    g = fma<V>(constant(a.weight_decay), p, g);
  }
  const V mean = flushed<V>(fma<V>(constant(a.beta1), load<V>(m), constant(1 - a.beta1) * g));
  const V square = flushed<V>(fma<V>(constant(a.beta2), load<V>(v), constant(1 - a.beta2) * (g * g)));
  store(m, mean);
  store(v, square);
  const V denominator = sqrt<V>(square * constant(1 / a.correction2)) + constant(a.epsilon);
  const V step = constant(a.learning_rate / a.correction1) * mean / denominator;
  store(params, p - (decay && a.decoupled ? fma<V>(constant(a.learning_rate * a.weight_decay), p, step) : step));
}

template <class T>
PENSTOCK_FUNCTION void adam(const AdamSettings &settings, bool decay, int64_t n, const T *gradient, double scale,
                            T *params, T *m, T *v) {
  int64_t i = 0;
  for (; i + lanes_native<T> <= n; i += lanes_native<T>) {
    adam_lanes<Native<T>>(settings, decay, gradient + i, scale, params + i, m + i, v + i);
  }
  for (; i < n; i++) {
    adam_lanes<T>(settings, decay, gradient + i, scale, params + i, m + i, v + i);
  }
}

}  // namespace penstock::PENSTOCK_ISA
