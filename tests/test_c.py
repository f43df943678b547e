"""The C library gives the bits of the Python package, and says what is wrong in its words."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
import supports_table
from c_cases import (
    GRAD_CONTEXT,
    LOG_PROB,
    LOG_PROB_AND_GRAD,
    ROWS,
    TO_DATA,
    TO_LATENT,
    VALUES,
    Calls,
    far,
    in_both,
)
from cases import BACKENDS, CASES, DTYPES, assign, bare, built, contexts, latents, points, rng
from helpers import ROOT
from penstock import _backend, _validate
from penstock.lattice import Lattice
from test_bases import BASES, GIVEN, flow_of
from test_ensemble import KINDS, ensemble_of

Array = np.ndarray[Any, Any]

HERE = Path(__file__).resolve().parent


def library() -> Path | None:
    """The library beside the extension; there is none in the pure wheel."""
    spec = importlib.util.find_spec("penstock._core") if "cpp" in BACKENDS else None
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / "libpenstock.so.0"
    return path if path is not None and path.exists() else None


LIBRARY, COMPILER = library(), shutil.which(os.environ.get("CC", "cc"))
CXX = shutil.which(os.environ.get("CXX", "c++"))
FORTRAN = shutil.which(os.environ.get("FC", "gfortran"))
pytestmark = pytest.mark.skipif(
    LIBRARY is None or COMPILER is None,
    reason="there is no C library in this build" if LIBRARY is None else "there is no C compiler",
)


def include() -> Path:
    """The headers, of the package or of the repository."""
    assert LIBRARY is not None
    own = LIBRARY.parent / "include"
    return own if own.exists() else ROOT / "cpp" / "include"


def compiled(source: Path, program: Path, *flags: str, compiler: str | None = None, linked: bool = True) -> Path:
    """A program of the library, in C or C++."""
    assert LIBRARY is not None
    usual, standard = (CXX, "-std=c++17") if source.suffix == ".cpp" else (COMPILER, "-std=c99")
    strict = (standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1")
    libraries = (str(LIBRARY), f"-Wl,-rpath,{LIBRARY.parent}") if linked else ()
    command = [
        compiler or str(usual),
        *strict,
        f"-I{include()}",
        str(source),
        *libraries,
        "-lm",
        *flags,
        "-o",
        str(program),
    ]
    subprocess.run(command, check=True)
    return program


def compiled_fortran(source: Path, program: Path, *flags: str) -> Path:
    """A program in Fortran of the module and the library. Copies of arrays are told on standard error."""
    assert FORTRAN is not None
    strict = ("-std=f2008", "-Wall", "-Wextra", "-pedantic", "-Werror", "-O1", "-fcheck=all")
    sources = (f"-I{source.parent}", f"-J{program.parent}", str(include() / "penstock" / "penstock.f90"), str(source))
    linked = (str(LIBRARY), f"-Wl,-rpath,{LIBRARY.parent}") if LIBRARY is not None else ()
    subprocess.run([FORTRAN, *strict, *sources, *linked, *flags, "-o", str(program)], check=True)
    return program


@pytest.fixture(scope="module")
def agree(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The programs that answer, one a language, as far as there are compilers."""
    folder = tmp_path_factory.mktemp("c")
    sources = ["agree.c"] + ["agree.cpp"] * (CXX is not None)
    programs = [compiled(HERE / "c" / source, folder / source.replace(".", "_")) for source in sources]
    return programs + [compiled_fortran(HERE / "c" / "agree.f90", folder / "agree_f90")] * (FORTRAN is not None)


def answered(calls: Calls, agree: list[Path]) -> int:
    """Let the programs answer, and compare their files with those of the first, and these with Python; the count of numbers."""
    calls.write()
    given = set(calls.folder.iterdir())
    found: list[dict[str, bytes]] = []
    for program in agree:
        ran = subprocess.run([program, calls.folder], check=True, capture_output=True, text=True)
        assert not ran.stdout + ran.stderr, (
            f"{program.name} says {ran.stdout + ran.stderr}"
        )  # of a copy in Fortran, say
        written = sorted(set(calls.folder.iterdir()) - given)
        found.append({path.name: path.read_bytes() for path in written})
        assert found[-1] == found[0], f"{program.name} and {agree[0].name} differ"
        if program != agree[-1]:
            for path in written:
                path.unlink()
    return calls.compare()


