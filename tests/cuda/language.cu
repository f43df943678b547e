// What kernels may be made of: local arrays, structs by value, calls, recursion, tables, big switches, memory that threads share.
// nvcc compiles it for a device and the host's compiler for the host: both leave the same bits in `out`.
#include "sample.hpp"

namespace {

using namespace penstock::cuda;
using sample::to_integer;

DEVICE int64_t number() { return block() * threads() + thread(); }

// -- calls ---------------------------------------------------------------------------------------

struct Mixed {
  double a;
  int numbers[5];
  char letter;
  short pair[2];
  float f;
};

OUTLINE Mixed turned(Mixed m, int by, float factor) {
  m.a *= factor;
  m.numbers[(by & 0xFF) % 5] += by;
  m.letter = static_cast<char>(m.letter + by);
  m.pair[by & 1] = static_cast<short>(m.pair[(by + 1) & 1] * 3);
  m.f = -m.f;
  return m;
}
OUTLINE float third(float x) { return x / 3; }
OUTLINE float rooted(float x) { return __builtin_sqrtf(x < 0 ? -x : x); }
OUTLINE double far(double x, uint8_t small, int64_t large, bool flag) {
  return flag ? x * static_cast<double>(small) : x + static_cast<double>(large);
}
OUTLINE int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
OUTLINE void swapped(float *a, float *b) {
  const float c = *a;
  *a = *b;
  *b = c;
}

typedef float (*Function)(float);
DEVICE Function functions[3] = {third, rooted, third};
CONSTANT float constants[8] = {1, -2, 0.5F, 1e30F, -0.0F, 7, 3, 1e-40F};
DEVICE const double doubles[5] = {1.5, -2.25, 1e300, 5e-324, 3};
DEVICE int counted[3] = {5, 6, 7};
DEVICE int *pointers[4] = {&counted[1], nullptr, counted, &counted[2]};
struct Entry {
  char c;
  int *where;
  short s;
  const double *table;
};
DEVICE Entry entries[3] = {{1, counted, -3, doubles}, {4, nullptr, 6, &doubles[2]}, {-5, &counted[2], 9, doubles}};
DEVICE uint8_t bytes[6] = {1, 2, 255, 128};
struct alignas(16) Quad {
  float x, y, z, w;
};
DEVICE Quad quads[2] = {{1, 2, 3, 4}, {5, 6, 7, 8}};

struct Calls {
  const float *x;
  double *out;
  Mixed mixed;
  int n;
  uint8_t small;
};

}  // namespace

KERNEL(calls, Calls) {
  const int64_t i = number();
  const float x = a.x[i];
  const int k = static_cast<int>(i % 7);
  Mixed m = turned(a.mixed, k, x);
  m = turned(m, a.n + k, 0.5F);
  double sum = m.a + m.letter + m.pair[0] + m.pair[1] + m.f + a.mixed.numbers[k % 5];
  for (int j = 0; j < 5; j++) {
    sum += m.numbers[j] * (j + 1);
  }
  sum += functions[k % 3](x) + fibonacci(k) + far(sum, a.small, i << 40, (k & 1) != 0);
  float first = x, second = 2;
  if ((k & 2) != 0) {
    swapped(&first, &second);
  }
  sum += first * constants[k] + doubles[k % 5] + *pointers[k % 2 * 2] + entries[k % 3].s + entries[k % 3].c;
  if (entries[k % 3].where != nullptr) {
    sum += *entries[k % 3].where + entries[k % 3].table[1];
  }
  const Quad q = quads[k & 1];
  a.out[i] = sum + bytes[k % 6] + q.x * q.w - q.y / q.z + second;
}

// -- local arrays --------------------------------------------------------------------------------

namespace {

struct Locals {
  const int *index;
  int *out;
  double *sums;
  int n;
};

}  // namespace

