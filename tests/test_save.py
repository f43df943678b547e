"""Laws of keeping: files, bytes, pickles, copies and spawned processes hold the same flow, bit for bit.

A loader trusts nothing.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BACKENDS, BY_NAME, Case, bare, built, fresh, given_as, points
from helpers import assert_same_bits, each_backend, each_case, each_dtype, python_json

Array = np.ndarray[Any, Any]

CASE = BY_NAME["mixed_layers"]


def _through_a_file(flow: ps.Flow, folder: Path) -> ps.Flow:
    path = folder / "flow.safetensors"
    flow.save(path)
    return ps.load(path, backend=flow._backend.name)


WAYS: dict[str, Callable[[ps.Flow, Path], ps.Flow]] = {
    "file": _through_a_file,
    "bytes": lambda flow, folder: ps.from_bytes(flow.to_bytes(), backend=flow._backend.name),
    "pickle": lambda flow, folder: pickle.loads(pickle.dumps(flow)),
    "deepcopy": lambda flow, folder: copy.deepcopy(flow),
    "shallow copy": lambda flow, folder: copy.copy(flow),
    "copy": lambda flow, folder: flow.copy(),
}


@pytest.mark.parametrize("way", WAYS)
@each_case
@each_backend
@each_dtype
def test_a_kept_flow_gives_the_same_bits(case: Case, backend: str, dtype: str, way: str, tmp_path: Path) -> None:
    flow = built(case, backend, dtype)
    again = given_as(flow, WAYS[way](bare(flow), tmp_path))
    x = points(case, 70, flow)
    assert again is not flow
    assert again.spec == flow.spec
    assert again.dtype == flow.dtype
    assert again.initialised == flow.initialised
    assert_same_bits(again.params, flow.params)
    assert_same_bits(again._plan.table, flow._plan.table)
    assert_same_bits(again.sample(70, rng=1), flow.sample(70, rng=1))
    if again._backend.name == flow._backend.name:
        assert_same_bits(again.log_prob(x), flow.log_prob(x))
        assert_same_bits(again.log_prob_and_grad(x)[1], flow.log_prob_and_grad(x)[1])


@each_backend
def test_a_copy_is_ones_own(backend: str) -> None:
    flow = fresh(CASE, backend, "float32")
    before = flow.params.copy()
    for way in ("pickle", "deepcopy", "copy", "shallow copy"):
        other = WAYS[way](flow, Path())
        other.params = other.params * 2
        other.fit(points(CASE, 150, other), epochs=1, batch_size=50)
        assert_same_bits(flow.params, before)


@each_backend
def test_the_same_flow_gives_the_same_bytes(backend: str, tmp_path: Path) -> None:
    flow = built(CASE, backend, "float32")
    data = flow.to_bytes()
    assert data == flow.to_bytes() == flow.copy().to_bytes() == ps.from_bytes(data).to_bytes()
    flow.save(tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == data


@each_backend
def test_a_file_says_nothing_of_the_backend_that_wrote_it(backend: str) -> None:
    data = built(CASE, backend, "float64").to_bytes()
    assert b"backend" not in data
    assert all(data == built(CASE, other, "float64").to_bytes() for other in BACKENDS)


@each_backend
def test_a_spawned_process_gives_the_same_bits(backend: str, tmp_path: Path) -> None:
    flow = built(CASE, backend, "float32")
    x = points(CASE, 70, flow)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "flow.pickle").write_bytes(pickle.dumps(flow))
    code = """if True:
        import hashlib, json, pickle, sys
        from pathlib import Path
        import numpy as np
        folder = Path(sys.argv[1])
        flow = pickle.loads((folder / "flow.pickle").read_bytes())
        x = np.load(folder / "x.npy")
        print(json.dumps([flow._backend.name, flow.log_prob(x).tobytes().hex(), flow.sample(9, rng=3).tobytes().hex()]))
    """
    name, log_prob, sample = python_json(code, str(tmp_path), env={"PENSTOCK_BACKEND": backend})
    assert name == backend
    expected = pickle.loads(pickle.dumps(flow))
    if expected._backend.name == backend:
        assert log_prob == expected.log_prob(x).tobytes().hex()
    assert log_prob == flow.log_prob(x).tobytes().hex()
    assert sample == flow.sample(9, rng=3).tobytes().hex()


@each_backend
def test_training_goes_on_after_loading_as_if_nothing_had_happened(backend: str, tmp_path: Path) -> None:
    flow = fresh(CASE, backend, "float32")
    x = points(CASE, 300, flow)
    again = _through_a_file(flow, tmp_path)
    assert_same_bits(
        again.fit(x, epochs=2, batch_size=100, rng=0).params, flow.fit(x, epochs=2, batch_size=100, rng=0).params
    )
    assert_same_bits(np.array(again._snapshot.buffers), np.array(flow._snapshot.buffers))


@each_backend
def test_a_file_is_plain_safetensors_with_named_tensors(backend: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    flow = built(CASE, backend, "float32")
    flow.save(tmp_path / "flow.safetensors")
    tensors = load_file(tmp_path / "flow.safetensors")
    for name, value in dict(flow.named_params()).items():
        found = [key for key in tensors if key.endswith(name)]
        assert len(found) == 1
        assert_same_bits(tensors[found[0]], np.asarray(value))
    header, _ = _split(flow.to_bytes())
    spec = json.loads(header["__metadata__"]["spec"])
    assert isinstance(spec, dict)


# -- files that are damaged, foreign or forged --------------------------------------------------


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _join(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def _edit(change: Callable[[dict[str, Any], bytearray], Any]) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        header, body = _split(data)
        changed = bytearray(body)
        change(header, changed)
        return _join(header, bytes(changed))

    return edit


def _spec(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def edit(header: dict[str, Any], body: bytearray) -> None:
        spec = json.loads(header["__metadata__"]["spec"])
        change(spec)
        header["__metadata__"]["spec"] = json.dumps(spec)

    return _edit(edit)


def _first_tensor(header: dict[str, Any]) -> str:
    return next(
        key for key, value in header.items() if key != "__metadata__" and "weight" in key and value["dtype"] == "F32"
    )


def _poison(header: dict[str, Any], body: bytearray) -> None:
    start = header[_first_tensor(header)]["data_offsets"][0]
    body[start : start + 4] = struct.pack("<f", float("nan"))


def _rename(header: dict[str, Any], body: bytearray) -> None:
    name = _first_tensor(header)
    header[name + "_"] = header.pop(name)


def _reshape(header: dict[str, Any], body: bytearray) -> None:
    tensor = header[_first_tensor(header)]
    tensor["shape"] = (
        tensor["shape"][::-1] if tensor["shape"][0] != tensor["shape"][-1] else [int(np.prod(tensor["shape"]))]
    )


def _surplus(header: dict[str, Any], body: bytearray) -> None:
    header["stranger"] = {"dtype": "U8", "shape": [8], "data_offsets": [len(body), len(body) + 8]}
    body += bytes(8)


def _newer(spec: dict[str, Any]) -> None:
    keys = [key for key in spec if "version" in key and isinstance(spec[key], int)]
    assert keys, f"the spec names no integer format version: {list(spec)}"
    for key in keys:
        spec[key] += 1000


def _deep(old: str, new: Any) -> Callable[[bytes], bytes]:
    """Replace a string or number anywhere in the spec."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item) for item in value]
        return new if value == old else value

    def change(spec: dict[str, Any]) -> None:
        changed = walk(spec)
        assert changed != spec
        spec.clear()
        spec.update(changed)

    return _spec(change)


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "."),
    "a few bytes": (lambda data: data[:5], "."),
    "header cut": (lambda data: data[:100], "."),
    "one byte short": (lambda data: data[:-1], "."),
    "half": (lambda data: data[: len(data) // 2], "."),
    "one byte more": (lambda data: data + b"\0", "."),
    "text": (lambda data: b"hello, I am not a model\n" * 40, "."),
    "a pickle": (lambda data: pickle.dumps({"a": 1}), "."),
    "absurd header size": (lambda data: struct.pack("<Q", 2**62) + data[8:], "."),
    "no metadata": (_edit(lambda header, body: header.pop("__metadata__")), "penstock|spec"),
    "somebody else's metadata": (
        _edit(lambda header, body: header.update(__metadata__={"format": "pt"})),
        "penstock|spec",
    ),
    "spec that is no JSON": (_edit(lambda header, body: header["__metadata__"].update(spec="{")), "spec|JSON"),
    "newer version": (_spec(_newer), "version|newer"),
    "tensor missing": (_edit(_rename), "."),
    "tensor surplus": (_edit(_surplus), "stranger"),
    "tensor of another shape": (_edit(_reshape), "shape|size"),
    "NaN": (_edit(_poison), "finite|NaN|nan"),
    "unknown activation": (_deep("tanh", "sine"), "sine"),
    "unknown layer": (_deep("Coupling", "Uncoupling"), "Uncoupling"),
    "absurd width": (_deep(12, 10**15), "."),  # type: ignore[arg-type]
    "negative width": (_deep(12, -12), "-12"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_a_clear_error(damage: str, tmp_path: Path) -> None:
    change, what = DAMAGE[damage]
    data = built(CASE, BACKENDS[0], "float32").to_bytes()
    bad = change(data)
    assert bad != data
    path = tmp_path / "bad.safetensors"
    path.write_bytes(bad)
    with pytest.raises(ValueError, match=f"(?s)bad.safetensors.*({what})|({what}).*bad.safetensors") as caught:
        ps.load(path)
    assert "Traceback" not in str(caught.value)
    with pytest.raises(ValueError, match=f"(?s){what}"):
        ps.from_bytes(bad)


@pytest.mark.parametrize("position", range(0, 4000, 97))
def test_a_flipped_byte_never_builds_a_flow_that_is_not_finite_or_crashes(position: int) -> None:
    data = bytearray(built(CASE, BACKENDS[0], "float32").to_bytes())
    position %= len(data)
    data[position] ^= 0x5A
    try:
        flow = ps.from_bytes(bytes(data))
    except ValueError:
        return
    assert np.isfinite(flow.params).all()
    assert flow.log_prob(np.zeros((3, flow.dim))).shape == (3,)


# -- writing ------------------------------------------------------------------------------------


def test_saving_replaces_a_file_atomically_and_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = built(CASE, BACKENDS[0], "float32")
    path = tmp_path / "flow.safetensors"
    path.write_bytes(b"the old one")

    def broken(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", broken)
        patch.setattr(os, "rename", broken)
        with pytest.raises(OSError, match="disk full"):
            flow.save(path)
    assert path.read_bytes() == b"the old one"
    assert os.listdir(tmp_path) == ["flow.safetensors"]
    flow.save(path)
    assert os.listdir(tmp_path) == ["flow.safetensors"]
    assert_same_bits(ps.load(path).params, flow.params)


def test_saving_into_a_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        built(CASE, BACKENDS[0], "float32").save(tmp_path / "missing" / "flow.safetensors")


def test_a_saved_file_obeys_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        built(CASE, BACKENDS[0], "float32").save(tmp_path / "flow.safetensors")
    finally:
        os.umask(old)
    assert (tmp_path / "flow.safetensors").stat().st_mode & 0o777 == 0o640


@each_backend
def test_astype_keeps_the_numbers(backend: str) -> None:
    narrow = built(CASE, backend, "float32")
    wide = narrow.astype("float64")
    assert wide.dtype == np.float64
    assert narrow.dtype == np.float32
    assert (wide.params == narrow.params).all()
    assert_same_bits(wide.astype("float32").params, narrow.params)
    assert_same_bits(np.array(wide._snapshot.buffers), np.array(narrow._snapshot.buffers))
    assert_same_bits(
        wide.log_prob(points(CASE, 20, wide)), built(CASE, backend, "float64").log_prob(points(CASE, 20, wide))
    )


@each_backend
def test_reset_forgets(backend: str) -> None:
    flow = CASE.build(dtype="float32", backend=backend)
    start = flow.params.copy()
    flow.fit(points(CASE, 200, built(CASE, backend, "float32")), epochs=2, batch_size=50)
    assert flow.initialised
    assert not np.array_equal(flow.params, start)
    flow.reset(7)  # the seed that it was built with
    assert not flow.initialised
    assert_same_bits(flow.params, start)
    other = flow.copy()
    other.reset(7)
    assert_same_bits(other.params, flow.params)
    other.reset(8)
    assert not np.array_equal(other.params, flow.params)
    x = points(CASE, 10, built(CASE, backend, "float32"))
    assert (flow.to_latent(x)[1] == 0).all()


@each_backend
def test_a_file_of_an_earlier_build_gives_the_same_numbers(backend: str) -> None:
    """Written in November 2026 by a build that knew neither contexts nor splines; so were the numbers."""
    flow = ps.load(Path(__file__).parent / "data" / "glow_2026_11.safetensors", backend=backend)
    rows = [
        [3.125730276, 2.930760145, 3.359842777],
        [3.104900122, 2.516780615, 3.341498375],
        [4.303999901, 4.599081039, 2.364008188],
    ]
    np.testing.assert_allclose(flow.log_prob(rows), [-2.473898172, -2.525156498, -4.426586151], rtol=1e-5)
    draws = [[3.010286093, 2.551626921, 2.443367958], [1.240983248, 2.590667725, 3.048779726]]
    np.testing.assert_allclose(flow.sample(2, rng=5), draws, rtol=1e-5)
