// The keyed permutation: see order.hpp.
#include "engine/order.hpp"

#include <algorithm>
#include <bit>

namespace penstock {

void philox(uint64_t seed, const uint32_t (&counter)[4], uint32_t (&words)[4]) {
  uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c[0], p1 = uint64_t{0xCD9E8D57} * c[2];
    c[0] = static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0;
    c[1] = static_cast<uint32_t>(p1);
    c[2] = static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1;
    c[3] = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  std::copy(c, c + 4, words);
}

Order::Order(uint64_t seed, uint64_t epoch, int64_t n) : n_(n) {
  constexpr uint32_t stream_shuffle = 4;
  uint32_t words[8];
  for (uint32_t block = 0; block < 2; block++) {
    const uint32_t counter[4] = {static_cast<uint32_t>(epoch), static_cast<uint32_t>(epoch >> 32), block,
                                 stream_shuffle};
    uint32_t four[4];
    philox(seed, counter, four);
    std::copy(four, four + 4, words + 4 * block);
  }
  std::copy(words, words + 6, keys_);
  const int bits = n > 1 ? std::bit_width(static_cast<uint64_t>(n - 1)) : 1;
  half_ = std::max(1, (bits + 1) / 2);
  mask_ = (uint64_t{1} << half_) - 1;
}

}  // namespace penstock
