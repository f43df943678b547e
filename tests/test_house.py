"""The rules of the house that a machine can hold: where code lives, what it may touch, which choice really runs."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from cases import BACKENDS, CASES, KERNELS, QUICK, built
from helpers import ROOT, backend_of, each_backend, python
from penstock import plan_table
from penstock._backend import package_version
from penstock.layers import LAYERS
from penstock.transforms import TRANSFORMS

PACKAGE = ROOT / "src" / "penstock"
CPP = ROOT / "cpp"
NUMBA = PACKAGE / "_numba"

installed = pytest.mark.skipif(package_version() == "", reason="a source tree that was never installed has no version")
pytestmark = pytest.mark.skipif(not CPP.is_dir() or not PACKAGE.is_dir(), reason="needs the source tree")


def sources(*patterns: str) -> list[Path]:
    """Files of the repository, none of them generated."""
    found = sorted(
        path for pattern in patterns for path in ROOT.glob(pattern) if "build" not in path.relative_to(ROOT).parts[:1]
    )
    assert found, f"nothing matches {patterns}"
    return found


def without_comments(text: str) -> str:
    """C++ without comments and strings; lines keep their numbers."""
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), text, flags=re.S)
    text = re.sub(r"//[^\n]*", "", text)
    return re.sub(r'"(\\.|[^"\\\n])*"', '""', text)


def findings(pattern: str, paths: list[Path]) -> list[str]:
    """``file:line: text`` of each match in C++ code."""
    out = []
    for path in paths:
        for number, line in enumerate(without_comments(path.read_text()).splitlines(), 1):
            if re.search(pattern, line):
                out.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    return out


# -- where code lives ---------------------------------------------------------------------------


def test_only_the_bindings_know_python() -> None:
    rooms = [path for path in sources("cpp/**/*.hpp", "cpp/**/*.cpp") if "bindings" not in path.parts]
    assert findings(r"\bpybind11\b|Python\.h|\bPy_|\bPyObject|\bpy::|\bGIL", rooms) == []


def test_bindings_hold_no_maths() -> None:
    assert (
        findings(r"<cmath>|\bstd::(exp|log|sqrt|tanh|pow|fma)\b|\bexpf?\(|\blogf?\(", sources("cpp/bindings/*")) == []
    )


KERNEL_ROOMS = (
    "cpp/core/*.hpp",
    "cpp/transforms/*.hpp",
    "cpp/conditioners/*.hpp",
    "cpp/layers/*.hpp",
    "cpp/isa/kernels.cpp",
    "cpp/isa/rows.hpp",
    "cpp/isa/doubles.hpp",
    "cpp/isa/groups.hpp",
    "cpp/isa/mixtures.hpp",
    "cpp/isa/supports.hpp",
    "cpp/isa/contexts.hpp",
    "cpp/isa/bases.hpp",
    "cpp/isa/ends.hpp",
)


def test_kernels_never_allocate_throw_print_lock_or_look_at_the_clock() -> None:
    forbidden = (
        r"\bnew\b|\bdelete\b|\b(m|c|re)alloc\b|\bfree\(|\bthrow\b|\btry\b|\bcatch\b"
        r"|printf|\bcout\b|\bcerr\b|mutex|\batomic|\bchrono\b|\bthread_local\b|\bclock"
    )
    assert findings(forbidden, sources(*KERNEL_ROOMS)) == []


def test_kernels_touch_nothing_of_the_standard_library() -> None:
    paths = sources(*KERNEL_ROOMS)
    assert findings(r"\bstd::", paths) == []
    included = {match for path in paths for match in re.findall(r"#include <([^>]+)>", path.read_text())}
    assert included <= {"cstdint", "cstddef", "immintrin.h", "arm_neon.h"}


def test_kernels_live_in_the_namespace_of_their_instruction_set() -> None:
    # These hold plain structures and constants that the engine shares; they have no function that could leak.
    shared = ("codes.hpp", "layout.hpp", "plan.hpp", "stream.hpp", "tile.hpp")
    for path in sources("cpp/core/*.hpp", "cpp/transforms/*.hpp", "cpp/conditioners/*.hpp", "cpp/layers/*.hpp"):
        text = without_comments(path.read_text())
        if path.name not in ("list.hpp", *shared):
            assert re.search(r"namespace penstock::PENSTOCK_ISA\b", text), path
    plain = "".join(without_comments((CPP / "core" / name).read_text()) for name in shared)
    assert not re.search(r"\binline\b(?!\s+constexpr)|\btemplate\b[^;{]*\)\s*(const\s*)?\{", plain)
    functions = re.findall(r"(?m)^(\w+) [\w:]+ (?!operator)\w+\([^;]*?\) \{", plain)
    assert set(functions) == {"PENSTOCK_LAYOUT"}  # always inlined


def calls(path: Path) -> Iterator[tuple[str, int]]:
    """Dotted names of the functions that a Python file calls."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


