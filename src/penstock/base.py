"""Specs of base distributions: densities of the latent side, which act on the dimensions that are lines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from penstock import _mixture, _normal, _validate
from penstock._typing import Array
from penstock._validate import positive_int
from penstock.conditioners import MLP

DF_MIN, DF_MAX = 0.5, 1e6  # within which degrees of freedom are learned


class Base(Protocol):
    """What plan and verbs need to know of a base."""

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        ...

    @property
    def name(self) -> str:
        """The name it has in tables and files."""
        ...

    def constants(self, places: Sequence[int]) -> tuple[float, ...]:
        """What the kernels read, if it acts on some of its dimensions."""
        ...

    @property
    def conditioner(self) -> MLP | None:
        """The network of the context that chooses its numbers, if there is one."""
        ...

    def numbers(self, n: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what is learned, if it acts on ``n`` dimensions."""
        ...

    @property
    def shared(self) -> tuple[str, ...]:
        """Names of those that all dimensions have in common; the last axis of the others is that of dimensions."""
        ...

    def initial(self, places: Sequence[int], rng: np.random.Generator) -> Array:
        """What they begin with, for some of its dimensions."""
        ...

    def fixed(self, places: Sequence[int]) -> Sequence[float]:
        """Numbers in the place of learned ones, where nothing is learned."""
        ...

    def cdf(self, z: Array, numbers: Array, *, upper: bool = False) -> Array:
        """The distribution function of each dimension at ``z``, (rows, n), with the numbers that belong to the n: (size,), or
        (rows, size).
        """
        ...

    def quantile(self, u: Array, numbers: Array, *, upper: bool = False) -> Array:
        """The inverse of ``cdf``."""
        ...


class _Block:
    """What most bases have in common: nothing that is learned, fixed or constant."""

    shared: ClassVar[tuple[str, ...]] = ()

    def constants(self, places: Sequence[int]) -> tuple[float, ...]:
        """What the kernels read: nothing."""
        return ()

    def fixed(self, places: Sequence[int]) -> Sequence[float]:
        """Numbers in the place of learned ones: none."""
        return ()

    def numbers(self, n: int) -> dict[str, tuple[int, ...]]:
        """What is learned: nothing."""
        return {}

    def initial(self, places: Sequence[int], rng: np.random.Generator) -> Array:
        """What it begins with."""
        return np.zeros(0)


@dataclass(frozen=True)
class StandardNormal(_Block):
    """The standard normal density in ``dim`` dimensions, ``log p(z) = -|z|^2 / 2 - dim log(2 pi) / 2``.

    Parameters
    ----------
    dim : int
        Number of dimensions.

    Examples
    --------
    >>> import penstock as ps
    >>> round(float(ps.ops.log_prob(ps.StandardNormal(2), [0.0, 0.0])), 4)
    -1.8379
    """

    dim: int

    name: ClassVar[str] = "standard_normal"
    conditioner: ClassVar[None] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", positive_int(self.dim, name="dim"))

    def cdf(self, z: Array, numbers: Array | None = None, *, upper: bool = False) -> Array:
        """The distribution function of each dimension at ``z``, (rows, dim), in float64; ``upper`` gives 1 minus it, without
        cancellation.

        Examples
        --------
        >>> import numpy as np
        >>> import penstock as ps
        >>> ps.StandardNormal(1).cdf(np.array([[0.0], [-1.0]])).round(4).tolist()
        [[0.5], [0.1587]]
        """
        return _normal.cdf(-z if upper else z)

    def quantile(self, u: Array, numbers: Array | None = None, *, upper: bool = False) -> Array:
        """The inverse of ``cdf``, ``upper`` or not, for numbers in [0, 1]; infinite at the ends.

        Examples
        --------
        >>> import numpy as np
        >>> import penstock as ps
        >>> ps.StandardNormal(1).quantile(np.array([[0.5], [1.0]])).tolist()
        [[0.0], [inf]]
        """
        z = _normal.quantile(u)
        return -z if upper else z


