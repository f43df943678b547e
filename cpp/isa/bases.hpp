// Densities of the latent side that are learned or have heavy tails, in float64; ends.hpp has the others and goes through all
// blocks. Numbers x of a block are free, or a tile's own from a network of the context, or fixed.
//   mixture     l_k = log w_k - sum_d (s_kd + u_kd^2 / 2 + log(2 pi) / 2),  u = (z - m) e^-s,  log w = c - log sum e^c
//               log p = log sum_k e^l_k               r_k = e^(l_k - log p)
//               dz_d = -sum_k r_k u_kd e^-s_kd        dm_kd = r_k u_kd e^-s_kd,  ds_kd = r_k (u_kd^2 - 1),  dc_k = r_k - w_k
//               x = (c (K), m (K, n), s (K, n));  a normal is K = 1 without c
//   student_t   t = z / nu^1/2,  nu = e^x within [nu_min, nu_max]
//               log p = D(nu / 2) - log(pi nu) / 2 - (nu + 1) / 2 log(1 + t^2)
//               dz = -(nu + 1) / nu^1/2 t / (1 + t^2)
//               dx = nu / 2 (D'(nu / 2) - 1 / nu - log(1 + t^2) + (nu + 1) / nu t^2 / (1 + t^2)), 0 beyond the bounds
//   D(a)        log Gamma(a + 1/2) - log Gamma(a) = D(a + 8) + log prod_k<8 (a + k) / (a + k + 1/2)
//               D(a) ~ log a / 2 + sum_i b_i a^(1 - 2 i),  b_i = -(1 - 4^-i) B_2i / (i (2 i - 1)), B the Bernoulli numbers
//   draws       student_t  z = (nu (u^(-2 / nu) - 1))^1/2 cos(2 pi v)
//                          dx = z / 2 (1 - 2 w / (e^2w - 1)) dz,  w = log u / nu, 0 beyond the bounds
//               mixture    z = m_k + e^s_k n,  k the first with w_0 + ... + w_k above u, or given
//                          dm_k = dz,  ds_k = (z - m_k) dz,  dc_j = ([j = k] - w_j) dlog w_k
// Bailey, "Polar generation of random variates with the t-distribution" (1994).
#pragma once

#include "conditioners/inputs.hpp"
#include "core/philox.hpp"
#include "isa/supports.hpp"

namespace penstock::PENSTOCK_ISA {

inline constexpr double half_log_2pi = 0.91893853320467274178;

// Ways to read the numbers of a block: one value for every row, or a tile's.
template <class D, class T>
struct FreeNumbers {
  const T *p;
  PENSTOCK_INLINE D operator()(int64_t i) const { return splat<D>(static_cast<double>(p[i])); }
};
template <class D, class T>
struct TileNumbers {
  const T *p;
  PENSTOCK_INLINE D operator()(int64_t i) const { return widened<D>(p + i * tile_stride); }
};

// Where the numbers of a block lie, and whether one value serves every row.
template <class T>
struct BlockNumbers {
  const T *p;
  bool free;
};

// Calls body with what reads the numbers of the rows from `row` on.
template <class D, class T, class Body>
PENSTOCK_INLINE void reading(const BlockNumbers<T> &numbers, int row, Body &&body) {
  if (numbers.free) {
    body(FreeNumbers<D, T>{numbers.p});
  } else {
    body(TileNumbers<D, T>{numbers.p + row});
  }
}

// --- mixtures of normals -------------------------------------------------------------------------------------------

// The sum of exponentials, term by term, by the largest so far.
template <class D>
struct LogSum {
  D top, sum;
  PENSTOCK_INLINE explicit LogSum(D first) : top(first), sum(splat<D>(1)) {}
  PENSTOCK_INLINE void add(D l) {
    const D higher = select(l > top, l, top);
    sum = sum * exp<D>(top - higher) + exp<D>(l - higher);
    top = higher;
  }
  PENSTOCK_INLINE D value() const { return top + log<D>(sum); }
};

// A mixture as the numbers of a block have it.
template <class D, class Numbers>
struct MixtureOf {
  const BaseBlock &block;
  Numbers x;
  int64_t K, n, first;  // components, dimensions, where the means begin
  D all;                // log sum e^c

