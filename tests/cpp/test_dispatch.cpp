// The instruction sets of this processor, and that their arithmetic is what it is defined to be.
#include <algorithm>
#include <string>

#include "check.hpp"
#include "isa/arithmetic.hpp"
#include "isa/dispatch.hpp"

#if defined(__x86_64__)
#  include <immintrin.h>
#endif

int main() {
  const std::vector<std::string> names = penstock::isas();
  [[maybe_unused]] const auto has = [&](const char *name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)  // knows the levels by name
  bool avx2 = false, avx512 = false, fma128 = false;                 // what this build has
#  if defined(PENSTOCK_HAS_avx2)
  avx2 = true;
#  endif
#  if defined(PENSTOCK_HAS_avx512)
  avx512 = true;
#  endif
#  if defined(PENSTOCK_HAS_fma128)
  fma128 = true;
#  endif
  CHECK(has("avx2") == (avx2 && __builtin_cpu_supports("x86-64-v3") != 0));
  CHECK(has("fma128") == (fma128 && __builtin_cpu_supports("x86-64-v3") != 0));
  CHECK(has("avx512") == (avx512 && __builtin_cpu_supports("x86-64-v4") != 0));
#elif defined(__aarch64__)
  CHECK(has("neon"));
#endif
  penstock::check_arithmetic();
#if defined(__x86_64__)  // whatever the thread that asks has set
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);
  penstock::check_arithmetic();
  CHECK(_mm_getcsr() == (before | 0x8040));
  _mm_setcsr(before);
#endif
  return 0;
}
