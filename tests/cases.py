"""THE table: one row per transform, layer and recipe. Data only; the laws that rows have to obey live in ``test_*.py``.

A row is a flow, or a transform by itself, or both: a transform that is no flow under a normal base, such as one of the circle,
meets the laws of transforms alone. ``CASES`` are the flows, ``KERNELS`` the transforms.

``ulps`` bounds every error of a case that rounding explains (round trips, agreement of backends, of dtypes, with the
NumPy reference), in units of the dtype's spacing at the size of the numbers involved; ``why`` says where it comes from.
Each figure is about four times the worst that was seen over the table's seeds.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import penstock as ps
from penstock import _backend
from penstock.state import Snapshot
from penstock.support import n_numbers

Array = np.ndarray[Any, Any]

# Batches around the vector, the tile (64), the slice, and many.
ROWS = (0, 1, 2, 7, 63, 64, 65, 130, 1000)
DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Case:
    """A flow to hold the laws against, with random parameters and a random standardisation, or a transform by itself."""

    name: str
    kind: str  # "transform" (the name is the transform's), "options" (a transform with others), "layer" or "recipe"
    build: Callable[..., ps.Flow] | None  # keywords: dtype, backend; None: no flow
    ulps: float
    why: str
    transform: Any = None  # the one that meets the laws of transforms
    spread: float = 2.0  # latents are drawn as spread times a standard normal
    kinks: bool = False  # gradients jump somewhere: finite differences take smaller steps
    gain: float = 0.7  # how far random parameters go from their start
    identity: bool = True  # a fresh flow is the identity
    fresh_ulps: float = 0  # up to this rounding
    conditional: bool = False  # the flow has a context


class Given:
    """A conditional flow at one context, which all rows share: it meets every law that knows nothing of contexts."""

    VERBS = (
        "log_prob", "score", "to_latent", "to_data", "sample", "sample_and_log_prob", "log_prob_and_grad", "log_prob_vjp",
        "to_latent_vjp", "to_data_vjp", "loss_and_grad",
    )  # fmt: skip

    def __init__(self, flow: ps.Flow, context: Array) -> None:
        self.__dict__.update(flow=flow, context=context)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.flow, name)
        return functools.partial(value, context=self.context) if name in self.VERBS else value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.flow, name, value)

    def copy(self) -> Given:
        return Given(self.flow.copy(), self.context)

    def fit(self, x: Array, **options: Any) -> Given:
        context = rng("context", len(x)).standard_normal((len(x), len(self.context)))
        self.flow.fit(x, context=context, **options)
        return self


def bare(flow: Any) -> ps.Flow:
    """The flow itself."""
    return flow.flow if isinstance(flow, Given) else flow


def given_as(flow: Any, other: ps.Flow) -> Any:
    """Another flow at the context of the first, if it has one."""
    return Given(other, flow.context) if isinstance(flow, Given) else other


def _given(flow: ps.Flow) -> Any:
    if not flow.context_dim:
        return flow
    u = rng("context", flow.context_dim).standard_normal(flow.context_dim)
    return Given(flow, _within(flow.spec.context_support, iter([1.0, 1.0] * flow.context_dim), u).astype(np.float32))


def _flow(dim: int, *layers: Any, **context: Any) -> Callable[..., ps.Flow]:
    return lambda **kw: _given(ps.Flow(ps.StandardNormal(dim), list(layers), rng=7, **context, **kw))


def _recipe(
    name: str, dim: int, layers: int, hidden: tuple[int, ...], activation: str, **context: Any
) -> Callable[..., ps.Flow]:
    recipe = getattr(ps, name)
    return lambda **kw: _given(
        recipe(dim=dim, layers=layers, hidden=hidden, activation=activation, rng=3, **context, **kw)
    )


def _coupling(dim: int, transform: Any, mlp: ps.MLP, **kw: Any) -> Callable[..., ps.Flow]:
    return _flow(dim, ps.Coupling(transform, mlp, **kw))


def _autoregressive(
    dim: int, transform: Any, mlp: ps.MLP, order: Any = "identity", **kw: Any
) -> Callable[..., ps.Flow]:
    return _flow(dim, ps.Autoregressive(transform, mlp, order, **kw))


ONE = "one affine map: a product, a sum and an exponential, times the slope of the inverse"
NET = "an affine map of a network's output: the rounding of sums over the hidden units, times the slope"
CHAIN = "several couplings: each widens what the ones before it rounded by its slope, up to e^|s|"

STEPS = "as a coupling, but in the sequential direction a dimension carries what the ones before it rounded through the network"

SOLVE = "sums over the dimensions, times the condition of the triangles, which random ones have in plenty"

SPLINED = "knots are sums of bins; a narrow bin widens their rounding by its slope, and so does its inverse"

AFFINE, ADDITIVE = ps.Affine(), ps.Additive()
# Second derivatives jump at the knots; a fresh spline is the identity up to the rounding of its knots.
BENT: Any = {"kinks": True, "fresh_ulps": 32}
# So wide a circle that no number of the table crosses its seam, where a map of numbers jumps by a turn.
CIRCLE = ps.CircularRationalQuadratic(bins=5, bound=24.0)
SPLINE, FINE = ps.RationalQuadratic(bins=5, bound=3.0), ps.RationalQuadratic(bins=64, bound=2.0)
RESIDUAL = ps.MLP((8, 8, 8), "silu", residual=True)
# Widths that are no multiple of a register block or a vector.
ODD = ps.MLP((71, 33), "relu")

GIVEN = "a context's logarithms, angles of some turns, cosines and sines, times what the networks make of them"
CONTEXTS: Any = [
    ps.periodic(-180, 180),
    "positive",
    "real",
    ps.interval(10, 11),
    ps.interval(-1, 3, map="logit"),
    (None, 2.5),
]
TABLE = (
    Case("affine", "transform", _flow(3, ps.Elementwise(AFFINE)), 32, ONE, AFFINE),
    Case("affine_tight", "options", None, 32, ONE, ps.Affine(scale_bound=0.7)),
    Case("affine_unbounded", "options", None, 32, ONE, ps.Affine(scale_bound=math.inf)),
    Case("additive", "transform", _flow(3, ps.Elementwise(ADDITIVE)), 16, "two sums", ADDITIVE),
    Case("rational_quadratic", "transform", _flow(3, ps.Elementwise(SPLINE)), 512, SPLINED, SPLINE, **BENT),
    Case("rational_quadratic_flat", "options", None, 256, SPLINED, ps.RationalQuadratic(4, 2.5, slope_min=0.1), kinks=True),
    # These are no flows under a normal base: see KINDED.
    Case("circular_rational_quadratic", "transform", None, 512, SPLINED, CIRCLE, kinks=True),
    Case("circular_rational_quadratic_flat", "options", None, 256, SPLINED,
         ps.CircularRationalQuadratic(3, 9.0, slope_min=0.1), kinks=True),
    Case("box_rational_quadratic", "transform", None, 512, SPLINED, ps.BoxRationalQuadratic(bins=5, bound=24.0), kinks=True),
    Case("box_rational_quadratic_flat", "options", None, 256, SPLINED, ps.BoxRationalQuadratic(3, 12.0, slope_min=0.1),
         kinks=True),
    # layers
    Case("elementwise_to_data", "layer", _flow(3, ps.Elementwise(AFFINE, explicit="to_data")), 32, ONE),
    Case("elementwise_unbounded", "layer", _flow(5, ps.Elementwise(ps.Affine(scale_bound=math.inf))), 32, ONE),
    Case("elementwise_one_dim", "layer", _flow(1, ps.Elementwise(AFFINE), ps.Elementwise(ADDITIVE)), 32, ONE),
    Case("actnorm", "layer", _flow(4, ps.ActNorm()), 32, ONE),
    Case("permutation_reverse", "layer", _flow(5, ps.Permutation()), 8, "only the standardisation rounds"),
    Case("permutation_random", "layer", _flow(6, ps.Permutation("random")), 8, "only the standardisation rounds"),
    Case("permutation_given", "layer", _flow(3, ps.Permutation((2, 0, 1))), 8, "only the standardisation rounds"),
    Case("no_layers", "layer", _flow(2), 8, "only the standardisation rounds"),
    Case("lu_linear", "layer", _flow(5, ps.LULinear()), 256, SOLVE, gain=0.5, identity=False),
    Case("lu_linear_to_data", "layer", _flow(3, ps.LULinear("identity", explicit="to_data")), 256, SOLVE, gain=0.5),
    Case("lu_linear_signs", "layer", _flow(2, ps.LULinear((1, 0), (1, -1))), 256, SOLVE, gain=0.5, identity=False),
    Case("lu_linear_one_dim", "layer", _flow(1, ps.LULinear()), 32, SOLVE, gain=0.5),
    # more than one register block and vector, and neither a multiple of one
    Case("lu_linear_wide", "layer", _flow(37, ps.LULinear()), 4096, SOLVE, gain=0.3, identity=False),
    Case("coupling", "layer", _coupling(5, AFFINE, ps.MLP((16, 8), "tanh")), 64, NET),
    Case("coupling_to_data", "layer", _coupling(5, AFFINE, ps.MLP((16,), "tanh"), explicit="to_data"), 64, NET),
    Case("coupling_relu", "layer", _coupling(4, AFFINE, ps.MLP((8, 8), "relu")), 64, NET, kinks=True),
    Case("coupling_leaky_relu", "layer", _coupling(4, AFFINE, ps.MLP((8, 8), "leaky_relu")), 64, NET, kinks=True),
    Case("coupling_silu", "layer", _coupling(4, AFFINE, ps.MLP((8, 8), "silu"), split="half_swapped"), 64, NET),
    Case("coupling_gelu", "layer", _coupling(4, AFFINE, ps.MLP((8, 8), "gelu"), split="alternating"), 64, NET),
    Case("coupling_linear", "layer", _coupling(6, AFFINE, ps.MLP(()), split="alternating_swapped"), 64, NET),
    Case("coupling_residual", "layer", _coupling(4, AFFINE, RESIDUAL, split=(3, 0)), 64, NET),
    Case("coupling_deep", "layer", _coupling(3, AFFINE, ps.MLP((5, 9, 4, 7, 6), "tanh"), split="random"), 64, NET),
    Case("coupling_additive", "layer", _coupling(5, ADDITIVE, ps.MLP((16, 8), "gelu")), 64, NET),
    Case("coupling_tight", "layer", _coupling(4, ps.Affine(scale_bound=0.5), ps.MLP((8,), "tanh")), 64, NET),
    Case("coupling_odd_widths", "layer", _coupling(37, AFFINE, ODD, split=tuple(range(36))), 128, NET, kinks=True),
    # more hidden units than dimensions and fewer; units of a degree that fill no register block, and several
    Case("autoregressive", "layer", _autoregressive(5, AFFINE, ps.MLP((16, 8), "tanh")), 128, STEPS),
    Case("autoregressive_to_data", "layer", _autoregressive(5, AFFINE, ps.MLP((16,), "tanh"), "reverse", explicit="to_data"),
         128, STEPS),
    Case("autoregressive_one_dim", "layer", _autoregressive(1, AFFINE, ps.MLP((8, 8), "silu")), 32, ONE),
    Case("autoregressive_two_dims", "layer", _autoregressive(2, AFFINE, ps.MLP((9, 7), "relu"), (1, 0)), 64, STEPS, kinks=True),
    Case("autoregressive_linear", "layer", _autoregressive(6, ps.Affine(scale_bound=0.5), ps.MLP(()), "random"), 512, STEPS,
         gain=0.3),
    Case("autoregressive_narrow", "layer", _autoregressive(17, AFFINE, ps.MLP((5, 9, 3), "silu"), "random"), 512, STEPS),
    Case("autoregressive_residual", "layer", _autoregressive(7, AFFINE, ps.MLP((20, 20, 20), "gelu", residual=True), "random"),
         256, STEPS, gain=0.5),
    Case("autoregressive_residual_relu", "layer", _autoregressive(4, AFFINE, ps.MLP((8, 8), "relu", residual=True)), 128, STEPS,
         kinks=True),
    Case("autoregressive_additive", "layer", _autoregressive(3, ADDITIVE, ps.MLP((16, 8), "leaky_relu"), "reverse"), 128, STEPS,
         kinks=True),
    Case("autoregressive_spline", "layer", _autoregressive(5, SPLINE, ps.MLP((11, 16), "tanh"), "random"), 8192, SPLINED,
         gain=0.4, **BENT),
    Case("autoregressive_spline_to_data", "layer", _autoregressive(3, SPLINE, RESIDUAL, explicit="to_data"), 8192, SPLINED,
         gain=0.4, **BENT),
    Case("autoregressive_odd_widths", "layer", _autoregressive(37, AFFINE, ODD, "random"), 1024, STEPS, gain=0.4, kinks=True),
    Case("spline_to_data", "layer", _flow(3, ps.Elementwise(SPLINE, explicit="to_data")), 512, SPLINED, **BENT),
    Case("spline_many_bins", "layer", _flow(2, ps.Elementwise(FINE)), 2048, SPLINED, **BENT),
    Case("spline_two_bins", "layer", _flow(1, ps.Elementwise(ps.RationalQuadratic(2, 1.5))), 512, SPLINED, **BENT),
    Case("spline_steep", "layer", _flow(2, ps.Elementwise(SPLINE)), 32768, SPLINED, gain=3.0, **BENT),
    Case("coupling_spline", "layer", _coupling(5, SPLINE, ps.MLP((16, 8), "tanh")), 4096, SPLINED, gain=0.5, **BENT),
    Case("coupling_spline_to_data", "layer", _coupling(4, SPLINE, RESIDUAL, explicit="to_data"), 4096, SPLINED, gain=0.4, **BENT),
    Case(
        "mixed_layers",
        "layer",
        _flow(
            6,
            ps.Elementwise(AFFINE, explicit="to_data"),
            ps.Coupling(AFFINE, ps.MLP((12,), "silu"), split="alternating"),
            ps.Permutation("random"),
            ps.Coupling(ADDITIVE, ps.MLP((12, 12), "gelu", residual=True), explicit="to_data"),
            ps.ActNorm(),
            ps.Autoregressive(AFFINE, ps.MLP((12,), "tanh"), "random"),
            ps.LULinear(),
            ps.Permutation((1, 2, 3, 4, 5, 0)),
            ps.LULinear(explicit="to_data"),
            ps.Autoregressive(ps.Affine(scale_bound=1.0), ps.MLP((7, 7), "silu", residual=True), explicit="to_data"),
            ps.Coupling(AFFINE, ps.MLP((12,), "tanh"), split=(5, 1, 3)),
        ),
        256,
        CHAIN,
        gain=0.4,
        identity=False,
    ),
    # conditional ones
    Case("coupling_given", "layer", _flow(5, ps.Coupling(AFFINE, ps.MLP((16, 8), "tanh")), context_dim=3), 64, NET,
         conditional=True),
    Case("coupling_given_linear", "layer", _flow(4, ps.Coupling(AFFINE, ps.MLP(()), explicit="to_data"), context_dim=1),
         64, NET, conditional=True),
    Case("coupling_given_residual", "layer", _flow(4, ps.Coupling(AFFINE, RESIDUAL, split=(3, 0)), context_dim=2), 64,
         NET, conditional=True),
    Case("coupling_given_odd_widths", "layer", _flow(8, ps.Coupling(AFFINE, ODD, split=(2, 0, 1, 3, 7)), context_dim=9),
         128, NET, kinks=True, conditional=True),
    Case("elementwise_given", "layer", _flow(3, ps.Elementwise(AFFINE, ps.MLP((8,), "silu")), context_dim=2), 64, NET,
         conditional=True),
    Case("elementwise_given_one_dim", "layer",
         _flow(1, ps.Elementwise(AFFINE, ps.MLP((7, 7), "tanh"), "to_data"), ps.Elementwise(ADDITIVE, ps.MLP(())),
               ps.Elementwise(AFFINE), context_dim=5), 64, NET, conditional=True),
    Case("embedding", "layer",
         _flow(4, ps.Elementwise(AFFINE, ps.MLP((6,), "tanh")), ps.Coupling(AFFINE, ps.MLP((8,), "silu")), ps.LULinear(),
               ps.ActNorm(), ps.Coupling(ADDITIVE, ps.MLP((8, 8), "gelu"), "half_swapped", "to_data"),
               context_dim=7, embedding=ps.MLP((9, 9), "gelu", residual=True), embedding_dim=4),
         256, CHAIN, gain=0.5, identity=False, conditional=True),
    Case("elementwise_given_spline", "layer", _flow(2, ps.Elementwise(SPLINE, ps.MLP((9,), "tanh")), context_dim=2), 512,
         SPLINED, conditional=True, **BENT),
    Case("autoregressive_given", "layer", _flow(5, ps.Autoregressive(AFFINE, ps.MLP((16, 8), "tanh"), "random"), context_dim=3),
         128, STEPS, conditional=True),
    Case("autoregressive_given_residual", "layer",
         _flow(4, ps.Autoregressive(AFFINE, RESIDUAL, "reverse", "to_data"), context_dim=7), 128, STEPS, conditional=True),
    Case("autoregressive_given_one_dim", "layer", _flow(1, ps.Autoregressive(AFFINE, ps.MLP((7, 5), "silu")), context_dim=2), 64,
         NET, conditional=True),
    Case("autoregressive_given_linear", "layer",
         _flow(3, ps.Autoregressive(ps.Affine(scale_bound=0.5), ps.MLP(())), context_dim=2, embedding=ps.MLP((6,), "tanh"),
               embedding_dim=3), 128, STEPS, gain=0.4, conditional=True),
    # recipes
    Case("nsf_ar_given", "recipe",
         _recipe("nsf_ar", 3, 2, (16, 16), "silu", context_dim=2, base_context=(5,), mixing="reverse"), 8192, SPLINED,
         gain=0.3, conditional=True, **BENT),
    Case("realnvp_given", "recipe",
         _recipe("realnvp", 3, 4, (16, 16), "tanh", context_dim=2, base_context=(5,), embedding=ps.MLP((11,), "tanh"),
                 mixing="random"),
         512, CHAIN, gain=0.5, conditional=True),
    Case("contexts", "layer",
         _flow(3, ps.Coupling(SPLINE, ps.MLP((9, 8), "silu")), ps.Elementwise(AFFINE, ps.MLP((6,), "tanh")),
               ps.Autoregressive(AFFINE, ps.MLP((12,), "tanh"), "random"), context_dim=6, context_support=CONTEXTS), 2048, GIVEN,
         gain=0.3, conditional=True, **BENT),
    Case("realnvp_contexts", "recipe",
         _recipe("realnvp", 2, 2, (16,), "tanh", context_dim=6, base_context=(5,), embedding=ps.MLP((11,), "gelu"),
                 embedding_dim=4, mixing="random", context_support=CONTEXTS), 512, GIVEN, gain=0.5, conditional=True,
         kinks=True),
    Case("nice", "recipe", _recipe("nice", 4, 4, (16, 16), "tanh"), 128, CHAIN),
    Case("realnvp", "recipe", _recipe("realnvp", 5, 6, (16, 16), "silu"), 1024, CHAIN, gain=0.3, identity=False),
    Case("glow", "recipe", _recipe("glow", 5, 3, (16,), "silu"), 1024, CHAIN, gain=0.3, identity=False),
    Case("nsf_ar", "recipe", _recipe("nsf_ar", 4, 3, (16, 16), "silu"), 8192, SPLINED, gain=0.3, identity=False, **BENT),
    Case("maf", "recipe", _recipe("maf", 5, 4, (16, 16), "silu"), 1024, CHAIN, gain=0.4, identity=False),
    Case("iaf", "recipe", _recipe("iaf", 5, 4, (16, 16), "tanh", mixing="reverse"), 1024, CHAIN, gain=0.4),
    Case("nsf", "recipe", _recipe("nsf", 3, 3, (16, 16), "silu"), 8192, SPLINED, gain=0.3, identity=False, **BENT),
    Case("nsf_relu", "recipe", _recipe("nsf", 2, 4, (16,), "relu", mixing="random"), 4096, SPLINED, gain=0.3, **BENT),
    Case("nsf_one_dim", "recipe", _recipe("nsf", 1, 2, (16,), "relu"), 1024, SPLINED, **BENT),
    Case("realnvp_relu", "recipe", _recipe("realnvp", 2, 4, (16,), "relu", mixing="random"), 512, CHAIN, gain=0.5, kinks=True),
    Case("realnvp_wide", "recipe", _recipe("realnvp", 16, 8, (64, 64), "relu", mixing="random"), 1024, CHAIN, gain=0.4,
         kinks=True),
)  # fmt: skip

MAPPED = "logarithms and exponentials of the bijections, times what the layers make of them"
LOGIT, ABOVE, BELOW = ps.interval(-1, 3, map="logit"), ps.interval(1.5, None), ps.interval(None, 2.5)
# Flows whose columns have supports: they are no identity when they are fresh, and meet the laws of
# test_supports.py, as do those of the next two tables.
SUPPORTED = (
    Case("positive", "layer", _flow(1, ps.Elementwise(AFFINE), support="positive"), 64, MAPPED),
    Case("above", "layer", _flow(1, ps.Elementwise(SPLINE), support=ABOVE), 512, MAPPED, **BENT),
    Case("below", "layer", _flow(1, ps.Elementwise(AFFINE), support=BELOW), 64, MAPPED),
    Case("logit", "layer", _flow(1, ps.Elementwise(AFFINE), support=LOGIT), 64, MAPPED),
    Case("two_supports", "layer", _flow(2, ps.Coupling(AFFINE, ps.MLP((8,), "tanh")), ps.LULinear("identity"),
                                        support=["positive", LOGIT]), 256, MAPPED, gain=0.5),
    Case("mixed_supports", "layer",
         _flow(6, ps.Coupling(AFFINE, ps.MLP((12,), "silu")), ps.Permutation((5, 3, 4, 0, 1, 2)),
               ps.Autoregressive(AFFINE, ps.MLP((12,), "tanh"), "reverse"), ps.LULinear("identity"),
               support=["positive", "real", LOGIT, BELOW, "real", ABOVE]), 512, MAPPED, gain=0.4),
    Case("supports_given", "layer",
         _flow(3, ps.Coupling(AFFINE, ps.MLP((8, 8), "silu")), ps.Permutation(), ps.Coupling(AFFINE, ps.MLP((8,), "tanh")),
               context_dim=2, support={0: BELOW, 2: LOGIT}), 256, MAPPED, gain=0.5, conditional=True),
    Case("nsf_positive", "recipe", _recipe("nsf", 9, 2, (16,), "tanh", support="positive"), 8192, MAPPED, gain=0.3, **BENT),
)  # fmt: skip

TURNED = "angles of up to 180 degrees, cosines and sines, splines, and what the layers make of them"
TURN, PHASE = ps.periodic(-180, 180), ps.periodic(0.5, 2.5)
BOX, OPEN = ps.interval(-1, 3), ps.interval(10, 11, closed="neither")
ALL_KINDS: Any = ["real", TURN, BOX, "positive", PHASE]
# Flows with circles and boxes, with more laws in test_kinds.py: alone, mixed with each other and with lines, in
# every layer that acts on them or leaves them alone, free and given, in both directions.
KINDED = (
    Case("circle", "layer", _flow(1, ps.Elementwise(SPLINE), support=TURN), 512, TURNED, kinks=True),
    Case("circle_to_data", "layer", _flow(1, ps.Elementwise(SPLINE, explicit="to_data"), support=PHASE), 512, TURNED, kinks=True),
    Case("box", "layer", _flow(1, ps.Elementwise(SPLINE), support=BOX), 512, TURNED, kinks=True),
    Case("box_open", "layer", _flow(1, ps.Elementwise(SPLINE, explicit="to_data"), support=OPEN), 512, TURNED, kinks=True),
    Case("two_circles", "layer", _flow(2, ps.Coupling(AFFINE, ps.MLP((8,), "tanh")), ps.Permutation(),
                                       ps.Coupling(AFFINE, ps.MLP((8,), "tanh")), support=[TURN, PHASE]), 2048, TURNED,
         gain=0.5, kinks=True),
    Case("circle_and_box", "layer", _flow(2, ps.Autoregressive(AFFINE, ps.MLP((8,), "tanh")), support=[TURN, BOX]), 2048, TURNED,
         gain=0.5, kinks=True),
    Case("box_and_line", "layer", _flow(2, ps.Autoregressive(SPLINE, ps.MLP((8,), "tanh"), "reverse"), support=[BOX, "real"]),
         2048, TURNED, gain=0.5, kinks=True),
    Case("free_kinds", "layer", _flow(5, ps.Elementwise(SPLINE), ps.Elementwise(AFFINE), support=ALL_KINDS), 512, TURNED,
         kinks=True),
    Case("coupling_kinds", "layer",
         _flow(5, ps.Coupling(SPLINE, ps.MLP((16, 8), "tanh"), (1, 3)), ps.Permutation((4, 2, 0, 3, 1)),
               ps.Coupling(ADDITIVE, RESIDUAL, (0, 1, 2), explicit="to_data"), ps.LULinear(), ps.ActNorm(), support=ALL_KINDS),
         8192, TURNED, gain=0.4, kinks=True),
    Case("autoregressive_kinds", "layer",
         _flow(5, ps.Autoregressive(SPLINE, ps.MLP((16, 8), "silu"), "random"), ps.LULinear(explicit="to_data"),
               ps.Permutation("random"), ps.Autoregressive(AFFINE, RESIDUAL, "reverse", "to_data"), support=ALL_KINDS),
         8192, TURNED, gain=0.3, kinks=True),
    Case("kinds_given", "layer",
         _flow(4, ps.Elementwise(SPLINE, ps.MLP((6,), "tanh")), ps.Coupling(AFFINE, ps.MLP((8, 8), "silu")), ps.Permutation(),
               ps.Autoregressive(SPLINE, ps.MLP((12,), "tanh"), "random"), context_dim=2,
               support=[PHASE, "real", OPEN, TURN]), 8192, TURNED, gain=0.3, conditional=True, kinks=True),
    Case("kinds_embedded", "layer",
         _flow(3, ps.Elementwise(SPLINE, ps.MLP((6,), "tanh"), "to_data"), ps.Autoregressive(AFFINE, ps.MLP((8,), "tanh")),
               context_dim=3, embedding=ps.MLP((9,), "gelu"), embedding_dim=4, support=[TURN, TURN, BOX]),
         4096, TURNED, gain=0.4, conditional=True, kinks=True),
    Case("nsf_circles", "recipe", _recipe("nsf", 9, 3, (16,), "tanh", support=TURN), 8192, TURNED, gain=0.3, kinks=True),
    Case("nsf_ar_kinds", "recipe", _recipe("nsf_ar", 5, 2, (16, 16), "tanh", support=ALL_KINDS), 8192, TURNED, gain=0.3,
         kinks=True),
    Case("glow_kinds", "recipe", _recipe("glow", 5, 2, (16,), "tanh", support=ALL_KINDS), 8192, TURNED, gain=0.3, kinks=True),
    Case("iaf_boxes", "recipe", _recipe("iaf", 3, 2, (16,), "tanh", support=BOX), 8192, TURNED, gain=0.3, kinks=True),
)  # fmt: skip

SHARED = "what the columns before one leave of its interval, logarithms of it, and what the layers make of them"
LONG: Any = [{0: TURN, 39: "positive"}, ps.simplex(range(38, 0, -1))]
MIXTURE: Any = [{0: TURN, 4: BOX, 6: "positive"}, ps.ordered([3, 1]), ps.simplex([7, 2, 5])]
# Flows with groups of columns, with more laws in test_groups.py: with every combination of ends, alone and mixed,
# in rising order of the columns and not, free and given; LONG has more columns than the way back takes at a time.
GROUPED = (
    Case("ordered_two", "layer", _flow(2, ps.Elementwise(AFFINE), support=ps.ordered([0, 1])), 256, SHARED),
    Case("ordered", "layer", _flow(4, ps.Coupling(AFFINE, ps.MLP((8,), "tanh")), ps.LULinear("identity"),
                                   support=[{1: "real"}, ps.ordered([3, 0, 2])]), 1024, SHARED, gain=0.5),
    Case("ordered_above", "layer", _flow(2, ps.Coupling(AFFINE, ps.MLP((8,), "tanh")), support=ps.ordered([1, 0], lo=1.5)), 1024,
         SHARED, gain=0.5),
    Case("ordered_below", "layer", _flow(2, ps.Coupling(AFFINE, ps.MLP((8,), "tanh")), support=ps.ordered([0, 1], hi=2.5)), 1024,
         SHARED, gain=0.5),
    Case("ordered_within", "layer", _flow(2, ps.Autoregressive(AFFINE, ps.MLP((8,), "tanh")), support=ps.ordered([1, 0], -1, 3)),
         1024, SHARED, gain=0.5),
    Case("simplex", "layer", _flow(2, ps.Coupling(AFFINE, ps.MLP((8,), "tanh")), support=ps.simplex([0, 1])), 1024, SHARED,
         gain=0.5),
    Case("simplex_spline", "layer", _flow(2, ps.Elementwise(SPLINE), support=ps.simplex([1, 0])), 1024, SHARED, kinks=True),
    Case("long_groups", "layer", _flow(40, ps.Elementwise(AFFINE), ps.LULinear("identity"), support=LONG), 8192, SHARED, gain=0.2,
         kinks=True),
    Case("mixed_groups", "layer",
         _flow(8, ps.Coupling(AFFINE, ps.MLP((12,), "silu")), ps.Permutation((5, 3, 4, 0, 7, 1, 2, 6)),
               ps.Autoregressive(SPLINE, ps.MLP((12,), "tanh"), "reverse"), ps.LULinear("identity"), support=MIXTURE), 8192,
         SHARED, gain=0.3, kinks=True),
    Case("groups_given", "layer",
         _flow(5, ps.Coupling(AFFINE, ps.MLP((8, 8), "silu")), ps.Permutation(), ps.Coupling(AFFINE, ps.MLP((8,), "tanh")),
               context_dim=2, support=[ps.ordered([0, 2], hi=1), ps.ordered([3, 1, 4], 0, 1)]), 2048, SHARED, gain=0.4,
         conditional=True),
    Case("nsf_ordered", "recipe", _recipe("nsf", 4, 2, (16,), "tanh", support=ps.ordered([0, 1, 2, 3], lo=0)), 8192, SHARED,
         gain=0.3, kinks=True),
    Case("nsf_ar_simplex", "recipe", _recipe("nsf_ar", 4, 2, (16, 16), "tanh", support=ps.simplex([2, 0, 1, 3])), 8192, SHARED,
         gain=0.3, kinks=True),
)  # fmt: skip

CASES = tuple(case for case in TABLE if case.build)
KERNELS = tuple(case for case in TABLE if case.transform)
BY_NAME = {case.name: case for case in TABLE}
CONDITIONAL = tuple(case for case in CASES if case.conditional)
SMALL = tuple(
    case for case in CASES if case.name not in ("realnvp_wide", "coupling_odd_widths", "autoregressive_odd_widths")
)
# What the Numba backend is held against in the quick suite; its compiler would spend minutes on the other cases, which are for
# CI. Together these have every transform, layer, activation and direction, networks of each kind, and contexts.
CHOSEN = (
    "elementwise_one_dim", "permutation_random", "no_layers", "lu_linear_wide", "coupling_to_data", "coupling_relu",
    "coupling_linear", "coupling_residual", "coupling_odd_widths", "autoregressive", "autoregressive_residual",
    "autoregressive_additive", "autoregressive_spline_to_data", "spline_steep", "coupling_spline", "mixed_layers",
    "coupling_given_residual", "coupling_given_odd_widths", "elementwise_given_one_dim", "embedding",
    "autoregressive_given_residual", "nsf_ar_given", "nsf", "realnvp_wide",
)  # fmt: skip
QUICK = tuple(case for case in CASES if case.kind == "transform" or case.name in CHOSEN)
# The flows on which whole-engine laws (threads, training, processes) are held: one plain, one with every kind of layer.
ENGINE = (BY_NAME["realnvp_wide"], BY_NAME["mixed_layers"])


def backends() -> tuple[str, ...]:
    """The backends that can run here, or the one that ``PENSTOCK_BACKEND`` names. A broken one raises, as it should."""
    best = _backend.choose("auto").name
    assert best != "none", "no backend is installed"
    if best == "cpp" and importlib.util.find_spec("numba") is not None and not os.environ.get("PENSTOCK_BACKEND"):
        return ("cpp", "numba")
    return (best,)


BACKENDS = backends()


def rng(*key: Any) -> np.random.Generator:
    """A generator that depends on ``key`` alone."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def randomise(flow: ps.Flow, gain: float, *key: Any, initialised: bool = True) -> ps.Flow:
    """Random parameters and a random standardisation, the same for every backend, dtype and machine."""
    source = rng("parameters", *key)
    params = []
    for name, value in dict(flow.named_params()).items():
        fan = value.shape[0] if value.ndim == 2 else 4
        if value.ndim == 2 and value.shape[1] == 2 and value.shape[0] == flow.dim and not name.endswith("lu"):  # theta
            fan = 2
        params.append((gain * source.standard_normal(value.shape) * math.sqrt(2 / max(fan, 1))).ravel())
    buffers = []
    mapped = [i for i, own in enumerate(flow.spec.support) if own.name != "real"]
    shut = [i for i, own in enumerate(flow.spec.support) if own.kind != "line"]
    for n in (flow.dim, flow.context_dim):
        buffers += [source.normal(0, 3, n), np.exp(source.normal(0, 0.5, n))]
    for array in buffers[:2]:
        array[mapped] = 0.3 * array[mapped]  # where bijections bend
    given = [i for i, own in enumerate(flow.spec.context_support) if own.kind != "line"]
    for array in buffers[2:4] if flow.spec.context_support else ():
        array *= 0.3
    if given:
        buffers[2][given], buffers[3][given] = 0.0, 1.0
    for own in dict.fromkeys(own for own in flow.spec.support if own.name in ("ordered", "simplex")):
        for behind, j in enumerate(reversed(own.chain)):  # a fair part each of what is left, where something is
            buffers[0][j] -= math.log(1 + behind)
            buffers[1][j] *= 1.0 if len(own.chain) < 10 else 0.3
    if shut:
        buffers[0][shut], buffers[1][shut] = 0.0, 1.0
    for j, own in enumerate([*flow.spec.support, *flow.spec.context_support]):
        if own.name in ("ordered", "simplex"):
            buffers.append(np.exp(source.normal(0, 0.5, n_numbers(own, j))))
        elif getattr(own, "map", "") == "positive":
            buffers.append(np.exp(source.normal(0, 1, 1)))
        elif own.kind == "box":
            buffers.append(own.lo + (own.hi - own.lo) * np.array([source.uniform(0.2, 0.8), 0.0]))
            buffers[-1][1] = (own.hi - own.lo) * source.uniform(0.05, 0.5)
    vector = np.concatenate(params) if params else np.zeros(0)
    # NumPy's exp depends in its last bits on the instruction set; rounding to float32 hides them.
    assign(
        flow,
        params=vector.astype(np.float32).astype(flow.dtype),
        buffers=np.concatenate(buffers).astype(np.float32),
        initialised=initialised,
    )
    return flow