MESSAGES = ("ranks.py", "across.py")  # what one process gets from others
SHELL = tuple(f"src/penstock/{room}*.py" for room in ("", "layers/", "transforms/", "training/", "sbi/"))


def test_user_arrays_are_converted_at_the_front_door_alone() -> None:
    door = {"np.asarray", "np.asanyarray", "np.ascontiguousarray", "np.require", "np.asfortranarray"}
    found = [
        f"{path.name}:{line}"
        for path in sources(*SHELL)
        if path.name not in ("_validate.py", "columns.py", "_device_arrays.py", *MESSAGES)
        for name, line in calls(path)
        if name in door
    ]
    assert found == []


RUNNERS = ("runner.py", "mixture.py")  # of a flow, and of several


def test_outputs_are_allocated_in_the_runner_alone() -> None:
    found = [
        f"{path.name}:{line}"
        for path in sources(*SHELL)
        if path.name not in (*RUNNERS, *MESSAGES)
        for name, line in calls(path)
        if name in ("np.empty", "np.empty_like")
    ]
    assert found == []


ENGINE_CALLS = {
    "evaluate",
    "latents",
    "latents_vjp",
    "sample",
    "vjp",
    "loss_and_grad",
    "adam",
    "pack",
    "Engine",
    "Mixture",
    "Trainer",
    "row_order",
    "slices",
}


def test_the_runner_alone_calls_the_engine() -> None:
    found = [
        f"{path.name}:{line}"
        for path in sources(*SHELL)
        if path.name not in RUNNERS
        for name, line in calls(path)
        if name.rpartition(".")[0].rpartition(".")[2] in ("engine", "_engine", "backend", "_backend")
        if name.rpartition(".")[2] in ENGINE_CALLS
    ]
    assert found == []


# The rooms of the package, from the top down: each imports only what stands below it. The engine's rooms are under _backend.
ROOMS = (
    "__main__", "cli", "demo", "_compare", "_corner", "__init__", "dask", "sbi", "selection", "candidates", "recipes", "models",
    "trials", "ensemble", "members_fit", "flow", "trained", "recalibrate", "diagnostics", "reverse", "given", "parts",
    "mixed_conditional", "conditionals", "marginals", "sections", "coordinates", "restricted", "quadrature", "montecarlo",
    "quantiles", "latent", "verbs", "device_verbs", "accepting", "frames", "_versions", "_describe", "infer", "training",
    "files", "ops", "histories", "history", "weights", "targets", "mixture", "runner", "_backend", "_core", "_numba",
    "state", "plan", "plan_table", "spec", "layers", "base", "conditioners", "transforms", "lattice", "support", "groups",
    "_mixture", "_normal", "_files", "_validate", "columns", "_device_arrays", "_warn", "_html", "_typing",
)  # fmt: skip


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Rooms that a file of the package imports, for type checkers alone or when a function runs included."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "penstock":
                yield (parts[1] if len(parts) > 1 and parts[1] in ROOMS else "__init__"), node.lineno


