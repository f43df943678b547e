"""Weights of a mixture that fit validation rows best, as far as these tell: expectation and maximisation on shares."""

from __future__ import annotations

import numpy as np

from penstock._typing import Array

ROUNDS = 2000
CLOSE = 1e-9  # a change of the weights that ends it
PSEUDO = 2.0  # rows that each member is worth before any is seen


def mixture_weights(shares: Array, weight: Array | None) -> Array:
    """The weights w, of which the sum is 1, that maximise ``sum_i v_i log sum_k w_k p_k(x_i) + a sum_k log w_k``.

    The second term is the logarithm of a Dirichlet density, with all its parameters ``1 + a``, as if each member had generated
    ``a = 2`` rows more. Few rows cannot tell that a member is worth nothing, so its weight is at least ``a / (N + a n)``, with
    n members and N rows. Weights of rows are scaled so that the sum of ``v_i`` is their effective number
    ``N = (sum v)^2 / sum v^2``.

    Dempster, Laird, Rubin, "Maximum likelihood from incomplete data via the EM algorithm" (1977): w_k becomes
    ``(a + sum_i v_i w_k p_k / sum_l w_l p_l) / (N + a n)``. The objective is concave, so that it goes to the one maximum.

    Parameters
    ----------
    shares : float64 array of shape (members, rows)
        ``p_k / sum_l p_l``, the shares where weights are equal. Rows in which they are no numbers, or all 0, do not count.
    weight : array of shape (rows,), optional
        Of the rows, at least 0.
    """
    counts = np.isfinite(shares).all(axis=0) & (shares.sum(axis=0) > 0)
    each = np.ones(shares.shape[1]) if weight is None else np.maximum(weight.astype(np.float64), 0)
    each, shares = each[counts], shares[:, counts]
    n = len(shares)
    found: Array = np.full(n, 1 / n)
    if not each.sum() > 0:
        return found
    each = each / each.max()
    each = each * (each.sum() / (each**2).sum())
    for _ in range(ROUNDS):
        terms = found[:, None] * shares
        new = PSEUDO + (each * (terms / terms.sum(axis=0))).sum(axis=1)
        new /= new.sum()
        change = np.abs(new - found).max()
        found = new
        if change < CLOSE:
            break
    return found
