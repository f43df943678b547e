// Compiled once for each width of vectors: see math_lanes.hpp.
#include "math_lanes.hpp"

#include "core/philox.hpp"

namespace penstock::PENSTOCK_ISA {
namespace {

template <class V, class Function>
void each(const Element<V> *x, Element<V> *out, int64_t n, Function function) {
  for (int64_t i = 0; i < n; i += lanes<V>) {
    store(out + i, function(load<V>(x + i)));
  }
}

template <class V>
void run_exp(const Element<V> *x, Element<V> *out, Element<V> *, int64_t n) {
  each<V>(x, out, n, [](V v) { return exp<V>(v); });
}
template <class V>
void run_exp2(const Element<V> *x, Element<V> *out, Element<V> *, int64_t n) {
  each<V>(x, out, n, [](V v) { return exp2<V>(v); });
}
template <class V>
void run_log(const Element<V> *x, Element<V> *out, Element<V> *, int64_t n) {
  each<V>(x, out, n, [](V v) { return log<V>(v); });
}
template <class V>
void run_expm1(const Element<V> *x, Element<V> *out, Element<V> *, int64_t n) {
  each<V>(x, out, n, [](V v) { return expm1<V>(v); });
}
template <class V>
void run_log1p(const Element<V> *x, Element<V> *out, Element<V> *, int64_t n) {
  each<V>(x, out, n, [](V v) { return log1p<V>(v); });
}
template <class V>
void run_tanh(const Element<V> *x, Element<V> *out, Element<V> *, int64_t n) {
  each<V>(x, out, n, [](V v) { return tanh<V>(v); });
}
template <class V>
void run_sigmoid(const Element<V> *x, Element<V> *out, Element<V> *, int64_t n) {
  each<V>(x, out, n, [](V v) { return sigmoid<V>(v); });
}
template <class V>
void run_normal_cdf(const Element<V> *x, Element<V> *out, Element<V> *density, int64_t n) {
  for (int64_t i = 0; i < n; i += lanes<V>) {
    V slope;
    store(out + i, normal_cdf<V>(load<V>(x + i), slope));
    store(density + i, slope);
  }
}
// The bits of x hold the words, in their low half where they are 64 bits wide.
template <class V>
void run_sincos_turn(const Element<V> *x, Element<V> *out, Element<V> *cosine, int64_t n) {
  for (int64_t i = 0; i < n; i += lanes<V>) {
    V s, c;
    sincos_turn<V>(bits<V>(load<V>(x + i)), s, c);
    store(out + i, s);
    store(cosine + i, c);
  }
}
template <class V>
void run_sincos(const Element<V> *x, Element<V> *out, Element<V> *cosine, int64_t n) {
  for (int64_t i = 0; i < n; i += lanes<V>) {
    V s, c;
    sincos<V>(load<V>(x + i), s, c);
    store(out + i, s);
    store(cosine + i, c);
  }
}
// Draws: n of three dimensions, one after the other in rows of n.
template <class V>
void run_normals(const Element<V> *, Element<V> *out, Element<V> *, int64_t n) {
  uint64_t context_row[4096], draw[4096];
  for (uint64_t i = 0; i < 4096; i++) {
    context_row[i] = 3;
    draw[i] = 1000 + i;
  }
  penstock::PENSTOCK_ISA::normals<V>(0x123456789ABCDEFu, context_row, draw, static_cast<int>(n), 6, static_cast<int>(n),
                                     out);
}
// Of dimensions 1, 2, 3 and 5 of six.
template <class V>
void run_uniforms(const Element<V> *, Element<V> *out, Element<V> *, int64_t n) {
  uint64_t context_row[4096], draw[4096];
  for (uint64_t i = 0; i < 4096; i++) {
    context_row[i] = 3;
    draw[i] = 1000 + i;
  }
  const int64_t dims[] = {1, 2, 3, 5};
  using T = Element<V>;
  uniforms<V>(0x123456789ABCDEFu, context_row, draw, static_cast<int>(n), 4, dims, T{-1}, T{2}, T{-1}, T{1},
              static_cast<int>(n), out);
}
template <class V>
void run_words(uint64_t seed, const uint64_t *context_row, const uint64_t *draw, uint32_t block, uint32_t stream,
               int64_t n, uint32_t *out) {
  for (int64_t i = 0; i < n; i += lanes<V>) {
    Bits<V> words[4];
    philox<V>(seed, Counters<V>(draw + i, context_row + i), block, stream, words);
    for (int w = 0; w < 4; w++) {
      if constexpr (lanes<V> == 1) {
        out[w * n + i] = static_cast<uint32_t>(words[w]);
      } else {
        for (int j = 0; j < lanes<V>; j++) {
          out[w * n + i + j] = static_cast<uint32_t>(words[w][j]);
        }
      }
    }
  }
}

template <class V>
constexpr MathTable<Element<V>> table() {
  return {run_exp<V>,     run_exp2<V>,     run_log<V>,        run_expm1<V>,       run_log1p<V>,
          run_tanh<V>,    run_sigmoid<V>,  run_normal_cdf<V>, run_sincos_turn<V>, run_sincos<V>,
          run_normals<V>, run_uniforms<V>, run_words<V>};
}

}  // namespace

extern const MathTable<float> lanes_float = table<Native<float>>(), scalar_float = table<float>();
extern const MathTable<double> lanes_double = table<Native<double>>(), scalar_double = table<double>();

}  // namespace penstock::PENSTOCK_ISA