def test_imports_point_down_only() -> None:
    rank = {room: number for number, room in enumerate(ROOMS)}
    found, met = [], set()
    for path in sources("src/penstock/**/*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        assert room in rank, f"{room} has no place in ROOMS"
        met.add(room)
        found += [
            f"{path.relative_to(PACKAGE)}:{line} imports {other}"
            for other, line in imports(path)
            if other != room and rank[other] <= rank[room]
        ]
    assert found == []
    assert set(ROOMS) - met <= {"_core", "_cuda_emulated"}


def test_every_file_says_first_what_it_is() -> None:
    for path in sources("src/penstock/**/*.py", "tests/*.py", "benchmarks/*.py", "examples/*.py", ".ci/*.py"):
        if path.read_text().strip():
            tree = ast.parse(path.read_text())
            assert ast.get_docstring(tree) or path.read_text().startswith("# "), path
    for path in sources("cpp/**/*.hpp", "cpp/**/*.cpp", "tests/cpp/*.cpp"):
        assert path.read_text().startswith("// "), path


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    for path in sources(
        "src/**/*.py",
        "cpp/**/*.?pp",
        "tests/**/*.py",
        "benchmarks/*",
        "examples/*.py",
        "docs/*",
        "*.md",
        "*.toml",
        "*.cff",
        "CMakeLists.txt",
        ".ci/*",
    ):
        if path.is_file() and path.suffix != ".npz":
            assert not re.search(r"(?<![\w.])/(work|root|home)/\w", path.read_text(errors="replace")), path


def test_the_arithmetic_of_the_compiler_is_the_ieee_one() -> None:
    text = (ROOT / "CMakeLists.txt").read_text(errors="replace")
    code = re.sub(r"#[^\n]*", "", text)
    for flag in ("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"):
        assert flag in code
    assert not re.search(r"-ffast-math|-Ofast|-funsafe|-fassociative|-freciprocal|-ffinite-math|openmp", code, re.I)
    assert findings(r"#\s*pragma\s+(omp|GCC\s+(optimize|target))|fast.math", sources("cpp/**/*.?pp")) == []


# -- one name in every room ---------------------------------------------------------------------


def cpp_transforms() -> list[str]:
    """The names in the list of the C++ room."""
    text = (CPP / "transforms" / "list.hpp").read_text()
    return re.findall(r"\bX\((\w+), -?\d+, \d+, \d+\)", text.split("#define PENSTOCK_TRANSFORMS(X)")[1])


def test_the_lists_of_transforms_agree() -> None:
    names = list(TRANSFORMS)
    assert cpp_transforms() == names
    assert [case.name for case in KERNELS if case.kind == "transform"] == names
    assert [case.transform.name for case in KERNELS if case.kind == "transform"] == names
    for module in (backend_of(built(CASES[0], backend, "float32")) for backend in BACKENDS):
        assert list(module.transform_names()) == names
    for folder, suffix, others in (
        (CPP, ".hpp", {"list", "parts"}),
        (NUMBA, ".py", {"__init__"}),
        (PACKAGE, ".py", {"__init__"}),
    ):
        assert {path.stem for path in (folder / "transforms").glob(f"*{suffix}")} - others == set(names)


def test_every_layer_and_recipe_has_a_case() -> None:
    used = {type(layer).__name__ for case in CASES for layer in built(case, BACKENDS[0], "float32").spec.layers}
    assert used == set(LAYERS)
    recipes = {
        name
        for name in ps.__all__
        if callable(getattr(ps, name)) and getattr(getattr(ps, name), "__module__", "") == "penstock.recipes"
    }
    named = [
        [name for name in recipes if f"{case.name}_".startswith(f"{name}_")] for case in CASES if case.kind == "recipe"
    ]
    assert recipes == {max(names, key=len) for names in named}


def test_the_quick_cases_of_numba_have_a_bit_of_everything() -> None:
    def parts(cases: Iterable[Any]) -> set[Any]:
        found: set[Any] = set()
        for flow in (built(case, BACKENDS[0], "float32") for case in cases):
            found |= {("context", flow.context_dim > 0), ("embedding", flow.spec.embedding is not None)}
            for layer in flow.spec.layers:
                network, name = getattr(layer, "conditioner", None), type(layer).__name__
                found.add((name, getattr(layer, "explicit", ""), network is not None))
                found.add((name, type(getattr(layer, "transform", None))))
                if network is not None:
                    found.add((network.activation, len(network.hidden) > 0))
                    found.add((name, network.residual, flow.context_dim > 0))
        return found

    assert parts(CASES) - parts(QUICK) == set()


@pytest.mark.parametrize("room", ["transforms", "layers", "conditioners", "core"])
def test_twins_have_the_same_names(room: str) -> None:
    # core/plan.hpp and core/tile.hpp describe structures in memory, which the twin has in arrays; scalar.hpp is the lane
    # type of a device, and streams stand in the twin's philox.py. The twin's jit, theta and pointers are what C++ has by nature;
    # linear.hpp is what a device does in another way, parts.hpp with what its kernels are compiled.
    skip = {"list", "__init__", "plan", "tile", "codes", "scalar", "stream", "jit", "pointers", "theta", "coefficients"}
    skip |= {"linear", "parts"}
    headers = {path.stem for path in (CPP / room).glob("*.hpp")} - skip
    twins = {path.stem for path in (NUMBA / room).glob("*.py")} - skip
    assert headers == twins


def first_comment(path: Path) -> list[str]:
    """The comment block at the top of a file, without its marks."""
    mark = "//" if path.suffix == ".hpp" else "#"
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith(mark):
            break
        lines.append(line.removeprefix(mark))
    return lines


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_the_formulas_of_header_and_twin_are_the_same(name: str) -> None:
    header, twin = CPP / "transforms" / f"{name}.hpp", NUMBA / "transforms" / f"{name}.py"
    block = first_comment(header)
    assert [line.split()[0] for line in block[1:4]] == ["forward", "inverse", "backward"]
    assert first_comment(twin) == block


def test_twins_have_the_same_functions_in_the_same_order() -> None:
    for name in TRANSFORMS:
        tree = ast.parse((NUMBA / "transforms" / f"{name}.py").read_text())
        twin = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        code = without_comments((CPP / "transforms" / f"{name}.hpp").read_text())
        header = re.findall(r"PENSTOCK_(?:INLINE|OUTLINE) static \w+ (\w+)\(", code)
        assert header == twin


# -- choosers -----------------------------------------------------------------------------------

WHICH = """if True:
    import penstock as ps
    flow = ps.realnvp(2, rng=0)
    flow.sample(3)
    print(flow._backend.name, flow._backend.isa())
    print(repr(flow))
"""


@each_backend
def test_a_forced_backend_is_the_one_that_runs(backend: str) -> None:
    out = python(WHICH, env={"PENSTOCK_BACKEND": backend, "PENSTOCK_ISA": ""}).stdout
    assert out.split()[0] == backend
    assert backend in out.split("\n", 1)[1]
    assert ps.realnvp(2, backend=backend)._backend.name == backend


@pytest.mark.skipif("cpp" not in BACKENDS, reason="instruction sets are a choice of the compiled backend")
def test_a_forced_instruction_set_is_the_one_that_runs() -> None:
    from penstock import _core

    for isa in _core.isas():
        out = python(WHICH, env={"PENSTOCK_BACKEND": "cpp", "PENSTOCK_ISA": isa}).stdout
        assert out.split()[:2] == ["cpp", isa]
        assert isa in out.split("\n", 1)[1]


# A copy of the package without its extension, put before everything that may know another one.
ELSEWHERE = """if True:
    import sys
    sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "__module__", "").startswith(("_frozen", "_distutils"))]
    sys.path.insert(0, sys.argv[1])
    import penstock as ps
    assert ps.__file__.startswith(sys.argv[1]), ps.__file__
    flow = ps.realnvp(2, rng=0)
    print(repr(flow))
    if flow.backend != "numba":  # which would compile everything anew for this folder
        flow.sample(3)
    print("chosen:", flow.backend)
"""


@pytest.fixture
def package_without_core(tmp_path: Path) -> Path:
    """A folder that holds the pure-Python part of the installed package."""
    shutil.copytree(
        Path(ps.__file__).parent, tmp_path / "penstock", ignore=shutil.ignore_patterns("*.so*", "_core*", "__pycache__")
    )
    return tmp_path


CLEAN = {"PENSTOCK_BACKEND": "", "PENSTOCK_ISA": ""}


def test_a_broken_extension_raises_and_nothing_falls_back(package_without_core: Path) -> None:
    (package_without_core / "penstock" / "_core.py").write_text("raise ImportError('undefined symbol: frobnicate')\n")
    done = python(ELSEWHERE, str(package_without_core), env=CLEAN, check=False)
    assert done.returncode != 0
    assert "frobnicate" in done.stderr
    assert "chosen" not in done.stdout


@installed
def test_an_extension_of_another_version_raises(package_without_core: Path) -> None:
    (package_without_core / "penstock" / "_core.py").write_text(
        "version = '0.0.0.stale'\ndef usable(): return ''\ndef isa(): return 'avx2'\ndef isas(): return ['avx2']\n"
    )
    done = python(ELSEWHERE, str(package_without_core), env=CLEAN, check=False)
    assert done.returncode != 0
    assert "0.0.0.stale" in done.stderr


@pytest.mark.skipif("numba" not in BACKENDS, reason="what is selected in place of the extension is Numba")
def test_a_missing_extension_selects_numba_and_says_so(package_without_core: Path) -> None:
    out = python(ELSEWHERE, str(package_without_core), env=CLEAN).stdout
    assert "chosen: numba" in out
    assert "not installed" in out


@pytest.mark.skipif("numba" not in BACKENDS, reason="what is selected in place of the extension is Numba")
def test_an_extension_that_cannot_run_here_selects_numba_and_says_why(package_without_core: Path) -> None:
    (package_without_core / "penstock" / "_core.py").write_text(
        f"version = {package_version()!r}\ndef usable(): return 'this processor is from 1997'\n"
        "def isa(): return ''\ndef isas(): return []\n"
    )
    out = python(ELSEWHERE, str(package_without_core), env=CLEAN).stdout
    assert "chosen: numba" in out
    assert "from 1997" in out


def test_a_forced_but_missing_extension_is_an_error(package_without_core: Path) -> None:
    done = python(ELSEWHERE, str(package_without_core), env={"PENSTOCK_BACKEND": "cpp"}, check=False)
    assert done.returncode != 0
    assert "PENSTOCK_BACKEND=cpp" in done.stderr


def test_without_any_backend_flows_can_be_built_saved_and_inspected(package_without_core: Path) -> None:
    (package_without_core / "numba.py").write_text("")
    code = """if True:
        import sys
        sys.path.insert(0, sys.argv[1])
        known = ("_frozen", "_distutils")
        sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "__module__", "").startswith(known)]
        import importlib.util
        real = importlib.util.find_spec
        importlib.util.find_spec = lambda name, package=None: None if name == "numba" else real(name, package)
        import penstock as ps
        flow = ps.realnvp(2, rng=0)
        again = ps.from_bytes(flow.to_bytes())
        assert (again.params == flow.params).all() and again.spec == flow.spec
        print(repr(again))
        flow.log_prob([[0.0, 0.0]])
    """
    done = python(code, str(package_without_core), env=CLEAN, check=False)
    assert "realnvp" in done.stdout.lower() or "Coupling" in done.stdout
    assert done.returncode != 0
    assert "ImportError" in done.stderr
    assert "pip install" in done.stderr


@installed
@pytest.mark.skipif("cpp" not in BACKENDS, reason="the compiled backend is not installed")
def test_the_extension_states_its_version_and_its_instruction_sets() -> None:
    from penstock import _core

    assert _core.version == ps.__version__
    assert _core.isa() == _core.isas()[0] or os.environ.get("PENSTOCK_ISA")
    assert len(set(_core.isas())) == len(_core.isas())


# -- what the compiler made of it ---------------------------------------------------------------


def object_files(kind: str) -> dict[str, Path]:
    """Objects of cpp/isa/kernels.cpp in a build of this kind, below the folder that ``PENSTOCK_BUILD`` names."""
    named = os.environ.get("PENSTOCK_BUILD")
    if not named:
        pytest.skip("PENSTOCK_BUILD names no build folder; .ci/run gives one")
    found = {}
    for path in Path(named, kind).rglob("*.o"):
        match = re.search(r"(avx2|avx512|fma128|neon)", str(path.relative_to(named)))
        if match and "kernels" in path.name:
            found[match[1]] = path
    assert found, f"{named}/{kind} holds no object of cpp/isa/kernels.cpp"
    return found


# What a freestanding compiler may call by itself.
# What unoptimised code refers to, though nothing in it throws: the compiler's run time, shared by all instruction sets.
UNWINDING = {"DW.ref.__gxx_personality_v0", "__gxx_personality_v0", "_Unwind_Resume"}
RUNTIME = {"memcpy", "memset", "memmove", "memcmp", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail", "fma", "fmaf"}


@pytest.mark.parametrize("kind", ["release", "debug"])
def test_an_instruction_set_exports_its_tables_and_nothing_weak(kind: str) -> None:
    for isa, path in object_files(kind).items():
        lines = subprocess.run(["nm", "-C", str(path)], capture_output=True, text=True, check=True).stdout.splitlines()
        symbols = [(m[1], m[2]) for line in lines if (m := re.match(r"[0-9a-f ]{16} (\w) (.*)", line))]
        assert symbols
        for letter, name in symbols:
            if kind == "debug" and name in UNWINDING:
                continue
            if letter == "U":
                assert name in RUNTIME, f"{path.name} calls {name}"
            elif letter.isupper() or letter in "vwu":
                assert f"penstock::{isa}::" in name, f"{path.name} exports {letter} {name}"
        exported = {name for letter, name in symbols if letter.isupper() and letter not in "UWV"}
        assert {f"penstock::{isa}::kernels_float", f"penstock::{isa}::kernels_double"} == exported


def innermost_loops(assembly: str) -> Iterator[list[str]]:
    """Instructions between a backward jump and its target, where nothing else jumps in between."""
    lines = [(int(m[1], 16), m[2].strip()) for m in re.finditer(r"^ *([0-9a-f]+):\t(.*)$", assembly, re.M)]
    index = {address: i for i, (address, _) in enumerate(lines)}
    for i, (address, text) in enumerate(lines):
        jump = re.match(r"j\w+ +([0-9a-f]+)", text)
        if jump and int(jump[1], 16) < address and int(jump[1], 16) in index:
            body = [t for _, t in lines[index[int(jump[1], 16)] : i]]
            if not any(re.match(r"j|ret|call", t) for t in body):
                yield body


@pytest.mark.parametrize("isa", ["avx2", "avx512", "fma128"])
def test_the_microkernel_keeps_its_accumulators_in_registers(isa: str) -> None:
    if not shutil.which("objdump"):
        pytest.skip("there is no objdump")
    objects = object_files("release")
    if isa not in objects:
        pytest.skip(f"this build has no {isa}")
    assembly = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(objects[isa])], capture_output=True, text=True, check=True
    ).stdout
    # Addresses start anew in each section.
    loops = [body for section in assembly.split("Disassembly of section") for body in innermost_loops(section)]
    accumulators = 24 if isa == "avx512" else 12
    for letter in "sd":
        # A division marks the loop of an activation, and a blend that of a sine: their polynomials may wait in memory.
        products = [
            body
            for body in loops
            if sum(bool(re.match(rf"vfmadd\w+p{letter}", t)) for t in body) >= accumulators
            and not any(t.startswith(("vdiv", "vblendv")) for t in body)
        ]
        assert products, f"no loop of at least {accumulators} vfmadd..p{letter}"
        for body in products:
            spills = [t for t in body if re.search(r"\(%r[sb]p", t) and re.search(r"%[xyz]mm", t)]
            assert not spills, "\n".join(body)