def assign(flow: Any, *, params: Any = None, buffers: Any = None, initialised: bool | None = None) -> None:
    """Give a flow other numbers, its standardisation included."""
    old = flow._snapshot
    flow._snapshot = Snapshot(
        flow._plan.clear_masked(np.array(old.params if params is None else params, flow.dtype)),
        np.array(old.buffers if buffers is None else buffers, np.float64),
        old.initialised if initialised is None else initialised,
    )


def standardisation(flow: Any) -> Array:
    """Location and scale of every column of the data, then of the context."""
    return np.array(flow._snapshot.buffers)


def data_scale(flow: Any) -> tuple[Array, Array]:
    """Location and scale of the columns of the data."""
    loc, scale = np.split(standardisation(flow)[: 2 * flow.dim], 2)
    return loc, scale


def context_scale(flow: Any) -> tuple[Array, Array]:
    """Location and scale of the columns of the context."""
    loc, scale = np.split(standardisation(flow)[2 * flow.dim : 2 * (flow.dim + flow.context_dim)], 2)
    return loc, scale


def support_scale(flow: Any) -> Array:
    """The numbers that supports have of their own: s of a half-line, also one that other columns move, m and s of a box."""
    return standardisation(flow)[2 * (flow.dim + flow.context_dim) :]