@dataclass(frozen=True)
class Normal(_Block):
    """Independent normals with learned means and scales, ``z_i = m_i + e^(s_i) n_i``.

    Parameters
    ----------
    dim : int
        Number of dimensions.
    conditioner : MLP, optional
        A network of the context that gives means and log-scales; the flow then needs a context.

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.Flow(ps.Normal(2), [], rng=0)
    >>> list(flow.named_params())
    ['base.0.mean', 'base.0.log_scale']
    """

    dim: int
    conditioner: MLP | None = None

    name: ClassVar[str] = "normal"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", positive_int(self.dim, name="dim"))
        _check_conditioner(self.conditioner)

    def numbers(self, n: int) -> dict[str, tuple[int, ...]]:
        """Means and log-scales."""
        return {"mean": (n,), "log_scale": (n,)}

    def initial(self, places: Sequence[int], rng: np.random.Generator) -> Array:
        """The standard normal."""
        return np.zeros(2 * len(places))

    def cdf(self, z: Array, numbers: Array, *, upper: bool = False) -> Array:
        """The distribution function of each dimension."""
        mean, log_scale = np.split(numbers.astype(np.float64), 2, axis=-1)
        return StandardNormal(self.dim).cdf((z - mean) * np.exp(-log_scale), upper=upper)

    def quantile(self, u: Array, numbers: Array, *, upper: bool = False) -> Array:
        """Its inverse."""
        mean, log_scale = np.split(numbers.astype(np.float64), 2, axis=-1)
        z: Array = mean + np.exp(log_scale) * StandardNormal(self.dim).quantile(u, upper=upper)
        return z


@dataclass(frozen=True)
class Uniform(_Block):
    """The uniform density on a box, ``log p(z) = -dim log(hi - lo)`` within and -inf outside.

    Parameters
    ----------
    dim : int
        Number of dimensions.
    lo, hi : float, default -1.0 and 1.0
        The ends, the same in every dimension.

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.Flow(ps.Uniform(1, 0.0, 2.0), [], dtype="float64", rng=0)
    >>> flow.log_prob([[0.5], [2.5]]).round(4).tolist()
    [-0.6931, -inf]
    """

    dim: int
    lo: float = -1.0
    hi: float = 1.0

    name: ClassVar[str] = "uniform"
    conditioner: ClassVar[None] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", positive_int(self.dim, name="dim"))
        for end in ("lo", "hi"):
            object.__setattr__(self, end, _validate.finite(getattr(self, end), name=end))
        if not (self.lo < self.hi and math.isfinite(self.hi - self.lo)):
            raise ValueError(f"lo must be below hi, and both finite, got lo={self.lo:g} and hi={self.hi:g}")

    def constants(self, places: Sequence[int]) -> tuple[float, ...]:
        """The ends."""
        return self.lo, self.hi

    def cdf(self, z: Array, numbers: Array | None = None, *, upper: bool = False) -> Array:
        """The distribution function of each dimension."""
        z = z.astype(np.float64)
        part: Array = (self.hi - z if upper else z - self.lo) / (self.hi - self.lo)
        return np.clip(part, 0.0, 1.0)

    def quantile(self, u: Array, numbers: Array | None = None, *, upper: bool = False) -> Array:
        """Its inverse."""
        z: Array = self.hi - u * (self.hi - self.lo) if upper else self.lo + u * (self.hi - self.lo)
        return z