# -- settings -----------------------------------------------------------------------------------


def test_the_test_settings_are_strict(request: pytest.FixtureRequest) -> None:
    config = request.config
    assert config.getini("xfail_strict") is True
    assert "error" in [line.strip() for line in config.getini("filterwarnings")]
    text = (ROOT / "pyproject.toml").read_text()
    assert "--strict-markers" in text or re.search(r"^strict(_markers)? *= *true", text, re.M)
    assert "--strict-config" in text or re.search(r"^strict(_config)? *= *true", text, re.M)


@installed
def test_the_package_states_one_version() -> None:
    import tomllib

    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == ps.__version__
    assert sys.version_info[:2] >= tuple(int(n) for n in re.findall(r"\d+", project["requires-python"])[:2])


def test_citation_and_changelog_are_of_this_version() -> None:
    import tomllib

    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = dict(re.findall(r"^([\w-]+): (.+)$", (ROOT / "CITATION.cff").read_text(), re.M))
    assert citation["title"] == project["name"]
    assert citation["version"] == project["version"]
    assert f"  - name: {project['authors'][0]['name']}\n" in (ROOT / "CITATION.cff").read_text()
    headings = re.findall(r"^## \[?([\w.]+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    # Until a release, its changes stand under Unreleased.
    released = [heading for heading in headings if heading != "Unreleased"]
    assert headings
    assert released[:1] in ([], [project["version"]])


def test_msvc_is_told_what_to_do_before_anything_else_can_fail() -> None:
    lines = [line for line in (ROOT / "CMakeLists.txt").read_text().splitlines() if line and line[0] not in "# )"]
    before = [re.split(r"[( ]", line)[0] for line in lines[: lines.index("if(MSVC)")]]
    assert set(before) == {"cmake_minimum_required", "project", "option"}


def test_what_the_package_requires_is_what_it_imports() -> None:
    import tomllib

    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = "\n".join(path.read_text() for path in sources("src/penstock/**/*.py"))
    for requirement in project["dependencies"]:
        name = re.match(r"[\w-]+", requirement)[0]  # type: ignore[index]
        assert re.search(rf'^ *(?:import|from) {name}\b|import_module\("{name}"\)', text, re.M), name


# -- the page that follows one call ----------------------------------------------------------------


def test_the_quotes_of_the_page_of_the_house_stand_in_the_code() -> None:
    """Each block of code follows a paragraph that begins with the file it is from; ``...`` stands for what was left out."""
    text = (ROOT / "docs" / "house.md").read_text()
    assert len(text.splitlines()) <= 250
    quoted = 0
    source = ""
    for part in re.split(r"(```\w*\n.*?```)", text, flags=re.S):
        if not part.startswith("```"):
            named = re.findall(r"^`([\w/.]+\.(?:py|hpp|cpp))`", part, flags=re.M)
            source = named[-1] if named else source
            continue
        language, _, body = part.strip("`").partition("\n")
        if language == "text" or not source:
            continue
        lines = [line.strip() for line in (ROOT / source).read_text().splitlines()]
        wanted = [line.strip() for line in body.splitlines() if line.strip() not in ("", "...")]
        missing = [line for line in wanted if line not in lines]
        assert not missing, f"{source} has not: {missing}"
        quoted += 1
    assert quoted >= 7


def test_the_plan_on_the_page_of_the_house_is_that_of_its_flow() -> None:
    flow = ps.Flow(ps.StandardNormal(2), [ps.Coupling(ps.Affine(), ps.MLP((4,)))], rng=0)
    assert plan_table.describe(flow._plan.table) in (ROOT / "docs" / "house.md").read_text()


def test_training_computes_no_transcendental_function_with_numpy() -> None:
    """NumPy has kernels of its own for processors with wider vectors, whose last bits differ; the C library has not."""
    called = re.compile(r"\bnp\.(log\w*|exp\w*|power|sin\w*|cos\w*|tan\w*|arc\w+)\(")
    files = [*(ROOT / "src/penstock/training").glob("*.py"), *(ROOT / "src/penstock").glob("[a-z]*.py")]
    trains = [f for f in files if f.parent.name == "training" or f.name in ("state.py", "conditioners.py", "runner.py")]
    assert len(trains) > 10
    found = [f"{f.name}: {line.strip()}" for f in trains for line in f.read_text().splitlines() if called.search(line)]
    assert not found


def test_importing_brings_nothing_heavy() -> None:
    """What NumPy itself does not import, and costs as much as the whole package."""
    code = """
import sys, numpy
before = set(sys.modules)
import penstock
print(sorted({name.split(".")[0] for name in set(sys.modules) - before} - {"penstock"}))
print("numpy.random" in set(sys.modules) - before or "numpy.typing" in set(sys.modules) - before)
"""
    names, more = python(code).stdout.splitlines()
    heavy = {
        "importlib_metadata",
        "email",
        "logging",
        "html",
        "narwhals",
        "tqdm",
        "pandas",
        "polars",
        "pyarrow",
        "matplotlib",
    }
    heavy |= {"inspect", "concurrent", "asyncio", "multiprocessing", "unittest", "numba", "safetensors", "secrets"}
    assert not heavy & set(ast.literal_eval(names))
    assert more == "False"
