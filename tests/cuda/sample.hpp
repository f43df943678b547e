// For kernels that nvcc and the host's compiler both take: how they are declared, and what C++ leaves open where a device does not.
#pragma once

#include <cstdint>

#include "cuda/block.hpp"

#if defined(__CUDACC__)
#  define KERNEL(name, Arguments) extern "C" __global__ void name(const Arguments a)
#  define DEVICE __device__
#  define OUTLINE __device__ __noinline__
#  define CONSTANT __constant__
#  define SHARED __shared__
#else
// The kernel of simt.hpp has this name; its blocks run one after the other, so that they can share what is static.
#  define KERNEL(name, Arguments)                                                                      \
    static void body_of_##name(const Arguments &a);                                                    \
    extern "C" void host_##name(const void *a) { body_of_##name(*static_cast<const Arguments *>(a)); } \
    static void body_of_##name([[maybe_unused]] const Arguments &a)
#  define DEVICE
#  define OUTLINE __attribute__((noinline))
#  define CONSTANT
#  define SHARED static
#endif

namespace sample {

// Integers from floats beyond their range: the nearest end; NaN is 0, or the lowest of 64 bits.
template <class To, class From>
DEVICE To to_integer(From x) {
#if defined(__CUDACC__)
  return static_cast<To>(x);
#else
  constexpr bool is_signed = To(-1) < To(0);
  constexpr int bits = 8 * sizeof(To);
  constexpr To most = static_cast<To>(~uint64_t{0} >> (64 - bits + (is_signed ? 1 : 0)));
  constexpr To least = is_signed ? static_cast<To>(-most - 1) : To{0};
  if (x != x) {
    return sizeof(To) == 8 || sizeof(From) == 8 ? static_cast<To>(uint64_t{1} << (bits - 1)) : To{0};
  }
  const From end = static_cast<From>(uint64_t{1} << (bits - 1)) * (is_signed ? 1 : 2);
  return x >= end ? most : x < (is_signed ? -end : 0) ? least : static_cast<To>(x);
#endif
}

DEVICE inline uint64_t high_product(uint64_t a, uint64_t b) {
#if defined(__CUDACC__)
  return __umul64hi(a, b);
#else
  __extension__ typedef unsigned __int128 wide;
  return static_cast<uint64_t>(static_cast<wide>(a) * b >> 64);
#endif
}

}  // namespace sample
