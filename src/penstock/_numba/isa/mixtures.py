"""Log-densities of a mixture of flows, and the shares of its members, in float64.

    t_k = log w_k + log p_k,   m = max_k t_k,   s = sum_k e^(t_k - m)
    log p = m + log s,         r_k = e^(t_k - m) / s = d log p / d log p_k

Where m is -inf: log p = -inf, r_k = 0. Where a t_k is NaN, all are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock._numba.core.jit import entry
from penstock._numba.core.lanes import lanes, load, select, splat, store
from penstock._numba.core.math import exp, log
from penstock._numba.core.pointers import pointer


@entry
def mix(values: Any, stride: int, n: int, log_weights: Any, rows: int, log_p: Any) -> None:
    """Values (n, stride) are log p_k of rows, and become r_k; log_p (rows). Both have room for whole vectors."""
    values, log_p = pointer(values), pointer(log_p)
    for r in range(0, rows, lanes(log_p)):
        zero = splat(log_p, 0.0)
        m, lost = splat(log_p, -np.inf), zero
        for k in range(n):
            t = load(values, k * stride + r) + log_weights[k]
            m = select(t > m, t, m)
            lost = select(t != t, t, lost)
        start = select(m > -np.inf, select(m < np.inf, m, zero), zero)
        s = zero
        for k in range(n):
            e = exp(load(values, k * stride + r) + log_weights[k] - start)
            store(values, k * stride + r, e)
            s = s + e
        for k in range(n):
            share = load(values, k * stride + r) / s
            store(values, k * stride + r, select(m > -np.inf, share, zero) + lost)
        total = select(s > 0.0, s, splat(log_p, 1.0))  # of which there is a logarithm
        store(log_p, r, select(m < np.inf, m + log(total), m) + lost)