@dataclass(frozen=True)
class StudentT(_Block):
    """Independent Student t densities, each with its own degrees of freedom, fixed or learned: for heavy tails.

    ``log p(z) = log Gamma((nu + 1) / 2) - log Gamma(nu / 2) - log(pi nu) / 2 - (nu + 1) / 2 log(1 + z^2 / nu)`` a dimension.

    Parameters
    ----------
    dim : int
        Number of dimensions.
    df : float or sequence of float, default 5.0
        Degrees of freedom, one for all or one each; where they are learned, what they begin with.
    learned : bool, default True
        Whether they are learned, within 0.5 and 10^6.
    conditioner : MLP, optional
        A network of the context that gives their logarithms; the flow then needs a context.

    References
    ----------
    Jaini et al., "Tails of Lipschitz Triangular Flows" (2020), on why a flow needs the tails of its data in its base; Bailey,
    "Polar generation of random variates with the t-distribution" (1994), for the draws.

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.nsf_ar(2, base=ps.StudentT(2, df=3.0), dtype="float64", rng=0)
    >>> flow.named_params()["base.0.log_df"].round(4).tolist()
    [1.0986, 1.0986]
    """

    dim: int
    df: float | tuple[float, ...] = 5.0
    learned: bool = True
    conditioner: MLP | None = None

    name: ClassVar[str] = "student_t"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", positive_int(self.dim, name="dim"))
        df = self.df
        if isinstance(df, (list, tuple, np.ndarray)):
            df = tuple(_validate.finite(value, name="df") for value in df)
            if len(df) != self.dim:
                raise ValueError(f"df must be one number or {self.dim} of them, got {len(df)}")
        else:
            df = _validate.finite(df, name="df")
        for value in df if isinstance(df, tuple) else (df,):
            if not DF_MIN <= value <= DF_MAX:
                raise ValueError(f"df must lie within {DF_MIN:g} and {DF_MAX:g}, got {value:g}")
        object.__setattr__(self, "df", df)
        _validate.instance(self.learned, (bool,), name="learned")
        _check_conditioner(self.conditioner)
        if self.conditioner is not None and not self.learned:
            raise ValueError("learned=False, and a conditioner that would choose df")

    def constants(self, places: Sequence[int]) -> tuple[float, ...]:
        """Between which degrees of freedom lie, and fixed ones by their logarithms."""
        each = self._each()
        return (DF_MIN, DF_MAX) if self.learned else (DF_MIN, DF_MAX, *(math.log(each[i]) for i in places))

    def _each(self) -> tuple[float, ...]:
        return self.df if isinstance(self.df, tuple) else (self.df,) * self.dim

    def fixed(self, places: Sequence[int]) -> Sequence[float]:
        """Logarithms of the degrees of freedom."""
        return [math.log(self._each()[i]) for i in places]

    def numbers(self, n: int) -> dict[str, tuple[int, ...]]:
        """Logarithms of the degrees of freedom."""
        return {"log_df": (n,)} if self.learned else {}

    def initial(self, places: Sequence[int], rng: np.random.Generator) -> Array:
        """As they are given."""
        return np.array([math.log(self._each()[i]) for i in places] if self.learned else [])

    def cdf(self, z: Array, numbers: Array, *, upper: bool = False) -> Array:
        """The distribution function of each dimension, by SciPy."""
        found: Array = _special("cdf").stdtr(
            self._df(numbers), -z.astype(np.float64) if upper else z.astype(np.float64)
        )
        return found

    def quantile(self, u: Array, numbers: Array, *, upper: bool = False) -> Array:
        """Its inverse, by SciPy."""
        z: Array = _special("quantile").stdtrit(self._df(numbers), u)
        return -z if upper else z

    def _df(self, numbers: Array) -> Array:
        """Those of the dimensions at hand: learned, or fixed and given in the place of numbers."""
        return np.clip(np.exp(numbers.astype(np.float64)), DF_MIN, DF_MAX)


