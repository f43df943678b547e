// Log-densities of a mixture of flows, and the shares of its members, in float64.
//   t_k = log w_k + log p_k,   m = max_k t_k,   s = sum_k e^(t_k - m)
//   log p = m + log s,         r_k = e^(t_k - m) / s = d log p / d log p_k
// Where m is -inf: log p = -inf, r_k = 0. Where a t_k is NaN, all are.
#pragma once

#include "core/math.hpp"

namespace penstock::PENSTOCK_ISA {

// values (n, stride) are log p_k of rows, and become r_k; log_p (rows). Both have room for whole vectors.
template <class D>
PENSTOCK_FUNCTION void mix(double *values, int64_t stride, int64_t n, const double *log_weights, int64_t rows,
                           double *log_p) {
  const D none = splat<D>(-__builtin_inf()), every = splat<D>(__builtin_inf());
  for (int64_t r = 0; r < rows; r += lanes<D>) {
    D m = none, lost{};
    for (int64_t k = 0; k < n; k++) {
      const D t = load<D>(values + k * stride + r) + splat<D>(log_weights[k]);
      m = select(t > m, t, m);
      lost = select(t != t, t, lost);
    }
    const D from = select(m > none, select(m < every, m, D{}), D{});
    D s{};
    for (int64_t k = 0; k < n; k++) {
      const D e = exp<D>(load<D>(values + k * stride + r) + splat<D>(log_weights[k]) - from);
      store(values + k * stride + r, e);
      s = s + e;
    }
    for (int64_t k = 0; k < n; k++) {
      const D share = load<D>(values + k * stride + r) / s;
      store(values + k * stride + r, select(m > none, share, D{}) + lost);
    }
    const D sum = select(s > D{}, s, splat<D>(1));  // of which there is a logarithm
    store(log_p + r, select(m < every, m + log<D>(sum), m) + lost);
  }
}

}  // namespace penstock::PENSTOCK_ISA
