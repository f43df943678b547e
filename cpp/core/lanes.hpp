// The lane type: a vector of rows on which every kernel is written, and the few operations it needs; scalar.hpp has the
// same ones for plain numbers. Nothing of the standard library: see cpp/README.md, "isa". A device has no vectors: cuda/lanes.hpp.
#pragma once

#include "core/scalar.hpp"

#if defined(PENSTOCK_DEVICE)
#  include "cuda/lanes.hpp"
#elif !defined(__CUDACC__)

#  if defined(__x86_64__)
#    include <immintrin.h>
#  elif defined(__aarch64__)
#    include <arm_neon.h>
#  endif

#  ifndef PENSTOCK_LANE_BYTES
#    error "compile with -DPENSTOCK_LANE_BYTES=<16|32|64>"
#  endif

#  if defined(__x86_64__) && !(defined(__AVX2__) && defined(__FMA__))
#    error "kernels for x86-64 need -march=x86-64-v3 or more"
#  endif

namespace penstock::PENSTOCK_ISA {

template <class T, int N>
struct VectorOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <class T, int N>
using Vector = typename VectorOf<T, N>::type;

template <class T>
inline constexpr int lanes_native = PENSTOCK_LANE_BYTES / static_cast<int>(sizeof(T));
template <class T>
using Native = Vector<T, lanes_native<T>>;

// Two vectors that go side by side through long chains of arithmetic, in which each fills the other's waits; where
// there are registers for that.
template <class V>
struct Pair {
  V a, b;
};
#  if defined(__AVX512F__) || defined(__aarch64__)
template <class V>
using Wide = Pair<V>;
#  else
template <class V>
using Wide = V;
#  endif
template <class V>
inline constexpr bool paired = false;
template <class V>
inline constexpr bool paired<Pair<V>> = true;

template <class V>
PENSTOCK_INLINE Pair<V> pair(V a, V b) {
  return {a, b};
}
#  define PENSTOCK_OPERATOR(op)                                            \
    template <class V>                                                     \
    PENSTOCK_INLINE auto operator op(const Pair<V> &x, const Pair<V> &y) { \
      return pair(x.a op y.a, x.b op y.b);                                 \
    }
PENSTOCK_OPERATOR(+)
PENSTOCK_OPERATOR(-)
PENSTOCK_OPERATOR(*)
PENSTOCK_OPERATOR(/)
PENSTOCK_OPERATOR(&)
PENSTOCK_OPERATOR(<)
PENSTOCK_OPERATOR(<=)
PENSTOCK_OPERATOR(>)
PENSTOCK_OPERATOR(>=)
PENSTOCK_OPERATOR(!=)
#  undef PENSTOCK_OPERATOR
template <class V>
PENSTOCK_INLINE Pair<V> operator-(const Pair<V> &x) {
  return {-x.a, -x.b};
}
template <class V>
PENSTOCK_INLINE Pair<V> operator~(const Pair<V> &x) {
  return {~x.a, ~x.b};
}
template <class V>
PENSTOCK_INLINE Pair<V> operator<<(const Pair<V> &x, int n) {
  return {x.a << n, x.b << n};
}
template <class V>
PENSTOCK_INLINE Pair<V> operator>>(const Pair<V> &x, int n) {
  return {x.a >> n, x.b >> n};
}
template <class V>
PENSTOCK_INLINE Pair<V> operator+(const Pair<V> &x, int n) {
  return {x.a + n, x.b + n};
}

template <class V>
struct Traits {
  using Element = __typeof__(V{}[0] + 0);
  static constexpr int lanes = static_cast<int>(sizeof(V) / sizeof(Element));
};
template <class V>
struct Traits<Pair<V>> {
  using Element = typename Traits<V>::Element;
  static constexpr int lanes = 2 * Traits<V>::lanes;
};

template <class V>
concept Several = lanes<V> > 1;

template <class V>
struct BitsOf {
  using type = Vector<typename IntegerOf<Element<V>>::type, lanes<V>>;
};
template <class V>
struct BitsOf<Pair<V>> {
  using type = Pair<typename BitsOf<V>::type>;
};

template <int N>
struct WordsOf {
  using type = Vector<uint64_t, N>;
};

template <int N>
PENSTOCK_INLINE Words<N> multiply_wide(Words<N> a, uint32_t m)
  requires(N > 1)
{
#  if defined(__AVX512F__)
  if constexpr (N == 8) {
    return (Words<N>)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(m));
  }
#  endif
#  if defined(__AVX2__)
  if constexpr (N == 4) {
    return (Words<N>)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(m));
  }
