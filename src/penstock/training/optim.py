"""Adam and AdamW for loops of one's own. The step itself is the engine's."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from penstock._typing import Array, ArrayLike
from penstock._validate import as_gradient, decay_rates, non_negative_number, positive_number
from penstock.runner import Runner


class Trainable(Protocol):
    """What an optimiser needs of a flow."""

    params: Array

    def _runner(self) -> Runner:
        """What takes the step."""
        ...


class Adam:
    """The Adam optimiser, for a loop of one's own.

    Parameters
    ----------
    learning_rate : float, default 1e-3
        May be changed between steps, by assigning to the attribute.
    betas : (float, float), default (0.9, 0.999)
        Decay rates of the running means of the gradient and of its square.
    epsilon : float, default 1e-8
        Keeps the division finite.
    weight_decay : float, default 0.0
        Strength of an L2 penalty, added to the gradient. It touches the weight matrices of
        conditioners and nothing else.

    References
    ----------
    Kingma, Ba, "Adam: A Method for Stochastic Optimization" (2015).

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> X = np.random.default_rng(0).normal(size=(1000, 2))
    >>> flow = ps.realnvp(2, rng=0)
    >>> optimiser = ps.Adam(learning_rate=1e-3)
    >>> for _ in range(10):
    ...     loss_sum, weight_sum, grad = flow.loss_and_grad(X)
    ...     optimiser.step(flow, grad / weight_sum)
    """

    _decoupled = False

    def __init__(
        self,
        learning_rate: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.learning_rate = positive_number(learning_rate, name="learning_rate")
        self.betas = decay_rates(betas, name="betas")
        self.epsilon = positive_number(epsilon, name="epsilon")
        self.weight_decay = non_negative_number(weight_decay, name="weight_decay")
        self.steps = 0
        self._moments: tuple[Array, Array] | None = None

    def step(self, flow: Trainable, grad: ArrayLike) -> None:
        """Move the parameters of ``flow`` once, against ``grad``.

        Parameters
        ----------
        flow : Flow
            The flow to change, the same one at every step.
        grad : array of shape (n_params,)
            Gradient of the loss with respect to ``flow.params``. A mean over rows
            (``grad / weight_sum``) keeps the meaning of ``epsilon`` and ``weight_decay`` free of the batch size.

        Raises
        ------
        ValueError
            When ``grad`` is not finite, or the parameters would not be. Flow and optimiser are then unchanged.

        Examples
        --------
        >>> import penstock as ps
        >>> flow, optimiser = ps.realnvp(2, rng=0), ps.Adam(1e-2)
        >>> loss_sum, weight_sum, grad = flow.loss_and_grad([[0.5, 2.0], [1.0, -1.0]])
        >>> optimiser.step(flow, grad / weight_sum)
        >>> flow.loss_and_grad([[0.5, 2.0], [1.0, -1.0]])[0] < loss_sum
        True
        """
        gradient = as_gradient(grad, len(flow.params), name="grad")
        params = flow.params.copy()
        # On copies, so that a step that fails has not moved the optimiser either.
        if self._moments is None:
            first, second = np.zeros_like(params), np.zeros_like(params)
        else:
            first, second = self._moments[0].copy(), self._moments[1].copy()
        if first.shape != params.shape or first.dtype != params.dtype:
            raise ValueError(f"this {type(self).__name__} belongs to another flow; make a new one")
        rate = positive_number(self.learning_rate, name="learning_rate")
        flow._runner().adam(
            params, gradient, first, second, self.steps + 1, rate, self.betas, self.epsilon, self.weight_decay,
            self._decoupled,
        )  # fmt: skip
        if not np.isfinite(params).all():
            bad = int(np.argmin(np.isfinite(params)))
            raise ValueError(
                f"this step would make params[{bad}] {params[bad]} (its grad is {gradient[bad]:.3g}, the learning_rate "
                f"{rate:.3g}); neither the flow nor the optimiser was changed"
            )
        flow.params = params
        self._moments = (first, second)
        self.steps += 1

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(learning_rate={self.learning_rate}, betas={self.betas}, "
            f"epsilon={self.epsilon}, weight_decay={self.weight_decay})"
        )


class AdamW(Adam):
    """Adam with decoupled weight decay: apart from the gradient, weights shrink by ``learning_rate * weight_decay``.

    Parameters
    ----------
    learning_rate, betas, epsilon
        As for :class:`Adam`.
    weight_decay : float, default 0.01
        Strength of the decay of the weight matrices of conditioners.

    References
    ----------
    Loshchilov, Hutter, "Decoupled Weight Decay Regularization" (2019).

    Examples
    --------
    >>> import penstock as ps
    >>> ps.AdamW(1e-3)
    AdamW(learning_rate=0.001, betas=(0.9, 0.999), epsilon=1e-08, weight_decay=0.01)
    """

    _decoupled = True

    def __init__(
        self,
        learning_rate: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(learning_rate, betas=betas, epsilon=epsilon, weight_decay=weight_decay)
