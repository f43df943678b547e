"""A flow on a CUDA device gives the bits of the compiled core: every verb of every case, gradients, training, files."""

from __future__ import annotations

import functools
import pickle
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import (
    BY_NAME,
    CASES,
    CONDITIONAL,
    DTYPES,
    GROUPED,
    KERNELS,
    KINDED,
    SUPPORTED,
    Case,
    bare,
    built,
    contexts,
    fresh,
    latents,
    points,
    rng,
)  # fmt: skip
from devices import ENV, assert_same, device, needs_device, needs_emulation  # noqa: F401
from helpers import LAYOUTS, both_dtypes, engine_evaluate, inside, n_steps, packed_of, python, python_json

Array = np.ndarray[Any, Any]

pytestmark = needs_device
# Recipes for which a device has kernels of their own.
RECTIFIED = tuple(
    Case(
        f"{name}_rectified",
        "recipe",
        functools.partial(
            getattr(ps, name),
            dim=5,
            layers=3,
            hidden=(24, 70),
            activation="relu",
            mixing="lu" if name == "glow" else "random",
            rng=3,
        ),
        0,
        "the bits of the core",
        gain=0.3,
    )
    for name in ("realnvp", "nsf", "glow", "maf", "iaf", "nsf_ar")
)
FLOWS = (*CASES, *SUPPORTED, *KINDED, *GROUPED, *RECTIFIED)
LARGE = ("realnvp_wide", "long_groups", "lu_linear_wide", "coupling_odd_widths", "autoregressive_odd_widths")
# The flows on which laws of whole engines are held: plain, with every layer, sequential, conditional, with kinds.
CHOSEN = tuple(
    next(case for case in FLOWS if case.name == name)
    for name in ("realnvp_relu", "mixed_layers", "nsf_ar_given", "embedding", "kinds_given", "mixed_groups")
)
each_chosen = pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
# An emulated device takes its time. In the quick suite every flow has one of both dtypes, by turns, and 67 rows, which are more
# than a tile; everything else is slow.
QUICK_DTYPE = {case.name: DTYPES[number % 2] for number, case in enumerate(FLOWS)}


def _quick(case: Case, dtype: str) -> bool:
    return case.name not in LARGE and (case in CHOSEN or dtype == QUICK_DTYPE[case.name])


def _each(cases: Sequence[Case], sizes: Sequence[int]) -> Any:
    """A flow, a dtype and a number of rows, of which the first is for everybody."""
    return pytest.mark.parametrize(
        ("case", "dtype", "rows"),
        [
            pytest.param(
                case, dtype, rows, id=f"{case.name}-{dtype}-{rows} rows",
                marks=() if rows == sizes[0] and _quick(case, dtype) else pytest.mark.slow,
            )
            for rows in sizes for case in cases for dtype in DTYPES
        ],
    )  # fmt: skip


each_flow = _each(FLOWS, (67, 0, 1, 64, 300))
each_conditional = _each([case for case in FLOWS if case.conditional], (66,))


def pair(case: Case, dtype: str) -> tuple[ps.Flow, ps.Flow]:
    """The flow of a case on the device and on the processor."""
    return bare(built(case, "cuda", dtype)), bare(built(case, "cpp", dtype))


def compare(case: Case, dtype: str, ask: Callable[[ps.Flow], Any]) -> None:
    """Ask both."""
    there, here = pair(case, dtype)
    assert_same(ask(there), ask(here))


def inputs(case: Case, rows: int, flow: ps.Flow, key: str = "cuda") -> dict[str, Any]:
    """Rows of either side, cotangents, weights of which some are 0, and the context of each row."""
    source = rng(key, case.name, rows)
    here = built(case, "cpp", flow.dtype.name)
    # Of columns with supports those that a flow draws: others may lie outside.
    x = points(case, rows, here, key) if case in CASES else here.sample(rows, rng=rows)
    return {
        "x": x,
        "z": latents(case, rows, flow.dim, flow.dtype.name, key),
        "d_rows": source.standard_normal(x.shape).astype(flow.dtype),
        "d_value": source.standard_normal(rows).astype(flow.dtype),
        "weight": source.standard_normal(rows) * (source.random(rows) < 0.8),
        "context": contexts(case, rows, flow, key) if flow.context_dim else None,
    }