KERNEL(locals, Locals) {
  const int64_t i = number();
  int numbers[20];
  double weights[7];
  uint8_t flags[11];
  for (int j = 0; j < 20; j++) {
    numbers[j] = a.index[(i + j) % a.n] * j;
  }
  for (int j = 0; j < 7; j++) {
    weights[j] = 1.0 / (j + 1 + static_cast<double>(i));
  }
  for (int j = 0; j < 11; j++) {
    flags[j] = static_cast<uint8_t>(a.index[j] * 77);
  }
  double sum = 0;
  for (int j = 0; j < 40; j++) {
    const int at = a.index[(i * 3 + j) % a.n];
    numbers[at % 20] ^= j << (at & 15);
    weights[at % 7] += weights[(at + j) % 7] * 0.125;
    flags[at % 11] = static_cast<uint8_t>(flags[j % 11] * 3 + at);
    sum = sum * 0.5 + weights[j % 7];
  }
  int total = 0;
  for (int j = 0; j < 20; j++) {
    total = total * 31 + numbers[j];
  }
  for (int j = 0; j < 11; j++) {
    total += flags[j] << j;
  }
  a.out[i] = total;
  a.sums[i] = sum;
}

// -- branches ------------------------------------------------------------------------------------

namespace {

struct Branches {
  const int *index;
  const float *x;
  float *out;
};

}  // namespace

KERNEL(branches, Branches) {
  const int64_t i = number();
  float v = a.x[i];
  int again = 3;
  // a switch of many cases, some of which end in others
  while (again-- > 0) {
    switch (a.index[i] + again) {
      case 0:
        v = v * 1.5F;
        break;
      case 1:
        v = v - 3;
        break;
      case 2:
        v = 1 / v;
        break;
      case 3:
        v = __builtin_floorf(v);
        break;
      case 4:
        v = __builtin_ceilf(v);
        [[fallthrough]];
      case 5:
        v = __builtin_sqrtf(__builtin_fabsf(v));
        break;
      case 6:
        v = __builtin_truncf(v * 8);
        break;
      case 7:
        v = __builtin_rintf(v * 2);
        break;
      case 8:
        v = __builtin_fmaf(v, v, 1);
        break;
      case 9:
        v = third(v);
        break;
      case 10:
        v = static_cast<float>(to_integer<int>(v * 100));
        break;
      case 11:
        v = v > 2 ? v : -v;
        break;
      case 12:
        again--;
        break;
      case 13:
        v = rooted(v);
        break;
      case 14:
        v = v + static_cast<float>(i);
        break;
      case 15:
        v = v / (v + 1);
        break;
      case 16:
        v = __builtin_copysignf(3, v);
        break;
      default:
        v = -v;
        break;
    }
  }
  a.out[i] = v;
}

// -- integers ------------------------------------------------------------------------------------

namespace {

struct Integers {
  const uint64_t *x, *y;
  uint64_t *out;  // (12, n)
  int n;
};

// Ten rounds of a generator of random numbers, of products of 64 bits.
DEVICE uint64_t scrambled(uint64_t a, uint64_t b) {
  for (int i = 0; i < 10; i++) {
    const uint64_t high = sample::high_product(a, 0xD2B74407B1CE6E93u), low = a * 0xD2B74407B1CE6E93u;
    a = high ^ b ^ (0x9E3779B97F4A7C15u * static_cast<uint64_t>(i + 1));
    b = low;
  }
  return a ^ b;
}

}  // namespace

