"""The classifier two-sample test: how often a classifier tells rows from draws. Needs scikit-learn."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock import _validate
from penstock._typing import Array, ArrayLike, Rng, RowsLike
from penstock.diagnostics import drawing
from penstock.diagnostics.statistics import pm
from penstock.diagnostics.subject import Model, Subject

MOST_ITERATIONS = 10_000
ALONE = {"blas": 1, "openmp": 1}  # samples this small gain nothing from threads, which then wait for each other


@dataclass(frozen=True)
class C2ST:
    """How often a classifier, judged on rows that it was not trained on, tells rows from draws.

    Attributes
    ----------
    accuracy, error : float
        0.5 for a perfect model. The error is the larger of two: that of a mean over independent answers, and that of the mean
        over folds by their scatter.
    folds : array of shape (folds,)
        The accuracy of each.
    rows : int
        Of either kind.
    classifier : str
    """

    accuracy: float
    error: float
    folds: Array
    rows: int
    classifier: str

    @property
    def passed(self) -> bool:
        """Whether the accuracy is within 2.6 standard errors above one half."""
        return self.accuracy < 0.5 + 2.6 * self.error

    def __str__(self) -> str:
        words = "cannot tell draws from rows" if self.passed else "tells draws from rows"
        return f"C2ST: {pm(self.accuracy, self.error)} (right: 0.5): a classifier {words}, {self.rows} of either"

    def plot(self, ax: Any = None) -> Any:
        """The accuracy of each fold, and their mean with its error; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default those of a new figure.

        Returns
        -------
        matplotlib Axes
        """
        ax = drawing.axes(ax)
        places = np.arange(1, len(self.folds) + 1)
        ax.axhspan(self.accuracy - self.error, self.accuracy + self.error, color=drawing.BAND, lw=0)
        ax.axhline(self.accuracy, color=drawing.MODEL, lw=1.2, label=f"mean {pm(self.accuracy, self.error)}")
        ax.axhline(0.5, color=drawing.DATA, lw=0.8, ls="--", label="guessing")
        ax.plot(places, self.folds, "o", color=drawing.MODEL)
        ax.set(xlabel="fold", ylabel="accuracy of the classifier", xticks=places)
        ax.set_ylim(min(0.45, *self.folds) - 0.01, max(0.55, *self.folds) + 0.02)
        ax.legend(frameon=False, fontsize="small")
        return ax


def c2st(
    model: Model,
    X: RowsLike,
    context: RowsLike | None = None,
    *,
    classifier: Any = "mlp",
    folds: int = 5,
    rng: Rng = None,
) -> C2ST:
    """Train a classifier to tell the rows from as many draws, and say how often it is right on those it did not see.

    With a context the draws are given those of the rows, the classifier sees rows and contexts, and row and draw of a context
    are in the same fold: were they not, it would know the answer to one from the other.

    Parameters
    ----------
    model, X, context, rng
        As for :func:`pit`.
    classifier : {"mlp", "trees"} or an estimator of scikit-learn, default "mlp"
        ``"mlp"`` is that of the definition of Lueckmann et al.: two hidden layers of 10 units for each column, relu, Adam,
        columns scaled by mean and standard deviation of the rows. ``"trees"``, boosted ones, are quicker on many rows.
    folds : int, default 5

    Returns
    -------
    C2ST

    Raises
    ------
    ImportError
        When scikit-learn is not installed.

    References
    ----------
    Lopez-Paz, Oquab, "Revisiting Classifier Two-Sample Tests" (2017); Lueckmann, Boelts, Greenberg, Goncalves, Macke,
    "Benchmarking Simulation-Based Inference" (2021), appendix on metrics, for the definition.

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> X = np.random.default_rng(0).normal(size=(600, 2)) + 1.0
    >>> found = ps.diagnostics.c2st(ps.realnvp(2, rng=0), X, rng=0)  # at best Phi(1 / sqrt(2)) = 0.76
    >>> bool(abs(found.accuracy - 0.76) < 4 * found.error)
    True
    """
    subject = Subject(model, X, context, rng=rng, fewest=10)
    return c2st_of(subject, classifier, folds)


def c2st_of(subject: Subject, classifier: Any = "mlp", folds: int = 5) -> C2ST:
    """``c2st`` of what is checked already."""
    given = subject.contexts
    if given is not None:
        x = [np.column_stack([_flat(values, subject), given]) for values in (subject.X, subject.paired())]
    else:
        x = [_flat(values, subject) for values in (subject.X, subject.common(subject.rows))]
    seed = int(subject.generator(6).integers(1 << 31))
    return _judged(x[0], x[1], classifier, folds, seed, paired=subject.conditional)


def c2st_samples(P: ArrayLike, Q: ArrayLike, *, classifier: Any = "mlp", folds: int = 5, rng: Rng = None) -> C2ST:
    """The same of two samples: of reference draws ``P`` and of draws ``Q`` of a model.

    Parameters
    ----------
    P, Q : arrays of shape (rows, dim)
        As many of either: of the longer one the first rows are taken.
    classifier, folds, rng
        As for :func:`c2st`.

    Returns
    -------
    C2ST

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> P, Q = np.random.default_rng(0).normal(size=(2, 500, 2))
    >>> ps.diagnostics.c2st_samples(P, Q, rng=0).passed
    True
    """
    first = _validate.reals(P, name="P")
    if first.ndim != 2:
        raise ValueError(f"P must have shape (rows, dim), got {first.shape}")
    second = _validate.as_rows(Q, first.shape[1], name="Q")
    for values, name in ((first, "P"), (second, "Q")):
        _validate.all_finite(values, name=name)
    n = min(len(first), len(second))
    if n < 10:
        raise ValueError(f"P and Q must hold at least 10 rows, got {n}")
    seed = _validate.seed(rng) % (1 << 31)
    return _judged(first[:n].astype(float), second[:n].astype(float), classifier, folds, seed, paired=False)


def _flat(values: Array, subject: Subject) -> Array:
    """Columns for a classifier: of circles the cosine and the sine, so that it sees no seam."""
    parts = []
    for j, period in enumerate(subject.periods):
        turn = 2 * np.pi * values[:, j] / period
        parts += [values[:, j]] if np.isinf(period) else [np.cos(turn), np.sin(turn)]
    return np.column_stack(parts)


def _judged(x: Array, y: Array, classifier: Any, folds: Any, seed: int, *, paired: bool) -> C2ST:
    """The accuracy by cross-validation; where rows are in pairs, both of one are in the same fold."""
    try:
        from sklearn.base import clone
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise ImportError("c2st needs scikit-learn: pip install 'penstock[diagnostics]'") from None
    folds = _validate.positive_int(folds, name="folds")
    if not 2 <= folds <= len(x) // 2:
        raise ValueError(f"folds must lie between 2 and {len(x) // 2}, half of the rows, got {folds}")
    estimator, name = _classifier(classifier, x.shape[1], seed)
    scale = x.std(axis=0)
    scale[scale == 0] = 1.0
    rows, label = (np.concatenate([x, y]) - x.mean(axis=0)) / scale, np.repeat([0, 1], len(x))
    generator = np.random.default_rng(seed)
    if paired:
        order = generator.permutation(len(x))
        parts = [np.concatenate([part, part + len(x)]) for part in np.array_split(order, folds)]
    else:
        parts = np.array_split(generator.permutation(2 * len(x)), folds)
    right = np.zeros(2 * len(x))
    for part in parts:
        rest = np.ones(2 * len(x), bool)
        rest[part] = False
        with warnings.catch_warnings(), threadpool_limits(ALONE):
            warnings.simplefilter("ignore")  # of an optimiser short of convergence, which is judged like others
            fitted = clone(estimator).fit(rows[rest], label[rest])
        right[part] = fitted.predict(rows[part]) == label[part]
    each = np.array([right[part].mean() for part in parts])
    answers = right[: len(x)] / 2 + right[len(x) :] / 2 if paired else right
    independent = math.sqrt(max(answers.var(), 0.25 / len(answers) / 4) / len(answers))
    error = max(independent, float(each.std(ddof=1)) / math.sqrt(folds))
    return C2ST(float(right.mean()), error, each, len(x), name)


def _classifier(classifier: Any, width: int, seed: int) -> tuple[Any, str]:
    if not isinstance(classifier, str):
        if not (hasattr(classifier, "fit") and hasattr(classifier, "predict")):
            raise TypeError(f"classifier must be 'mlp', 'trees' or an estimator of scikit-learn, got {classifier!r}")
        return classifier, type(classifier).__name__
    _validate.choice(classifier, ("mlp", "trees"), name="classifier")
    if classifier == "mlp":
        from sklearn.neural_network import MLPClassifier

        units = (10 * width, 10 * width)
        return MLPClassifier(
            activation="relu", hidden_layer_sizes=units, max_iter=MOST_ITERATIONS, solver="adam", random_state=seed
        ), "mlp"  # fmt: skip
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, random_state=seed), "trees"
