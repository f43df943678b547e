// What the statements need that ptx_on_host.py makes of PTX: bits and numbers, memory, and the instructions that C++ has no operator for.
// Integers are unsigned and wrap; an operand of a signed type is cast where its sign matters.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "cuda/simt.hpp"

#if defined(__FAST_MATH__)
#  error "the bits of a device need plain arithmetic: no -ffast-math"
#endif
#if defined(__x86_64__) && !defined(__FMA__)
#  error "compile with -mfma -ffp-contract=off"
#endif

namespace ptx {

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s8 = int8_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;
using f32 = float;
using f64 = double;
__extension__ typedef unsigned __int128 u128;
__extension__ typedef __int128 s128;

[[noreturn]] inline __attribute__((noinline, cold)) void fail(const char *what, u64 number) {
  std::fflush(stdout);
  std::fprintf(stderr, "ptx: %s (%llx), in thread %d of block %lld\n", what, static_cast<unsigned long long>(number),
               penstock::simt::current->thread, static_cast<long long>(penstock::simt::current->block));
  std::abort();
}

#define PTX_INLINE inline __attribute__((always_inline))

template <class T>
inline constexpr int width = 8 * static_cast<int>(sizeof(T));
template <class T>
inline constexpr bool is_float = std::is_floating_point_v<T>;
template <class T>
using Unsigned =
    std::conditional_t<sizeof(T) == 1, u8,
                       std::conditional_t<sizeof(T) == 2, u16, std::conditional_t<sizeof(T) == 4, u32, u64>>>;

// The same bits as another type. Here and below plain functions, since kernels call them by the ten thousand: a template each
// time takes the compiler minutes.
PTX_INLINE u32 as_u32(f32 x) { return __builtin_bit_cast(u32, x); }
PTX_INLINE f32 as_f32(u32 x) { return __builtin_bit_cast(f32, x); }
PTX_INLINE u64 as_u64(f64 x) { return __builtin_bit_cast(u64, x); }
PTX_INLINE f64 as_f64(u64 x) { return __builtin_bit_cast(f64, x); }

// -- memory --------------------------------------------------------------------------------------

template <class T>
struct AliasOf {
  typedef T type __attribute__((may_alias));
};

// An address that is a multiple of the whole access, as a device demands.
template <int bytes>
PTX_INLINE u64 aligned(u64 address) {
  if (__builtin_expect(address % bytes != 0, 0)) {
    fail("an address that is not aligned", address);
  }
  return address;
}
PTX_INLINE u64 aligned2(u64 address) { return aligned<2>(address); }
PTX_INLINE u64 aligned4(u64 address) { return aligned<4>(address); }
PTX_INLINE u64 aligned8(u64 address) { return aligned<8>(address); }
PTX_INLINE u64 aligned16(u64 address) { return aligned<16>(address); }
PTX_INLINE u64 aligned32(u64 address) { return aligned<32>(address); }

// What is at an address that is aligned, and at any that must be.
#define PTX_ACCESS(T)                                                                                          \
  PTX_INLINE AliasOf<T>::type &raw_##T(u64 address) { return *reinterpret_cast<AliasOf<T>::type *>(address); } \
  PTX_INLINE AliasOf<T>::type &at_##T(u64 address) { return raw_##T(aligned<sizeof(T)>(address)); }
PTX_ACCESS(u8)
PTX_ACCESS(s8)
PTX_ACCESS(u16)
PTX_ACCESS(s16)
PTX_ACCESS(u32)
PTX_ACCESS(s32)
PTX_ACCESS(u64)
PTX_ACCESS(f32)
PTX_ACCESS(f64)
#undef PTX_ACCESS

PTX_INLINE void copy_async(u64 to, u64 from, int bytes) {
  penstock::simt::copy_async(reinterpret_cast<void *>(to), reinterpret_cast<const void *>(from), bytes);
}

PTX_INLINE bool is_shared(u64 address) {
  const penstock::simt::Thread &thread = *penstock::simt::current;
  return address - reinterpret_cast<u64>(thread.shared) < static_cast<u64>(thread.shared_bytes);
}

// -- integers ------------------------------------------------------------------------------------

template <class T>
PTX_INLINE T lesser(T a, T b) {
  if constexpr (is_float<T>) {
    if (a != a || b != b) {
      return a != a ? b : a;
    }
    return a < b || (a == b && __builtin_signbit(a)) ? a : b;
  }
  return a < b ? a : b;
}
template <class T>
PTX_INLINE T greater(T a, T b) {
  if constexpr (is_float<T>) {
    if (a != a || b != b) {
      return a != a ? b : a;
    }
    return a > b || (a == b && !__builtin_signbit(a)) ? a : b;
  }
  return a > b ? a : b;
}
// NaN where one of them is.
template <class T>
PTX_INLINE T or_nan(T a, T b, T neither) {
  return a != a ? a : b != b ? b : neither;
}

template <class T>
PTX_INLINE T shift_left(T a, u32 n) {
  return n < static_cast<u32>(width<T>) ? static_cast<T>(static_cast<u64>(a) << n) : T{0};
}
template <class T>
PTX_INLINE T shift_right(T a, u32 n) {
  return static_cast<T>(a >> (n < static_cast<u32>(width<T>) ? n : static_cast<u32>(width<T> - 1)) >>
                        (n >= static_cast<u32>(width<T>) ? 1 : 0));
}
template <bool wrap>
PTX_INLINE u32 funnel_left(u32 a, u32 b, u32 n) {
  return static_cast<u32>(((static_cast<u64>(b) << 32 | a) << (wrap ? n & 31 : n < 32 ? n : 32)) >> 32);
}
template <bool wrap>
PTX_INLINE u32 funnel_right(u32 a, u32 b, u32 n) {
  return static_cast<u32>((static_cast<u64>(b) << 32 | a) >> (wrap ? n & 31 : n < 32 ? n : 32));
}

template <class T>
PTX_INLINE Unsigned<T> mul_hi(T a, T b) {
  if constexpr (sizeof(T) == 8) {
    using Wide = std::conditional_t<std::is_signed_v<T>, s128, u128>;
    return static_cast<Unsigned<T>>((static_cast<Wide>(a) * static_cast<Wide>(b)) >> 64);
  } else {
    using Wide = std::conditional_t<std::is_signed_v<T>, s64, u64>;
    return static_cast<Unsigned<T>>((static_cast<Wide>(a) * static_cast<Wide>(b)) >> width<T>);
  }
}
// The low or the high 32 of the 48 bits of a product of 24-bit numbers.
template <class T, bool high>
PTX_INLINE u32 mul24(T a, T b) {
  const auto wide = [](T x) {
    return std::is_signed_v<T> ? static_cast<s64>(static_cast<s32>(static_cast<u32>(x) << 8) >> 8)
                               : static_cast<s64>(static_cast<u32>(x) & 0xFFFFFF);
  };
  return static_cast<u32>(static_cast<u64>(wide(a) * wide(b)) >> (high ? 16 : 0));
}

// Sums and differences with carry and borrow.
template <class T>
PTX_INLINE T add_carry(T a, T b, u32 in, u32 &out) {
  const u128 sum = static_cast<u128>(a) + b + in;
  out = static_cast<u32>(sum >> width<T>);
  return static_cast<T>(sum);
}
template <class T>
PTX_INLINE T sub_borrow(T a, T b, u32 in, u32 &out) {
  out = static_cast<u128>(a) < static_cast<u128>(b) + in;
  return static_cast<T>(a - b - in);
}

template <class T>
PTX_INLINE T divide(T a, T b) {
  if (__builtin_expect(b == 0, 0)) {
    fail("an integer divided by zero", static_cast<u64>(a));
  }
  if constexpr (std::is_signed_v<T>) {
    if (b == -1) {
      return static_cast<T>(-static_cast<Unsigned<T>>(a));
    }
  }
  return static_cast<T>(a / b);
}
template <class T>
PTX_INLINE T remainder(T a, T b) {
  if (__builtin_expect(b == 0, 0)) {
    fail("an integer divided by zero", static_cast<u64>(a));
  }
  if constexpr (std::is_signed_v<T>) {
    if (b == -1) {
      return 0;
    }
  }
  return static_cast<T>(a % b);
}

PTX_INLINE u32 count_zeros(u32 a) { return a == 0 ? 32 : static_cast<u32>(__builtin_clz(a)); }
PTX_INLINE u32 count_zeros(u64 a) { return a == 0 ? 64 : static_cast<u32>(__builtin_clzll(a)); }
template <class T, bool as_shift>
PTX_INLINE u32 find_bit(T a) {
  const auto bits = static_cast<Unsigned<T>>(std::is_signed_v<T> && a < 0 ? ~a : a);
  const u32 zeros = count_zeros(bits);
  return bits == 0 ? ~0u : as_shift ? zeros : static_cast<u32>(width<T>) - 1 - zeros;
}
template <class T>
PTX_INLINE T reverse(T a) {
  T out = 0;
  for (int i = 0; i < width<T>; i++) {
    out = static_cast<T>(out << 1 | (a >> i & 1));
  }
  return out;
}
template <class T>
PTX_INLINE T low_bits(u32 n) {
  return n >= static_cast<u32>(width<T>) ? static_cast<T>(~T{0}) : static_cast<T>((T{1} << n) - 1);
}
template <class T>
PTX_INLINE Unsigned<T> extract(T a, u32 position, u32 length) {
  using U = Unsigned<T>;
  const u32 from = position & 0xFF, n = length & 0xFF, last = from + n - 1;
  const U field = shift_right(static_cast<U>(a), from) & low_bits<U>(n);
  if constexpr (std::is_signed_v<T>) {
    const u32 most = static_cast<u32>(width<T>) - 1;
    if (n != 0 && (static_cast<U>(a) >> (last < most ? last : most) & 1) != 0) {
      const u32 have = from > most ? 0 : (n < most + 1 - from ? n : most + 1 - from);
      return field | static_cast<U>(~low_bits<U>(have));
    }
  }
  return field;
}
template <class T>
PTX_INLINE T insert(T a, T b, u32 position, u32 length) {
  const u32 to = position & 0xFF;
  const T mask = shift_left(low_bits<T>(length & 0xFF), to);
  return static_cast<T>((b & ~mask) | (shift_left(a, to) & mask));
}
PTX_INLINE u32 permute(u32 a, u32 b, u32 selector) {
  const u64 both = static_cast<u64>(b) << 32 | a;
  u32 out = 0;
  for (int i = 0; i < 4; i++) {
    const u32 s = selector >> 4 * i & 0xF;
    u32 byte = static_cast<u32>(both >> 8 * (s & 7)) & 0xFF;
    if ((s & 8) != 0) {
      byte = (byte & 0x80) != 0 ? 0xFF : 0;
    }
    out |= byte << 8 * i;
  }
  return out;
}
// What the other modes select, in words of the default one: b is 4 to 7.
PTX_INLINE u32 selector_f4e(u32 s) { return 0x3210 + 0x1111 * (s & 3); }
PTX_INLINE u32 selector_b4e(u32 s) {
  s &= 3;
  return (s + 5) % 8 << 12 | (s + 6) % 8 << 8 | (s + 7) % 8 << 4 | s;
}
PTX_INLINE u32 selector_rc8(u32 s) { return 0x1111 * (s & 3); }
PTX_INLINE u32 selector_ecl(u32 s) {
  s &= 3;
  return (s > 3 ? s : 3u) << 12 | (s > 2 ? s : 2u) << 8 | (s > 1 ? s : 1u) << 4 | s;
}
PTX_INLINE u32 selector_ecr(u32 s) {
  s &= 3;
  return s << 12 | (s < 2 ? s : 2u) << 8 | (s < 1 ? s : 1u) << 4;
}
PTX_INLINE u32 selector_rc16(u32 s) { return (s & 1) != 0 ? 0x3232 : 0x1010; }

template <u8 table>
PTX_INLINE u32 logic(u32 a, u32 b, u32 c) {
  u32 out = 0;
  for (int i = 0; i < 8; i++) {
    if ((table >> i & 1) != 0) {
      out |= ((i & 4) != 0 ? a : ~a) & ((i & 2) != 0 ? b : ~b) & ((i & 1) != 0 ? c : ~c);
    }
  }
  return out;
}

// -- numbers -------------------------------------------------------------------------------------

template <class T>
PTX_INLINE T saturated(T x) {
  return x > 0 ? x < 1 ? x : T{1} : T{0};  // NaN to 0
}
PTX_INLINE f32 root(f32 x) { return __builtin_sqrtf(x); }
PTX_INLINE f64 root(f64 x) { return __builtin_sqrt(x); }

template <class T>
PTX_INLINE bool is_normal(T x) {
  return __builtin_isnormal(x);
}
template <class T>
PTX_INLINE bool is_subnormal(T x) {
  return x != 0 && __builtin_isfinite(x) && !__builtin_isnormal(x);
}

// How a conversion rounds.
enum Rounding { nearest, towards_zero, down, up };

template <Rounding rounding, class T>
PTX_INLINE T to_whole(T x) {
  if constexpr (rounding == nearest) {
    return static_cast<T>(sizeof(T) == 4 ? __builtin_rintf(static_cast<f32>(x)) : __builtin_rint(x));
  } else if constexpr (rounding == towards_zero) {
    return static_cast<T>(sizeof(T) == 4 ? __builtin_truncf(static_cast<f32>(x)) : __builtin_trunc(x));
  } else if constexpr (rounding == down) {
    return static_cast<T>(sizeof(T) == 4 ? __builtin_floorf(static_cast<f32>(x)) : __builtin_floor(x));
  } else {
    return static_cast<T>(sizeof(T) == 4 ? __builtin_ceilf(static_cast<f32>(x)) : __builtin_ceil(x));
  }
}

// The next number in the direction of another one.
PTX_INLINE f32 step(f32 x, f32 to) { return __builtin_nextafterf(x, to); }
PTX_INLINE f64 step(f64 x, f64 to) { return __builtin_nextafter(x, to); }

// y is x rounded to nearest, and lies above, below or on it: what another rounding gives.
template <Rounding rounding, class T>
PTX_INLINE T rounded(T y, bool above, bool below, bool negative) {
  constexpr T infinity = __builtin_inf();
  if ((above && (rounding == down || (rounding == towards_zero && !negative)))) {
    return step(y, -infinity);
  }
  if ((below && (rounding == up || (rounding == towards_zero && negative)))) {
    return step(y, infinity);
  }
  return y;
}
template <class To, Rounding rounding>
PTX_INLINE To narrowed(f64 x) {
  const To y = static_cast<To>(x);
  if constexpr (rounding == nearest) {
    return y;
  }
  return rounded<rounding>(y, y > x, y < x, x < 0);
}
template <class To, Rounding rounding, class From>
PTX_INLINE To from_integer(From i) {
  const To y = static_cast<To>(i);
  if constexpr (rounding == nearest) {
    return y;
  }
  const s128 back = static_cast<s128>(y), x = static_cast<s128>(i);
  return rounded<rounding>(y, back > x, back < x, x < 0);
}

// Beyond the range its nearest end; NaN is 0 or the highest bit alone.
template <class To, Rounding rounding, class From>
PTX_INLINE To to_integer(From x) {
  using U = Unsigned<To>;
  if (x != x) {
    return sizeof(From) == 8 || sizeof(To) == 8 ? static_cast<To>(U{1} << (width<To> - 1)) : To{0};
  }
  constexpr To least = std::is_signed_v<To> ? static_cast<To>(U{1} << (width<To> - 1)) : To{0};
  constexpr To most = std::is_signed_v<To> ? static_cast<To>(static_cast<U>(~U{0}) >> 1) : static_cast<To>(~U{0});
  const From whole = to_whole<rounding>(x);
  if (whole <= static_cast<From>(least)) {
    return least;
  }
  if (whole >= static_cast<From>(most)) {
    return most;
  }
  return static_cast<To>(whole);
}

// Integers cut to the range of another type.
template <class To, class From>
PTX_INLINE To clamped(From x) {
  using U = Unsigned<To>;
  const s128 least = std::is_signed_v<To> ? -static_cast<s128>(U{1} << (width<To> - 1)) : 0;
  const s128 most =
      std::is_signed_v<To> ? static_cast<s128>(static_cast<U>(~U{0}) >> 1) : static_cast<s128>(static_cast<U>(~U{0}));
  const s128 wide = x;
  return static_cast<To>(wide < least ? least : wide > most ? most : wide);
}

}  // namespace ptx
