// BLAKE2b-256: see blake2b.hpp. Letters are those of the RFC.
#include "engine/blake2b.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

namespace penstock {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr size_t block_size = 128;
constexpr uint64_t iv[8] = {0x6A09E667F3BCC908U, 0xBB67AE8584CAA73BU, 0x3C6EF372FE94F82BU, 0xA54FF53A5F1D36F1U,
                            0x510E527FADE682D1U, 0x9B05688C2B3E6C1FU, 0x1F83D9ABFB41BD6BU, 0x5BE0CD19137E2179U};
constexpr uint8_t sigma[12][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
};

inline void mix(uint64_t &a, uint64_t &b, uint64_t &c, uint64_t &d, uint64_t x, uint64_t y) {
  a += b + x;
  d = std::rotr(d ^ a, 32);
  c += d;
  b = std::rotr(b ^ c, 24);
  a += b + y;
  d = std::rotr(d ^ a, 16);
  c += d;
  b = std::rotr(b ^ c, 63);
}

// One block into the state h; t counts bytes up to its end.
void compress(uint64_t (&h)[8], const unsigned char *block, uint64_t t, bool last) {
  uint64_t m[16], v[16];
  std::memcpy(m, block, block_size);
  std::copy_n(h, 8, v);
  std::copy_n(iv, 8, v + 8);
  v[12] ^= t;
  v[14] ^= last ? ~uint64_t{0} : 0;
#pragma GCC unroll 12
  for (int i = 0; i < 12; i++) {
    const uint8_t *s = sigma[i];
    mix(v[0], v[4], v[8], v[12], m[s[0]], m[s[1]]);
    mix(v[1], v[5], v[9], v[13], m[s[2]], m[s[3]]);
    mix(v[2], v[6], v[10], v[14], m[s[4]], m[s[5]]);
    mix(v[3], v[7], v[11], v[15], m[s[6]], m[s[7]]);
    mix(v[0], v[5], v[10], v[15], m[s[8]], m[s[9]]);
    mix(v[1], v[6], v[11], v[12], m[s[10]], m[s[11]]);
    mix(v[2], v[7], v[8], v[13], m[s[12]], m[s[13]]);
    mix(v[3], v[4], v[9], v[14], m[s[14]], m[s[15]]);
  }
  for (int i = 0; i < 8; i++) {
    h[i] ^= v[i] ^ v[i + 8];
  }
}

}  // namespace

std::array<char, 32> blake2b_256(const void *data, size_t size) {
  constexpr size_t digest_size = 32;
  const auto *bytes = static_cast<const unsigned char *>(data);
  uint64_t h[8];
  std::copy_n(iv, 8, h);
  h[0] ^= 0x01010000 ^ digest_size;
  size_t done = 0;
  for (; size - done > block_size; done += block_size) {
    compress(h, bytes + done, done + block_size, false);
  }
  unsigned char rest[block_size] = {};
  if (size > done) {
    std::memcpy(rest, bytes + done, size - done);
  }
  compress(h, rest, size, true);
  std::array<char, digest_size> digest{};
  std::memcpy(digest.data(), h, digest_size);
  return digest;
}

}  // namespace penstock
