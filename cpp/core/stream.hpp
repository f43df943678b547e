// What a Philox counter draws for. The number of a stream is part of the contract: a seed gives the same draws in every
// version and every backend.
#pragma once

#include <cstdint>

namespace penstock {

enum Stream : uint32_t {
  stream_base,
  stream_mixture,
  stream_gamma,
  stream_dequantise,
  stream_shuffle,
  stream_init,
  stream_pairs,
  stream_member
};

}  // namespace penstock
