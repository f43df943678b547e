// Plain numbers as a lane type of one row: the operations that lanes.hpp has for vectors of rows. Transforms, elementary
// functions and Philox are written on these names alone, so that they also compile for a thread of a CUDA device.
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef PENSTOCK_ISA
#  error "compile with -DPENSTOCK_ISA=<namespace>"
#endif

// NaN has to stay NaN, and each operation to round once: see PENSTOCK_ARITHMETIC in CMakeLists.txt.
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(__ROUNDING_MATH__) || \
    defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || defined(__NO_SIGNED_ZEROS__)
#  error "a compiler's flag changes the arithmetic (-ffast-math, one of its parts, or -frounding-math): remove it"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#  error "a compiler's flag keeps more digits between operations (-mfpmath=387?): remove it"
#endif

#if defined(__CUDACC__)
#  define PENSTOCK_UNROLL(n) _Pragma("unroll")
#  define PENSTOCK_ROLLED _Pragma("unroll 1")
#  if defined(PENSTOCK_DEVICE)
#    define PENSTOCK_WHERE __device__
#  else
#    define PENSTOCK_WHERE __host__ __device__
#  endif
#  if !defined(PENSTOCK_DEVICE)
#    define PENSTOCK_FUNCTION PENSTOCK_WHERE
#  elif defined(PENSTOCK_PARTS)
#    define PENSTOCK_FUNCTION PENSTOCK_WHERE __forceinline__
#  else  // all parts in one kernel would never end to be compiled if they were inlined
#    define PENSTOCK_FUNCTION PENSTOCK_WHERE __noinline__
#  endif
#  define PENSTOCK_INLINE PENSTOCK_WHERE __forceinline__
#  define PENSTOCK_OUTLINE PENSTOCK_INLINE
// Functions of their own in every kernel: copies wherever one is needed would be most of it, and minutes to compile.
#  define PENSTOCK_APART PENSTOCK_WHERE __noinline__
#else
#  define PENSTOCK_PRAGMA(text) _Pragma(#text)
#  define PENSTOCK_UNROLL(n) PENSTOCK_PRAGMA(GCC unroll n)
#  define PENSTOCK_ROLLED  // compilers of the host do as they think best
#  define PENSTOCK_FUNCTION
#  define PENSTOCK_INLINE inline __attribute__((always_inline))
// For what is long and used often: inlined everywhere, it would double the size of the library.
#  define PENSTOCK_OUTLINE __attribute__((noinline))
#  define PENSTOCK_APART
#endif

namespace penstock::PENSTOCK_ISA {

// What a lane type is made of; a plain number is a vector of one.
template <class V>
struct Traits;
template <>
struct Traits<float> {
  using Element = float;
  static constexpr int lanes = 1;
};
template <>
struct Traits<double> {
  using Element = double;
  static constexpr int lanes = 1;
};
template <class V>
using Element = typename Traits<V>::Element;
template <class V>
inline constexpr int lanes = Traits<V>::lanes;

template <class V>
concept Scalar = lanes<V> == 1;

// The integers of the same width.
template <class T>
struct IntegerOf;
template <>
struct IntegerOf<float> {
  using type = int32_t;
  using unsigned_type = uint32_t;
  static constexpr int mantissa = 23, bias = 127;
};
template <>
struct IntegerOf<double> {
  using type = int64_t;
  using unsigned_type = uint64_t;
  static constexpr int mantissa = 52, bias = 1023;
};
template <class V>
struct BitsOf;
template <>
struct BitsOf<float> {
  using type = int32_t;
};
template <>
struct BitsOf<double> {
  using type = int64_t;
};
template <class V>
using Bits = typename BitsOf<V>::type;

// N unsigned numbers of 64 bits.
template <int N>
struct WordsOf;
template <>
struct WordsOf<1> {
  using type = uint64_t;
};
template <int N>
using Words = typename WordsOf<N>::type;

// The 64-bit products of the low halves of 64-bit lanes with a 32-bit number.
template <int N>
PENSTOCK_INLINE Words<N> multiply_wide(Words<N> a, uint32_t m)
  requires(N == 1)
{
  return (a & 0xFFFFFFFFu) * m;
}

// Whether lanes have an instruction for scale_by_power (math.hpp), and then scale_by_power_native.
template <class V>
inline constexpr bool scales_natively = false;

// At any address; a device copies byte by byte what may not be aligned.
template <Scalar V, class T>
PENSTOCK_INLINE V load(const T *p) {
  if constexpr (__is_same(V, T)) {
    return *p;
  } else {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
}
template <Scalar V, class T>
PENSTOCK_INLINE void store(T *p, V v) {
  if constexpr (__is_same(V, T)) {
    *p = v;
  } else {
    __builtin_memcpy(p, &v, sizeof v);
  }
}

// Every lane the same number.
template <Scalar V>
PENSTOCK_INLINE V splat(V x) {
  return x;
}

template <Scalar V>
PENSTOCK_INLINE Bits<V> bits(V v) {
  Bits<V> b;
  __builtin_memcpy(&b, &v, sizeof v);
  return b;
}
template <Scalar V>
PENSTOCK_INLINE V from_bits(Bits<V> b) {
  V v;
  __builtin_memcpy(&v, &b, sizeof v);
  return v;
}

// By a bool; vectors of integers choose lane by lane.
template <class M, class V>
PENSTOCK_INLINE V select(M mask, V yes, V no) {
  return mask ? yes : no;
}

// Integers of the lanes' width to numbers.
template <Scalar V>
PENSTOCK_INLINE V number(Bits<V> i) {
  return static_cast<V>(i);
}
// Numbers to another type, lane by lane.
template <Scalar To, Scalar From>
PENSTOCK_INLINE To convert(From v) {
  return static_cast<To>(v);
}

// Sums and differences of integers that may leave their range, and then wrap.
template <Scalar V>
PENSTOCK_INLINE Bits<V> wrapping_sum(Bits<V> a, Bits<V> b) {
  using U = typename IntegerOf<V>::unsigned_type;
  return static_cast<Bits<V>>(static_cast<U>(a) + static_cast<U>(b));
}
template <Scalar V>
PENSTOCK_INLINE Bits<V> wrapping_difference(Bits<V> a, Bits<V> b) {
  using U = typename IntegerOf<V>::unsigned_type;
  return static_cast<Bits<V>>(static_cast<U>(a) - static_cast<U>(b));
}

// a * b + c with one rounding.
template <Scalar V>
PENSTOCK_INLINE V fma(V a, V b, V c) {
  if constexpr (sizeof(V) == 4) {
    return __builtin_fmaf(a, b, c);
  } else {
    return __builtin_fma(a, b, c);
  }
}

template <Scalar V>
PENSTOCK_INLINE V sqrt(V a) {
  if constexpr (sizeof(V) == 4) {
    return __builtin_sqrtf(a);
  } else {
    return __builtin_sqrt(a);
  }
}

// Adds to float64 accumulators in memory.
template <Scalar V>
PENSTOCK_INLINE void accumulate(double *sum, V v) {
  *sum += static_cast<double>(v);
}
// The same with one rounding of a float64 product: sum += a * b.
template <Scalar V>
PENSTOCK_INLINE void accumulate_product(double *sum, V a, V b) {
  *sum = __builtin_fma(static_cast<double>(a), static_cast<double>(b), *sum);
}

}  // namespace penstock::PENSTOCK_ISA
