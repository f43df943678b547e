"""Recipes: well-known flows, put together from layers. A recipe does nothing that composing by hand cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from penstock import _validate
from penstock import support as supports
from penstock._typing import DTypeLike, Rng
from penstock._warn import ModelWarning, warn
from penstock.base import BASES, AnyBase, Product, StandardNormal, blocks
from penstock.conditioners import MLP
from penstock.flow import Flow
from penstock.layers import ActNorm, Autoregressive, Coupling, Elementwise, Layer, LULinear, Permutation
from penstock.support import SupportLike
from penstock.transforms import Additive, Affine, RationalQuadratic, Transform, of_kind

# A context of so many numbers, or more, is read by one network for all conditioners,
EMBEDDED_FROM = 4
EMBEDDING = MLP((128,))
WIDE_ABOVE = 50  # and one of more by a deeper one,
EMBEDDING_WIDE = MLP((128, 64))
EMBEDDING_DIM = 32  # and they read so many numbers of it.
MIXINGS = ("none", "reverse", "random", "lu")


def realnvp(
    dim: int,
    *,
    context_dim: int = 0,
    layers: int = 8,
    hidden: int | Sequence[int] = (64, 64),
    activation: str = "tanh",
    mixing: str | None = "lu",
    scale_bound: float = 3.0,
    residual: bool = False,
    base: AnyBase | None = None,
    base_context: int | Sequence[int] | None = None,
    embedding: MLP | str | None = "auto",
    embedding_dim: int | None = None,
    support: SupportLike | None = None,
    context_support: SupportLike | None = None,
    dtype: DTypeLike = "float32",
    rng: Rng = None,
    backend: str = "auto",
) -> Flow:
    """Real NVP: affine couplings.

    Parameters
    ----------
    dim : int
        Number of dimensions. With one there is nothing to couple: the flow is then a Gaussian, and a warning says so.
    context_dim : int, default 0
        Number of conditioning variables, which every conditioner reads.
    layers : int, default 8
        Number of couplings.
    hidden : int or sequence of int, default (64, 64)
        Widths of the hidden layers of each conditioner.
    activation : {"relu", "tanh", "silu", "gelu", "leaky_relu"}, default "tanh"
        Bounded networks (tanh) go on evenly outside the data; the others bend the density of rows far out, and learn
        tables with outliers much worse. relu is the fastest: it takes about 0.6 of the time.
    mixing : {"lu", "random", "reverse", "none"} or None, default "lu"
        What stands between the couplings. ``"lu"``: an :class:`LULinear` after each pair, which starts as a
        random permutation, and in a pair either half is transformed once. ``"random"``: that permutation alone, which
        stays as it is. ``"reverse"``: a reversal after each coupling. None or ``"none"``: nothing; the
        couplings transform the two halves in turns.
    scale_bound : float, default 3.0
        Largest absolute log-scale of one coupling.
    residual : bool, default False
        Conditioners with skip connections.
    base : StandardNormal, Normal, Uniform, StudentT, GaussianMixture or Product, optional
        The density of the latent side, on the dimensions that are lines; by default a standard normal.
    base_context : int or sequence of int, optional
        Let the base depend on the context: widths of the hidden layers of a network of its own. Of a standard normal it maps
        the context to a shift and a scale of each latent dimension, of another one to what that has learned otherwise.
    embedding : MLP, "auto" or None, default "auto"
        A network between the context and all conditioners, trained with the flow. ``"auto"``: none for fewer than 4 conditioning
        variables, ``MLP((128,))`` up to 50, ``MLP((128, 64))`` above.
    embedding_dim : int, optional
        How many numbers it gives them; by default 32 of an automatic one, otherwise the width of its last hidden layer.
    support : str, support, sequence or mapping, optional
        Where the columns lie, as for :class:`Flow`: ``"positive"``, ``ps.interval(lo, hi)``, a list, by name or position,
        or groups of columns.
    context_support : str, support, sequence or mapping, optional
        The same of the conditioning variables, without groups.
    dtype : {"float32", "float64"}, default "float32"
    rng : seed or numpy Generator, optional
    backend : {"auto", "cpp", "numba", "cuda"}, default "auto"

    Returns
    -------
    Flow
        Untrained; a fresh one is close to a permutation of its base.

    References
    ----------
    Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP" (2017).

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.realnvp(2, layers=4, hidden=(32, 32), rng=0)
    >>> flow.log_prob([[0.0, 0.0]]).shape
    (1,)
    """
    n_layers = _validate.positive_int(layers, name="layers")
    affine, conditioner = Affine(scale_bound), MLP(_hidden(hidden), activation, residual)
    density = _base(dim, base, base_context, context_dim, activation)
    kinds = _kinds(support, density.dim)
    stack: list[Layer]
    if density.dim == 1:
        stack = [Elementwise(_one(affine, kinds), conditioner if context_dim else None)]
        _warn_gaussian("realnvp", context_dim, kinds)
    else:
        stack = _couplings(n_layers, affine, conditioner, mixing, kinds)
    stack = [*_base_layers(base_context, context_dim, activation, kinds, density), *stack]
    network = _embedding(embedding, embedding_dim, context_dim)
    return Flow(density, stack, context_dim, dtype, rng, backend, *network, support, context_support)


def nice(
    dim: int,
    *,
    context_dim: int = 0,
    layers: int = 8,
    hidden: int | Sequence[int] = (64, 64),
    activation: str = "relu",
    mixing: str | None = "random",
    scale_bound: float = 3.0,
    residual: bool = False,
    base: AnyBase | None = None,
    base_context: int | Sequence[int] | None = None,
    embedding: MLP | str | None = "auto",
    embedding_dim: int | None = None,
    support: SupportLike | None = None,
    context_support: SupportLike | None = None,
    dtype: DTypeLike = "float32",
    rng: Rng = None,
    backend: str = "auto",
) -> Flow:
    """NICE: additive couplings, which keep volumes, behind one free scale a dimension.

    Parameters
    ----------
    dim : int
        Number of dimensions. With one there is nothing to couple: the flow is then a Gaussian, and a warning says so.
    scale_bound : float, default 3.0
        Largest absolute log-scale of the scaling layer.
    context_dim, layers, hidden, activation, mixing, residual, base, base_context, embedding, embedding_dim
        As for :func:`realnvp`.
    support, context_support, dtype, rng, backend
        As for :func:`realnvp`.

    Returns
    -------
    Flow
        Untrained; a fresh one is close to a permutation of its base.

    References
    ----------
    Dinh, Krueger, Bengio, "NICE: Non-linear Independent Components Estimation" (2015).

    Examples
    --------
    >>> import penstock as ps
    >>> ps.nice(3, layers=2, rng=0).dim
    3
    """
    n_layers = _validate.positive_int(layers, name="layers")
    density = _base(dim, base, base_context, context_dim, activation)
    kinds = _kinds(support, density.dim)
    conditioner = MLP(_hidden(hidden), activation, residual)
    stack: list[Layer] = [Elementwise(Affine(scale_bound))]
    if density.dim == 1:
        stack = [Elementwise(_one(Affine(scale_bound), kinds), conditioner if context_dim else None)]
        _warn_gaussian("nice", context_dim, kinds)
    else:
        stack += _couplings(n_layers, Additive(), conditioner, mixing, kinds)
    stack = [*_base_layers(base_context, context_dim, activation, kinds, density), *stack]
    network = _embedding(embedding, embedding_dim, context_dim)
    return Flow(density, stack, context_dim, dtype, rng, backend, *network, support, context_support)


def glow(
    dim: int,
    *,
    context_dim: int = 0,
    layers: int = 8,
    hidden: int | Sequence[int] = (64, 64),
    activation: str = "tanh",
    mixing: str | None = "lu",
    scale_bound: float = 3.0,
    residual: bool = False,
    base: AnyBase | None = None,
    base_context: int | Sequence[int] | None = None,
    embedding: MLP | str | None = "auto",
    embedding_dim: int | None = None,
    support: SupportLike | None = None,
    context_support: SupportLike | None = None,
    dtype: DTypeLike = "float32",
    rng: Rng = None,
    backend: str = "auto",
) -> Flow:
    """Glow for vectors: each step is ActNorm, a mixing of all dimensions, and an affine coupling.

    Parameters
    ----------
    dim : int
        Number of dimensions. With one there is nothing to couple: the flow is then a Gaussian, and a warning says so.
    layers : int, default 8
        Number of steps.
    mixing : {"lu", "random", "reverse", "none"} or None, default "lu"
        What mixes the dimensions in each step: an :class:`LULinear` that starts as a random permutation, a fixed
        permutation, a reversal, or nothing.
    context_dim, hidden, activation, scale_bound, residual, base, base_context, embedding, embedding_dim, support,
    context_support, dtype, rng, backend
        As for :func:`realnvp`.

    Returns
    -------
    Flow
        Untrained; a fresh one is close to a permutation of its base.

    References
    ----------
    Kingma, Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions" (2018).

    Examples
    --------
    >>> import penstock as ps
    >>> ps.glow(3, layers=2, rng=0).dim
    3
    """
    n_layers = _validate.positive_int(layers, name="layers")
    affine = Affine(scale_bound)
    density = _base(dim, base, base_context, context_dim, activation)
    kinds = _kinds(support, density.dim)
    mixing = "none" if mixing is None else _validate.choice(mixing, MIXINGS, name="mixing")
    mixers: dict[str, list[Layer]] = {
        "none": [],
        "reverse": [Permutation("reverse")],
        "random": [Permutation("random")],
        "lu": [LULinear()],
    }
    conditioner = MLP(_hidden(hidden), activation, residual)
    turn = _turns(mixing, kinds)
    stack: list[Layer] = []
    if density.dim == 1:
        stack = [ActNorm(), Elementwise(_one(affine, kinds), conditioner if context_dim else None)]
        _warn_gaussian("glow", context_dim, kinds)
    else:
        for i in range(n_layers):
            # Without mixing, and with a reversal, which brings the other half forward by itself, the halves take turns.
            split = "half_swapped" if mixing == "none" and i % 2 else "half"
            stack += [Coupling(affine, conditioner, split), *turn, *mixers[mixing], ActNorm()]
    stack = [*_base_layers(base_context, context_dim, activation, kinds, density), *stack]
    network = _embedding(embedding, embedding_dim, context_dim)
    return Flow(density, stack, context_dim, dtype, rng, backend, *network, support, context_support)


def nsf(
    dim: int,
    *,
    context_dim: int = 0,
    layers: int = 5,
    hidden: int | Sequence[int] = (64, 64),
    activation: str = "tanh",
    mixing: str | None = "lu",
    bins: int = 8,
    bound: float = 5.0,
    residual: bool = False,
    base: AnyBase | None = None,
    base_context: int | Sequence[int] | None = None,
    embedding: MLP | str | None = "auto",
    embedding_dim: int | None = None,
    support: SupportLike | None = None,
    context_support: SupportLike | None = None,
    dtype: DTypeLike = "float32",
    rng: Rng = None,
    backend: str = "auto",
) -> Flow:
    """Neural spline flow: couplings whose transform is a rational-quadratic spline.

    Parameters
    ----------
    dim : int
        Number of dimensions. With one there is nothing to couple: the flow is then a chain of splines, which are
        free or depend on the context.
    layers : int, default 5
        Number of couplings, or of splines at dim=1.
    bins : int, default 8
        Intervals of each spline, 2 to 64.
    bound : float, default 5.0
        Half the width of the box in which splines act, in units of the standardised data.
    context_dim, hidden, activation, mixing, residual, base, base_context, embedding, embedding_dim, support,
    context_support, dtype, rng, backend
        As for :func:`realnvp`.

    Returns
    -------
    Flow
        Untrained; a fresh one is close to a permutation of its base.

    References
    ----------
    Durkan, Bekasov, Murray, Papamakarios, "Neural Spline Flows" (2019).

    Examples
    --------
    >>> import penstock as ps
    >>> ps.nsf(3, layers=2, bins=4, rng=0).dim
    3
    """
    n_layers = _validate.positive_int(layers, name="layers")
    spline, conditioner = RationalQuadratic(bins, bound), MLP(_hidden(hidden), activation, residual)
    density = _base(dim, base, base_context, context_dim, activation)
    kinds = _kinds(support, density.dim)
    stack: list[Layer]
    if density.dim == 1:
        stack = [Elementwise(spline, conditioner if context_dim else None)] * n_layers
    else:
        stack = _couplings(n_layers, spline, conditioner, mixing, kinds)
    stack = [*_base_layers(base_context, context_dim, activation, kinds, density), *stack]
    network = _embedding(embedding, embedding_dim, context_dim)
    return Flow(density, stack, context_dim, dtype, rng, backend, *network, support, context_support)


def maf(
    dim: int,
    *,
    context_dim: int = 0,
    layers: int = 5,
    hidden: int | Sequence[int] = (64, 64),
    activation: str = "tanh",
    mixing: str | None = "lu",
    order: Sequence[int] | None = None,
    scale_bound: float = 3.0,
    residual: bool = False,
    base: AnyBase | None = None,
    base_context: int | Sequence[int] | None = None,
    embedding: MLP | str | None = "auto",
    embedding_dim: int | None = None,
    support: SupportLike | None = None,
    context_support: SupportLike | None = None,
    dtype: DTypeLike = "float32",
    rng: Rng = None,
    backend: str = "auto",
) -> Flow:
    """Masked autoregressive flow: affine autoregressive layers whose networks read the data side.

    Densities run each network once, in parallel over the dimensions; samples take the dimensions one by one, but evaluate each
    unit of the network only once, so that they cost nearly the same.

    Parameters
    ----------
    dim : int
        Number of dimensions. With one there is nothing to come before: the flow is then a Gaussian, and a warning says so.
    layers : int, default 5
        Number of autoregressive layers.
    mixing : {"lu", "random", "reverse", "none"} or None, default "lu"
        What changes from layer to layer: the dimensions are mixed by an :class:`LULinear` before each but the first; or their
        order is permuted at random in each but the first, reversed in every second one, or the same in all.
    order : sequence of int, optional
        With ``mixing="none"``, the one order of the dimensions in all layers; by default 0, 1, 2 ... The first are independent of
        those that come later, so that their marginals are exact, and so are conditionals given them: :meth:`Flow.marginal`.
    residual : bool, default False
        Conditioners with skip connections.
    context_dim, hidden, activation, scale_bound, base, base_context, embedding, embedding_dim, support,
    context_support, dtype, rng, backend
        As for :func:`realnvp`.

    Returns
    -------
    Flow
        Untrained; a fresh one is close to a permutation of its base.

    References
    ----------
    Papamakarios, Pavlakou, Murray, "Masked Autoregressive Flow for Density Estimation" (2017).

    Examples
    --------
    >>> import penstock as ps
    >>> ps.maf(3, layers=2, rng=0).dim
    3
    """
    n_layers = _validate.positive_int(layers, name="layers")
    affine, conditioner = Affine(scale_bound), MLP(_hidden(hidden), activation, residual)
    density = _base(dim, base, base_context, context_dim, activation)
    kinds = _kinds(support, density.dim)
    stack: list[Layer]
    if density.dim == 1:
        _check_order(order)
        stack = [Elementwise(_one(affine, kinds), conditioner if context_dim else None)]
        _warn_gaussian("maf", context_dim, kinds)
    else:
        stack = _autoregressions(n_layers, affine, conditioner, mixing, order, "to_latent", kinds)
    stack = [*_base_layers(base_context, context_dim, activation, kinds, density), *stack]
    network = _embedding(embedding, embedding_dim, context_dim)
    return Flow(density, stack, context_dim, dtype, rng, backend, *network, support, context_support)


def iaf(
    dim: int,
    *,
    context_dim: int = 0,
    layers: int = 5,
    hidden: int | Sequence[int] = (64, 64),
    activation: str = "tanh",
    mixing: str | None = "lu",
    order: Sequence[int] | None = None,
    scale_bound: float = 3.0,
    residual: bool = False,
    base: AnyBase | None = None,
    base_context: int | Sequence[int] | None = None,
    embedding: MLP | str | None = "auto",
    embedding_dim: int | None = None,
    support: SupportLike | None = None,
    context_support: SupportLike | None = None,
    dtype: DTypeLike = "float32",
    rng: Rng = None,
    backend: str = "auto",
) -> Flow:
    """Inverse autoregressive flow: affine autoregressive layers whose networks read the latent side.

    :func:`maf` the other way round: samples run each network once, in parallel over the dimensions, and densities take the
    dimensions one by one, at nearly the same cost.

    Parameters
    ----------
    dim : int
        Number of dimensions. With one there is nothing to come before: the flow is then a Gaussian, and a warning says so.
    context_dim, layers, hidden, activation, mixing, order, scale_bound, residual, base, base_context, embedding,
    embedding_dim, support, context_support, dtype, rng, backend
        As for :func:`maf`.

    Returns
    -------
    Flow
        Untrained; a fresh one is close to a permutation of its base.

    References
    ----------
    Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow" (2016).

    Examples
    --------
    >>> import penstock as ps
    >>> ps.iaf(3, layers=2, rng=0).dim
    3
    """
    n_layers = _validate.positive_int(layers, name="layers")
    affine, conditioner = Affine(scale_bound), MLP(_hidden(hidden), activation, residual)
    density = _base(dim, base, base_context, context_dim, activation)
    kinds = _kinds(support, density.dim)
    stack: list[Layer]
    if density.dim == 1:
        _check_order(order)
        stack = [Elementwise(_one(affine, kinds), conditioner if context_dim else None, "to_data")]
        _warn_gaussian("iaf", context_dim, kinds)
    else:
        stack = _autoregressions(n_layers, affine, conditioner, mixing, order, "to_data", kinds)
    stack = [*_base_layers(base_context, context_dim, activation, kinds, density), *stack]
    network = _embedding(embedding, embedding_dim, context_dim)
    return Flow(density, stack, context_dim, dtype, rng, backend, *network, support, context_support)


def nsf_ar(
    dim: int,
    *,
    context_dim: int = 0,
    layers: int = 5,
    hidden: int | Sequence[int] = (64, 64),
    activation: str = "tanh",
    mixing: str | None = "lu",
    order: Sequence[int] | None = None,
    bins: int = 8,
    bound: float = 5.0,
    residual: bool = False,
    base: AnyBase | None = None,
    base_context: int | Sequence[int] | None = None,
    embedding: MLP | str | None = "auto",
    embedding_dim: int | None = None,
    support: SupportLike | None = None,
    context_support: SupportLike | None = None,
    dtype: DTypeLike = "float32",
    rng: Rng = None,
    backend: str = "auto",
) -> Flow:
    """Autoregressive neural spline flow: :func:`maf` with rational-quadratic splines.

    Parameters
    ----------
    dim : int
        Number of dimensions. With one there is nothing to come before: the flow is then a chain of splines, which are
        free or depend on the context.
    layers : int, default 5
        Number of autoregressive layers, or of splines at dim=1.
    bins : int, default 8
        Intervals of each spline, 2 to 64.
    bound : float, default 5.0
        Half the width of the box in which splines act, in units of the standardised data.
    context_dim, hidden, activation, mixing, order, residual, base, base_context, embedding, embedding_dim, support,
    context_support, dtype, rng, backend
        As for :func:`maf`.

    Returns
    -------
    Flow
        Untrained; a fresh one is close to a permutation of its base.

    References
    ----------
    Durkan, Bekasov, Murray, Papamakarios, "Neural Spline Flows" (2019).

    Examples
    --------
    >>> import penstock as ps
    >>> ps.nsf_ar(3, layers=2, bins=4, rng=0).dim
    3
    """
    n_layers = _validate.positive_int(layers, name="layers")
    spline, conditioner = RationalQuadratic(bins, bound), MLP(_hidden(hidden), activation, residual)
    density = _base(dim, base, base_context, context_dim, activation)
    kinds = _kinds(support, density.dim)
    stack: list[Layer]
    if density.dim == 1:
        _check_order(order)
        stack = [Elementwise(spline, conditioner if context_dim else None)] * n_layers
    else:
        stack = _autoregressions(n_layers, spline, conditioner, mixing, order, "to_latent", kinds)
    stack = [*_base_layers(base_context, context_dim, activation, kinds, density), *stack]
    network = _embedding(embedding, embedding_dim, context_dim)
    return Flow(density, stack, context_dim, dtype, rng, backend, *network, support, context_support)


# What ``penstock fit --recipe`` offers.
RECIPES: dict[str, Callable[..., Flow]] = {
    "nice": nice,
    "realnvp": realnvp,
    "glow": glow,
    "nsf": nsf,
    "maf": maf,
    "iaf": iaf,
    "nsf_ar": nsf_ar,
}


def _base(
    dim: int, base: AnyBase | None, context: int | Sequence[int] | None, context_dim: int, activation: str
) -> AnyBase:
    """The base, with a network of the context for what it learns if that is asked for."""
    density: AnyBase = StandardNormal(dim)
    if base is not None:
        _validate.instance(base, BASES.values(), name="base")
        if base.dim != density.dim:
            raise ValueError(f"base must have dim={density.dim} dimensions, got {base}")
        density = base
    if context is None or isinstance(density, StandardNormal):
        return density
    if not context_dim:
        raise ValueError("base_context needs a context, and context_dim is 0")
    network = MLP(_validate.widths(context, name="base_context"), activation)
    if not any(part.numbers(1) for part, _ in blocks(density)):
        raise ValueError(f"base_context chooses what a base learns, and {density} learns nothing")
    if isinstance(density, Product):
        return Product(tuple(_with_network(part, network) for part in density.parts))
    found: AnyBase = _with_network(density, network)
    return found


def _with_network(base: Any, network: MLP) -> Any:
    return replace(base, conditioner=network) if base.numbers(1) else base


def _embedding(embedding: Any, embedding_dim: int | None, context_dim: Any) -> tuple[MLP | None, int | None]:
    """The network that reads the context, and how many numbers it gives if that is said."""
    if not isinstance(embedding, str):
        return embedding, embedding_dim
    _validate.choice(embedding, ("auto",), name="embedding")
    if _validate.count(context_dim, name="context_dim") < EMBEDDED_FROM:
        return None, embedding_dim
    width = EMBEDDING_DIM if embedding_dim is None else embedding_dim
    return EMBEDDING if context_dim <= WIDE_ABOVE else EMBEDDING_WIDE, width


def _hidden(hidden: int | Sequence[int]) -> tuple[int, ...]:
    return _validate.widths(hidden, name="hidden")


def _couplings(n: int, transform: Transform, conditioner: MLP, mixing: str | None, kinds: Sequence[str]) -> list[Layer]:
    """``n`` couplings, with what mixes their dimensions between them."""
    mixing = "none" if mixing is None else _validate.choice(mixing, MIXINGS, name="mixing")
    layers: list[Layer] = []
    for i in range(n):
        if mixing in ("random", "lu") and i and i % 2 == 0:
            layers += [Permutation("random")] if mixing == "random" else [*_turns(mixing, kinds), LULinear()]
        if mixing == "reverse" and i:
            layers.append(Permutation("reverse"))
        # A reversal exchanges the halves itself: with a split that did so too, one half would never be transformed.
        layers.append(Coupling(transform, conditioner, "half_swapped" if i % 2 and mixing != "reverse" else "half"))
    return layers


def _autoregressions(
    n: int,
    transform: Transform,
    conditioner: MLP,
    mixing: str | None,
    order: Sequence[int] | None,
    explicit: str,
    kinds: Sequence[str],
) -> list[Layer]:
    """``n`` autoregressive layers, each with another order of the dimensions or with what mixes them in front of it."""
    mixing = "none" if mixing is None else _validate.choice(mixing, MIXINGS, name="mixing")
    if order is not None:
        if mixing != "none":
            raise ValueError(f"order= is that of all layers, which goes with mixing='none', got mixing={mixing!r}")
        return [Autoregressive(transform, conditioner, _validate.index_list(order, name="order"), explicit)] * n
    layers: list[Layer] = []
    for i in range(n):
        orders = {"reverse": "reverse" if i % 2 else "identity", "random": "random" if i else "identity"}
        if mixing == "lu" and i:
            layers += [*_turns(mixing, kinds), LULinear()]
        layers.append(Autoregressive(transform, conditioner, orders.get(mixing, "identity"), explicit))
    return layers


def _check_order(order: Sequence[int] | None) -> None:
    """Raise if the order of one dimension is another than its own."""
    if order is not None and _validate.index_list(order, name="order") != (0,):
        raise ValueError(f"order must hold each of 0..0 once, got {tuple(order)}")


def _kinds(support: SupportLike | None, dim: int) -> tuple[str, ...]:
    return supports.kinds(supports.resolved(support, dim)[0], dim)


def _one(transform: Transform, kinds: Sequence[str]) -> Transform:
    """The transform of a flow of one dimension: on a circle or a box, a spline in the place of an affine map."""
    return transform if kinds == ("line",) else of_kind(transform, kinds[0])


def _turns(mixing: str | None, kinds: Sequence[str]) -> list[Layer]:
    """What mixes dimensions of several kinds beside an LU layer, which acts on lines alone: a permutation of all."""
    return [Permutation("random")] if mixing == "lu" and set(kinds) != {"line"} else []


def _base_layers(
    hidden: int | Sequence[int] | None, context_dim: int, activation: str, kinds: Sequence[str], base: AnyBase
) -> list[Layer]:
    """What lets a standard normal base depend on the context: an affine map of the latents that the context chooses."""
    if hidden is None:
        return []
    if "line" not in kinds:
        raise ValueError("base_context moves and scales the base of lines, and all columns are circles or boxes")
    if not isinstance(base, StandardNormal):
        return []
    if not context_dim:
        raise ValueError("base_context needs a context, and context_dim is 0")
    return [Elementwise(Affine(), MLP(_validate.widths(hidden, name="base_context"), activation))]


def _warn_gaussian(recipe: str, context_dim: int, kinds: Sequence[str]) -> None:
    if kinds != ("line",):
        return
    what = "a Gaussian for each context" if context_dim else "a Gaussian"
    warn(f"{recipe} at dim=1 has nothing to couple: one affine map of a normal, so the flow is {what}", ModelWarning)
