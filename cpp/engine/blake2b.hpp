// BLAKE2b (Saarinen, Aumasson, RFC 7693, 2015), without a key, with a digest of 256 bits.
#pragma once

#include <array>
#include <cstddef>

namespace penstock {

std::array<char, 32> blake2b_256(const void *data, size_t size);

}  // namespace penstock