def from_line(flow: Any, u: Array) -> Array:
    """Columns on the line as columns of the data, for points of tests alone."""
    return _within(flow.spec.support, iter(support_scale(flow).tolist()), u)


def _within(support: Any, scales: Iterator[float], u: Array) -> Array:
    """Any numbers as ones within supports, those of lines by their bijections."""
    x = np.array(u, np.float64)
    for j, own in enumerate(support):
        if own.name == "periodic":
            x[..., j] = own.lo + (own.hi - own.lo) * u[..., j]
        elif own.name == "interval":
            lo, hi = own.ends
            if own.map == "box":
                next(scales), next(scales)
            if own.map in ("box", "logit"):
                x[..., j] = lo + (hi - lo) / (1 + np.exp(-u[..., j]))
            else:
                s = next(scales)
                x[..., j] = (
                    lo + s * np.logaddexp(0, u[..., j]) if own.hi is None else hi - s * np.logaddexp(0, -u[..., j])
                )
    return x


@functools.cache
def built(case: Case, backend: str, dtype: str) -> ps.Flow:
    """The flow of a case with random parameters, shared by the tests, which do not change it."""
    flow = case.build(dtype=dtype, backend=backend)
    return randomise(flow, case.gain, case.name)


def fresh(case: Case, backend: str, dtype: str) -> ps.Flow:
    """A flow of one's own with the same parameters."""
    return built(case, backend, dtype).copy()


def latents(case: Case, rows: int, dim: int, dtype: str, *key: Any) -> Array:
    """Points on the latent side; numbers that float32 holds exactly, so that both dtypes see the same ones."""
    return (case.spread * rng("latents", case.name, *key).standard_normal((rows, dim))).astype(np.float32).astype(dtype)


def points(case: Case, rows: int, flow: ps.Flow, *key: Any) -> Array:
    """Points on the data side, where the flow's standardisation puts the bulk of them."""
    loc, scale = data_scale(flow)
    u = case.spread * rng("points", case.name, *key).standard_normal((rows, flow.dim))
    return from_line(flow, loc + scale * u).astype(np.float32).astype(flow.dtype)


def contexts(case: Case, rows: int, flow: Any, *key: Any) -> Array:
    """Rows of context, where the flow's standardisation puts the bulk of them."""
    loc, scale = context_scale(flow)
    u = loc + scale * rng("contexts", case.name, *key).standard_normal((rows, flow.context_dim))
    support = bare(flow).spec.context_support
    numbers = support_scale(flow)[sum(n_numbers(own, j) for j, own in enumerate(bare(flow).spec.support)) :]
    return _within(support, iter(numbers.tolist()), u).astype(np.float32).astype(flow.dtype)
