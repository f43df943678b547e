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
from cases import BACKENDS, BY_NAME, ENGINE, Case, bare, built, fresh, given_as, points
from helpers import HERE, assert_same_bits, both_dtypes, each_backend, each_case, inside, python_json
from penstock import plan_table
from penstock.files import model
from penstock.files.model import HASH_SIZE, Contents, content_hash, to_bytes
from penstock.history import History

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


@each_case
@both_dtypes
@inside("way", WAYS)
def test_a_kept_flow_gives_the_same_bits(case: Case, backend: str, dtype: str, way: str, tmp_path: Path) -> None:
    if way not in ("file", "pickle") and case not in ENGINE:
        return  # all others are one of these two, whatever the flow
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
        other.fit(points(CASE, 150, other), epochs=1, batch_size=50, validation=0)
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
    data = struct.pack("<Q", len(text)) + text + body
    return data[:-HASH_SIZE] + content_hash(data)  # as a writer that means it would


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
    start = header["hash"]["data_offsets"][0]
    header["stranger"] = {"dtype": "U8", "shape": [8], "data_offsets": [start, start + 8]}
    header["hash"]["data_offsets"] = [start + 8, start + 8 + HASH_SIZE]
    body[start:start] = bytes(8)


def _word(header: dict[str, Any], body: bytearray, index: int, value: int) -> None:
    start = header["plan"]["data_offsets"][0] + 8 * index
    body[start : start + 8] = struct.pack("<q", value)


def _other_plan(header: dict[str, Any], body: bytearray) -> None:
    _word(header, body, header["plan"]["shape"][0] - 1, 5)


def _no_plan(header: dict[str, Any], body: bytearray) -> None:
    _word(header, body, 0, 5)


def _member(header: dict[str, Any], body: bytearray) -> None:
    name = _first_tensor(header)
    header[f"member.1.{name}"] = header.pop(name)