def verbs(flow: ps.Flow, g: dict[str, Any], context: Any) -> list[Any]:
    """What every verb that asks an engine says of some rows with a context."""
    wrt = ("x", "context") if flow.context_dim else ("x",)
    n = len(g["x"])
    return [
        flow.log_prob(g["x"], context),
        flow.to_latent(g["x"], context),
        flow.to_data(g["z"], context),
        flow.log_prob_and_grad(g["x"], context, wrt),
        flow.log_prob_vjp(g["x"], g["d_value"], context),
        flow.to_latent_vjp(g["x"], g["d_rows"], g["d_value"], context),
        flow.to_latent_vjp(g["x"], None, g["d_value"], context),
        flow.to_data_vjp(g["z"], g["d_rows"], g["d_value"], context),
        flow.to_data_vjp(g["z"], g["d_rows"], None, context),
        flow.loss_and_grad(g["x"], context),
        flow.loss_and_grad(g["x"], context, g["weight"]),
        flow.score(g["x"], context),
        flow.score(g["x"], context, sample_weight=abs(g["weight"])) if n > 1 else None,
        [flow.log_prob(row, context if context is None or context.ndim == 1 else context[0]) for row in g["x"][:2]],
    ]


# --- every verb -------------------------------------------------------------------------------------------------


@each_flow
def test_every_verb_has_the_bits_of_the_core(case: Case, dtype: str, rows: int) -> None:
    g = inputs(case, rows, pair(case, dtype)[0])
    shared = g["context"][0] if case.conditional and rows else None
    if case.conditional and not rows:
        return  # see the law of empty inputs
    compare(case, dtype, lambda flow: verbs(flow, g, shared))


@each_flow
def test_draws_have_the_bits_of_the_core(case: Case, dtype: str, rows: int) -> None:
    there = pair(case, dtype)[0]
    one = contexts(case, 1, there)[0] if case.conditional else None

    def ask(flow: ps.Flow) -> Any:
        runner, packed = flow._runner(), packed_of(flow)
        return [
            flow.sample(rows, one, rng=1),
            flow.sample_and_log_prob(rows, one, rng=2, first=2**40 - 3),
            runner.latents(packed, rows, 7, one, numbers=(5, 0)),
            runner.log_base(packed, flow.to_latent(flow.sample(rows, one, rng=3), one)[0], one),
        ]

    compare(case, dtype, ask)


@each_conditional
def test_contexts_of_rows_of_blocks_and_of_one_have_the_bits_of_the_core(case: Case, dtype: str, rows: int) -> None:
    g = inputs(case, rows, pair(case, dtype)[0], "contexts")
    compare(case, dtype, lambda flow: verbs(flow, g, g["context"]))
    blocks = {
        **g,
        **{name: g[name].reshape(6, 11, *g[name].shape[1:]) for name in ("x", "z", "d_rows", "d_value", "weight")},
    }

    def ask(flow: ps.Flow) -> Any:
        one, few = g["context"][3], g["context"][:6]
        view = flow.given(one)
        return [
            flow.log_prob(blocks["x"], few),
            flow.to_data(blocks["z"], few),
            flow.log_prob_and_grad(blocks["x"], few, ("x", "context")),
            flow.loss_and_grad(blocks["x"], few, blocks["weight"]),
            flow.sample(11, few, rng=1),
            flow.sample_and_log_prob(None, few, rng=1, first_context=2**40 - 7),
            flow.log_prob(g["x"][0], g["context"]),  # one row
            flow.log_prob_vjp(g["x"][0], g["d_value"], g["context"]),
            view.log_prob(g["x"]),
            view.log_prob_and_grad(g["x"]),
            view.sample(9, rng=1),
        ]

    compare(case, dtype, ask)