KERNEL(integers, Integers) {
  const int64_t i = number();
  const uint64_t x = a.x[i], y = a.y[i];
  const auto x32 = static_cast<uint32_t>(x), y32 = static_cast<uint32_t>(y);
  const auto s = static_cast<int64_t>(x), t = static_cast<int64_t>(y);
  const auto s32 = static_cast<int32_t>(x32), t32 = static_cast<int32_t>(y32);
  const auto s16 = static_cast<int16_t>(x), t16 = static_cast<int16_t>(y);
  const auto s8 = static_cast<int8_t>(x);
  const auto u8 = static_cast<uint8_t>(y);
  uint64_t *const out = a.out + i;
  const int n = a.n;
  __extension__ typedef unsigned __int128 wide;
  out[0] = scrambled(x, y);
  out[n] = static_cast<uint64_t>((static_cast<wide>(x) * y + x) >> 50);
  out[2 * n] = x / (y | 1) + x % (y | 7) + static_cast<uint64_t>(s / (t == 0 || t == -1 ? 3 : t));
  out[3 * n] = static_cast<uint64_t>(static_cast<int64_t>(s32 / (t32 == 0 || t32 == -1 ? 7 : t32)) + x32 % (y32 | 1) +
                                     s / 10 + x32 / 7 + s32 % 12);
  out[4 * n] = (x << (y & 63)) ^ (x >> (y & 63)) ^ static_cast<uint64_t>(s >> (y & 63)) ^ (x32 << (y32 & 31)) ^
               (x32 >> 13 | x32 << 19);
  out[5 * n] = static_cast<uint64_t>(static_cast<int64_t>(s16 * t16) + s8 * u8 + static_cast<int16_t>(s16 + t16) +
                                     static_cast<uint8_t>(u8 << 3));
  out[6 * n] =
      (s < t ? x : y) + (x < y ? 1 : 2) + (s32 > t32 ? x32 : y32) + (s16 >= t16 ? 5 : 9) + (s8 == u8 ? 11 : 13);
  out[7 * n] = static_cast<uint64_t>(__builtin_popcountll(x) + __builtin_popcount(y32)) +
               (static_cast<uint64_t>(x32) * y32) + static_cast<uint64_t>(static_cast<int64_t>(s32) * t32);
  wide total = (static_cast<wide>(x) << 64 | y) + (static_cast<wide>(y) << 64 | x);
  total -= static_cast<wide>(x) * 3;
  out[8 * n] = static_cast<uint64_t>(total >> 64) ^ static_cast<uint64_t>(total);
  out[9 * n] = (x & ~y) | (x ^ (y >> 3)) | ((x32 & y32) ^ (~x32 | s8));
  uint32_t bits = x32;
  bits = (bits & 0x55555555u) << 1 | (bits >> 1 & 0x55555555u);
  out[10 * n] = (bits << 24 | (bits << 8 & 0xFF0000) | (bits >> 8 & 0xFF00) | bits >> 24) + (x32 >> 5 & 0x3FF) +
                static_cast<uint64_t>(static_cast<int64_t>(s << 20 >> 44));
  out[11 * n] = static_cast<uint64_t>((s < 0 ? 0 - x : x) % 1000003) + (y >> 32 | y << 32);
}

// -- floats --------------------------------------------------------------------------------------

namespace {

template <class T>
struct Floats {
  const T *x, *y, *z;
  T *out;           // (12, n)
  uint64_t *whole;  // (12, n)
  int n;
};
using Singles = Floats<float>;
using Doubles = Floats<double>;

DEVICE inline float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
DEVICE inline double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }
DEVICE inline float root(float a) { return __builtin_sqrtf(a); }
DEVICE inline double root(double a) { return __builtin_sqrt(a); }
DEVICE inline float down(float a) { return __builtin_floorf(a); }
DEVICE inline double down(double a) { return __builtin_floor(a); }
DEVICE inline float even(float a) { return __builtin_rintf(a); }
DEVICE inline double even(double a) { return __builtin_rint(a); }