# --- the same bits ----------------------------------------------------------------------------------------------------


def ask(calls: Calls, flow: Any, x: Array, z: Array, context: Array | None, label: str) -> None:
    """Every verb of a model, called in both types: on rows, far ones among them, by ones, with gaps, with shared contexts."""
    calls.add_model(flow)
    calls.describe(label)
    calls.save(label)
    maps = not isinstance(flow, ps.Ensemble)
    n = len(x)
    given: list[Array | None] = [None] if context is None else [context, context[0]]
    for rows, latent in ((x, z), (far(x), far(z))):
        for own, into in zip(in_both(rows), in_both(latent), strict=True):
            for c in given:
                c = None if c is None else c.astype(own.dtype)
                words = f"{label}, context {None if c is None else c.shape}"
                grads = VALUES | ROWS | (GRAD_CONTEXT if c is not None else 0)
                calls.rows(LOG_PROB, own, c, wanted=VALUES, label=words)
                calls.rows(LOG_PROB_AND_GRAD, own, c, wanted=grads, label=words, pad=2, out_pad=3)
                calls.rows(LOG_PROB_AND_GRAD, own, c, wanted=grads & ~VALUES, label=words)
                if maps:
                    calls.rows(TO_LATENT, own, c, wanted=VALUES | ROWS, label=words, out_pad=1)
                    calls.rows(TO_DATA, into, c, wanted=VALUES | ROWS, label=words, pad=1)
            for r in (0, 1, n - 1):
                one, c = own[r : r + 1], None if context is None else context[r : r + 1].astype(own.dtype)
                grads = VALUES | ROWS | (GRAD_CONTEXT if c is not None else 0)
                calls.rows(LOG_PROB, one, c, wanted=VALUES, label=f"{label}, row {r}")
                calls.rows(LOG_PROB_AND_GRAD, one, c, wanted=grads, label=f"{label}, row {r}")
                if maps:
                    calls.rows(TO_LATENT, one, c, wanted=VALUES | ROWS, label=f"{label}, row {r}")
                    calls.rows(TO_DATA, into[r : r + 1], c, wanted=ROWS, label=f"{label}, row {r}")
    for dtype in DTYPES:
        for c in given:
            for k, log_prob in ((n, True), (n, False), (1, True)):
                some = c if c is None or c.ndim == 1 else c[:k]
                calls.sample(
                    k, some, dtype, seed=k, first=(1 << 40) + 5, first_context=0 if some is None or some.ndim == 1 else 1 << 33,
                    label=f"{label}, {k} draws", out_pad=k % 3, log_prob=log_prob,
                )  # fmt: skip


def absurd(flow: Any, scale: float, *key: Any) -> Any:
    """A copy with parameters that no training gives."""
    other = flow.copy()
    own = scale * rng("absurd", *key).standard_normal(flow.n_params)
    assign(other, params=other._plan.clear_masked(own.astype(flow.dtype)))
    return other


SOME = 70  # more than a tile


def some_quick(cases: list[Any], quick: set[str]) -> list[Any]:
    """All cases, of which a few go through the quick suite and all through CI."""
    names = {case.name for case in cases}
    assert quick <= names
    return [pytest.param(c, id=c.name, marks=() if c.name in quick else pytest.mark.slow) for c in cases]


@pytest.mark.parametrize("case", some_quick(CASES, {"affine", "nsf", "nsf_ar", "nsf_one_dim", "realnvp_relu"}))
def test_cases_have_the_bits_of_python(case: Any, tmp_path: Path, agree: list[Path]) -> None:
    calls = Calls(tmp_path)
    for dtype in DTYPES:
        flow = bare(built(case, "cpp", dtype))
        x, z = points(case, SOME, flow, "c"), latents(case, SOME, flow.dim, dtype, "c")
        context = contexts(case, SOME, flow, "c") if flow.context_dim else None
        ask(calls, flow, x, z, context, f"{case.name}, {dtype}")
        ask(
            calls,
            absurd(flow, 1e9, case.name),
            x[:3],
            z[:3],
            None if context is None else context[:3],
            f"{case.name} of absurd parameters, {dtype}",
        )
    assert answered(calls, agree) > 3_000


