// The key of an integer seed: the first word of PCG64 (O'Neill 2014), as NumPy's SeedSequence (after O'Neill's seed_seq_fe)
// seeds it.
#include <cstdint>

#include "penstock/penstock.h"

namespace penstock::c {
namespace {

constexpr int pool_size = 4;

// Spreads the words of an integer over a pool.
class SeedSequence {
 public:
  explicit SeedSequence(uint64_t seed) {
    const uint32_t entropy[pool_size] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), 0, 0};
    uint32_t multiplier = 0x43B0D7E5;
    const auto hashed = [&](uint32_t value) {
      value ^= multiplier;
      multiplier *= 0x931E8875;
      value *= multiplier;
      return value ^ value >> 16;
    };
    for (int i = 0; i < pool_size; i++) {
      pool_[i] = hashed(entropy[i]);
    }
    for (int from = 0; from < pool_size; from++) {
      for (int to = 0; to < pool_size; to++) {
        if (from != to) {
          pool_[to] = mixed(pool_[to], hashed(pool_[from]));
        }
      }
    }
  }

  // Words of 64 bits, the low half first.
  void generate(uint64_t (&words)[pool_size]) const {
    uint32_t multiplier = 0x8B51F9DD;
    uint32_t halves[2 * pool_size];
    for (int i = 0; i < 2 * pool_size; i++) {
      uint32_t value = pool_[i % pool_size] ^ multiplier;
      multiplier *= 0x58F38DED;
      value *= multiplier;
      halves[i] = value ^ value >> 16;
    }
    for (int i = 0; i < pool_size; i++) {
      words[i] = halves[2 * i] | static_cast<uint64_t>(halves[2 * i + 1]) << 32;
    }
  }

 private:
  static uint32_t mixed(uint32_t x, uint32_t y) {
    const uint32_t value = x * 0xCA01F9DD - y * 0x4973F715;
    return value ^ value >> 16;
  }

  uint32_t pool_[pool_size];
};

__extension__ using Wide = unsigned __int128;

constexpr Wide wide(uint64_t high, uint64_t low) { return Wide{high} << 64 | low; }

}  // namespace
}  // namespace penstock::c

uint64_t penstock_key_from_seed(uint64_t seed) {
  using namespace penstock::c;
  constexpr Wide multiplier = wide(2549297995355413924u, 4865540595714422341u);
  uint64_t words[pool_size];
  SeedSequence(seed).generate(words);
  const Wide increment = wide(words[2], words[3]) << 1 | 1;
  Wide state = increment;  // the first step, from 0
  state = (state + wide(words[0], words[1])) * multiplier + increment;
  state = state * multiplier + increment;  // that of the first word
  const auto folded = static_cast<uint64_t>(state >> 64) ^ static_cast<uint64_t>(state);
  const auto turn = static_cast<unsigned>(state >> 122);
  return folded >> turn | folded << (-turn & 63);
}