  PENSTOCK_INLINE MixtureOf(const BaseBlock &of, Numbers numbers)
      : block(of), x(numbers), K(of.components), n(of.n), first(of.kind == base_normal ? 0 : of.components), all{} {
    if (first > 0) {
      LogSum<D> sum(x(0));
      for (int64_t k = 1; k < K; k++) {
        sum.add(x(k));
      }
      all = sum.value();
    }
  }
  PENSTOCK_INLINE D log_weight(int64_t k) const { return first > 0 ? x(k) - all : D{}; }
  PENSTOCK_INLINE D mean(int64_t k, int64_t d) const { return x(first + k * n + d); }
  PENSTOCK_INLINE D log_scale(int64_t k, int64_t d) const { return x(first + (K + k) * n + d); }

  // l_k at z, which gives dimension d of the rows.
  template <class Latent>
  PENSTOCK_INLINE D term(int64_t k, Latent z) const {
    D l = log_weight(k);
    for (int64_t d = 0; d < n; d++) {
      const D s = log_scale(k, d), u = (z(d) - mean(k, d)) * exp<D>(-s);
      l = l - (s + splat<D>(0.5) * (u * u) + splat<D>(half_log_2pi));
    }
    const D least = splat<D>(-1e300);  // so far out that a square overflows
    return select(l < least, least, l);
  }
  template <class Latent>
  PENSTOCK_INLINE D log_density(Latent z) const {
    D top = term(0, z);
    if (K == 1) {
      return top;
    }
    LogSum<D> sum(top);
    for (int64_t k = 1; k < K; k++) {
      sum.add(term(k, z));
    }
    return sum.value();
  }
};

// --- Student t -----------------------------------------------------------------------------------------------------

// D(a) and D'(a) for a of at least 1/4; absolute error 1e-15 and 4e-15.
template <class D>
PENSTOCK_INLINE void half_step(D a, D &value, D &derivative) {
  constexpr double b[7] = {-1.0 / 8,      1.0 / 192,      -1.0 / 640,      17.0 / 14336,
                           -31.0 / 18432, 691.0 / 180224, -5461.0 / 425984};
  const D half = splat<D>(0.5), one = splat<D>(1);
  D above = one, below = one, sum{};
  for (int k = 0; k < 8; k++) {
    const D low = a + splat<D>(static_cast<double>(k)), high = low + half;
    above = above * low;
    below = below * high;
    sum = sum + half / (low * high);
  }
  const D x = a + splat<D>(8), over = one / x, square = over * over;
  D series{}, slope{};
  for (int i = 6; i >= 0; i--) {
    series = fma<D>(series, square, splat<D>(b[i]));
    slope = fma<D>(slope, square, splat<D>(b[i] * (-1.0 - 2.0 * i)));
  }
  value = half * log<D>(x) + series * over + log<D>(above / below);
  derivative = half * over + slope * square + sum;
}

// log p at one number of a dimension with degrees of freedom e^x; and its derivatives.
template <class D>
struct StudentOf {
  D nu, root, inside;  // inside: 1, and 0 beyond the bounds
  PENSTOCK_INLINE StudentOf(const BaseBlock &block, D x) {
    const D least = splat<D>(block.lo), most = splat<D>(block.hi), free = exp<D>(x);
    nu = clamp(free, block.lo, block.hi);
    inside = select((free >= least) & (free <= most), splat<D>(1), D{});
    root = sqrt<D>(nu);
  }
  PENSTOCK_INLINE D log_of(D t) const {  // log(1 + t^2)
    const D one = splat<D>(1), a = absolute(t), near = select(a > one, one, a);
    return select(a > one, splat<D>(2) * log<D>(hypotenuse(t)), log1p<D>(near * near));
  }
  PENSTOCK_INLINE D log_density(D z) const {
    D value, derivative;
    half_step<D>(splat<D>(0.5) * nu, value, derivative);
    const D half = splat<D>(0.5), log_pi = splat<D>(1.14472988584940017414);
    return value - half * (log_pi + log<D>(nu)) - half * (nu + splat<D>(1)) * log_of(z / root) + (z - z);
  }
  PENSTOCK_INLINE void backward(D z, D &dz, D &dx) const {
    D value, derivative;
    half_step<D>(splat<D>(0.5) * nu, value, derivative);
    const D one = splat<D>(1), t = z / root, h = hypotenuse(t), part = t / h;
    dz = -((nu + one) / root) * (part / h);
    dx = inside * splat<D>(0.5) * nu * (derivative - one / nu - log_of(t) + (nu + one) / nu * (part * part));
  }
};

// --- a block of a tile ---------------------------------------------------------------------------------------------

// log_p += log p of a block, of n rows.
template <class D, class T>
PENSTOCK_FUNCTION void learned_log_density(const BaseBlock &block, const BlockNumbers<T> &numbers, const T *z, int n,
                                           int stride, double *log_p) {
  for (int r = 0; r < n; r += lanes<D>) {
    const auto latent = [&](int64_t d)
                            __attribute__((always_inline)) { return widened<D>(z + block.dims[d] * stride + r); };
    D sum = load<D>(log_p + r);
    if (block.kind == base_student_t) {
      for (int64_t d = 0; d < block.n; d++) {
        D x = splat<D>(block.fixed != nullptr ? block.fixed[d] : 0);
        if (block.fixed == nullptr) {
          reading<D>(numbers, r, [&](auto read) __attribute__((always_inline)) { x = read(d); });
        }
        sum = sum + StudentOf<D>(block, x).log_density(latent(d));
      }
    } else {
      reading<D>(numbers, r, [&](auto read) __attribute__((always_inline)) {
        sum = sum + MixtureOf<D, decltype(read)>(block, read).log_density(latent);
      });
    }
    store(log_p + r, sum);
  }
}

// Overwrites d_numbers (numbers, tile) and adds to d_z.
template <class D, class T>
PENSTOCK_FUNCTION void learned_backward(const BaseBlock &block, const BlockNumbers<T> &numbers, const T *z,
                                        const T *d_log_p, int n, T *d_z, T *d_numbers) {
  for (int r = 0; r < n; r += lanes<D>) {
    const D along = widened<D>(d_log_p + r);
    const auto latent = [&](int64_t d)
                            __attribute__((always_inline)) { return widened<D>(z + block.dims[d] * tile_stride + r); };
    const auto add = [&](int64_t d, D value) __attribute__((always_inline)) {
      T *to = d_z + block.dims[d] * tile_stride + r;
      narrow<T>(to, widened<D>(to) + along * value);
    };
    const auto put = [&](int64_t i, D value)
                         __attribute__((always_inline)) { narrow<T>(d_numbers + i * tile_stride + r, along * value); };
    if (block.kind == base_student_t) {
      for (int64_t d = 0; d < block.n; d++) {
        D x = splat<D>(block.fixed != nullptr ? block.fixed[d] : 0), dz, dx;
        if (block.fixed == nullptr) {
          reading<D>(numbers, r, [&](auto read) __attribute__((always_inline)) { x = read(d); });
        }
        StudentOf<D>(block, x).backward(latent(d), dz, dx);
        add(d, dz);
        if (block.fixed == nullptr) {
          put(d, dx);
        }
      }
      continue;
    }
    reading<D>(numbers, r, [&](auto read) __attribute__((always_inline)) {
      const MixtureOf<D, decltype(read)> mixture(block, read);
      const D log_p = mixture.log_density(latent), one = splat<D>(1);
      D r_k[most_components];
      for (int64_t k = 0; k < mixture.K; k++) {
        r_k[k] = mixture.K == 1 ? one : exp<D>(mixture.term(k, latent) - log_p);
        if (mixture.first > 0) {
          put(k, r_k[k] - exp<D>(mixture.log_weight(k)));
        }
      }
      for (int64_t d = 0; d < mixture.n; d++) {
        D dz{};
        for (int64_t k = 0; k < mixture.K; k++) {
          const D over = exp<D>(-mixture.log_scale(k, d)), u = (latent(d) - mixture.mean(k, d)) * over;
          const D pull = r_k[k] * u * over;
          dz = dz - pull;
          put(mixture.first + k * mixture.n + d, pull);
          put(mixture.first + (mixture.K + k) * mixture.n + d, r_k[k] * (u * u - one));
        }
        add(d, dz);
      }
    });
  }
}

// Calls body(d, x, words[2]) for each dimension of a Student t: its number, and its two words.
template <class D, class T, class Body>
PENSTOCK_INLINE void each_student(const BaseBlock &block, const BlockNumbers<T> &numbers, const TileDraws &draws, int r,
                                  Body &&body) {
  const Counters<D> counters(draws.draw + r, draws.context_row + r);
  Bits<D> words[4];
  int64_t pair = -1;
  for (int64_t d = 0; d < block.n; d++) {
    const int64_t f = block.dims[d];
    if (f / 2 != pair) {
      pair = f / 2;
      philox<D>(draws.seed, counters, static_cast<uint32_t>(pair), stream_pairs, words);
    }
    D x = splat<D>(block.fixed != nullptr ? block.fixed[d] : 0);
    if (block.fixed == nullptr) {
      reading<D>(numbers, r, [&](auto read) __attribute__((always_inline)) { x = read(d); });
    }
    body(d, StudentOf<D>(block, x), words + f % 2 * 2);
  }
}

// w = log u / nu of the first word of a draw.
template <class D>
PENSTOCK_INLINE D student_exponent(Bits<D> word, D nu) {
  const Bits<D> high = (Bits<D>)(word >> 1) & 0x7FFFFFFF;
  return log<D>((number<D>(high) + splat<D>(0.5)) * splat<D>(1.0 / 2147483648.0)) / nu;
}

// The components of the rows from r on, of which there are `rows`: as given, or drawn by word 0 of block number `own`.
template <class D, class Mixture>
PENSTOCK_INLINE D components_of(const Mixture &mixture, int own, const TileDraws &draws, const int64_t *given, int r,
                                int rows) {
  D chosen{}, sum{};
  if (given != nullptr) {
    alignas(64) double numbers[lanes<D>];
    for (int i = 0; i < lanes<D>; i++) {
      numbers[i] = static_cast<double>(given[r + i < rows ? r + i : rows - 1]);
    }
    return load<D>(numbers);
  }
  if (mixture.K == 1) {
    return chosen;
  }
  const Counters<D> counters(draws.draw + r, draws.context_row + r);
  Bits<D> words[4];
  philox<D>(draws.seed, counters, static_cast<uint32_t>(own), stream_mixture, words);
  const D u = (number<D>(words[0]) + splat<D>(0.5)) * splat<D>(1.0 / 4294967296.0);
  for (int64_t k = 0; k + 1 < mixture.K; k++) {
    sum = sum + exp<D>(mixture.log_weight(k));
    chosen = select(u >= sum, splat<D>(static_cast<double>(k + 1)), chosen);
  }
  return chosen;
}

// Draws of a block; those of a mixture are made from the normals that stand in the state. given: components of its rows.
template <class D, class T>
PENSTOCK_FUNCTION void learned_draw(const BaseBlock &block, int own, const BlockNumbers<T> &numbers,
                                    const TileDraws &draws, const int64_t *given, int rows, int stride, T *state) {
  for (int r = 0; r < rows; r += lanes<D>) {
    const auto store_at = [&](int64_t d, D value)
                              __attribute__((always_inline)) { narrow<T>(state + block.dims[d] * stride + r, value); };
    if (block.kind == base_student_t) {
      each_student<D>(block, numbers, draws, r,
                      [&](int64_t d, const StudentOf<D> &of, const Bits<D> *words) __attribute__((always_inline)) {
                        D sine, cosine;
                        sincos_turn<D>(words[1], sine, cosine);
                        const D w = student_exponent<D>(words[0], of.nu);
                        // u^(-2 / nu) - 1 = (1 - e^2w) e^-2w
                        store_at(d, sqrt<D>(-of.nu * expm1<D>(w + w)) * exp<D>(-w) * cosine);
                      });
      continue;
    }
    reading<D>(numbers, r, [&](auto read) __attribute__((always_inline)) {
      const MixtureOf<D, decltype(read)> mixture(block, read);
      const D chosen = components_of<D>(mixture, own, draws, given, r, rows);
      if (given != nullptr && draws.log_weight != nullptr) {
        D weight = mixture.log_weight(0);
        for (int64_t k = 1; k < mixture.K; k++) {
          weight = select(chosen == splat<D>(static_cast<double>(k)), mixture.log_weight(k), weight);
        }
        store(draws.log_weight + r, load<D>(draws.log_weight + r) + weight);
      }
      for (int64_t d = 0; d < mixture.n; d++) {
        D m = mixture.mean(0, d), s = mixture.log_scale(0, d);
        for (int64_t k = 1; k < mixture.K; k++) {
          const auto this_one = chosen == splat<D>(static_cast<double>(k));
          m = select(this_one, mixture.mean(k, d), m);
          s = select(this_one, mixture.log_scale(k, d), s);
        }
        store_at(d, fma<D>(exp<D>(s), widened<D>(state + block.dims[d] * stride + r), m));
      }
    });
  }
}

// The way back of the draws z, n rows with the padding behind the last of `rows`: overwrites d_numbers (numbers, tile).
template <class D, class T>
PENSTOCK_FUNCTION void learned_draw_backward(const BaseBlock &block, int own, const BlockNumbers<T> &numbers,
                                             const TileDraws &draws, const int64_t *given, const T *z, const T *d_z,
                                             const T *d_log_weight, int rows, int n, T *d_numbers) {
  for (int r = 0; r < n; r += lanes<D>) {
    const auto at = [&](const T *tile, int64_t d)
                        __attribute__((always_inline)) { return widened<D>(tile + block.dims[d] * tile_stride + r); };
    const auto put = [&](int64_t i, D value)
                         __attribute__((always_inline)) { narrow<T>(d_numbers + i * tile_stride + r, value); };
    const D one = splat<D>(1), none{};
    if (block.kind == base_student_t) {
      each_student<D>(block, numbers, draws, r,
                      [&](int64_t d, const StudentOf<D> &of, const Bits<D> *words) __attribute__((always_inline)) {
                        const D w = student_exponent<D>(words[0], of.nu), twice = w + w;
                        put(d, at(d_z, d) * of.inside * splat<D>(0.5) * at(z, d) * (one - twice / expm1<D>(twice)));
                      });
      continue;
    }
    reading<D>(numbers, r, [&](auto read) __attribute__((always_inline)) {
      const MixtureOf<D, decltype(read)> mixture(block, read);
      const D chosen = components_of<D>(mixture, own, draws, given, r, rows), along = widened<D>(d_log_weight + r);
      for (int64_t k = 0; k < mixture.K; k++) {
        const auto this_one = chosen == splat<D>(static_cast<double>(k));
        if (mixture.first > 0) {
          put(k, along * (select(this_one, one, none) - exp<D>(mixture.log_weight(k))));
        }
        for (int64_t d = 0; d < mixture.n; d++) {
          const D pull = at(d_z, d), away = at(z, d) - mixture.mean(k, d);
          put(mixture.first + k * mixture.n + d, select(this_one, pull, none));
          put(mixture.first + (mixture.K + k) * mixture.n + d, select(this_one, pull * away, none));
        }
      }
    });
  }
}

}  // namespace penstock::PENSTOCK_ISA
