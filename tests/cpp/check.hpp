// What the C++ tests share: a check that ends the program, a hash of bits, random numbers, guarded arrays.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                      \
    }                                                                                    \
  } while (false)

namespace {

// FNV-1a over the bits of numbers; every NaN counts as the same one.
struct Hash {
  uint64_t value = 0xCBF29CE484222325u;
  template <class T>
  void add(T x) {
    unsigned char bytes[sizeof(T)] = {0xFF};
    if (x == x) {
      std::memcpy(bytes, &x, sizeof x);
    }
    for (const unsigned char byte : bytes) {
      value = (value ^ byte) * 0x100000001B3u;
    }
  }
};

template <class T>
uint64_t hash(const std::vector<T> &numbers) {
  Hash h;
  for (const T x : numbers) {
    h.add(x);
  }
  return h.value;
}

// SplitMix64.
struct Random {
  uint64_t state;
  uint64_t operator()() {
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  double uniform(double lo, double hi) { return lo + (hi - lo) * static_cast<double>((*this)() >> 11) * 0x1p-53; }
};

// An array between two bands that nobody may touch; check() says whether they are whole.
template <class T>
class Guarded {
 public:
  explicit Guarded(int64_t n, T fill = T{0}) : n_(static_cast<size_t>(n)), all_(n_ + 2 * band, fill) {
    for (size_t i = 0; i < band; i++) {
      all_[i] = all_[band + n_ + i] = mark;
    }
  }
  T *data() { return all_.data() + band; }
  const T *data() const { return all_.data() + band; }
  std::vector<T> numbers() const { return {all_.begin() + band, all_.begin() + static_cast<int64_t>(band + n_)}; }
  void check() const {
    for (size_t i = 0; i < band; i++) {
      CHECK(all_[i] == mark && all_[band + n_ + i] == mark);
    }
  }

 private:
  static constexpr size_t band = 64;
  static constexpr T mark = T{-12345.5};
  size_t n_;
  std::vector<T> all_;
};

}  // namespace
