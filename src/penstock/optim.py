"""Adam and AdamW for loops of one's own, and the schedules of ``fit``. The step itself is the engine's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from penstock._validate import choice, positive_int, positive_number

if TYPE_CHECKING:
    from penstock.flow import Flow

Array = np.ndarray[Any, Any]

SCHEDULES = ("cosine", "onecycle", "constant", "plateau")
# These fall to zero over the whole run, so that stopping early would starve them.
FALLING = ("cosine", "onecycle")
# The part of a run over which the rate rises.
WARMUP = {"cosine": 0.1, "onecycle": 0.3, "constant": 0.1, "plateau": 0.1}


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
        self.betas = unit_pair(betas)
        self.epsilon = positive_number(epsilon, name="epsilon")
        self.weight_decay = non_negative(weight_decay, name="weight_decay")
        self.steps = 0
        self._moments: tuple[Array, Array] | None = None

    def step(self, flow: Flow, grad: Any) -> None:
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
        """
        gradient = np.array(grad, dtype=np.float64)
        if gradient.shape != (flow.n_params,):
            raise ValueError(f"grad must have shape ({flow.n_params},), got {gradient.shape}")
        if not np.isfinite(gradient).all():
            bad = int(np.flatnonzero(~np.isfinite(gradient))[0])
            raise ValueError(f"grad must be finite, but grad[{bad}] is {gradient[bad]}; the flow was not changed")
        params = flow.params.copy()
        # On copies, so that a step that fails has not moved the optimiser either.
        if self._moments is None:
            first, second = np.zeros_like(params), np.zeros_like(params)
        else:
            first, second = self._moments[0].copy(), self._moments[1].copy()
        if first.shape != params.shape or first.dtype != params.dtype:
            raise ValueError(f"this {type(self).__name__} belongs to another flow; make a new one")
        rate = positive_number(self.learning_rate, name="learning_rate")
        flow.engine.adam(
            params, gradient, first, second, self.steps + 1, rate, *self.betas, self.epsilon, self.weight_decay,
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


class Schedule:
    """Learning rates of a whole training run of ``n_steps``, of which the first ``warmup`` rise to ``peak``.

    ============  =================================================  ===========================================
    kind          step ``t`` of the warm-up                          afterwards, ``u = (t - warmup) / (n_steps - warmup)``
    ============  =================================================  ===========================================
    ``cosine``    ``peak (t + 1) / warmup``                          ``peak (1 + cos(pi u)) / 2``
    ``onecycle``  ``low + (peak - low) (1 - cos(pi t / warmup)) / 2``  the same
    ``constant``  as cosine                                          ``peak``
    ``plateau``   as cosine                                          ``peak``, less after each plateau
    ============  =================================================  ===========================================

    with ``low = peak / 25``. ``rates`` gives the rates of the next steps; ``observe`` tells a plateau schedule whether
    an epoch improved.

    References
    ----------
    Loshchilov, Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017), for the half cosine.
    Smith, "A disciplined approach to neural network hyper-parameters: Part 1" (2018), and Smith, Topin,
    "Super-Convergence" (2019), for one cycle: up and then down over the whole budget. Their momentum, which goes the
    other way, is left alone here: Adam's is constant.
    """

    # A plateau schedule multiplies its rate by this after half of its patience without improvement.
    FACTOR = 0.3
    # One cycle begins at this part of its highest rate.
    LOW = 1 / 25

    def __init__(self, kind: str, learning_rate: float, warmup: int, n_steps: int, patience: int | None) -> None:
        self.kind = choice(kind, SCHEDULES, name="schedule")
        self.learning_rate = learning_rate
        self.warmup = warmup
        self.n_steps = n_steps
        self.patience = patience
        self._factor = 1.0
        self._since_best = 0
        self._since_drop = 0

    def rates(self, first: int, count: int) -> Array:
        """Learning rates of steps ``first`` to ``first + count - 1``, counted from 0."""
        step = np.arange(first, first + count, dtype=np.float64)
        rates = np.full(count, self.learning_rate * self._factor)
        if self.kind in FALLING:
            progress = (step - self.warmup) / max(self.n_steps - self.warmup, 1)
            rates *= 0.5 * (1.0 + np.cos(np.pi * np.clip(progress, 0.0, 1.0)))
        if self.warmup:
            if self.kind == "onecycle":
                rise = 0.5 * (1.0 - np.cos(np.pi * np.minimum(1.0, step / self.warmup)))
                rates *= self.LOW + (1.0 - self.LOW) * rise
            else:
                rates *= np.minimum(1.0, (step + 1.0) / self.warmup)
        return rates

    def observe(self, improved: bool) -> bool:
        """Note one epoch; True means that patience has run out."""
        self._since_best = 0 if improved else self._since_best + 1
        self._since_drop = 0 if improved else self._since_drop + 1
        if self.patience is None:
            return False
        if self.kind == "plateau" and self._since_drop >= max(1, self.patience // 2):
            self._factor *= self.FACTOR
            self._since_drop = 0
        return self._since_best >= self.patience


def warmup_steps(warmup: Any, schedule: str, n_steps: int) -> int:
    """``warmup`` in steps: an int counts them, a float below 1 is a fraction of the run, None is the schedule's own."""
    if warmup is None:
        warmup = WARMUP[choice(schedule, SCHEDULES, name="schedule")]
    if isinstance(warmup, (int, np.integer)) and not isinstance(warmup, bool):
        return 0 if warmup == 0 else positive_int(warmup, name="warmup")
    fraction = non_negative(warmup, name="warmup")
    if fraction >= 1:
        raise ValueError(f"warmup must be an int (steps) or a float below 1 (a fraction of all steps), got {warmup}")
    return round(fraction * n_steps)


def non_negative(value: Any, *, name: str) -> float:
    """``value`` as a finite float of at least zero."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}") from None
    if not 0 <= number < float("inf"):
        raise ValueError(f"{name} must be a finite number of at least 0, got {number}")
    return number


def unit_pair(betas: Any) -> tuple[float, float]:
    """Two decay rates in [0, 1)."""
    try:
        first, second = (float(beta) for beta in betas)
    except (TypeError, ValueError):
        raise ValueError(f"betas must be two numbers, got {betas!r}") from None
    if not (0 <= first < 1 and 0 <= second < 1):
        raise ValueError(f"betas must lie in [0, 1), got {betas!r}")
    return first, second
