// The keyed permutation: see order.hpp.
#include "engine/order.hpp"

#include <algorithm>
#include <bit>
#include <numeric>
#include <utility>

#include "core/stream.hpp"

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
  const int64_t n_words = n > most_drawn ? 7 : n - 1;
  uint32_t words[most_drawn];
  for (uint32_t block = 0; 4 * block < n_words; block++) {
    const uint32_t counter[4] = {static_cast<uint32_t>(epoch), static_cast<uint32_t>(epoch >> 32), block,
                                 stream_shuffle};
    uint32_t four[4];
    philox(seed, counter, four);
    std::copy(four, four + 4, words + 4 * block);
  }
  if (n <= most_drawn) {
    std::iota(drawn_, drawn_ + most_drawn, uint8_t{0});
    for (int64_t i = n - 1; i > 0; i--) {  // no j is likelier than another by more than 2^-26
      const uint64_t j = (words[i - 1] * static_cast<uint64_t>(i + 1)) >> 32;
      std::swap(drawn_[i], drawn_[j]);
    }
    return;
  }
  std::copy(words, words + 6, keys_);
  half_ = (std::bit_width(static_cast<uint64_t>(n - 1)) + 1) / 2;
  mask_ = (uint64_t{1} << half_) - 1;
  // Each round of the network is an even permutation; where no walk changes that, a transposition decides the sign.
  swap_ = n == int64_t{1} << 2 * half_ ? words[6] & 1 : 0;
}

}  // namespace penstock
