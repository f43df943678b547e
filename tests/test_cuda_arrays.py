"""Arrays in the memory of a device: they stay there, with the bits of the host, on the stream that was asked for."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BY_NAME, KINDED, Case, bare, built, contexts, latents, points, rng
from devices import (
    ENV,
    LENDERS,
    ByDLPack,
    ByInterface,
    Lender,
    assert_same,
    device,  # noqa: F401
    module,
    needs_device,
    needs_emulation,
)
from helpers import both_dtypes, inside, python

Array = np.ndarray[Any, Any]

pytestmark = needs_device
NAMES = ("nsf", "mixed_layers", "coupling_given", "nsf_ar_given", "embedding")
CHOSEN = (*(BY_NAME[name] for name in NAMES), next(case for case in KINDED if case.name == "kinds_given"))
each_chosen = pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)


def pair(case: Case, dtype: str) -> tuple[ps.Flow, ps.Flow]:
    """The flow of a case on the device and on the processor."""
    return bare(built(case, "cuda", dtype)), bare(built(case, "cpp", dtype))


def inputs(case: Case, rows: int, dtype: str) -> dict[str, Any]:
    """Rows of either side, cotangents and weights; a context for each row, for each ten, and for all."""
    here = built(case, "cpp", dtype)
    source = rng("device arrays", case.name)
    x = here.sample(rows, rng=3) if case in KINDED else points(case, rows, here)
    c = contexts(case, rows, here) if case.conditional else None
    return {
        "x": x, "z": latents(case, rows, here.dim, dtype), "d_rows": source.standard_normal(x.shape).astype(dtype),
        "d_value": source.standard_normal(rows).astype(dtype), "weight": source.random(rows),
        "contexts": [None] if c is None else [c, c[:1].repeat(rows, 0)[::-1], c[0]],
    }  # fmt: skip


def verbs(flow: ps.Flow, g: dict[str, Any], context: Any, lend: Callable[[Any], Any]) -> list[Any]:
    """What every verb says of arrays that ``lend`` brings to a device, or leaves."""
    x, z, d_rows, d_value, weight, c = map(lend, (g["x"], g["z"], g["d_rows"], g["d_value"], g["weight"], context))
    wrt = ("x", "context") if flow.context_dim else "x"
    return [
        flow.log_prob(x, c), flow.score(x, c), flow.score(x, c, sample_weight=weight), flow.to_latent(x, c), flow.to_data(z, c),
        flow.log_prob_and_grad(x, c, wrt), flow.log_prob_vjp(x, d_value, c), flow.to_latent_vjp(x, d_rows, d_value, c),
        flow.to_latent_vjp(x, None, d_value, c), flow.to_data_vjp(z, d_rows, None, c), flow.loss_and_grad(x, c),
        flow.loss_and_grad(x, c, weight),
    ]  # fmt: skip


def fetched(found: Any) -> Any:
    """Results on the host; what is no number of the host must be on the device."""
    if isinstance(found, (tuple, list)):
        return [fetched(part) for part in found]
    if found is None or isinstance(found, float):
        return found
    assert isinstance(found, ps.DeviceArray), type(found)
    return found.numpy()


def lending(lender: Callable[..., Any], **options: Any) -> Callable[[Any], Any]:
    """What brings arrays to a device."""
    return lambda array: None if array is None else lender(module(), np.asarray(array), **options)


# --- the bits of the host ---------------------------------------------------------------------------------------


@both_dtypes
@pytest.mark.parametrize(
    ("case", "lender"),
    # One way to lend an array is enough for all flows, and one flow for all ways.
    [
        pytest.param(case, lender, id=f"{case.name}-{lender.__name__}")
        for case in CHOSEN
        for lender in (LENDERS if case.name == "coupling_given" else LENDERS[:1])
    ],
)
def test_every_verb_has_the_bits_of_the_host(case: Case, dtype: str, lender: Any) -> None:
    there, here = pair(case, dtype)
    g = inputs(case, 70, dtype)
    for context in g["contexts"]:
        if context is not None and lender is not ByInterface:
            context = np.ascontiguousarray(context)
        assert_same(fetched(verbs(there, g, context, lending(lender))), verbs(here, g, context, lambda array: array))


@each_chosen
def test_draws_lie_where_something_of_the_call_does(case: Case) -> None:
    there, here = pair(case, "float32")
    c = contexts(case, 5, here) if case.conditional else None
    one = None if c is None else c[0]
    out = ByInterface(module(), np.zeros((9, here.dim), "f4"))
    assert there.sample(9, lending(ByInterface)(one), rng=1, out=out) is out  # type: ignore[arg-type, comparison-overlap]
    assert_same(out.numpy(), here.sample(9, one, rng=1))
    if c is not None:
        lent = ByDLPack(module(), c)
        for n in (4, None):
            assert_same(fetched(there.sample(n, lent, rng=2)), here.sample(n, c, rng=2))
            assert_same(
                fetched(there.sample_and_log_prob(n, lent, rng=2, first=7, first_context=3)),
                list(here.sample_and_log_prob(n, c, rng=2, first=7, first_context=3)),
            )
    else:  # nothing lies anywhere: a stream says where
        assert_same(fetched(there.sample((2, 3), rng=2, stream=2)), here.sample((2, 3), rng=2))
        assert_same(fetched(there.sample(rng=2, stream=1)), here.sample(rng=2))
        assert_same(fetched(there.sample_and_log_prob(rng=2, stream=2)), list(here.sample_and_log_prob(rng=2)))
        assert isinstance(there.sample(3, rng=0), np.ndarray)


@each_chosen
def test_one_row_blocks_of_rows_and_no_rows_keep_their_shapes(case: Case) -> None:
    there, here = pair(case, "float32")
    g = inputs(case, 60, "float32")
    c = g["contexts"][0]
    lend = lending(ByInterface)
    blocks, few = g["x"].reshape(6, 10, -1), None if c is None else c[:6]
    one, given = g["x"][7], None if c is None else c[7]
    empty = (g["x"][:0], None if c is None else c[:0])
    for x, own in ((blocks, few), (one, given), empty, (g["x"][:1], None if c is None else c[:1])):
        for verb in ("log_prob", "to_latent", "log_prob_and_grad", "loss_and_grad"):
            assert_same(fetched(getattr(there, verb)(lend(x), lend(own))), _listed(getattr(here, verb)(x, own)))
    if c is None:
        return
    # one row with many contexts, and blocks with a context for each of their rows
    each = c.reshape(6, 10, -1)
    assert_same(fetched(there.log_prob(lend(blocks), lend(each))), here.log_prob(blocks, each))
    assert_same(fetched(there.log_prob(lend(one), lend(c))), here.log_prob(one, c))
    found = there.log_prob_and_grad(lend(one), lend(c), ("x", "context"))
    assert_same(fetched(found), _listed(here.log_prob_and_grad(one, c, ("x", "context"))))
    view, mine = there.given(given), here.given(given)
    for verb, arguments in (
        ("log_prob", (g["x"],)), ("log_prob_and_grad", (g["x"],)), ("log_prob_and_grad", (g["x"], ("x", "context"))),
        ("log_prob_vjp", (g["x"], g["d_value"])), ("to_data_vjp", (g["z"], g["d_rows"], None)), ("loss_and_grad", (g["x"],)),
        ("score", (g["x"],)), ("to_latent", (g["x"],)), ("to_data", (g["z"],)),
    ):  # fmt: skip
        theirs = [lend(own) if isinstance(own, np.ndarray) else own for own in arguments]
        assert_same(fetched(getattr(view, verb)(*theirs)), _listed(getattr(mine, verb)(*arguments)))
    assert_same(fetched(view.sample(5, rng=0, stream=2)), mine.sample(5, rng=0))


def _listed(found: Any) -> Any:
    return [_listed(part) for part in found] if isinstance(found, tuple) else found


STRIDES: dict[str, Callable[[Array], Array]] = {
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "reversed": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "by columns": np.asfortranarray,
    "some columns": lambda x: np.concatenate([x, x, x], axis=1)[:, x.shape[1] : 2 * x.shape[1]],
    "one row over and over": lambda x: np.broadcast_to(x[0], x.shape),
}


@both_dtypes
@inside("name", STRIDES)
def test_rows_of_any_strides_are_read_where_they_lie(dtype: str, name: str) -> None:
    there, here = pair(BY_NAME["coupling_given"], dtype)
    g = inputs(BY_NAME["coupling_given"], 70, dtype)
    x, c = STRIDES[name](g["x"]), STRIDES[name](g["contexts"][0])
    lent = ByInterface(module(), x), ByInterface(module(), c)
    assert lent[0].strides == x.strides
    assert_same(fetched(there.log_prob(*lent)), here.log_prob(x, c))
    assert_same(fetched(there.log_prob_and_grad(*lent)), _listed(here.log_prob_and_grad(x, c)))
    assert_same(fetched(there.loss_and_grad(*lent)), _listed(here.loss_and_grad(x, c)))
    assert_same(lent[0].numpy(), x)


@both_dtypes
def test_rows_of_the_other_precision_are_read_as_they_are(dtype: str) -> None:
    other = "float64" if dtype == "float32" else "float32"
    there, here = pair(BY_NAME["nsf"], dtype)
    x = points(BY_NAME["nsf"], 70, here).astype(other)
    found = there.log_prob(ByDLPack(module(), x))
    assert found.dtype == dtype
    assert_same(fetched(found), here.log_prob(x))


def test_results_are_inputs() -> None:
    there, here = pair(BY_NAME["nsf"], "float32")
    x = points(BY_NAME["nsf"], 70, here)
    z, log_det = there.to_latent(ByInterface(module(), x))
    back, _ = there.to_data(z)
    assert_same(fetched(back), here.to_data(here.to_latent(x)[0])[0])
    assert_same(
        fetched(there.to_data_vjp(z, back, log_det)[:2]),
        _listed(here.to_data_vjp(*map(np.asarray, (z, back, log_det)))[:2]),
    )


def test_values_of_a_lattice_are_drawn_on_a_device_too() -> None:
    x = rng("lattice").integers(0, 5, (300, 2)) + rng("noise").standard_normal((300, 2)) * [0, 1]
    here = ps.realnvp(2, layers=2, hidden=(8,), rng=0, backend="cpp")
    here.fit(x, epochs=1, rng=0, dequantize={0: 1.0})
    there = here.to("cuda")
    assert_same(fetched(there.sample(50, rng=1, stream=2)), here.sample(50, rng=1))
    assert_same(fetched(there.sample(50, rng=1, stream=2, raw=True)), here.sample(50, rng=1, raw=True))
    assert_same(fetched(there.sample_and_log_prob(50, rng=1, stream=2)), list(here.sample_and_log_prob(50, rng=1)))


@both_dtypes
def test_an_ensemble_reads_rows_of_its_device(dtype: str) -> None:
    recipe = ps.nsf_ar(2, layers=2, hidden=(8,), context_dim=1, rng=0, dtype=dtype, backend="cpp")
    here = ps.Ensemble(recipe, 3, rng=0)
    here.weights = [3, 1, 2]
    there = here.to("cuda")
    source = rng("ensemble on a device")
    x, c, d_value = source.standard_normal((40, 2)), source.standard_normal((40, 1)), source.standard_normal(40)
    x, c, d_value, weight = x.astype(dtype), c.astype(dtype), d_value.astype(dtype), source.random(40)
    lend = lending(ByInterface)
    for got, expected in (
        (there.log_prob(lend(x), lend(c)), here.log_prob(x, c)),
        (there.log_prob(lend(x[0]), lend(c[0])), here.log_prob(x[0], c[0])),
        (there.score(lend(x), lend(c)), here.score(x, c)),
        (there.sample(3, lend(c), rng=1), here.sample(3, c, rng=1)),
        (there.sample_and_log_prob(None, lend(c), rng=1), here.sample_and_log_prob(None, c, rng=1)),
        (there.log_prob_and_grad(lend(x), lend(c), ("context", "x")), here.log_prob_and_grad(x, c, ("context", "x"))),
        (there.log_prob_vjp(lend(x), lend(d_value), lend(c)), here.log_prob_vjp(x, d_value, c)),
        (there.loss_and_grad(lend(x), lend(c), lend(weight)), here.loss_and_grad(x, c, weight)),
        (there.given(c[0]).log_prob(lend(x)), here.given(c[0]).log_prob(x)),
    ):
        assert_same(fetched(got), _listed(expected))


# --- results ----------------------------------------------------------------------------------------------------


def result(rows: int = 5) -> tuple[ps.DeviceArray, Array]:
    """Densities on the device and on the host."""
    there, here = pair(BY_NAME["nsf"], "float32")
    x = points(BY_NAME["nsf"], rows, here)
    return there.log_prob(ByInterface(module(), x)), here.log_prob(x)


def test_a_result_tells_what_it_is() -> None:
    found, expected = result()
    assert (found.shape, found.dtype, found.ndim, found.size, found.nbytes, len(found)) == (
        (5,),
        np.float32,
        1,
        5,
        20,
        5,
    )
    assert (found.device, found.stream) == (0, None)
    words = "emulated cuda:0" if module().is_emulated() else "cuda:0"
    assert repr(found) == f"DeviceArray of shape (5,), float32, on {words}"
    assert_same(np.asarray(found), expected)
    assert_same(np.array(found, dtype="f8"), expected.astype("f8"))
    assert found.__dlpack_device__() == (2, 0)
    interface = found.__cuda_array_interface__
    assert interface["version"] == 3
    assert (interface["shape"], interface["typestr"], interface["strides"], interface["stream"]) == (
        (5,),
        "<f4",
        None,
        None,
    )
    assert module().device_of(interface["data"][0]) == 0
    assert interface["data"][1] is False
    with pytest.raises(ValueError, match="without a copy"):
        found.__array__(copy=False)
    one, number = (
        pair(BY_NAME["nsf"], "float32")[0].log_prob(ByInterface(module(), np.zeros(3, "f4"))),
        np.zeros(3, "f4"),
    )
    assert (one.shape, one.ndim, one.size) == ((), 0, 1)
    assert float(one) == float(pair(BY_NAME["nsf"], "float32")[1].log_prob(number))
    with pytest.raises(TypeError, match="length"):
        len(one)


def test_a_result_lends_its_memory_and_keeps_it_as_long() -> None:
    found, expected = result()
    address = found.__cuda_array_interface__["data"][0]
    for version in (None, (1, 0)):
        capsule = found.__dlpack__(stream=1, max_version=version)
        place, shape, strides, dtype, kind, number, read_only, owner = module().from_dlpack(capsule)
        assert (place, shape, strides, dtype, kind, number, read_only) == (address, (5,), (4,), "f4", 2, 0, False)
        with pytest.raises(ValueError, match="nobody has used"):
            module().from_dlpack(capsule)
    unused = found.__dlpack__()
    del found, unused, capsule
    gc.collect()
    others = [result()[0] for _ in range(3)]  # none of which may get the memory that is lent
    assert address not in [other.__cuda_array_interface__["data"][0] for other in others]
    held = np.zeros(5, "f4")
    module().copy(held.__array_interface__["data"][0], address, 20)
    assert_same(held, expected)
    del owner
    gc.collect()
    if module().is_emulated():
        assert result()[0].__cuda_array_interface__["data"][0] is not None
    host = result()[0].__dlpack__(dl_device=(1, 0))
    assert '"dltensor' in repr(host)
    with pytest.raises(BufferError, match="cuda:0"):
        result()[0].__dlpack__(dl_device=(2, 1))
    with pytest.raises(BufferError, match="copy"):
        result()[0].__dlpack__(copy=True)


@needs_emulation
def test_memory_is_released_with_its_last_user() -> None:
    there, here = pair(BY_NAME["nsf"], "float32")
    lent = ByInterface(module(), points(BY_NAME["nsf"], 500, here))
    there.log_prob_and_grad(lent)
    before = module().allocated(0)
    for _ in range(20):
        found = there.log_prob_and_grad(lent)
        assert module().allocated(0) >= before + 500 * 4 * 4
        del found
        assert module().allocated(0) == before


@needs_emulation
def test_a_flow_leaves_nothing_on_its_device_or_on_others() -> None:
    if module().device_count() < 2:
        pytest.skip("there is one device")
    here = built(BY_NAME["mixed_layers"], "cpp", "float32")
    x = points(BY_NAME["mixed_layers"], 130, here)

    def used() -> list[int]:
        gc.collect()
        return [module().allocated(number) for number in range(2)]

    before = used()
    there = here.to("cuda:1")
    assert_same(there.log_prob(x), here.log_prob(x))
    assert_same(there.loss_and_grad(x), here.loss_and_grad(x))
    there.copy().fit(x, epochs=1, rng=0)
    assert used()[0] == before[0]
    found = there.to_latent(ByDLPack(module(), x, device=1))
    assert used()[0] == before[0]
    assert used()[1] >= before[1] + 130 * 7 * 4
    del there, found
    assert used() == before


def test_what_is_lent_is_held_during_the_call_alone() -> None:
    there, here = pair(BY_NAME["nsf"], "float32")
    lent = ByDLPack(module(), points(BY_NAME["nsf"], 50, here))
    assert_same(fetched(there.log_prob(lent)), here.log_prob(lent.numpy()))
    assert lent.lent == 1
    gone = weakref.ref(lent)
    del lent
    gc.collect()
    assert gone() is None


# --- streams ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [1, 2, "own"])
def test_a_stream_of_the_callers_computes(stream: Any) -> None:
    there, here = pair(BY_NAME["nsf"], "float32")
    x = points(BY_NAME["nsf"], 70, here)
    own = module().Stream()
    number = own.handle if stream == "own" else stream
    for lender in LENDERS:
        found = there.log_prob(lender(module(), x), stream=number)
        assert found.stream == number
        assert found.__cuda_array_interface__["stream"] == number
        again, _ = there.to_latent(lender(module(), x), stream=number)
        assert_same(fetched(there.to_data(again)), _listed(here.to_data(here.to_latent(x)[0])))
        assert_same(fetched(found), here.log_prob(x))
        module().from_dlpack(found.__dlpack__(stream=2))
        module().from_dlpack(found.__dlpack__(stream=-1))


# Streams here do nothing before somebody waits for them: what is not ordered reads numbers that were never written.
LATE = """if True:
    import numpy as np, penstock as ps
    from devices import ByDLPack, ByInterface, module, assert_same
    m = module()
    here = ps.nsf(3, rng=0, backend="cpp")
    there = here.to("cuda")
    x = np.random.default_rng(0).standard_normal((70, 3)).astype("f4")
    expected = here.log_prob(x)
    def pending(lender, stream):  # numbers that a stream has yet to bring
        source, target = ByInterface(m, x), lender(m, np.full_like(x, np.nan), stream=stream)
        m.set_stream(stream)
        m.copy(target.address, source.address, source.nbytes)
        m.set_stream(0)
        return target, source
    own, another = m.Stream(), m.Stream()
    for lender in (ByInterface, ByDLPack):
        for theirs in (own.handle, 1, 2):
            for ours in (None, 1, 2, own.handle, another.handle):
                target, source = pending(lender, theirs)
                found = there.log_prob(target, stream=ours)
                assert_same(found.numpy(), expected)
                waiting = pending(lender, theirs)
                assert np.isnan(waiting[0].numpy()).all() == (theirs == own.handle)
                m.set_stream(theirs)
                m.synchronise()
                m.set_stream(0)
                assert_same(waiting[0].numpy(), x)
    # Results on one stream, read on another.
    target, source = pending(ByInterface, own.handle)
    z, _ = there.to_latent(target, stream=another.handle)
    assert_same(there.to_data(z, stream=own.handle)[0].numpy(), here.to_data(here.to_latent(x)[0])[0])
    m.from_dlpack(z.__dlpack__(stream=1))
    # Without a stream a result is there when the call returns, for whoever reads it.
    target = ByInterface(m, x)
    for verb in (there.log_prob, there.to_latent, there.log_prob_and_grad, there.loss_and_grad):
        found = verb(target)
        for part in found if isinstance(found, tuple) else (found,):
            if isinstance(part, ps.DeviceArray):
                part.stream = another.handle  # which waits for nobody
                assert np.isfinite(part.numpy()).all()
    # Memory that is given back while a stream has yet to use it stays until then.
    source = ByInterface(m, x)
    for held in (True, False):
        target = m.allocate(source.nbytes)
        m.set_stream(own.handle)
        m.copy(target, source.address, source.nbytes)
        if held:
            m.hold(target)
        m.release(target)
        m.set_stream(1)
        m.synchronise()
        m.set_stream(own.handle)
        try:
            m.synchronise()
        except RuntimeError as error:
            assert not held and "illegal memory access" in str(error)
        else:
            assert held
        m.set_stream(0)
    print("done")