@pytest.mark.parametrize("case", some_quick(supports_table.COLUMNED, {"positive", "circle", "box_open"}))
def test_columns_with_supports_have_the_bits_of_python(case: Any, tmp_path: Path, agree: list[Path]) -> None:
    calls = Calls(tmp_path)
    for dtype in DTYPES:
        flow = built(case, "cpp", dtype)
        x, z = supports_table.points(case, SOME, flow, "c"), supports_table.latents(case, SOME, flow, dtype, "c")
        context = contexts(case, SOME, flow, "c") if flow.context_dim else None
        ask(calls, bare(flow), x, z, context, f"{case.name}, {dtype}")
    assert answered(calls, agree) > 3_000


def test_bases_have_the_bits_of_python(tmp_path: Path, agree: list[Path]) -> None:
    calls = Calls(tmp_path)
    for dtype in DTYPES:
        for name, base in [*BASES.items(), *GIVEN.items()]:
            options: dict[str, Any] = {"context_dim": 2} if base in GIVEN.values() else {}
            flow = flow_of(base, "cpp", dtype, ps.Coupling(ps.Affine(), ps.MLP((5,), "tanh")), **options)
            z = rng("c", name).standard_normal((SOME, flow.dim)).astype(dtype)
            context = rng("c contexts", name).standard_normal((SOME, 2)).astype(dtype) if options else None
            ask(calls, flow, z, z, context, f"base {name}, {dtype}")
    assert answered(calls, agree) > 100_000


@pytest.mark.parametrize("kind", KINDS)
def test_ensembles_have_the_bits_of_python(kind: str, tmp_path: Path, agree: list[Path]) -> None:
    calls = Calls(tmp_path)
    ensemble = ensemble_of(kind, "cpp")
    context = rng("c", kind).standard_normal((SOME, ensemble.context_dim)) if ensemble.context_dim else None
    x = ensemble.sample(None if ensemble.context_dim else SOME, context, rng=3)
    ask(calls, ensemble, x, x, context, kind)
    assert answered(calls, agree) > 3_000


def test_many_rows_by_buffers_have_the_bits_of_python(tmp_path: Path, agree: Path) -> None:
    """So many that results of another type than the flow's come in several parts."""
    calls = Calls(tmp_path)
    n = 120_000
    for dtype, other in (DTYPES, DTYPES[::-1]):
        flow = ps.realnvp(3, layers=2, hidden=(4,), context_dim=2, dtype=dtype, rng=1, backend="cpp")
        flow.params = flow.params + rng("c many").standard_normal(flow.n_params)
        x, context = (rng("c many", k).standard_normal((n, k)).astype(other) for k in (3, 2))
        calls.add_model(flow)
        label = f"{n} rows of {dtype}"
        for given in (context, context[0]):
            calls.rows(LOG_PROB_AND_GRAD, x, given, wanted=VALUES | ROWS | GRAD_CONTEXT, label=label)
            calls.rows(TO_LATENT, x, given, wanted=VALUES | ROWS, label=label)
            calls.rows(TO_DATA, x, given, wanted=ROWS, label=label)
            calls.sample(n, given, other, seed=1, first=3, first_context=5 * given.ndim - 5, label=label)
    assert answered(calls, agree) > 5e6