#  endif
#  if defined(__SSE2__)
  if constexpr (N == 2) {
    return (Words<N>)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(m));
  }
#  endif
  return (a & 0xFFFFFFFFu) * static_cast<uint64_t>(m);
}

template <Several V, class T>
PENSTOCK_INLINE V load(const T *p) {
  if constexpr (paired<V>) {
    using H = decltype(V::a);
    return {load<H>(p), load<H>(p + lanes<H>)};
  }
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <Several V, class T>
PENSTOCK_INLINE void store(T *p, V v) {
  if constexpr (paired<V>) {
    store(p, v.a);
    store(p + lanes<V> / 2, v.b);
    return;
  }
  __builtin_memcpy(p, &v, sizeof v);
}

// Every lane the same number. Written as a subtraction because x - 0 is x for every x, so that it folds to a broadcast.
template <Several V>
PENSTOCK_INLINE V splat(Element<V> x) {
  if constexpr (paired<V>) {
    return {splat<decltype(V::a)>(x), splat<decltype(V::b)>(x)};
  } else {
    return x - V{};
  }
}

template <Several V>
PENSTOCK_INLINE Bits<V> bits(V v) {
  if constexpr (paired<V>) {
    return {bits<decltype(V::a)>(v.a), bits<decltype(V::b)>(v.b)};
  }
  Bits<V> b;
  __builtin_memcpy(&b, &v, sizeof v);
  return b;
}

template <Several V>
PENSTOCK_INLINE V from_bits(Bits<V> b) {
  if constexpr (paired<V>) {
    return {from_bits<decltype(V::a)>(b.a), from_bits<decltype(V::b)>(b.b)};
  }
  V v;
  __builtin_memcpy(&v, &b, sizeof v);
  return v;
}

template <class M, class V>
PENSTOCK_INLINE Pair<V> select(M mask, Pair<V> yes, Pair<V> no) {
  return {mask.a ? yes.a : no.a, mask.b ? yes.b : no.b};
}

template <Several V>
PENSTOCK_INLINE V number(Bits<V> i) {
  if constexpr (paired<V>) {
    return {number<decltype(V::a)>(i.a), number<decltype(V::b)>(i.b)};
  } else {
    return __builtin_convertvector(i, V);
  }
}

template <Several To, class From>
PENSTOCK_INLINE To convert(From v) {
#  if defined(__AVX512F__)
  if constexpr (sizeof(From) == 32 && sizeof(To) == 64 && sizeof(Element<To>) == 8) {
    return (To)_mm512_cvtps_pd((__m256)v);  // the compiler would do it by halves
  }
#  endif
  return __builtin_convertvector(v, To);
}

template <class V>
struct Halves {
  using type = Vector<Element<V>, lanes<V> / 2>;
};

template <Several V>
PENSTOCK_INLINE Bits<V> wrapping_sum(Bits<V> a, Bits<V> b) {
  return a + b;
}
template <Several V>
PENSTOCK_INLINE Bits<V> wrapping_difference(Bits<V> a, Bits<V> b) {
  return a - b;
}

template <Several V>
PENSTOCK_INLINE V fma(V a, V b, V c) {
  using T = Element<V>;
  if constexpr (paired<V>) {
    using H = decltype(V::a);
    return {fma<H>(a.a, b.a, c.a), fma<H>(a.b, b.b, c.b)};
#  if defined(__AVX512F__)
  } else if constexpr (sizeof(V) == 64 && sizeof(T) == 4) {
    return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  } else if constexpr (sizeof(V) == 64) {
    return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#  endif
#  if defined(__FMA__)
  } else if constexpr (sizeof(V) == 32 && sizeof(T) == 4) {
    return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  } else if constexpr (sizeof(V) == 32) {
    return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
  } else if constexpr (sizeof(V) == 16 && sizeof(T) == 4) {
    return (V)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
  } else if constexpr (sizeof(V) == 16) {
    return (V)_mm_fmadd_pd((__m128d)a, (__m128d)b, (__m128d)c);
#  elif defined(__aarch64__)
  } else if constexpr (sizeof(V) == 16 && sizeof(T) == 4) {
    return (V)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
  } else if constexpr (sizeof(V) == 16) {
    return (V)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#  endif
  } else {  // a vector wider than the machine's: by halves
    using H = typename Halves<V>::type;
    V r;
    H *out = reinterpret_cast<H *>(&r);
    const H *x = reinterpret_cast<const H *>(&a), *y = reinterpret_cast<const H *>(&b),
            *z = reinterpret_cast<const H *>(&c);
    out[0] = fma<H>(x[0], y[0], z[0]);
    out[1] = fma<H>(x[1], y[1], z[1]);
    return r;
  }
}

template <Several V>
PENSTOCK_INLINE V fma(Element<V> a, V b, V c) {
  return fma<V>(splat<V>(a), b, c);
}

template <Several V>
PENSTOCK_INLINE V sqrt(V a) {
  using T = Element<V>;
  if constexpr (paired<V>) {
    return {sqrt<decltype(V::a)>(a.a), sqrt<decltype(V::b)>(a.b)};
#  if defined(__AVX512F__)
  } else if constexpr (sizeof(V) == 64 && sizeof(T) == 4) {
    return (V)_mm512_sqrt_ps((__m512)a);
  } else if constexpr (sizeof(V) == 64) {
    return (V)_mm512_sqrt_pd((__m512d)a);
#  endif
#  if defined(__AVX__)
  } else if constexpr (sizeof(V) == 32 && sizeof(T) == 4) {
    return (V)_mm256_sqrt_ps((__m256)a);
  } else if constexpr (sizeof(V) == 32) {
    return (V)_mm256_sqrt_pd((__m256d)a);
#  endif
#  if defined(__SSE2__)
  } else if constexpr (sizeof(V) == 16 && sizeof(T) == 4) {
    return (V)_mm_sqrt_ps((__m128)a);
  } else if constexpr (sizeof(V) == 16) {
    return (V)_mm_sqrt_pd((__m128d)a);
#  elif defined(__aarch64__)
  } else if constexpr (sizeof(V) == 16 && sizeof(T) == 4) {
    return (V)vsqrtq_f32((float32x4_t)a);
  } else if constexpr (sizeof(V) == 16) {
    return (V)vsqrtq_f64((float64x2_t)a);
#  endif
  } else {
    using H = typename Halves<V>::type;
    V r;
    H *out = reinterpret_cast<H *>(&r);
    const H *x = reinterpret_cast<const H *>(&a);
    out[0] = sqrt<H>(x[0]);
    out[1] = sqrt<H>(x[1]);
    return r;
  }
}

#  if defined(__AVX512F__)
template <class V>
  requires(sizeof(V) == 64)
inline constexpr bool scales_natively<V> = true;
template <class V>
inline constexpr bool scales_natively<Pair<V>> = scales_natively<V>;

// a * 2^n for whole numbers n, rounded once.
template <class V>
PENSTOCK_INLINE V scale_by_power_native(V a, V n) {
  if constexpr (paired<V>) {
    return {scale_by_power_native(a.a, n.a), scale_by_power_native(a.b, n.b)};
  } else if constexpr (sizeof(Element<V>) == 4) {
    return (V)_mm512_scalef_ps((__m512)a, (__m512)n);
  } else {
    return (V)_mm512_scalef_pd((__m512d)a, (__m512d)n);
  }
}
#  endif

// 0, 1, ... as template arguments.
template <int... J>
struct Indices {};
template <int N, int... J>
struct IndicesUpTo : IndicesUpTo<N - 1, N - 1, J...> {};
template <int... J>
struct IndicesUpTo<0, J...> {
  using type = Indices<J...>;
};

// 0, 1, ... in the lanes.
template <class V, int... J>
PENSTOCK_INLINE Bits<V> lane_numbers(Indices<J...>) {
  if constexpr (lanes<V> == 1) {
    return 0;
  } else {
    return Bits<V>{J...};
  }
}
template <class V>
PENSTOCK_INLINE Bits<V> lane_numbers() {
  return lane_numbers<V>(typename IndicesUpTo<lanes<V>>::type{});
}

template <Several V>
PENSTOCK_INLINE void accumulate(double *sum, V v) {
  using T = Element<V>;
  if constexpr (paired<V>) {
    accumulate(sum, v.a);
    accumulate(sum + lanes<V> / 2, v.b);
  } else if constexpr (sizeof(T) == 8) {
    store(sum, load<V>(sum) + v);
  } else {
    using H = typename Halves<V>::type;
    using D = Vector<double, lanes<V> / 2>;
    H half[2];
    __builtin_memcpy(half, &v, sizeof v);
    store(sum, load<D>(sum) + convert<D>(half[0]));
    store(sum + lanes<V> / 2, load<D>(sum + lanes<V> / 2) + convert<D>(half[1]));
  }
}

template <Several V>
PENSTOCK_INLINE void accumulate_product(double *sum, V a, V b) {
  using T = Element<V>;
  if constexpr (sizeof(T) == 8) {
    store(sum, fma<V>(a, b, load<V>(sum)));
  } else {
    using H = typename Halves<V>::type;
    using D = Vector<double, lanes<V> / 2>;
    H x[2], y[2];
    __builtin_memcpy(x, &a, sizeof a);
    __builtin_memcpy(y, &b, sizeof b);
#  pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
      double *p = sum + i * (lanes<V> / 2);
      store(p, fma<D>(convert<D>(x[i]), convert<D>(y[i]), load<D>(p)));
    }
  }
}

