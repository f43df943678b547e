// Philox4x32-10 over lanes of rows, and standard normals from its words.
// Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
// key = (seed low, seed high); counter = (draw, context row, block, stream).
#pragma once

#include "core/math.hpp"

namespace penstock::PENSTOCK_ISA {

enum Stream : uint32_t { stream_base, stream_mixture, stream_gamma, stream_dequantise, stream_shuffle, stream_init };

// The 64-bit products of the low halves of 64-bit lanes with a 32-bit number.
template <int N>
PENSTOCK_INLINE Vector<uint64_t, N> multiply_wide(Vector<uint64_t, N> a, uint32_t m) {
  using U = Vector<uint64_t, N>;
#if defined(__AVX512F__)
  if constexpr (N == 8) {
    return (U)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(m));
  } else
#endif
#if defined(__AVX2__)
      if constexpr (N == 4) {
    return (U)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(m));
  } else
#endif
#if defined(__SSE2__)
      if constexpr (N == 2) {
    return (U)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(m));
  } else
#endif
  {
    return (a & 0xFFFFFFFFu) * static_cast<uint64_t>(m);
  }
}

// Ten rounds on 64-bit lanes that each hold a 32-bit word; upper halves come out as rubbish.
template <int N>
PENSTOCK_INLINE void philox_rounds(Vector<uint64_t, N> (&c)[4], uint64_t seed) {
  using U = Vector<uint64_t, N>;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; round++) {
    const U p0 = multiply_wide<N>(c[0], 0xD2511F53u), p1 = multiply_wide<N>(c[2], 0xCD9E8D57u);
    c[0] = (p1 >> 32) ^ c[1] ^ static_cast<uint64_t>(k0);
    c[1] = p1;
    c[2] = (p0 >> 32) ^ c[3] ^ static_cast<uint64_t>(k1);
    c[3] = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// The draw and the context row of each lane, on 64-bit lanes: of even lanes, and of odd ones where two share 64 bits.
template <class V>
struct Counters {
  static constexpr int parts = sizeof(Element<V>) == 4 ? 2 : 1, N = lanes<V> / parts;
  using U = Vector<uint64_t, N>;
  U draw[parts], context_row[parts];

  PENSTOCK_INLINE Counters(const uint32_t *draws, const uint32_t *context_rows) {
    for (int p = 0; p < parts; p++) {
      for (int i = 0; i < N; i++) {
        draw[p][i] = draws[parts * i + p];
        context_row[p][i] = context_rows[parts * i + p];
      }
    }
  }
};

// Words of the counters (draw, context row, block, stream), as signed integers of the lanes' width.
template <class V>
PENSTOCK_INLINE void philox(uint64_t seed, const Counters<V> &counters, uint32_t block, uint32_t stream,
                            Bits<V> (&words)[4]) {
  constexpr int N = Counters<V>::N;
  using U = Vector<uint64_t, N>;
  U c[4] = {counters.draw[0], counters.context_row[0], U{} + block, U{} + stream};
  philox_rounds<N>(c, seed);
  if constexpr (sizeof(Element<V>) == 4) {
    U d[4] = {counters.draw[1], counters.context_row[1], U{} + block, U{} + stream};
    philox_rounds<N>(d, seed);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      words[i] = (Bits<V>)((c[i] & 0xFFFFFFFFu) | (d[i] << 32));
    }
  } else {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      words[i] = (Bits<V>)(c[i] & 0xFFFFFFFFu);
    }
  }
}

// Two standard normals from two words: r = sqrt(-2 log u), u = (w0 / 2 + 1/2) / 2^31, at the angle 2 pi w1 / 2^32.
// Box, Muller, "A note on the generation of random normal deviates" (1958).
template <class V>
PENSTOCK_INLINE void normal_pair(Bits<V> w0, Bits<V> w1, V &first, V &second) {
  using T = Element<V>;
  constexpr int mask_shift = 1;
  const Bits<V> high = (Bits<V>)(w0 >> mask_shift) & 0x7FFFFFFF;
  const V u = (number<V>(high) + splat<V>(static_cast<T>(0.5))) * splat<V>(static_cast<T>(1.0 / 2147483648.0));
  const V r = sqrt<V>(splat<V>(-2) * log<V>(u));
  V sine, cosine;
  sincos_turn<V>(w1, sine, cosine);
  first = r * cosine;
  second = r * sine;
}

// Fills state (dim, stride) with normals: dimension f of lane i is decided by (seed, context_row[i], draw[i], f) alone.
// Counters are read up to a whole vector.
template <class V>
void normals(uint64_t seed, const uint32_t *context_row, const uint32_t *draw, int rows, int dim, int stride,
             Element<V> *state) {
  for (int lane = 0; lane < rows; lane += lanes<V>) {
    const Counters<V> counters(draw + lane, context_row + lane);
    for (int block = 0; 4 * block < dim; block++) {
      Bits<V> words[4];
      philox<V>(seed, counters, static_cast<uint32_t>(block), stream_base, words);
      V z[4];
      normal_pair<V>(words[0], words[1], z[0], z[1]);
      normal_pair<V>(words[2], words[3], z[2], z[3]);
      for (int i = 0; i < 4 && 4 * block + i < dim; i++) {
        store(state + static_cast<ptrdiff_t>(4 * block + i) * stride + lane, z[i]);
      }
    }
  }
}

}  // namespace penstock::PENSTOCK_ISA