@each_chosen
@both_dtypes
def test_ranges_of_steps_and_rows_of_an_index_have_the_bits_of_the_core(case: Case, dtype: str) -> None:
    g = inputs(case, 70, pair(case, dtype)[0], "index")
    index = rng("index").integers(0, 70, 90)

    def ask(flow: ps.Flow) -> Any:
        found = []
        for first, last in ((0, n_steps(flow)), (1, n_steps(flow)), (0, n_steps(flow) - 1), (1, 1)):
            for to_data, rows in ((False, g["x"]), (True, g["z"])):
                out, log_det = np.zeros((90, flow.dim), dtype), np.zeros(90)
                engine_evaluate(
                    flow,
                    to_data,
                    rows,
                    first=first,
                    last=last,
                    index=index,
                    context=g["context"],
                    out=out,
                    log_det=log_det,
                )
                found += [out, log_det]
        runner = flow._runner()
        return [*found, runner.log_prob(packed_of(flow), g["x"], g["context"], index=index)]

    compare(case, dtype, ask)


@pytest.mark.parametrize("case", KERNELS, ids=lambda case: case.name)
@both_dtypes
@inside("shared", [False, True])
def test_external_theta_has_the_bits_of_the_core(case: Case, dtype: str, shared: bool) -> None:
    source = rng("theta", case.name)
    transform, rows, dim = case.transform, 70, 3
    n = len(transform.theta_names)
    theta = source.standard_normal((dim, n) if shared else (rows, dim, n)).astype(dtype)
    x, d_out = source.standard_normal((2, rows, dim)).astype(dtype)
    d_log_det = source.standard_normal(rows).astype(dtype)
    assert_same(
        *[
            [
                ps.ops.forward(transform, x, theta, backend=backend),
                ps.ops.inverse(transform, x, theta, backend=backend),
                ps.ops.backward(transform, x, theta, d_out, d_log_det, backend=backend),
                ps.ops.inverse_backward(transform, x, theta, d_out, d_log_det, backend=backend),
            ]
            for backend in ("cuda", "cpp")
        ]
    )