def _exchange(data: bytes) -> bytes:
    header, body = _split(data)
    sizes: dict[int, list[str]] = {}
    for name, entry in header.items():
        if name != "__metadata__" and "weight" in name:
            start, stop = entry["data_offsets"]
            sizes.setdefault(stop - start, []).append(name)
    one, two = next(names for names in sizes.values() if len(names) > 1)[:2]
    at = len(data) - len(body)
    changed = bytearray(data)
    (a, b), (c, d) = header[one]["data_offsets"], header[two]["data_offsets"]
    changed[at + a : at + b], changed[at + c : at + d] = data[at + c : at + d], data[at + a : at + b]
    return bytes(changed)


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
    "empty": (lambda data: b"", "truncated: 0 bytes"),
    "a few bytes": (lambda data: data[:5], "truncated: 5 bytes"),
    "header cut": (lambda data: data[:100], "truncated: a header of"),
    "one byte short": (lambda data: data[:-1], "truncated: .* bytes of numbers expected"),
    "half": (lambda data: data[: len(data) // 2], "truncated: .* bytes of numbers expected"),
    "one byte more": (lambda data: data + b"\0", "1 bytes follow after the last tensor"),
    "text": (lambda data: b"hello, I am not a model\n" * 40, "no safetensors header"),
    "a pickle": (lambda data: pickle.dumps({"a": 1}), "no safetensors header"),
    "absurd header size": (lambda data: struct.pack("<Q", 2**62) + data[8:], "no safetensors header"),
    "no metadata": (_edit(lambda header, body: header.pop("__metadata__")), "penstock|spec"),
    "somebody else's metadata": (
        _edit(lambda header, body: header.update(__metadata__={"format": "pt"})),
        "penstock|spec",
    ),
    "spec that is no JSON": (_edit(lambda header, body: header["__metadata__"].update(spec="{")), "spec|JSON"),
    "newer version": (_spec(_newer), "version|newer"),
    "tensor missing": (_edit(_rename), "tensors are missing: layers"),
    "tensor surplus": (_edit(_surplus), "stranger"),
    "tensor of another shape": (_edit(_reshape), "shape|size"),
    "NaN": (_edit(_poison), "finite|NaN|nan"),
    "unknown activation": (_deep("tanh", "sine"), "sine"),
    "unknown layer": (_deep("Coupling", "Uncoupling"), "Uncoupling"),
    "absurd width": (_deep(12, 10**15), "larger than the file: 1000000000000000"),  # type: ignore[arg-type]
    "unknown entry of the spec": (_spec(lambda spec: spec.update(surprise=1)), "surprise"),
    "unknown option": (_spec(lambda spec: spec["layers"][0].update(surprise=1)), "surprise"),
    "unknown metadata": (_edit(lambda header, body: header["__metadata__"].update(surprise="1")), "surprise"),
    "conditioners in another type": (_spec(lambda spec: spec.update(conditioner_dtype="bfloat16")), "bfloat16"),
    "another plan": (_edit(_other_plan), "plan table does not belong"),
    "no plan": (_edit(_no_plan), "holds no plan table"),
    "several flows": (_edit(_member), "holds several flows"),
    "two tensors exchanged": (_exchange, "hash of its contents"),
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


def test_a_changed_byte_anywhere_is_an_error() -> None:
    data = built(CASE, BACKENDS[0], "float32").to_bytes()
    for position in {*range(0, len(data), 31), *range(len(data) - HASH_SIZE, len(data))}:
        for change in (0x01, 0x5A, 0x80):
            changed = bytearray(data)
            changed[position] ^= change
            with pytest.raises(ValueError, match="cannot load data: "):
                ps.from_bytes(bytes(changed))


def _with_table_words(flow: ps.Flow, version: int, revision: int) -> bytes:
    def change(header: dict[str, Any], body: bytearray) -> None:
        _word(header, body, 1, version)
        _word(header, body, 2, revision)
        # of another layout: nothing of it may be used
        for index in range(8, header["plan"]["shape"][0]):
            _word(header, body, index, -1)

    return _edit(change)(flow.to_bytes())


@each_backend
def test_a_table_of_another_version_or_revision_is_compiled_anew(backend: str) -> None:
    flow = built(CASE, backend, "float32")
    x = points(CASE, 70, flow)
    for version, revision in ((1, 77), (plan_table.VERSION, plan_table.REVISION + 1), (plan_table.VERSION + 1, 1)):
        again = ps.from_bytes(_with_table_words(flow, version, revision), backend=backend)
        assert_same_bits(again.log_prob(x), flow.log_prob(x))
        assert_same_bits(again.sample(70, rng=1), flow.sample(70, rng=1))
        assert again.to_bytes() == flow.to_bytes()


def test_parameters_lie_in_one_run_behind_the_table_and_the_buffers() -> None:
    """As docs/file-format.md says: found without the JSON."""
    for dtype in ("float32", "float64"):
        flow = built(CASE, BACKENDS[0], dtype)
        data = flow.to_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        assert start % 64 == 0
        length = struct.unpack_from("<q", data, start + 8 * 3)[0]
        table = np.frombuffer(data, "<i8", length, start)
        record = plan_table.read(table).flow
        at = start + 8 * length
        buffers = np.frombuffer(data, "<f8", record["n_buffers"], at)
        params = np.frombuffer(data, f"<f{4 if dtype == 'float32' else 8}", record["n_params"], at + buffers.nbytes)
        assert_same_bits(params, flow.params)
        assert_same_bits(buffers[: flow.dim], flow._snapshot.buffers[: flow.dim])


def test_names_of_columns_history_and_training_state_are_kept(tmp_path: Path) -> None:
    flow = ps.realnvp(2, context_dim=1, layers=2, hidden=(4,), rng=0)
    names = ("redshift", "größe")
    state = {"m": np.arange(3.0), "step": np.array([7])}
    data = to_bytes(Contents(flow.spec, flow._plan, flow._snapshot, names, ("a\tb",), None, state))
    again = model.from_bytes(memoryview(data))
    assert (again.columns, again.context_columns) == (names, ("a\tb",))
    assert_same_bits(again.training["m"], state["m"])
    assert ps.from_bytes(ps.from_bytes(data).to_bytes())._columns == names
    assert ps.from_bytes(data).copy()._columns == names


@pytest.mark.parametrize("names", [b"a\0", b"a\0b", b"a\0a\0", b"a\0b\0c\0", b"\0b\0", b"a\0\xff\0"])
def test_names_that_do_not_fit_are_refused(names: bytes) -> None:
    header, body = _split(ps.realnvp(2, rng=0).to_bytes())
    start = header["initialised"]["data_offsets"][0]
    header["columns"] = {"dtype": "U8", "shape": [len(names)], "data_offsets": [start, start + len(names)]}
    for name, size in (("initialised", 1), ("hash", HASH_SIZE)):
        moved = header[name]["data_offsets"][0] + len(names)
        header[name]["data_offsets"] = [moved, moved + size]
    with pytest.raises(ValueError, match="columns"):
        ps.from_bytes(_join(header, body[:start] + names + body[start:]))


def test_history_is_kept() -> None:
    flow = ps.realnvp(2, layers=2, hidden=(4,), rng=0)
    flow.fit(np.random.default_rng(0).normal(size=(900, 2)), epochs=3, rng=0, batch_size=100)
    again = ps.from_bytes(flow.to_bytes())
    for name in ("epoch", "step", "train_loss", "validation_loss", "learning_rate", "best_epoch", "stopped"):
        assert getattr(again.history, name) == getattr(flow.history, name)
    assert len(again.history) == len(again.history.seconds) == 3
    assert "3 epochs" in repr(again.history)
    assert again.to_bytes() == flow.to_bytes()  # times are in no file
    none = ps.realnvp(2, layers=2, hidden=(4,), rng=0)
    none.history = History([1], [9], [float("nan")], [float("inf")], [1e-3], [0.1], [10.0], None, "completed")
    kept = ps.from_bytes(none.to_bytes()).history
    assert np.isnan(kept.train_loss[0])
    assert np.isnan(kept.validation_loss[0])


def test_history_and_provenance_are_for_no_reader() -> None:
    flow = built(CASE, BACKENDS[0], "float32")
    header, body = _split(flow.to_bytes())
    del header["__metadata__"]["provenance"]
    header["__metadata__"]["history"] = json.dumps({"epoch": [1], "of a later version": 3})
    assert ps.from_bytes(_join(header, body)).history.epoch == [1]


# -- circles ------------------------------------------------------------------------------------


def test_a_circle_under_a_base_on_the_line_is_refused() -> None:
    for layer in (
        ps.Elementwise(ps.CircularRationalQuadratic(5)),
        ps.Coupling(ps.CircularRationalQuadratic(5)),
        ps.Autoregressive(ps.CircularRationalQuadratic(5)),
    ):
        with pytest.raises(ValueError, match=r"layers\[1\] wraps around a circle"):
            ps.Flow(ps.StandardNormal(2), [ps.ActNorm(), layer])


def test_a_file_with_a_circle_loads_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="density of this flow is wrong"):
        flow = ps.load(HERE / "golden" / "format1" / "circular.safetensors")
    with pytest.warns(UserWarning, match="density of this flow is wrong"):
        assert_same_bits(ps.from_bytes(flow.to_bytes()).params, flow.params)


# -- writing ------------------------------------------------------------------------------------


def test_saving_replaces_a_file_atomically_and_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = built(CASE, BACKENDS[0], "float32")
    path = tmp_path / "flow.safetensors"
    old = built(CASE, BACKENDS[0], "float64").to_bytes()
    path.write_bytes(old)

    def broken(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", broken)
        patch.setattr(os, "rename", broken)
        with pytest.raises(OSError, match="disk full"):
            flow.save(path)
    assert path.read_bytes() == old
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