// One stage of a transpose: rows i and i + H exchange their off-diagonal H-blocks.
template <int H, class V, int... J>
PENSTOCK_INLINE void exchange(V &a, V &b, Indices<J...>) {
  constexpr int L = lanes<V>;
  const V x = __builtin_shufflevector(a, b, ((J / H) % 2 == 0 ? J : J - H + L)...);
  const V y = __builtin_shufflevector(a, b, ((J / H) % 2 == 0 ? J + H : J + L)...);
  a = x;
  b = y;
}

template <int H, class V>
PENSTOCK_INLINE void transpose_stages(V (&block)[lanes<V>]) {
  constexpr int L = lanes<V>;
#  pragma GCC unroll 16
  for (int i = 0; i < L; i++) {
    if ((i / H) % 2 == 0) {
      exchange<H>(block[i], block[i + H], typename IndicesUpTo<L>::type{});
    }
  }
  if constexpr (H > 1) {
    transpose_stages<H / 2>(block);
  }
}

// A square block of as many vectors as a vector has lanes, transposed.
template <class V>
PENSTOCK_INLINE void transpose_block(V (&block)[lanes<V>]) {
  if constexpr (lanes<V> > 1) {
    transpose_stages<lanes<V> / 2>(block);
  }
}

}  // namespace penstock::PENSTOCK_ISA

#endif