template <class T>
DEVICE void floats(const Floats<T> &a) {
  const int64_t i = number();
  const T x = a.x[i], y = a.y[i], z = a.z[i];
  T *const out = a.out + i;
  const int n = a.n;
  out[0] = x + y * z;  // two roundings
  out[n] = x - y * z;
  out[2 * n] = fused(x, y, z);
  out[3 * n] = x / y;
  out[4 * n] = root(x);
  out[5 * n] = 1 / z;
  out[6 * n] = x < y ? x : z;
  out[7 * n] = x >= y ? -x : y;
  out[8 * n] = down(x) + even(y);
  out[9 * n] = static_cast<T>(static_cast<float>(x)) + static_cast<T>(static_cast<double>(y));
  out[10 * n] = (x == x ? x : 1) * (y != z ? 2 : 3);
  T s = 0;
  for (int k = 0; k < 9; k++) {
    s = s * x + static_cast<T>(k) / (y + static_cast<T>(k));
  }
  out[11 * n] = s;
  uint64_t *const whole = a.whole + i;
  whole[0] = static_cast<uint64_t>(to_integer<int32_t>(x));
  whole[n] = to_integer<uint32_t>(y);
  whole[2 * n] = static_cast<uint64_t>(to_integer<int64_t>(z));
  whole[3 * n] = to_integer<uint64_t>(x);
  whole[4 * n] =
      static_cast<uint64_t>((x < y) + 2 * (x <= y) + 4 * (x == y) + 8 * (x != y) + 16 * (x > y) + 32 * (x >= y));
  whole[5 * n] =
      static_cast<uint64_t>((!(x < y)) + 2 * (!(x <= y)) + 4 * (!(x > y)) + 8 * !(x >= y) + 16 * (x != x || y < z));
  const auto w = static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15u;
  out[0] += static_cast<T>(w) + static_cast<T>(static_cast<int64_t>(w)) + static_cast<T>(static_cast<int32_t>(w >> 7));
  out[n] *= static_cast<T>(static_cast<uint32_t>(w)) + static_cast<T>(static_cast<int16_t>(w)) +
            static_cast<T>(static_cast<uint8_t>(w));
}

}  // namespace

KERNEL(singles, Singles) { floats(a); }
KERNEL(doubles_of, Doubles) { floats(a); }

// -- shared memory -------------------------------------------------------------------------------

namespace {

struct Sums {
  const float *x;  // (blocks, panels, 4 threads)
  float *out;      // (blocks, threads)
  int panels;
};

SHARED float partial[2][64];
SHARED double totals[8];

}  // namespace

// A ring of two slots of asynchronous copies, arrays of the kernel, and a tree of barriers.
KERNEL(shared_sums, Sums) {
  const int t = thread(), n = threads();
  auto *const ring = reinterpret_cast<float *>(shared_memory());
  const float *const x = a.x + block() * a.panels * 4 * n;
  const auto fetch = [&](int p) {
    float *const to = ring + p % 2 * 4 * n + 4 * t;
    const float *const from = x + p * 4 * n + 4 * t;
    if (p % 3 == 0) {
      copy_async<16>(to, from);
    } else if (p % 3 == 1) {
      copy_async<8>(to, from);
      copy_async<8>(to + 2, from + 2);
    } else {
      for (int j = 0; j < 4; j++) {
        copy_async<4>(to + j, from + j);
      }
    }
    commit();
  };
  float sum = 0;
  fetch(0);
  for (int p = 0; p < a.panels; p++) {
    if (p + 1 < a.panels) {
      fetch(p + 1);
      penstock::cuda::wait<1>();
    } else {
      penstock::cuda::wait<0>();
    }
    penstock::cuda::sync();
    for (int j = 0; j < 4; j++) {
      sum = sum * 0.75F + ring[p % 2 * 4 * n + (4 * t + 5 * j + p) % (4 * n)];
    }
    penstock::cuda::sync();
  }
  partial[0][t] = sum;
  penstock::cuda::sync();
  int from = 0;
  for (int half = n / 2; half > 0; half /= 2) {
    if (t < half) {
      partial[1 - from][t] = partial[from][t] + partial[from][t + half];
    }
    from = 1 - from;
    penstock::cuda::sync();
  }
  if (t < 8) {
    totals[t] = static_cast<double>(partial[from][0]) * (t + 1);
  }
  penstock::cuda::sync();
  a.out[block() * n + t] = static_cast<float>(totals[t % 8]) + sum;
}
