// The elementary functions of core/math.hpp as functions of arrays, at one width of vectors.
#pragma once

#include <cstdint>

// One input array to one or two outputs. Lengths are multiples of 16.
template <class T>
using ArrayFunction = void (*)(const T *x, T *out, T *second, int64_t n);
template <class T>
struct MathTable {
  ArrayFunction<T> exp, exp2, log, expm1, log1p, tanh, sigmoid, normal_cdf, sincos_turn, sincos, normals, uniforms;
  // The four words of each of n counters, n after n.
  void (*words)(uint64_t seed, const uint64_t *context_row, const uint64_t *draw, uint32_t block, uint32_t stream,
                int64_t n, uint32_t *out);
};

#define DECLARE_WIDTH(name)                                   \
  namespace penstock::name {                                  \
  extern const MathTable<float> lanes_float, scalar_float;    \
  extern const MathTable<double> lanes_double, scalar_double; \
  }
DECLARE_WIDTH(w16)
DECLARE_WIDTH(w32)
DECLARE_WIDTH(w64)
#undef DECLARE_WIDTH
