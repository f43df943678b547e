"""From simulations to a posterior (NPE) or a likelihood (NLE): flows with supports, trained side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from penstock import _validate, _warn, columns
from penstock._typing import Array, Rng, RowsLike
from penstock._warn import TrainingWarning
from penstock.conditioners import MLP
from penstock.ensemble import Ensemble
from penstock.flow import Flow
from penstock.history import History
from penstock.recipes import EMBEDDED_FROM, RECIPES, WIDE_ABOVE
from penstock.sbi.ends import mixed, open_ends, within
from penstock.sbi.likelihood import Likelihood
from penstock.sbi.posterior import Posterior
from penstock.sbi.simulations import Simulations, simulations
from penstock.sbi.wrapped import PriorLike, as_prior
from penstock.support import SupportLike, resolved

MEMBERS = 4
RECIPE = "nsf_ar"
FEW = 30_000  # Up to so many simulations a smaller network reads x than that of recipes,
EMBEDDING = MLP((64,))
EMBEDDING_DIM = 16  # and gives so many numbers.
# A second fit of so many times the epochs, where the first was still learning: in its last quarter the validation loss has fallen
# by more than so many nats. Not where an option says how long a fit is, or belongs to one fit alone.
LONGER = 2.5
LEARNING = 0.02
OF_ONE_FIT = frozenset({"epochs", "schedule", "patience", "callbacks", "checkpoint", "comm"})


def npe(
    theta: RowsLike,
    x: RowsLike,
    *,
    prior: PriorLike,
    support: SupportLike | None = None,
    ensemble: int = MEMBERS,
    recipe: str | Callable[..., Any] = RECIPE,
    embedding: MLP | str | None = "auto",
    embedding_dim: int | None = None,
    rng: Rng = None,
    **options: Any,
) -> Posterior:
    """Neural posterior estimation: learn ``p(theta | x)`` from simulations whose parameters come from the prior.

    It minimises the mean of ``-log q(theta | x)`` over the simulations, with a flow q whose support is that of the prior.

    Parameters
    ----------
    theta : array of shape (rows, dim), or a table
        Parameters, drawn from the prior. Between two ends a column is learned as a line, on which those on an end come to lie a
        millionth within; one with more than 1 % of its rows there, as on a grid, is learned as a box, free at its ends.
    x : array of shape (rows, c), or a table
        What was simulated with each. Rows with NaN or infinity are left out, with a warning that counts them, and so are
        columns that are constant.
    prior : prior
        :class:`BoxUniform`, :class:`Normal`, :class:`Independent`; a frozen distribution of ``scipy.stats`` (of one parameter,
        ``multivariate_normal`` or ``multivariate_t``); a list of these, or a mapping of names to them; or an object of one's own
        with ``log_prob(theta)`` and ``sample(n)`` or ``sample(n, rng=generator)``.
    support : support, optional
        Where a prior of one's own is positive, as for :class:`penstock.Flow`. Without it draws with ``prior.log_prob`` of -inf
        are rejected, and ``log_prob`` is divided by the share of the others.
    ensemble : int, default 4
        How many flows are trained and mixed; 1 trains one.
    recipe : str or callable, default "nsf_ar"
        Name of a recipe, or a callable as they are: ``recipe(dim, context_dim=..., support=..., rng=...)``.
    embedding : MLP, "auto" or None, default "auto"
        A network between x and the flow, trained along. ``"auto"``: that of the recipe (none for fewer than 4 numbers of x,
        ``MLP((128,))`` up to 50, ``MLP((128, 64))`` above); but between 4 and 50, and up to 30 000 simulations, ``MLP((64,))``.
    embedding_dim : int, optional
        How many numbers it gives; by default 32, and 16 of the smallest.
    rng : seed or numpy Generator, optional
        What ``numpy.random.default_rng`` takes; decides everything.
    **options
        Those of :meth:`penstock.Flow.fit`, for each flow: ``epochs``, ``batch_size``, ``learning_rate``, ``validation``, ...
        Without ``epochs``, ``schedule``, ``patience``, ``callbacks``, ``checkpoint`` and ``comm``, and with validation rows, a
        fit at whose end some flow was still learning (its validation loss has fallen by more than 0.02 nats in the last quarter
        of the epochs) is followed by one of 2.5 times the epochs from the start, and of each flow that fit counts which
        validates better.

    Returns
    -------
    Posterior

    Raises
    ------
    ValueError, TypeError
        When shapes do not fit, parameters lie outside the prior, or no simulation is finite; the message names the argument.

    Warns
    -----
    DataWarning
        When simulations are not finite, or columns of x constant; and what ``fit`` warns of.

    References
    ----------
    Papamakarios, Murray, "Fast epsilon-free Inference of Simulation Models with Bayesian Conditional Density Estimation" (2016);
    Greenberg, Nonnenmacher, Macke, "Automatic Posterior Transformation for Likelihood-free Inference" (2019).

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> prior = ps.sbi.BoxUniform(-1, 1, dim=2)
    >>> theta = prior.sample(500, rng=0)
    >>> x = theta + 0.3 * np.random.default_rng(1).normal(size=theta.shape)
    >>> posterior = ps.npe(theta, x, prior=prior, ensemble=1, epochs=2, rng=0)
    >>> draws = posterior.sample(1000, [0.9, 0.0], rng=0)
    >>> draws.shape, bool((abs(draws) <= 1).all())
    ((1000, 2), True)
    """
    pairs, known, seeds = _prepared(theta, x, prior, support, rng)
    own: Any = known.support or None
    if support is None and own is not None:
        own = mixed(own, pairs.theta)
    n_context = len(pairs.observed.kept)
    if isinstance(recipe, str) and isinstance(embedding, str) and len(pairs.theta) <= FEW:
        _validate.choice(embedding, ("auto",), name="embedding")
        if EMBEDDED_FROM <= n_context <= WIDE_ABOVE:
            embedding, embedding_dim = EMBEDDING, EMBEDDING_DIM if embedding_dim is None else embedding_dim
    build = _recipe(recipe, known.dim, n_context, own, {"embedding": embedding, "embedding_dim": embedding_dim})
    ends = open_ends(own or (), _built(build, ensemble, seeds[0]).dtype, pairs.theta)
    observed = pairs.observed
    rows = _table(within(pairs.theta, ends, known), pairs.names)
    given = _table(observed.select(pairs.x), observed.kept_names)
    options = _options(options, pairs, "validation_context")
    held_out = options.get("validation")
    if not (held_out is None or isinstance(held_out, (str, int, float, np.number))):
        table = columns.matched(held_out, pairs.names, known.dim, name="validation", attribute="names")
        held_out = within(_validate.as_rows(table.values, known.dim, name="validation"), ends, known)
        options["validation"] = _table(held_out, pairs.names)
    trained = _trained(partial(_built, build, ensemble, seeds[0]), rows, given, seeds[1], options)
    return Posterior(trained, known, observed, seed=seeds[2])


def nle(
    theta: RowsLike,
    x: RowsLike,
    *,
    prior: PriorLike,
    support: SupportLike | None = None,
    x_support: SupportLike | None = None,
    ensemble: int = MEMBERS,
    recipe: str | Callable[..., Any] = RECIPE,
    rng: Rng = None,
    **options: Any,
) -> Likelihood:
    """Neural likelihood estimation: learn ``p(x | theta)`` from simulations, whatever their parameters were drawn from.

    Parameters
    ----------
    theta, x, prior, support, ensemble, recipe, rng
        As for :func:`npe`. The flow is one of x given theta.
    x_support : support, optional
        Where the columns of x lie, as for :class:`penstock.Flow`.
    **options
        As for :func:`npe`; ``dequantize="auto"`` where x has counts.

    Returns
    -------
    Likelihood
        With ``log_likelihood(theta, x)``, ``potential(x)`` for samplers, and ``sample(n, x)`` by emcee.

    References
    ----------
    Papamakarios, Sterratt, Murray, "Sequential Neural Likelihood" (2019).

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> prior = ps.sbi.BoxUniform(-1, 1, dim=2)
    >>> theta = prior.sample(500, rng=0)
    >>> x = theta + 0.3 * np.random.default_rng(1).normal(size=theta.shape)
    >>> likelihood = ps.nle(theta, x, prior=prior, ensemble=1, epochs=2, rng=0)
    >>> potential = likelihood.potential([0.2, 0.0])
    >>> potential([[0.0, 0.0], [0.0, 1.5]])[1]
    np.float64(-inf)
    """
    pairs, known, seeds = _prepared(theta, x, prior, support, rng)
    observed = pairs.observed
    own, _ = resolved(x_support, observed.dim)
    if own and len(observed.kept) < observed.dim:
        raise ValueError("x_support is for all columns of x, and some are constant: leave those out of x")
    build = _recipe(recipe, len(observed.kept), known.dim, own or None, {})
    rows, given = _table(observed.select(pairs.x), observed.kept_names), _table(pairs.theta, pairs.names)
    options = _options(options, pairs, "validation")
    trained = _trained(partial(_built, build, ensemble, seeds[0]), rows, given, seeds[1], options)
    return Likelihood(trained, known, observed)


# --- inside -------------------------------------------------------------------------------------------------------


def _prepared(theta: Any, x: Any, prior: Any, support: Any, rng: Rng) -> tuple[Simulations, Any, list[int]]:
    """Checked simulations, their prior, and seeds of structure, of training and of estimates."""
    seed = _validate.seed(rng)
    # A prior of one's own need not say how many parameters it has.
    shape: tuple[int, ...] = theta.shape if isinstance(theta, np.ndarray) else ()
    known = as_prior(prior, support, shape[1] if len(shape) == 2 else None)
    seeds = [int(np.random.default_rng([seed, k]).integers(2**63)) for k in range(3)]
    return simulations(theta, x, known), known, seeds


def _recipe(recipe: Any, dim: int, context_dim: int, support: Any, network: Mapping[str, Any]) -> Callable[..., Any]:
    """What builds a flow from a seed. What is said of the ``network`` that reads the context goes to the recipe."""
    if isinstance(recipe, str):
        recipe = RECIPES[_validate.choice(recipe, tuple(RECIPES), name="recipe")]
    elif not callable(recipe):
        raise TypeError(f"recipe must be the name of one or a callable as ps.nsf_ar is, got {type(recipe).__name__}")
    options: dict[str, Any] = {"context_dim": context_dim}
    if support is not None:
        options["support"] = support
    # A callable need not know of networks, and so is told of one only where the caller asks for it.
    said = {"embedding": "auto", "embedding_dim": None}
    return partial(recipe, dim, **options, **{k: value for k, value in network.items() if value != said[k]})


def _table(rows: Array, names: tuple[str, ...]) -> Any:
    """Rows with the names of their columns, if they have some."""
    return dict(zip(names, rows.T, strict=True)) if names else rows


def _options(options: Mapping[str, Any], pairs: Simulations, of_x: str) -> dict[str, Any]:
    """Options of ``fit``, those with a number for each simulation cut to the ones used."""
    found = dict(options)
    for name in ("X", "context"):
        if name in found:
            raise TypeError(f"npe and nle have no argument {name}: rows and context of the flow are theta and x")
    weight = found.get("sample_weight")
    if weight is not None and pairs.used is not None:
        found["sample_weight"] = _validate.as_weights(weight, len(pairs.used), name="sample_weight")[pairs.used]
    held_out = found.get(of_x)
    if held_out is not None and np.ndim(held_out):
        found[of_x] = pairs.observed.read(held_out, name=of_x, axes=(2,))
    return found


def _trained(build: Callable[[], Any], rows: Any, given: Any, seed: int, options: Mapping[str, Any]) -> Any:
    """A fitted model, and of each of its flows the better of two: from a fit, and from one for longer with the same seeds.

    How long a fit should be depends on what there is to learn: a longer one spends more of its steps at high rates, at which
    networks learn few simulations by heart. So the first fit tells whether these can bear more epochs.
    """
    from penstock.training import TrainingError

    first, told = _fitted(build(), rows, given, seed, options)
    histories = _histories(first)
    done = [own for own in histories if _learning(own)]
    unknown = any(own.stopped == "interrupted" or math.isnan(own.best_loss) for own in histories)
    again = build() if done and not unknown and not options.keys() & OF_ONE_FIT else first
    if again is first:  # so is a flow of the caller's, which a recipe gives each time
        return _with_warnings(first, told)
    of_data = [one for one in told if not issubclass(one.category, TrainingWarning)]  # which both have
    told = [one for one in told if one not in of_data]
    _with_warnings(first, of_data)
    epochs = round(LONGER * max(len(own) - own.restarted for own in done))
    try:
        longer, told_then = _fitted(again, rows, given, seed, {**options, "epochs": epochs})
    except (TrainingError, KeyboardInterrupt) as error:
        _warn.warn(
            f"a second fit, of {epochs} epochs, came to nothing ({error!r}): the first one counts", TrainingWarning
        )
        return _with_warnings(first, told)
    # With the same seeds validation rows are the same.
    better = [new.best_loss < own.best_loss for new, own in zip(_histories(longer), histories, strict=True)]
    if isinstance(first, Ensemble) and isinstance(longer, Ensemble):
        common, common_then = first.history.validation_loss, longer.history.validation_loss
        if math.isfinite(common):  # the rows that fitted the weights, too
            better = [common_then < common] * len(better)
    _with_warnings(first, [one for one in told if not better[one.member or 0]])
    told_then = [one for one in told_then if issubclass(one.category, TrainingWarning) and better[one.member or 0]]
    _with_warnings(longer, told_then)
    if not all(better) and any(own.stopped == "interrupted" for own in _histories(longer)):
        _warn.warn("a second, longer fit was interrupted: each flow keeps the better of both", TrainingWarning)
    if len(set(better)) == 1 or isinstance(first, Flow) or isinstance(longer, Flow):
        return longer if better[0] else first
    flows = zip(better, first.members, longer.members, strict=True)
    return Ensemble([new if chosen else old for chosen, old, new in flows])


def _fitted(
    model: Any, rows: Any, given: Any, seed: int, options: Mapping[str, Any]
) -> tuple[Flow | Ensemble, list[_warn.Told]]:
    """A model, fitted, and what it warns of."""
    told: list[_warn.Told] = []
    try:
        with _warn.told_to(told.append):
            return model.fit(rows, given, rng=seed, **options), told
    except BaseException:
        _with_warnings(model, told)
        raise


def _with_warnings(model: Any, told: Iterable[_warn.Told]) -> Any:
    """The model, once it is said what it warns of."""
    for one in told:
        _warn.issue(one)
    return model


def _learning(own: History) -> bool:
    """Whether a fit has ended before there was nothing more to learn."""
    losses = own.validation_loss[own.restarted :]
    quarter = len(losses) // 4
    return own.stopped == "completed" and quarter > 0 and losses[-1 - quarter] - losses[-1] > LEARNING


def _histories(model: Flow | Ensemble) -> list[History]:
    """Of each flow."""
    return [model.history] if isinstance(model, Flow) else model.history.members


def _built(build: Callable[..., Any], ensemble: int, seed: int) -> Any:
    """One flow, or an ensemble of them."""
    members = _validate.positive_int(ensemble, name="ensemble")
    return Ensemble(build, members, rng=seed) if members > 1 else build(rng=seed)