@dataclass(frozen=True)
class GaussianMixture(_Block):
    """A learned mixture of normals with diagonal covariances, for densities in several pieces.

    ``log p(z) = log sum_k w_k prod_i N(z_i; m_ki, e^(s_ki))``, with the weights ``w`` a softmax. A flow is continuous and
    cannot tear one normal into pieces without threads between them; with this base the pieces are there from the start.

    Parameters
    ----------
    dim : int
        Number of dimensions.
    components : int, default 4
        Number of normals, 2 to 256. They begin at random means around 0, with equal weights and scales of 1.
    conditioner : MLP, optional
        A network of the context that gives weights, means and scales; the flow then needs a context.

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.realnvp(2, base=ps.GaussianMixture(2, components=3), rng=0)
    >>> flow.named_params()["base.0.mean"].shape
    (3, 2)
    """

    dim: int
    components: int = 4
    conditioner: MLP | None = None

    name: ClassVar[str] = "gaussian_mixture"
    shared: ClassVar[tuple[str, ...]] = ("logit",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", positive_int(self.dim, name="dim"))
        object.__setattr__(self, "components", positive_int(self.components, name="components"))
        if not 2 <= self.components <= COMPONENTS_MAX:
            raise ValueError(f"components must lie between 2 and {COMPONENTS_MAX}, got {self.components}")
        _check_conditioner(self.conditioner)

    def constants(self, places: Sequence[int]) -> tuple[float, ...]:
        """How many there are."""
        return (float(self.components),)

    def numbers(self, n: int) -> dict[str, tuple[int, ...]]:
        """Weights, as numbers whose softmax they are, means and log-scales."""
        k = self.components
        return {"logit": (k,), "mean": (k, n), "log_scale": (k, n)}

    def initial(self, places: Sequence[int], rng: np.random.Generator) -> Array:
        """Equal weights, random means, scales of 1."""
        k, n = self.components, len(places)
        return np.concatenate([np.zeros(k), rng.standard_normal(k * n), np.zeros(k * n)])

    def one(self, numbers: Array, place: int, before: Sequence[int], z: Array) -> Array:
        """The numbers of the mixture that one dimension is where some are known, ``z`` (rows, before)."""
        return _mixture.one(numbers, self.components, place, before, z)

    def cdf(self, z: Array, numbers: Array, *, upper: bool = False) -> Array:
        """That of one dimension, z (rows, 1)."""
        return _mixture.cdf(z[:, 0], *_mixture.of_rows(numbers, self.components), upper=upper)[:, None]

    def quantile(self, u: Array, numbers: Array, *, upper: bool = False) -> Array:
        """Its inverse."""
        return _mixture.quantile(u[:, 0], *_mixture.of_rows(numbers, self.components), upper=upper)[:, None]


COMPONENTS_MAX = 256


@dataclass(frozen=True)
class Product:
    """A product of densities of blocks of dimensions: the first part has the first dimensions, and so on.

    Parameters
    ----------
    parts : sequence of bases

    Examples
    --------
    >>> import penstock as ps
    >>> base = ps.Product([ps.StudentT(1), ps.StandardNormal(3)])
    >>> base.dim
    4
    """

    parts: tuple[Any, ...] = field(default=())

    name: ClassVar[str] = "product"
    conditioner: ClassVar[None] = None

    def __post_init__(self) -> None:
        parts = _validate.sequence(self.parts, name="parts")
        for i, part in enumerate(parts):
            _validate.instance(part, BLOCKS.values(), name=f"parts[{i}]")
        if not parts:
            raise ValueError("parts must hold at least one base")
        object.__setattr__(self, "parts", tuple(parts))

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return sum(part.dim for part in self.parts)


BLOCKS: dict[str, type] = {cls.name: cls for cls in (StandardNormal, Normal, Uniform, StudentT, GaussianMixture)}
BASES: dict[str, type] = {**BLOCKS, Product.name: Product}
AnyBase = StandardNormal | Normal | Uniform | StudentT | GaussianMixture | Product


def blocks(base: AnyBase) -> Iterator[tuple[Base, range]]:
    """The parts of a base that are one density each, and the dimensions of each."""
    first = 0
    for part in base.parts if isinstance(base, Product) else (base,):
        yield part, range(first, first + part.dim)
        first += part.dim


def _check_conditioner(conditioner: Any) -> None:
    if conditioner is not None:
        _validate.instance(conditioner, (MLP,), name="conditioner")


def _special(verb: str) -> Any:
    try:
        from scipy import special
    except ImportError:
        raise ImportError(f"the {verb} of a Student t base needs SciPy: pip install scipy") from None
    return special
