// The keyed permutation behind splits and epochs: row p of an order is computed, not stored.
// Few rows are drawn (Fisher, Yates). For more, a balanced Feistel network on the smallest power of four that holds n,
// walked until it lands below n.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#  define PENSTOCK_ANYWHERE __host__ __device__
#else
#  define PENSTOCK_ANYWHERE
#endif

namespace penstock {

class Order {
 public:
  // Up to this many rows the order is drawn: six rounds of a network on so few bits are not uniform.
  static constexpr int64_t most_drawn = 64;

  Order(uint64_t seed, uint64_t epoch, int64_t n);
  PENSTOCK_ANYWHERE int64_t operator()(int64_t position) const {
    if (n_ <= most_drawn) {
      return n_ > 1 ? drawn_[position] : position;
    }
    auto v = static_cast<uint64_t>(position);
    do {
      uint64_t left = v >> half_, right = v & mask_;
      for (const uint32_t key : keys_) {
        const uint64_t mixed = left ^ (mix(static_cast<uint32_t>(right) ^ key) & mask_);
        left = right;
        right = mixed;
      }
      v = left << half_ | right;
    } while (v >= static_cast<uint64_t>(n_));
    return static_cast<int64_t>(v < 2 ? v ^ swap_ : v);
  }

 private:
  PENSTOCK_ANYWHERE static uint32_t mix(uint32_t h) {
    h *= 0x9E3779B1u;
    h ^= h >> 15;
    h *= 0x85EBCA77u;
    h ^= h >> 13;
    h *= 0xC2B2AE3Du;
    return h ^ h >> 16;
  }

  int64_t n_;
  int half_ = 1;
  uint64_t mask_ = 1;
  uint64_t swap_ = 0;  // 1: the results 0 and 1 change places
  uint32_t keys_[6] = {};
  uint8_t drawn_[most_drawn] = {};
};

// Philox4x32-10 for one counter: see core/philox.hpp.
void philox(uint64_t seed, const uint32_t (&counter)[4], uint32_t (&words)[4]);

}  // namespace penstock

#undef PENSTOCK_ANYWHERE