@both_dtypes
def test_learned_bases_have_the_bits_of_the_core(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_CUDA_CHUNK", "128")  # two chunks
    network = ps.MLP((6,), "tanh")
    mixture = ps.Product([ps.GaussianMixture(2, 3), ps.StudentT(1), ps.GaussianMixture(1, 2)])
    given = ps.Product([ps.GaussianMixture(2, 3, network), ps.StudentT(2, conditioner=network)])
    for base, mixtures, options in (
        (ps.Normal(4), 0, {}), (ps.StudentT(4), 0, {}), (ps.Uniform(4, -9.0, 9.0), 0, {}), (mixture, 2, {}),
        (given, 1, {"context_dim": 2}),
    ):  # fmt: skip
        layers = [ps.Permutation((3, 1, 0, 2)), ps.Coupling(ps.Affine(), ps.MLP((8,), "tanh"))]
        here = ps.Flow(base, layers, dtype=dtype, rng=0, backend="cpp", **options)
        source = rng("bases", repr(base))
        here.params = here.params + source.normal(0, 0.3, here.n_params)
        x = source.standard_normal((130, 4)).astype(dtype)
        c = source.standard_normal((130, 2)).astype(dtype) if here.context_dim else None
        chosen = np.stack([np.arange(130) * (k + 1) % 2 for k in range(mixtures)]) if mixtures else None
        d_z, d_weight = source.standard_normal((130, 4)).astype(dtype), source.standard_normal(130).astype(dtype)
        answers = []
        for flow in (here.to("cuda"), here):
            runner, packed = flow._runner(), packed_of(flow)
            answers.append(
                [
                    flow.log_prob(x, c),
                    flow.log_prob_and_grad(x, c),
                    flow.loss_and_grad(x, c),
                    flow.sample(130, None if c is None else c[0], rng=1),
                    runner.latents(packed, 130, 3, c, chosen),
                    runner.log_base_vjp(packed, x, d_weight, c),
                    runner.latents_vjp(packed, 3, d_z, d_weight if mixtures else None, c, chosen),
                ]
            )
        assert_same(*answers)


# --- rows of every sort -----------------------------------------------------------------------------------------


@each_chosen
@both_dtypes
def test_rows_that_are_far_out_or_no_numbers_have_the_bits_of_the_core(case: Case, dtype: str) -> None:
    g = inputs(case, 80, pair(case, dtype)[0], "far")
    limits = np.finfo(dtype)
    wild = [
        np.nan,
        np.inf,
        -np.inf,
        limits.max,
        -limits.max,
        1e30,
        -1e25,
        limits.tiny,
        limits.smallest_subnormal,
        0.0,
        -0.0,
    ]
    for name in ("x", "z"):
        for k, number in enumerate(wild):
            g[name][3 * k, k % g[name].shape[1]] = number
            g[name][3 * k + 1] = number
    if g["context"] is not None:
        g["context"][5:8, 0] = np.nan, np.inf, 1e30
    g["weight"][:40] = 0
    with np.errstate(all="ignore"):
        compare(case, dtype, lambda flow: verbs(flow, g, g["context"]))


@each_chosen
@both_dtypes
def test_empty_inputs_have_the_answers_of_the_core(case: Case, dtype: str) -> None:
    g = inputs(case, 0, pair(case, dtype)[0], "empty")
    compare(case, dtype, lambda flow: [*verbs(flow, g, g["context"])[:-1], flow.sample(0, _first(case, flow), rng=0)])


def _first(case: Case, flow: ps.Flow) -> Any:
    return contexts(case, 1, flow)[0] if case.conditional else None


@pytest.mark.parametrize("case", CHOSEN[3:5], ids=lambda case: case.name)
@both_dtypes
@inside("layout", LAYOUTS)
def test_the_layout_of_the_input_changes_no_bit(case: Case, dtype: str, layout: str) -> None:
    there, here = pair(case, dtype)
    g = inputs(case, 70, there, "layout")
    plain = "float32" if layout == "other_width" and dtype == "float64" else dtype  # numbers that both hold
    x, c = (
        g["x"].astype("float32").astype(plain),
        None if g["context"] is None else g["context"].astype("float32").astype(plain),
    )
    if layout == "other_width":
        x, c = x.astype("float32"), None if c is None else c.astype("float32")
    turned = LAYOUTS[layout](x), None if c is None else LAYOUTS[layout](c)
    assert_same(there.log_prob(*turned), here.log_prob(x, c))
    assert_same(there.to_latent(*turned), here.to_latent(x, c))
    assert_same(there.log_prob_and_grad(*turned), here.log_prob_and_grad(x, c))
    assert_same(there.loss_and_grad(*turned), here.loss_and_grad(x, c))


@both_dtypes
def test_a_row_repeated_by_a_zero_stride_works(dtype: str) -> None:
    there, here = pair(BY_NAME["nsf"], dtype)
    x = np.broadcast_to(np.array([0.1, -0.2, 0.3], dtype), (70, 3))
    assert_same(there.log_prob(x), here.log_prob(x))


@each_chosen
def test_memory_for_the_way_back_may_be_short(case: Case) -> None:
    there, here = pair(case, "float32")
    g = inputs(case, 130, there, "recompute")
    engine = there._runner().engine
    before = engine.recompute
    try:
        for engine.recompute in (0, 1):
            assert_same(
                there.log_prob_vjp(g["x"], g["d_value"], g["context"]),
                here.log_prob_vjp(g["x"], g["d_value"], g["context"]),
            )
            assert_same(there.loss_and_grad(g["x"], g["context"]), here.loss_and_grad(g["x"], g["context"]))
    finally:
        engine.recompute = before


def test_results_go_where_they_are_wanted() -> None:
    there, here = pair(BY_NAME["nsf"], "float32")
    g = inputs(BY_NAME["nsf"], 70, there, "out")
    for flow in (there, here):
        flow_out, rows = np.full(72, 7, "f4"), np.full((72, 3), 7, "f4")
        assert flow.log_prob(g["x"], out=flow_out[1:71]).base is flow_out
        flow.sample(70, rng=0, out=rows[1:71])
        assert (flow_out[[0, 71]] == 7).all()
        assert (rows[[0, 71]] == 7).all()
        assert_same((flow_out[1:71], rows[1:71]), (here.log_prob(g["x"]), here.sample(70, rng=0)))


# --- training ---------------------------------------------------------------------------------------------------


def trained(flow: ps.Flow, g: dict[str, Any], epochs: int, **more: Any) -> list[Any]:
    """What a fit leaves: parameters, standardisation and what the history has of losses."""
    flow = flow.copy()
    flow.fit(g["x"], g["context"], epochs=epochs, batch_size=64, rng=4, **more)
    history = flow.history
    return [flow.params, flow._snapshot.buffers, history.train_loss, history.validation_loss, history.learning_rate]


def start(case: Case, backend: str, dtype: str) -> ps.Flow:
    """The flow of a case before any fit, with random parameters."""
    flow = bare(fresh(case, backend, dtype))
    return flow._like(flow._spec, flow._plan, type(flow._snapshot)(flow.params, flow._snapshot.buffers, False))


TRAINED = [
    pytest.param(case, epochs, id=f"{case.name}-{4 * epochs} steps", marks=() if quick else pytest.mark.slow)
    for epochs in (3, 50)
    for case in FLOWS
    for quick in [epochs == 3 and case in (*CHOSEN, *RECTIFIED)]
    if epochs == 3 or case.name not in LARGE
]


@pytest.mark.filterwarnings("ignore::penstock.PenstockWarning")
@pytest.mark.parametrize(("case", "epochs"), TRAINED)
@both_dtypes
def test_training_has_the_bits_of_the_core(case: Case, epochs: int, dtype: str) -> None:
    rows = 280  # four batches of 64 beside those for validation
    g = inputs(case, rows, pair(case, dtype)[0], "training")
    weight = abs(rng("weight", case.name).standard_normal(rows)) * 1e9
    if epochs == 3 and dtype == "float32":
        assert_same(*[trained(start(case, name, dtype), g, 3) for name in ("cuda", "cpp")])
    options: dict[str, Any] = {"sample_weight": weight, "weight_decay": 0.01, "clip_norm": 0.1, "validation": 0.08}
    assert_same(*[trained(start(case, name, dtype), g, epochs, **options) for name in ("cuda", "cpp")])


def test_frozen_parameters_and_batches_of_no_weight_have_the_bits_of_the_core() -> None:
    case = BY_NAME["mixed_layers"]
    g = inputs(case, 280, pair(case, "float32")[0], "frozen")
    weight = np.ones(280)
    weight[rng("none").permutation(280)[:250]] = 0
    options: dict[str, Any] = {"sample_weight": weight, "freeze": ("layers.1", "layers.3"), "validation": None}
    with pytest.warns(ps.PenstockWarning):
        answers = [trained(start(case, name, "float32"), g, 3, **options) for name in ("cuda", "cpp")]
    assert_same(*answers)


def test_a_warm_start_goes_on_in_the_same_way() -> None:
    case = BY_NAME["realnvp_relu"]
    g = inputs(case, 280, pair(case, "float32")[0], "warm")
    answers = []
    for name in ("cuda", "cpp"):
        flow = start(case, name, "float32").fit(g["x"], epochs=2, rng=0)
        answers.append([flow.params, flow.fit(g["x"], epochs=2, rng=1, schedule="constant").params])
    assert_same(*answers)


class KilledError(Exception):
    """As if by the machine."""


@pytest.mark.parametrize("places", [("cuda", "cuda"), ("cpp", "cuda"), ("cuda", "cpp")], ids=" then ".join)
@pytest.mark.parametrize("every", [None, 3])
def test_a_run_goes_on_where_it_was_left_on_either_side(
    places: tuple[str, str], every: int | None, tmp_path: Path
) -> None:
    case = BY_NAME["mixed_layers"]
    g = inputs(case, 280, pair(case, "float32")[0], "resumed")
    expected = start(case, "cpp", "float32").fit(g["x"], epochs=6, batch_size=64, rng=4)

    def stop(state: Any) -> None:
        if state.epoch == 3:
            raise KilledError

    path = tmp_path / "run.safetensors"
    arguments: dict[str, Any] = {"epochs": 6, "batch_size": 64, "rng": 4, "checkpoint": path, "checkpoint_every": every}
    with pytest.raises(KilledError):
        start(case, places[0], "float32").fit(g["x"], callbacks=stop, **arguments)
    flow = start(case, places[1], "float32").fit(g["x"], **arguments)
    assert_same(flow.params, expected.params)
    assert_same(flow.history.validation_loss, expected.history.validation_loss)


def test_training_on_a_target_has_the_bits_of_the_core() -> None:
    def target(x: Array) -> tuple[Array, Array]:
        return -0.5 * (x**2).sum(axis=1) / 4, -x / 4

    answers = []
    for name in ("cuda", "cpp"):
        flow = ps.realnvp(2, layers=2, hidden=(8,), rng=0, backend=name)
        flow.fit_to_target(target, epochs=2, epoch_steps=5, batch_size=64, rng=0)
        answers.append([flow.params, flow.sample(9, rng=0)])
    assert_same(*answers)


# --- ensembles --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::penstock.PenstockWarning")
@both_dtypes
def test_an_ensemble_has_the_bits_of_the_core(dtype: str) -> None:
    source = rng("ensemble")
    x, c = source.standard_normal((300, 2)).astype(dtype), source.standard_normal((300, 1)).astype(dtype)
    answers = []
    for name in ("cuda", "cpp"):
        recipe = ps.nsf_ar(2, layers=2, hidden=(8,), context_dim=1, rng=0, dtype=dtype, backend=name)
        many = ps.Ensemble(recipe, 3, rng=0).fit(x, c, epochs=2, batch_size=64, rng=0)
        many.weights = [3, 1, 2]
        assert many.backend == name
        rows, given = x[:70], c[:70]
        answers.append(
            [
                [member.params for member in many.members],
                many.log_prob(rows, given),
                many.log_prob(rows[0], given[0]),
                many.spread(rows, given),
                many.sample(9, given[:5], rng=1),
                many.log_prob_and_grad(rows, given, ("x", "context")),
                many.loss_and_grad(rows, given),
                many.given(given[0]).log_prob(rows),
            ]
        )
    assert_same(*answers)


# --- from one side to the other ---------------------------------------------------------------------------------


class Labelled(ps.Flow):
    """A flow of somebody's own."""

    label = ""


def test_a_flow_goes_from_one_backend_to_another_and_back() -> None:
    flow = Labelled(ps.StandardNormal(2), [ps.Coupling(conditioner=ps.MLP((4,)))], rng=0, backend="cpp")
    x = np.round(rng("to").standard_normal((300, 2)), 2)
    flow.fit({"a": x[:, 0], "b": x[:, 1]}, epochs=2, rng=0, dequantize={"b": 0.01})
    flow.label = "mine"
    there = flow.to("cuda")
    back = there.to("cpp")
    for twin, name in ((there, "cuda"), (back, "cpp"), (flow.to("cuda:0"), "cuda"), (there.copy(), "cuda")):
        assert type(twin) is Labelled
        assert (twin.backend, twin.label, twin.columns, twin.fitted) == (name, "mine", ("a", "b"), True)
        assert twin.lattice == flow.lattice
        assert repr(vars(twin.history)) == repr(vars(flow.history))
        assert twin.history is not flow.history
        assert twin.to_bytes() == flow.to_bytes()
        assert_same(twin.log_prob(x), flow.log_prob(x))
        assert_same(twin.sample(5, rng=0), flow.sample(5, rng=0))
    assert pickle.loads(pickle.dumps(there)).backend == "cuda"
    assert pickle.loads(pickle.dumps(back)).backend == "cpp"
    there.params = 2 * there.params
    assert_same(flow.params, back.params)
    assert_same(there.astype("float64").to("cpp").params, there.astype("float64").params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not help
        better = flow.recalibrate(x, rng=0)
    assert better.to("cuda").recalibration is better.recalibration


def test_an_ensemble_goes_from_one_backend_to_another() -> None:
    x = rng("to").standard_normal((200, 2))
    many = ps.Ensemble(ps.realnvp(2, layers=2, hidden=(8,), rng=0, backend="cpp"), 2, rng=0).fit(x, epochs=1, rng=0)
    many.weights = [1, 3]
    there = many.to("cuda")
    assert there.backend == "cuda"
    assert there.to_bytes() == many.to_bytes()
    assert_same(there.log_prob(x), many.log_prob(x))
    assert_same(there.to("cpp").sample(9, rng=0), many.sample(9, rng=0))


def test_files_know_no_backend_and_pickles_do(tmp_path: Path) -> None:
    there, here = (built(BY_NAME["nsf"], name, "float32") for name in ("cuda", "cpp"))
    x = points(BY_NAME["nsf"], 20, here)
    assert there.to_bytes() == here.to_bytes()
    there.save(tmp_path / "flow")
    assert ps.load(tmp_path / "flow", backend="cpp").backend == "cpp"
    again = ps.load(tmp_path / "flow", backend="cuda")
    assert again.backend == "cuda"
    assert_same(again.log_prob(x), here.log_prob(x))
    assert ps.from_bytes(here.to_bytes(), backend="cuda:0").backend == "cuda"
    twin = pickle.loads(pickle.dumps(there))
    assert twin.backend == "cuda"
    assert_same(twin.log_prob(x), here.log_prob(x))


# --- processes and threads --------------------------------------------------------------------------------------


@each_chosen
def test_threads_that_compute_at_once_disturb_nobody(case: Case) -> None:
    there, here = pair(case, "float32")
    g = inputs(case, 130, there, "threads")
    expected = verbs(here, g, g["context"])
    found: dict[int, Any] = {}

    def work(number: int) -> None:
        own = there if number % 2 else there.copy()
        found[number] = verbs(own, g, g["context"])

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(found) == [0, 1, 2, 3]
    for answers in found.values():
        assert_same(answers, expected)


FORK = """if True:
    import os, numpy as np, penstock as ps
    x = np.zeros((3, 2))
    early = os.fork()
    if early == 0:  # before the first use
        ps.realnvp(2, rng=0, backend="cuda").log_prob(x)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(early, 0)[1]) == 0
    flow = ps.realnvp(2, rng=0, backend="cuda")
    flow.log_prob(x)
    child = os.fork()
    if child == 0:
        for ask in (lambda: flow.log_prob(x), lambda: flow.copy().sample(3), lambda: ps.nsf(2, backend="cuda")):
            try:
                ask()
            except (RuntimeError, ImportError) as error:
                print(type(error).__name__, error, flush=True)
        del flow
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    flow.log_prob(x)
"""


def test_a_child_of_a_fork_is_told_what_to_do() -> None:
    lines = python(FORK, env=ENV).stdout.splitlines()
    assert len(lines) == 3
    assert all("CUDA does not survive a fork" in line and "spawn" in line for line in lines)
    assert lines[0].startswith("RuntimeError")
    assert lines[2].startswith("ImportError backend='cuda': CUDA")


# Chunks of rows go through three slots by turns, and slices of a batch go on from one chunk to the next.
@each_chosen
def test_how_a_batch_is_cut_into_chunks_changes_no_bit(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_CUDA_CHUNK", "128")
    there, here = pair(case, "float32")
    g = inputs(case, 650, here)
    each = g["context"]
    for context in [None] if each is None else [each, each[0]]:
        assert_same(verbs(there, g, context), verbs(here, g, context))
        given = None if context is None else context[:13] if context.ndim == 2 else context
        draws = 50 if given is not None and given.ndim == 2 else 650
        assert_same(there.sample(draws, given, rng=5), here.sample(draws, given, rng=5))
    rows = np.tile(g["x"], (4, 1))  # more than two tiles in a slice
    given = None if each is None else np.tile(each, (4, 1))
    cotangent = np.tile(g["d_value"], 4)
    assert_same(there.log_prob_vjp(rows, cotangent, given), here.log_prob_vjp(rows, cotangent, given))
    assert_same(there.loss_and_grad(rows, given), here.loss_and_grad(rows, given))


def test_a_chunk_is_whole_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = ps.realnvp(2, rng=0, backend="cuda")
    for chunk in ("100", "0", "-128", "many"):
        monkeypatch.setenv("PENSTOCK_CUDA_CHUNK", chunk)
        with pytest.raises(ValueError, match=f"PENSTOCK_CUDA_CHUNK must be a multiple of 128, got '{chunk}'"):
            flow.log_prob(np.zeros((3, 2)))


# Products of a block: strips of 4, 8 and 16 outputs, in one pass and in two, of up to four pieces of weights in two slots.
PRODUCTS = """if True:
    import numpy as np, penstock as ps
    rows = np.random.default_rng(0)
    for dtype in ("float32", "float64"):
        for residual, activation, hidden in ((False, "relu", (100, 24, 12)), (True, "tanh", (100, 100))):
            network = ps.MLP(hidden, activation, residual=residual)
            first, second = (ps.Coupling(transform, network) for transform in (ps.Affine(), ps.RationalQuadratic(bins=4)))
            layers = [first, ps.Permutation((4, 3, 2, 1, 0)), second]
            here = ps.Flow(ps.StandardNormal(5), layers, dtype=dtype, rng=1, backend="cpp")
            here.params = here.params + rows.normal(0, 0.1, here.n_params).astype(dtype)
            x = rows.standard_normal((131, 5)).astype(dtype)
            there = here.to("cuda")
            for ask in (
                lambda flow: [flow.log_prob(x)],
                lambda flow: [flow.sample(131, rng=2)],
                lambda flow: flow.log_prob_vjp(x, x[:, 0].copy())[:2],
            ):
                for found, expected in zip(ask(there), ask(here), strict=True):
                    assert np.asarray(found).tobytes() == np.asarray(expected).tobytes(), (dtype, hidden)
"""


@needs_emulation
@pytest.mark.parametrize("landing", ["late", "early"])
@pytest.mark.parametrize("seed", ["0", "3"])
def test_products_of_every_width_have_the_bits_of_the_core_in_every_order(landing: str, seed: str) -> None:
    python(PRODUCTS, env={**ENV, "PENSTOCK_SIMT_LANDING": landing, "PENSTOCK_SIMT_SEED": seed})


# What is the same however a device is made: late copies, few or small multiprocessors.
WAYS = {
    "late copies": {"PENSTOCK_CUDA_EMULATE_LATE": "1"},
    "one multiprocessor": {"PENSTOCK_CUDA_EMULATE_LIMITS": "multiprocessors=1"},
    "a small one": {
        "PENSTOCK_CUDA_EMULATE_LIMITS": "multiprocessors=3,shared_per_block=50176,shared_per_multiprocessor=51200"
    },
}


@pytest.fixture(scope="module")
def hashes() -> dict[str, str]:
    """What ``worker.py`` prints of the core."""
    found: dict[str, str] = python_json("import worker; worker.main()", env={"PENSTOCK_BACKEND": "cpp"})["hashes"]
    return found


@pytest.mark.slow
@needs_emulation
@pytest.mark.parametrize("way", WAYS)
def test_how_a_device_is_made_changes_no_bit(way: str, hashes: dict[str, str]) -> None:
    env = {**ENV, "PENSTOCK_BACKEND": "cuda", **WAYS[way]}
    found = python_json("import worker; worker.main()", env=env, timeout=3600)["hashes"]
    assert found.keys() == hashes.keys()
    assert [key for key, value in found.items() if value != hashes[key]] == []


def test_the_conditional_cases_are_among_the_flows() -> None:
    assert set(CONDITIONAL) <= set(FLOWS)
    assert sum(case in CHOSEN for case in FLOWS) == len(CHOSEN)