PARTS = ps.simplex([1, 3, 4])
LATTICES: dict[str, tuple[Any, list[float], list[float]]] = {
    "some columns": (None, [0.1, 0.0, 1.0, 0.3, 2.5], [0.05, 0.0, 0.0, 0.1, 0.0]),
    "parts of a whole": ([{0: "positive"}, PARTS], [0.5, 0.25, 0.0, 0.25, 0.25], [0.25, 0.0, 0.0, 0.0, 0.0]),
    "some parts of a whole": ([PARTS], [0.0, 0.2, 0.5, 0.0, 0.1], [0.0, 0.0, 0.25, 0.0, 0.0]),
    "an ordered group": ([ps.ordered([2, 0])], [1.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("name", LATTICES)
def test_lattices_have_the_bits_of_python(name: str, tmp_path: Path, agree: list[Path]) -> None:
    calls = Calls(tmp_path)
    support, steps, origins = LATTICES[name]
    for dtype in DTYPES:
        flows = []
        for k in range(2):
            flow = ps.nsf(5, layers=2, hidden=(8,), support=support, dtype=dtype, rng=k, backend="cpp")
            flow.params = flow.params + rng("c", name, k).standard_normal(flow.n_params)
            flow._lattice = Lattice.within(np.array(steps), np.array(origins), flow.spec.support)
            flows.append(flow)
        for model in (flows[0], ps.Ensemble(flows)):
            x = model.sample(SOME, rng=1)
            ask(calls, model, x, x, None, f"{name}, {dtype}")
    assert answered(calls, agree) > 3_000


# --- training ---------------------------------------------------------------------------------------------------------


def in_order_of_fit(flow: Any, seed: int, epochs: int, n: int, batch: int) -> Array:
    """The numbers of rows in the order in which batches of a fit see them."""
    order = flow._runner().row_order
    split = order(seed, 0, n, range(n))
    steps = n // batch
    return np.concatenate([split[order(seed, epoch, n, range(steps * batch))] for epoch in range(1, epochs + 1)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_steps_have_the_bits_of_a_fit(dtype: str, weighted: bool, tmp_path: Path, agree: list[Path]) -> None:
    calls, expected = Calls(tmp_path), []
    n, batch, epochs = 300, 70, 3
    source = rng("c trainer")
    for k, context_dim in enumerate((0, 2)):
        flow = ps.nsf(
            3,
            layers=2,
            hidden=(8,),
            support={0: "positive"},
            context_dim=context_dim,
            dtype=dtype,
            rng=1,
            backend="cpp",
        )
        x = np.abs(source.standard_normal((n, 3))).astype(dtype)
        context = source.standard_normal((n, 2)).astype(dtype) if context_dim else None
        weight = source.exponential(size=n).astype(dtype) * (source.random(n) < 0.8) if weighted else None
        flow.fit(x, context, epochs=1, batch_size=batch, validation=0, rng=5, progress=False)
        calls.add_model(flow)
        options = {"learning_rate": 1e-2, "weight_decay": 1e-3, "clip_norm": 0.5, "weight_scale": 1.0}
        trained = flow.copy().fit(
            x, context, sample_weight=weight, validation=0, epochs=epochs, batch_size=batch, schedule="constant", warmup=0,
            learning_rate=options["learning_rate"], weight_decay=options["weight_decay"], clip_norm=options["clip_norm"],
            rng=7, progress=False,
        )  # fmt: skip
        rows = in_order_of_fit(flow, _validate.seed(7), epochs, n, batch)
        scaled = None
        if weight is not None:
            weight = weight.astype(dtype)
            _, exponent = np.frexp(weight.max())
            scaled = np.ldexp(weight, -exponent)
            options["weight_scale"] = n / float(scaled.sum(dtype=np.float64))
        own = flow._runner().trainer(
            flow.params, flow._snapshot.buffers, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=options["weight_decay"],
            clip_norm=options["clip_norm"], frozen=None,
        )  # fmt: skip
        steps = epochs * (n // batch)
        losses, norms = np.empty(steps), np.empty(steps)
        for epoch in range(epochs):
            here = slice(epoch * (n // batch), (epoch + 1) * (n // batch))
            own.run(
                x, context, weight, weight_exponent=0 if weight is None else -int(exponent), weight_scale=options["weight_scale"],
                seed=_validate.seed(7), epoch=epoch + 1, n_train=n, first_step=0, batch_size=batch,
                learning_rates=np.full(n // batch, 1e-2), losses=losses[here], norms=norms[here],
            )  # fmt: skip
        told = np.stack([losses, norms], axis=1)
        calls.train(
            x[rows], None if context is None else context[rows], None if scaled is None else scaled[rows], options, batch=batch,
            number=k, expected=lambda told=told: [told], label=f"trainer {k} of {dtype}",
        )  # fmt: skip
        expected.append((flow, trained))
    answered(calls, agree)
    for k, (flow, trained) in enumerate(expected):
        found = ps.load(tmp_path / f"trained_{k}.safetensors")
        assert found.fitted
        assert not len(found.history)
        assert (found.params != flow.params).any()
        np.testing.assert_array_equal(found.params, trained.params)


def test_what_is_saved_is_the_file_itself(tmp_path: Path, agree: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    version = bound().penstock_version().decode()
    monkeypatch.setattr(_backend, "package_version", lambda: version)  # which a file holds
    calls = Calls(tmp_path)
    x = rng("c saved").standard_normal((200, 2))
    flow = ps.nsf(2, layers=2, hidden=(8,), rng=1, backend="cpp").fit(x, epochs=2, rng=1, progress=False)
    flow.columns = ["a", "b"]
    models = [flow, ps.Ensemble([flow, flow])]
    for model in models:
        calls.add_model(model)
        calls.save("saved")
    answered(calls, agree)
    for k in range(len(models)):
        first, second = ((tmp_path / f"{name}_{k}.safetensors").read_bytes() for name in ("model", "saved"))
        assert first == second


# --- keys -------------------------------------------------------------------------------------------------------------


def bound() -> ctypes.CDLL:
    """The library for calls from here, where no C program is needed."""
    own = ctypes.CDLL(str(LIBRARY))
    own.penstock_version.restype = ctypes.c_char_p
    own.penstock_key_from_seed.restype = ctypes.c_uint64
    own.penstock_key_from_seed.argtypes = [ctypes.c_uint64]
    return own


def test_keys_are_those_of_numpy() -> None:
    key = bound().penstock_key_from_seed
    drawn = rng("c seeds").integers(0, 2**64 - 1, 50_000, np.uint64, endpoint=True)
    edges = [2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1]
    for seed in [*range(50_000), *edges, *drawn.tolist()]:
        assert key(seed) == np.random.PCG64(seed).random_raw()
    for seed in (0, 7, *edges):
        assert key(seed) == ps.key(seed)


# --- what C programs see ----------------------------------------------------------------------------------------------

MODELS = HERE / "c" / "models"


@pytest.mark.parametrize("standard", ["c99", "c11", "c++17", "c++20"])
def test_the_header_is_clean(standard: str, tmp_path: Path) -> None:
    """Alone and twice in a file, in both languages, with every warning an error."""
    cpp = standard.startswith("c++")
    compiler = CXX if cpp else COMPILER
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    source = tmp_path / ("header.cpp" if cpp else "header.c")
    source.write_text(
        '#include "penstock/penstock.h"\n#include "penstock/penstock.h"\nint of_the_test = PENSTOCK_ABI;\n'
    )
    strict = ("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wstrict-prototypes" if not cpp else "-Wold-style-cast")
    subprocess.run(
        [compiler, f"-std={standard}", *strict, f"-I{include()}", "-c", source, "-o", tmp_path / "o"], check=True
    )


def test_every_status_comes_with_its_sentence(tmp_path: Path) -> None:
    program = compiled(HERE / "c" / "status.c", tmp_path / "status")
    subprocess.run([program, MODELS, tmp_path], check=True)


@pytest.mark.skipif(
    not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="glibc's malloc is counted"
)
def test_one_row_takes_no_memory_and_no_lock(tmp_path: Path) -> None:
    program = compiled(HERE / "c" / "one_row.c", tmp_path / "one_row", "-pthread", "-ldl")
    subprocess.run([program, MODELS], check=True)


def test_threads_forks_and_many_loads(tmp_path: Path) -> None:
    program = compiled(HERE / "c" / "threads.c", tmp_path / "threads", "-pthread")
    subprocess.run([program, MODELS, "2000"], check=True)


def test_nothing_stays_once_the_library_is_unloaded(tmp_path: Path) -> None:
    program = compiled(HERE / "c" / "unload.c", tmp_path / "unload", "-pthread", "-ldl", linked=False)
    subprocess.run([program, str(LIBRARY), MODELS / "flow.safetensors", "1000"], check=True)


def test_a_forced_instruction_set_that_is_not_there_is_told(tmp_path: Path) -> None:
    source = tmp_path / "isa.c"
    source.write_text(
        '#include <stdio.h>\n#include "penstock/penstock.h"\n'
        "int main(int n, char **names) {\n  penstock_flow *flow;\n  const char *isa = penstock_isa();\n"
        '  printf("%s\\n%s\\n", isa == NULL ? "NULL" : isa, penstock_last_error());\n  (void)n;\n'
        '  printf("%d\\n%s\\n", (int)penstock_load(names[1], &flow), penstock_last_error());\n  return 0;\n}\n'
    )
    program = compiled(source, tmp_path / "isa")
    env = {**os.environ, "PENSTOCK_ISA": "abacus"}
    told = subprocess.run(
        [program, MODELS / "flow.safetensors"], check=True, env=env, capture_output=True, text=True
    ).stdout.splitlines()
    assert told[0] == "NULL"
    assert told[1].startswith("PENSTOCK_ISA=abacus: this build on this processor has no abacus; it has: ")
    assert told[2:] == ["5", told[1]]
