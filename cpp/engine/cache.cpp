// The size of the last level of cache: see cache.hpp.
#include "engine/cache.hpp"

#include <unistd.h>

#if defined(__APPLE__)
#  include <sys/sysctl.h>
#endif

namespace penstock {
namespace {

// 0: not known.
int64_t ask() {
#if defined(__APPLE__)
  for (const char *name : {"hw.l3cachesize", "hw.perflevel0.l2cachesize", "hw.l2cachesize"}) {
    int64_t size = 0;
    size_t length = sizeof size;
    if (sysctlbyname(name, &size, &length, nullptr, 0) == 0 && size > 0) {
      return size;
    }
  }
  return 0;
#elif defined(_SC_LEVEL3_CACHE_SIZE)  // glibc
  return sysconf(_SC_LEVEL3_CACHE_SIZE);
#else
  return 0;
#endif
}

}  // namespace

int64_t last_level_cache() {
  static const int64_t size = [] {
    const int64_t told = ask();
    return told > 0 ? told : int64_t{8} << 20;
  }();
  return size;
}

}  // namespace penstock
