// Philox4x32-10 over lanes of rows, and standard normals from its words.
// Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
// key = (seed low, seed high).  Counter, for a draw below 2^56, a context row below 2^40, a block below 2^24:
//   word 0   draw, bits 0..31
//   word 1   context row, bits 0..31
//   word 2   block in bits 0..23, bits 32..39 of the context row in bits 24..31
//   word 3   stream in bits 0..7, bits 32..55 of the draw in bits 8..31
#pragma once

#include "core/math.hpp"
#include "core/stream.hpp"

namespace penstock::PENSTOCK_ISA {

// Ten rounds on 64-bit lanes that each hold a 32-bit word; upper halves come out as rubbish.
template <int N>
PENSTOCK_INLINE void philox_rounds(Words<N> (&c)[4], uint64_t seed) {
  using U = Words<N>;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  PENSTOCK_UNROLL(10)
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
  static constexpr int parts = sizeof(Element<V>) == 4 && lanes<V> > 1 ? 2 : 1, N = lanes<V> / parts;
  using U = Words<N>;
  U draw[parts], context_row[parts];

  PENSTOCK_INLINE Counters(const uint64_t *draws, const uint64_t *context_rows) {
    if constexpr (N == 1) {
      draw[0] = *draws;
      context_row[0] = *context_rows;
    } else {
      for (int p = 0; p < parts; p++) {
        for (int i = 0; i < N; i++) {
          draw[p][i] = draws[parts * i + p];
          context_row[p][i] = context_rows[parts * i + p];
        }
      }
    }
  }

  // The four words of a part, in the lower halves; upper halves are rubbish.
  PENSTOCK_INLINE void words(int part, uint32_t block, uint32_t stream, U (&c)[4]) const {
    c[0] = draw[part];
    c[1] = context_row[part];
    c[2] = ((context_row[part] >> 8) & uint64_t{0xFF000000}) | uint64_t{block};
    c[3] = ((draw[part] >> 24) & uint64_t{0xFFFFFF00}) | uint64_t{stream};
  }
};

// Words of the counters (draw, context row, block, stream), as signed integers of the lanes' width.
template <class V>
PENSTOCK_INLINE void philox(uint64_t seed, const Counters<V> &counters, uint32_t block, uint32_t stream,
                            Bits<V> (&words)[4]) {
  constexpr int N = Counters<V>::N;
  using U = Words<N>;
  U c[4];
  counters.words(0, block, stream, c);
  philox_rounds<N>(c, seed);
  if constexpr (Counters<V>::parts == 2) {
    U d[4];
    counters.words(1, block, stream, d);
    philox_rounds<N>(d, seed);
    PENSTOCK_UNROLL(4)
    for (int i = 0; i < 4; i++) {
      words[i] = (Bits<V>)((c[i] & 0xFFFFFFFFu) | (d[i] << 32));
    }
  } else {
    PENSTOCK_UNROLL(4)
    for (int i = 0; i < 4; i++) {
      words[i] = (Bits<V>)(c[i] & 0xFFFFFFFFu);
    }
  }
}

// Two standard normals from two words: r = sqrt(-2 log u), u = (w0 / 2 + 1/2) / 2^31, at the angle 2 pi w1 / 2^32.
// Box, Muller, "A note on the generation of random normal deviates" (1958).
// Also in float64 the radius has 31 bits: u >= 2^-32, so that no normal lies beyond sqrt(64 log 2) = 6.66, where the
// probability is 2.7e-11; a float has room for 24 of the bits in the upper half of u.
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

// A number strictly between 0 and 1, of the 53 bits of two words or, in float, of the 24 upper ones of the first.
template <class V>
PENSTOCK_INLINE V uniform(Bits<V> w0, Bits<V> w1) {
  const V half = splat<V>(static_cast<Element<V>>(0.5));
  V k;
  if constexpr (sizeof(Element<V>) == 4) {
    k = number<V>((Bits<V>)(w0 >> 8) & 0xFFFFFF);
  } else {
    k = fma<V>(number<V>(w0), splat<V>(0x1p21), number<V>((Bits<V>)(w1 >> 11)));
  }
  k = select(k < half, half, k);
  return k * splat<V>(static_cast<Element<V>>(sizeof(Element<V>) == 4 ? 0x1p-24 : 0x1p-53));
}

// Fills state (dim, stride) with normals: dimension f of lane i is decided by (seed, context_row[i], draw[i], f) alone.
// Counters are read up to a whole vector.
template <class V>
PENSTOCK_FUNCTION void normals(uint64_t seed, const uint64_t *context_row, const uint64_t *draw, int rows, int dim,
                               int stride, Element<V> *state) {
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

// The n dimensions of a list, rising, uniform between lo and lo + width, and then clamped; decided as normals are.
template <class V>
PENSTOCK_FUNCTION void uniforms(uint64_t seed, const uint64_t *context_row, const uint64_t *draw, int rows, int n,
                                const int64_t *dims, Element<V> lo, Element<V> width, Element<V> least, Element<V> most,
                                int stride, Element<V> *state) {
  for (int lane = 0; lane < rows; lane += lanes<V>) {
    const Counters<V> counters(draw + lane, context_row + lane);
    Bits<V> words[4];
    int64_t block = -1;
    for (int i = 0; i < n; i++) {
      const int64_t f = dims[i];
      if (f / 2 != block) {
        block = f / 2;
        philox<V>(seed, counters, static_cast<uint32_t>(block), stream_pairs, words);
      }
      const V u = f % 2 == 0 ? uniform<V>(words[0], words[1]) : uniform<V>(words[2], words[3]);
      store(state + f * stride + lane, clamp(fma<V>(u, splat<V>(width), splat<V>(lo)), least, most));
    }
  }
}

}  // namespace penstock::PENSTOCK_ISA