"""


@needs_emulation
def test_streams_wait_for_each_other_where_they_must() -> None:
    assert "done" in python(LATE, env={**ENV, "PENSTOCK_CUDA_EMULATE_LATE": "1"}).stdout


def test_a_thread_has_a_device_of_its_own() -> None:
    if module().device_count() < 2:
        pytest.skip("there is one device")
    case = BY_NAME["mixed_layers"]
    here = built(case, "cpp", "float32")
    x = points(case, 130, here)
    expected = here.log_prob(x)
    flows = [here.to(name) for name in ("cuda:0", "cuda:1")]
    wrong: list[Any] = []

    def work(number: int) -> None:
        for _ in range(20):
            lent = ByInterface(module(), x, device=number)
            found = flows[number].log_prob(lent)
            if found.device != number or module().device() != 0 or (found.numpy() != expected).any():
                wrong.append(found)

    workers = [threading.Thread(target=work, args=(number % 2,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    with pytest.raises(ValueError, match="X lies on cuda:1, and the flow on cuda:0"):
        flows[0].log_prob(ByDLPack(module(), x, device=1))
    assert repr(flows[1].log_prob(ByDLPack(module(), x, device=1))).endswith("cuda:1")


# --- what is refused --------------------------------------------------------------------------------------------


def refusals() -> Sequence[tuple[Callable[[], Any], type[Exception], str]]:
    """Calls, and what they raise."""
    there, here = pair(BY_NAME["nsf"], "float32")
    given = pair(BY_NAME["coupling_given"], "float32")[0]
    x = points(BY_NAME["nsf"], 6, here)
    lent = ByInterface(module(), x)
    line = pair(BY_NAME["nsf_one_dim"], "float32")[0]
    whole = ByInterface(module(), np.arange(18).reshape(6, 3))
    ones = np.ones(6, "f4")
    wide = ByInterface(module(), np.ones(6))
    rows = ByInterface(module(), np.zeros((6, 5), "f4"))
    not_finite = [ByInterface(module(), np.full(6, number)) for number in (np.nan, np.inf)]
    far = ByInterface(module(), np.zeros((4, 6, 3), "f4").transpose(1, 0, 2))
    kept = ByInterface(module(), np.zeros(6, "f4"), read_only=True)

    class Masked(ByInterface):
        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            return {**super().__cuda_array_interface__, "mask": self}

    class Withheld(ByDLPack):
        def __dlpack__(self, *, stream: int | None = None) -> Any:
            raise BufferError("it requires a gradient; detach it")

    return [
        (lambda: here.log_prob(lent), TypeError, r"X lies on a CUDA device.*computes with cpp.*flow.to\('cuda'\)"),
        (lambda: ps.Ensemble([here, here]).log_prob(lent), TypeError, r"X lies.*ensemble.to\('cuda'\)"),
        (lambda: here.to_data(lent), TypeError, "z lies on a CUDA device"),
        (lambda: here.sample(6, out=lent), TypeError, "out lies on a CUDA device"),
        (lambda: here.sample(6, stream=2), TypeError, "stream was given.*cpp"),
        (lambda: there.log_prob(x, stream=1), ValueError, "stream was given, but X lies on the host"),
        (lambda: there.log_prob_vjp(lent, ones), TypeError, "X lies on a CUDA device and dlogp lies on the host"),
        (lambda: there.log_prob_vjp(x, wide), TypeError, "dlogp lies on a CUDA device and X lies on the host"),
        (lambda: there.log_prob(lent, out=np.zeros(6, "f4")), TypeError, "X lies.*and out lies on the host"),
        (lambda: given.log_prob(rows, np.zeros((6, 3))), TypeError, "X lies.*and context lies on the host"),
        (lambda: given.sample(2, np.zeros(3), out=rows), TypeError, "out lies.*and context lies on the host"),
        (lambda: there.loss_and_grad(lent, None, ones), TypeError, "sample_weight lies on the host"),
        (lambda: there.log_prob(whole), TypeError, "X must hold float32 or float64 numbers, got int64: nothing is converted"),
        (lambda: there.log_prob_vjp(lent, wide), TypeError, "dlogp must be float32 in C order, got float64: nothing"),
        (lambda: there.log_prob(lent, out=wide), TypeError, "out must be float32 in C order, got float64"),
        (lambda: there.log_prob(lent, out=kept), ValueError, "out must be writeable"),
        (lambda: there.log_prob(lent, out=ByInterface(module(), np.zeros(5, "f4"))), ValueError, r"out must have shape \(6,\)"),
        (lambda: there.log_prob(rows), ValueError, r"X must have shape \(rows, 3\), got \(6, 5\)"),
        (lambda: there.log_prob(far), ValueError, "X has blocks that do not follow each other"),
        (lambda: there.log_prob(lent, rows), ValueError, "has no context|none"),
        (lambda: there.log_prob(lent, stream=0), ValueError, "stream must be 1"),
        (lambda: there.log_prob(lent, stream=-5), ValueError, "stream must be 1"),
        (lambda: there.log_prob(lent, stream="default"), TypeError, "stream must be the handle"),  # type: ignore[arg-type]
        (lambda: there.log_prob(lent, stream=True), TypeError, "stream must be the handle"),
        (lambda: there.log_prob(Masked(module(), x)), TypeError, "X has masked entries"),
        (lambda: there.log_prob(Withheld(module(), x)), TypeError, "X is not lent by its library: .*detach"),
        (lambda: there.sample(3, out=lent, where=lambda rows: rows[:, 0] > 0), TypeError, "where does not go with"),
        (lambda: there.fit(lent), TypeError, "X lies on a CUDA device.*copy it to the host"),
        (lambda: there.prior_transform(lent), TypeError, "u lies on a CUDA device"),
        (lambda: line.cdf(ByDLPack(module(), ones[:, None])), TypeError, "x lies on a CUDA device"),
        (lambda: line.quantile(ByDLPack(module(), 0.5 * ones)), TypeError, "u lies on a CUDA device"),
        (lambda: there.recalibrate(lent), TypeError, "X lies on a CUDA device"),
        (lambda: ps.ops.forward(ps.Affine(), lent, np.zeros((3, 2))), TypeError, "x lies on a CUDA device"),
        (lambda: there.score(lent, sample_weight=not_finite[0]), ValueError, "sample_weight must be finite"),
        (lambda: there.loss_and_grad(lent, None, not_finite[1]), ValueError, "sample_weight must be finite"),
    ]  # fmt: skip


def test_what_does_not_go_together_is_refused_by_name() -> None:
    for call, kind, words in refusals():
        with pytest.raises(kind, match=words):
            call()
    assert module().device() == 0


@needs_emulation
def test_a_device_that_fails_leaves_the_thread_as_it_was() -> None:
    there, here = pair(BY_NAME["nsf"], "float32")
    x = points(BY_NAME["nsf"], 6, here)
    with pytest.raises(RuntimeError, match="invalid resource handle"):
        there.log_prob(ByDLPack(module(), x), stream=12345)
    assert_same(fetched(there.log_prob(ByDLPack(module(), x))), here.log_prob(x))


# --- the emulation ----------------------------------------------------------------------------------------------


@needs_emulation
@pytest.mark.parametrize("way", ["read", "write"])
def test_the_host_cannot_touch_memory_of_a_device(way: str) -> None:
    touch = {"read": "ctypes.string_at(memory, 4)", "write": "ctypes.memset(memory, 0, 4)"}[way]
    code = f"""if True:
        import ctypes, penstock._cuda_emulated as m
        memory = m.allocate(1000)
        print("allocated", flush=True)
        {touch}
        print("touched", flush=True)
    """
    done = python(code, check=False, env=ENV)
    assert done.returncode == -11  # SIGSEGV
    assert done.stdout.split() == ["allocated"]


@needs_emulation
def test_copies_beyond_a_block_are_caught() -> None:
    m = module()
    memory, host = m.allocate(1000), np.zeros(2000, np.uint8)
    place = host.__array_interface__["data"][0]
    try:
        for to, start, size in (
            (memory, place, 1001),
            (place, memory, 1001),
            (place, memory + 1, 1000),
            (place, memory - 1, 1),
        ):
            with pytest.raises(RuntimeError, match="illegal memory access"):
                m.copy(to, start, size)
        m.copy(place, memory, 1000)
        assert (host[:1000] == 0xFF).all()  # NaN until it is written
        assert m.device_of(memory + 999) == 0
        assert m.device_of(place) == -1
    finally:
        m.release(memory)


def test_lenders_tell_what_they_lend() -> None:
    x = np.arange(12, dtype="f4").reshape(4, 3)
    for lender in LENDERS:
        own: Lender = lender(module(), x)
        assert_same(own.numpy(), x)
