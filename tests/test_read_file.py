"""The reader and writer of model files in C++ against those of the package: the same files, the same sentences, the same bytes.

They are asked through ``tests/cpp/read_file.cpp``, which a build of the C++ tests has; ``PENSTOCK_BUILD`` names its folder.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import files
import penstock as ps
from helpers import sealed
from penstock import plan_table
from penstock.files import members, model, safetensors

Array = np.ndarray[Any, Any]


def program(name: str) -> Path:
    """A program of tests/cpp."""
    named = os.environ.get("PENSTOCK_BUILD")
    if not named:
        pytest.skip("PENSTOCK_BUILD names no build folder of the C++ tests; .ci/run gives one")
    found = sorted(path for path in Path(named).rglob(name) if path.is_file() and os.access(path, os.X_OK))
    if not found:
        pytest.skip(f"{named} holds no {name}, which -DPENSTOCK_TESTS=ON builds")
    return found[0]


def told(*arguments: Path | str, name: str = "read_file", **options: Any) -> list[str]:
    """The lines that a program prints."""
    done = subprocess.run(
        [program(name), *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=True,
        **options,
    )
    return done.stdout.splitlines()


def version(data: bytes) -> str:
    """Of the library that wrote a file."""
    spec = json.loads(safetensors.read(io.BytesIO(data), len(data)).metadata["spec"])
    return str(spec["library_version"])


def test_every_file_is_read_and_written_again_byte_by_byte(tmp_path: Path) -> None:
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for name, data in files.every():
        source.write_bytes(data)
        assert told("-w", version(data), source, target) == ["ok"], name
        assert target.read_bytes() == data, name


def test_a_file_is_stamped_with_the_version_that_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    old = dict(files.special())
    monkeypatch.setattr(model, "_backend", SimpleNamespace(package_version=lambda: '9.8."ä"'))
    for name, data in files.special():
        source.write_bytes(old[name])
        assert told("-w", '9.8."ä"', source, target) == ["ok"], name
        assert target.read_bytes() == data, name
    # Of a spec and a file that say nothing of versions.
    record = json.loads(metadata_of(old["plain"])["spec"])
    del record["library_version"]
    source.write_bytes(edited(old["plain"], lambda t, m: (m.clear(), m.update(spec=json.dumps(record)))))
    assert told("-w", "1.2", source, target) == ["ok"]
    written = metadata_of(target.read_bytes())
    assert json.loads(written["spec"])["library_version"] == "1.2"
    assert json.loads(written["provenance"]) == {"library": "penstock", "version": "1.2"}
    assert ps.load(target).to_bytes() == dict(files.special())["plain"]


def test_numbers_that_were_trained_are_written_without_the_old_history(tmp_path: Path) -> None:
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for name, data in files.special():
        source.write_bytes(data)
        assert told("-t", "0", source, target) == ["ok"], name
        new, old = (
            found.members if isinstance(found, members.Several) else (found,)
            for found in (members.load(str(target)), members.load(str(source)))
        )
        for mine, its in zip(new, old, strict=True):
            np.testing.assert_array_equal(mine.snapshot.params, its.snapshot.params / 2)
            np.testing.assert_array_equal(mine.snapshot.buffers, its.snapshot.buffers)
            assert mine.snapshot.initialised
            assert mine.history is None
            assert (mine.spec, mine.columns, mine.context_columns) == (its.spec, its.columns, its.context_columns)
            assert mine.missing == its.missing


def test_a_checkpoint_becomes_a_plain_model(tmp_path: Path) -> None:
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    source.write_bytes(files.checkpoint())
    assert told("-w", version(source.read_bytes()), source, target) == ["ok"]
    assert target.read_bytes() == ps.load(source).to_bytes()
    assert b"training" not in target.read_bytes()


# -- faults -------------------------------------------------------------------------------------


def metadata_of(data: bytes) -> dict[str, str]:
    """The texts of a file."""
    return safetensors.read(io.BytesIO(data), len(data)).metadata


def edited(data: bytes, change: Callable[[dict[str, Any], dict[str, str]], Any]) -> bytes:
    """A file whose tensors and texts were changed."""
    container = safetensors.read(io.BytesIO(data), len(data))
    tensors = {name: container.tensor(name) for name in container.entries}
    change(tensors, container.metadata)
    return sealed(safetensors.write(tensors, container.metadata))


def headed(data: bytes, change: Callable[[str], str | bytes]) -> bytes:
    """A file whose header was changed as text."""
    size = struct.unpack("<Q", data[:8])[0]
    text = change(data[8 : 8 + size].decode())
    header = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return sealed(struct.pack("<Q", len(header)) + header + data[8 + size :])


Damage = Callable[[bytes], bytes]


def tensors(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Changes tensors by name."""
    return lambda data: edited(data, lambda t, m: change(t))


def texts(change: Callable[[dict[str, str]], Any]) -> Damage:
    """Changes texts."""
    return lambda data: edited(data, lambda t, m: change(m))


def spec(change: Callable[[Any], Any]) -> Damage:
    """Changes the spec, in place or by what is given back."""

    def edit(metadata: dict[str, str]) -> None:
        record = json.loads(metadata["spec"])
        new = change(record)
        metadata["spec"] = json.dumps(record if new is None else new)

    return texts(edit)


def header(old: str, new: str) -> Damage:
    """Replaces a text in the header, once."""

    def change(text: str) -> str:
        assert old in text, old
        return text.replace(old, new, 1)

    return lambda data: headed(data, change)


def number(name: str, index: int, value: float) -> Damage:
    """Changes a number of a tensor."""
    return tensors(lambda t: t[name].ravel().__setitem__(index, value))


def moved(name: str, before: str) -> Damage:
    """A tensor at another place in the file."""

    def change(t: dict[str, Any]) -> None:
        own = t.pop(name)
        rest = {key: t.pop(key) for key in list(t)[list(t).index(before) :]}
        t[name] = own
        t.update(rest)

    return tensors(change)


def added(name: str, array: Any, before: str = "initialised") -> Damage:
    """Another tensor."""

    def change(t: dict[str, Any]) -> None:
        rest = {key: t.pop(key) for key in list(t)[list(t).index(before) :]}
        t[name] = np.asarray(array)
        t.update(rest)

    return tensors(change)


def gone(name: str) -> Damage:
    """A tensor less."""
    return tensors(lambda t: t.pop(name))


def renamed(old: str, new: str) -> Damage:
    """A tensor of another name."""
    return header(f'"{old}":', f'"{new}":')


def text(name: str, value: Any) -> Damage:
    """Another text."""
    return texts(lambda m: m.update({name: value if isinstance(value, str) else json.dumps(value)}))


def names(value: bytes, name: str = "columns") -> Damage:
    """Names of columns."""
    return added(name, np.frombuffer(value, np.uint8))


WEIGHT, BIAS = "layers.0.conditioner.0.weight", "layers.0.conditioner.0.bias"
PLAIN: dict[str, Damage] = {
    "empty": lambda data: b"",
    "a few bytes": lambda data: data[:5],
    "nine bytes": lambda data: data[:9],
    "header cut": lambda data: data[:100],
    "one byte short": lambda data: data[:-1],
    "half": lambda data: data[: len(data) // 2],
    "one byte more": lambda data: data + b"\0",
    "text": lambda data: b"hello, I am not a model\n" * 40,
    "absurd header size": lambda data: struct.pack("<Q", 2**62) + data[8:],
    "header of 100 MB": lambda data: struct.pack("<Q", 100_000_000) + data[8:],
    "a changed byte": lambda data: data[:-100] + bytes([data[-100] ^ 1]) + data[-99:],
    "no JSON": header("{", "{,"),
    "a name twice": header('"plan":', f'"{WEIGHT}":'),
    "a name twice, escaped": header('"plan":', '"\\u0068ash":'),
    "NaN in the header": header('"shape":[2]', '"shape":[NaN]'),
    "infinity in the header": header('"shape":[2]', '"shape":[-Infinity]'),
    "a control character": header('"plan":', '"pl\nan":'),
    "no UTF-8": lambda data: headed(data, lambda s: s.encode().replace(b'"plan"', b'"pl\xffn"')),
    "a wrong escape": header('"plan":', '"pl\\xan":'),
    "half an escape": header('"plan":', '"pl\\u00":'),
    "a comma too many": header('"shape":[2]', '"shape":[2,]'),
    "a number that is none": header('"shape":[2]', '"shape":[02]'),
    "text behind the header": lambda data: headed(data, lambda s: s + "x"),
    "an entry that is none": header('"plan":', '"x":5,"plan":'),
    "an entry with more": header('"shape":[2]', '"shape":[2],"x":[{"y":1}]'),
    "an entry with less": header('"dtype":"F64",', ""),
    "another type": header('"dtype":"F64"', '"dtype":"BF16 and something that is long"'),
    "a type that is a number": header('"dtype":"F64"', '"dtype":17'),
    "a type that is none": header('"dtype":"F64"', '"dtype":null'),
    "a shape that is none": header('"shape":[2]', '"shape":2'),
    "a shape of words": header('"shape":[2]', '"shape":["2"]'),
    "a shape of floats": header('"shape":[2]', '"shape":[2.0]'),
    "a negative shape": header('"shape":[2]', '"shape":[-2]'),
    "a huge shape": header('"shape":[2]', '"shape":[9223372036854775808]'),
    "a shape whose product is huge": header('"shape":[2]', '"shape":[4611686018427387904,4]'),
    "a huge shape of nothing": header('"shape":[2]', '"shape":[4611686018427387904,4,0]'),
    "nine axes": header('"shape":[2]', '"shape":[1,1,1,1,1,1,1,1,2]'),
    "three offsets": header('"data_offsets":[0,', '"data_offsets":[0,0,'),
    "a size that is not the shape's": header('"shape":[2]', '"shape":[3]'),
    "a gap": header('"data_offsets":[0,', '"data_offsets":[8,'),
    "a position that ends before it begins": header('"data_offsets":[0,', '"data_offsets":[99999,'),
    "a long name": renamed("initialised", "x" * 100),
    "no metadata": lambda data: headed(data, lambda s: "{" + s[s.index('"plan"') :]),
    "metadata that is a list": header('"__metadata__":{', '"__metadata__":[[{}],1],"x":{'),
    "metadata that is a word": header('"__metadata__":{', '"__metadata__":true,"x":{'),
    "metadata of numbers": header('"__metadata__":{', '"__metadata__":{"x":[{"y":{}}],'),
    "somebody else's metadata": texts(lambda m: (m.clear(), m.update(format="pt"))),
    "unknown metadata": texts(lambda m: m.update({f"x{i}": "1" for i in range(7)})),
    "a spec that is no JSON": text("spec", "{"),
    "a spec that is a list": text("spec", "[1, 2]"),
    "a spec that is a number": text("spec", "7"),
    "a spec with a name twice": text("spec", '{"format": "penstock", "format": "penstock"}'),
    "a spec with a name twice within": text("spec", '{"format": "penstock", "x": [{"a": 1, "b": {}, "a": 2}]}'),
    "a spec with NaN": text("spec", '{"format": "penstock", "x": [NaN]}'),
    "a spec of another format": spec(lambda s: s.update(format="other")),
    "a spec without a version": spec(lambda s: s.pop("format_version")),
    "a version that is a word": spec(lambda s: s.update(format_version="it's 2")),
    "a version that is true": spec(lambda s: s.update(format_version=True)),
    "version 0": spec(lambda s: s.update(format_version=0)),
    "a newer version": spec(lambda s: s.update(format_version=3, library_version="7.0")),
    "a much newer version": spec(lambda s: s.update(format_version=10**30)),
    "a library that is a number": spec(lambda s: s.update(library_version=3)),
    "format 1": spec(lambda s: s.update(format_version=1)),
    "no hash": gone("hash"),
    "a hash that is not the last": lambda data: edited(data, lambda t, m: t.update(initialised=t.pop("initialised"))),
    "a hash of another shape": header('"hash":{"dtype":"U8","shape":[32]', '"hash":{"dtype":"U8","shape":[4,8]'),
    "several flows": renamed(WEIGHT, f"member.1.{WEIGHT}"),
    "no table": gone("plan"),
    "a table of another type": tensors(lambda t: t.update(plan=t["plan"].astype(np.float64))),
    "a table of two axes": tensors(lambda t: t.update(plan=t["plan"][None])),
    "a short table": tensors(lambda t: t.update(plan=t["plan"][:8])),
    "no plan": number("plan", 0, 5),
    "unknown entries of the spec": spec(lambda s: s.update(surprise=1, another=2)),
    "no dtype": spec(lambda s: s.pop("dtype")),
    "another dtype": spec(lambda s: s.update(dtype="float16")),
    "conditioners in another type": spec(lambda s: s.update(conditioner_dtype="bfloat16")),
    "no context_dim": spec(lambda s: s.pop("context_dim")),
    "a negative context_dim": spec(lambda s: s.update(context_dim=-1)),
    "a float as context_dim": spec(lambda s: s.update(context_dim=0.5)),
    "an absurd context_dim": spec(lambda s: s.update(context_dim=10**9)),
    "no layers": spec(lambda s: s.pop("layers")),
    "a tensor missing": renamed(WEIGHT, WEIGHT + "_"),
    "tensors missing": tensors(lambda t: [t.pop(n) for n in (WEIGHT, BIAS, "initialised", "standardize.loc")]),
    "a tensor more": added("stranger", np.zeros(8, np.uint8)),
    "a tensor of a layer more": added("layers.7.bias", np.zeros(1, np.float32)),
    "weights in a file of one": added("weights", np.ones(1)),
    "a tensor of another shape": tensors(lambda t: t.update({WEIGHT: t[WEIGHT].T})),
    "a tensor of another type": tensors(lambda t: t.update({BIAS: t[BIAS].astype(np.float64)})),
    "a scale of another shape": tensors(lambda t: t.update({"standardize.scale": np.ones((2, 1))})),
    "a flag of two": tensors(lambda t: t.update(initialised=np.zeros(2, np.uint8))),
    "buffers in another order": moved("standardize.scale", "standardize.loc"),
    "parameters in another order": moved(BIAS, WEIGHT),
    "a name between": moved("initialised", WEIGHT),
    "a flag of 2": number("initialised", 0, 2),
    "NaN": number(WEIGHT, 0, np.nan),
    "infinity": number(BIAS, 0, -np.inf),
    "NaN in a location": number("standardize.loc", 1, np.nan),
    "a scale of 0": number("standardize.scale", 1, 0),
    "a negative scale": number("standardize.scale", 0, -1),
    "names that are too few": names(b"a\0"),
    "names that are too many": names(b"a\0b\0c\0"),
    "a name without an end": names(b"a\0b"),
    "the same name twice": names(b"a\0a\0"),
    "an empty name": names(b"\0b\0"),
    "no names": names(b""),
    "a name that is no UTF-8": names(b"a\0\xff\0"),
    "a surrogate in a name": names(b"a\0\xed\xa0\x80\0"),
    "names of another type": added("columns", np.zeros(4)),
    "names of a context that is none": names(b"a\0", "context_columns"),
    "a history that is no JSON": text("history", "{]"),
    "a history that is a list": text("history", []),
    "a history of words": text("history", {"epoch": [1], "step": ["a"]}),
    "a history of floats": text("history", {"epoch": [1.5]}),
    "losses of words": text("history", {"train_loss": [1, None, "a"]}),
    "losses that are lists": text("history", {"train_loss": [[1]]}),
    "an epoch that is no list": text("history", {"epoch": 1}),
    "a best epoch of 1.5": text("history", {"best_epoch": 1.5}),
    "an end that is no word": text("history", {"stopped": None}),
    "a start again before the start": text("history", {"restarted": -1}),
    "a history of later versions": text("history", {"epoch": [1], "x": [{"y": [1.5, "z"]}], "start_loss": "?"}),
    "a provenance that is no object": text("provenance", 3),
    "a provenance that is no JSON": text("provenance", "x"),
    "missing that is a number": text("provenance", {"missing": 3}),
    "missing of numbers": text("provenance", {"missing": ["a", 3]}),
    "missing that is none": text("provenance", {"missing": None, "more": {"x": [1]}}),
    "a lattice of floats": added("lattice", np.ones((2, 2), np.float32)),
    "a lattice of three": added("lattice", np.ones((2, 3))),
    "a lattice of nothing": added("lattice", np.zeros((2, 2))),
    "a lattice of negative steps": added("lattice", [[-1.0, 1], [0, 0]]),
    "a lattice of NaN": added("lattice", [[np.nan, 1], [0, 0]]),
    "an origin beyond": added("lattice", [[1.0, 0], [1, 0]]),
    "an origin that is NaN": added("lattice", [[1.0, 0], [np.nan, 0]]),
}  # fmt: skip

OTHER = {
    "kinds-float32": {
        "a scale of 0 in a context": number("context.scale", 0, 0),
        "a box's middle outside of it": number("support.numbers", 0, 1.5),
        "a box's scale": number("support.numbers", 1, -0.0),
        "a half-line's scale": number("support.numbers", 2, -1e-7),
        "a context's scale": number("support.numbers", 3, -1234567.25),
        "a huge scale": number("support.numbers", 3, -1e16),
        "numbers of supports missing": gone("support.numbers"),
        "a half-line's scale of NaN": number("support.numbers", 2, np.nan),
    },
    "masked": {"a number where the mask has none": number("layers.0.conditioner.0.weight", 3, 1e-30)},
    "product": {
        "a block's tensor of another name": renamed("base.2.logit", "base.2.weight"),
        "another block": lambda data: headed(data, lambda s: s.replace('"base.2.', '"base.3.')),
        "a block's tensor of another shape": tensors(lambda t: t.update({"base.0.mean": t["base.0.mean"][None]})),
    },
    "elementwise": {
        "a theta missing": renamed("layers.0.theta_box_rational_quadratic", "layers.0.theta_additive"),
        "thetas exchanged": moved("layers.0.theta_box_rational_quadratic", "layers.0.theta_rational_quadratic"),
    },
    "embedding": {"an embedding's tensor missing": gone("embedding.0.bias")},
    "ensemble-float32": {
        "members that are a number": spec(lambda s: s.update(members=3)),
        "members that are none": spec(lambda s: s.update(members=[])),
        "members that are words": spec(lambda s: s.update(members=["x", {}])),
        "members of one": spec(lambda s: s.update(members=s["members"][:1])),
        "members and more": spec(lambda s: s.update(dtype="float32", other=1)),
        "too many members": spec(lambda s: s.update(members=[{}] * 4097)),
        "another member": spec(lambda s: s["members"].append({})),
        "a member of another dtype": spec(lambda s: s["members"][1].update(dtype="float16")),
        "a weight below 0": tensors(lambda t: t.update(weights=np.array([1.5, -0.5]))),
        "weights of another sum": tensors(lambda t: t.update(weights=np.array([0.5, 0.6]))),
        "weights of NaN": number("weights", 0, np.nan),
        "a weight less": tensors(lambda t: t.update(weights=np.ones(1))),
        "no weights": gone("weights"),
        "a tensor less": gone("member.1.standardize.loc"),
        "a flag less": gone("member.0.initialised"),
        "NaN in a member": number(f"member.1.{BIAS}", 0, np.nan),
        "members in another order": moved("member.1.plan", "member.0.initialised"),
        "names of one member": added("member.0.columns", np.frombuffer(b"a\0b\0", np.uint8), "weights"),
        "names that do not fit": added("columns", np.frombuffer(b"a\0", np.uint8), "weights"),
        "a tensor of nobody": added("stranger", np.zeros(1), "weights"),
        "a member that is no number": renamed("member.0.plan", "member.x.plan"),
        "a member without a name": renamed("member.0.plan", "member.0"),
        "a member with a zero in front": renamed("member.1.plan", "member.01.plan"),
        "a member of a member": renamed("member.1.plan", "member.1.member.1.plan"),
        "a member without a number": renamed("member.0.plan", "member."),
        "a history of one": text("history", {"members": [{}]}),
        "a history of nobody": text("history", {"epoch": [1]}),
        "a history of words": text("history", {"members": [{}, "x"]}),
        "a history of a member that is none": text("history", {"members": [{}, {"epoch": 1}]}),
        "a loss that is none": text("history", {"members": [{}, {}], "validation_loss": None}),
        "a provenance of numbers": text("provenance", {"missing": [1]}),
        "a lattice of a member that is none": added("lattice", np.zeros((2, 2)), "weights"),
    },
}  # fmt: skip

# What the package reads and this reader does not.
OWN = {
    "format 1": "it is of format 1, which this library does not read: `penstock upgrade FILE` writes the new one",
}

# What is no damage to either.
FINE = {"a history of later versions", "missing that is none"}

INNER = re.compile("(is no valid JSON|is no valid UTF-8|codec can't decode).*")


def sentences(path: Path, data: bytes) -> tuple[str, str]:
    """What C++ and Python say of a file; words within a sentence that come from other parsers are cut off."""
    path.write_bytes(data)
    mine = told(path)
    assert len(mine) == 1
    try:
        members.load(str(path))
        its = "ok"
    except ps.FileFormatError as error:
        its = f"format: {error}"
    return INNER.sub(r"\1", mine[0]), INNER.sub(r"\1", its)


@pytest.mark.parametrize("source", ["plain", *OTHER])
def test_the_sentences_are_those_of_python(source: str, tmp_path: Path) -> None:
    data = dict(files.special())[source]
    path = tmp_path / "it's a model"
    wrong = []
    for name, damage in (PLAIN if source == "plain" else OTHER[source]).items():
        bad = damage(data)
        assert bad != data, name
        mine, its = sentences(path, bad)
        if name in OWN:
            its = f"format: cannot load {str(path)!r}: {OWN[name]}"
        if mine != its or (its == "ok") != (name in FINE):
            wrong.append((name, mine, its))
    assert not wrong, "\n".join(f"{name}:\n  {mine}\n  {its}" for name, mine, its in wrong)


def test_members_that_do_not_belong_together_are_told(tmp_path: Path) -> None:
    def joined(*flows: ps.Flow) -> bytes:
        spoilt = members.Several(tuple(files.contents(flow) for flow in flows), np.full(len(flows), 1 / len(flows)))
        return members.to_bytes(spoilt)

    small: Any = {"layers": 1, "hidden": (2,), "rng": 0}
    two, three = ps.realnvp(2, **small), ps.realnvp(3, **small)
    for flows in ((two, three), (two, two, ps.realnvp(2, context_dim=1, dtype="float64", **small))):
        mine, its = sentences(tmp_path / "x", joined(*flows))
        assert mine == its
        assert "do not belong together: they have" in its
    half = [ps.realnvp(2, support=[ps.interval(lo, None), "real"], **small) for lo in (0, 0, 1)]
    mine, its = sentences(tmp_path / "x", joined(*half))
    assert "members 0 and 2 do not belong together: they have support" in its
    assert mine.endswith("members 0 and 2 do not belong together: they have support of different kinds")


def test_tables_are_read_by_themselves(tmp_path: Path) -> None:
    data = ps.realnvp(2, layers=1, hidden=(2,), rng=0).to_bytes()
    for index, value, fault in (
        (1, 3, "plan table: version 3, this build reads version 2"),
        (2, 0, "plan table: revision is 0, expected at least 1"),
        (8, 77, "plan table: section 77 is required and unknown to this build"),
    ):
        mine, _ = sentences(tmp_path / "x", number("plan", index, value)(data))
        assert mine == f"format: cannot load {str(tmp_path / 'x')!r}: {fault}"
    # A table of a later compiler may have steps and tensors that are not those of its layers; the numbers are counted.
    later = number("plan", 2, plan_table.REVISION + 1)
    assert sentences(tmp_path / "x", later(data)) == ("ok", "ok")
    assert sentences(tmp_path / "x", later(renamed(WEIGHT, "layers.0.fused")(data)))[0] == "ok"
    mine, _ = sentences(tmp_path / "x", later(gone(BIAS)(data)))
    assert re.search(r"its parameters are \d+ numbers, and its plan table has \d+$", mine)


def test_a_spec_of_another_table_is_refused(tmp_path: Path) -> None:
    data = ps.realnvp(2, layers=1, hidden=(2,), rng=0).to_bytes()

    def exchanged(t: dict[str, Any]) -> None:
        """Location and scale of the first column, in the table."""
        entry = plan_table.HEADER_SIZE + plan_table.ENTRY_SIZE * (plan_table.TAGS["COLUMNS"] - 1)
        loc, scale = (t["plan"][entry + 2] + plan_table.FIELDS["COLUMNS"].index(name) for name in ("loc", "scale"))
        t["plan"][[loc, scale]] = t["plan"][[scale, loc]]

    mine, its = sentences(tmp_path / "x", tensors(exchanged)(data))
    assert mine == its
    assert mine.endswith("its plan table does not belong to its spec")
    for change in ({"dtype": "float64"}, {"context_dim": 1}):
        mine, _ = sentences(tmp_path / "x", spec(lambda s, change=change: s.update(change))(data))
        assert mine.endswith("its plan table does not belong to its spec")


# -- files --------------------------------------------------------------------------------------


def said(do: Callable[[], Any]) -> str:
    """What Python says of a path."""
    try:
        do()
    except ps.FileFormatError as error:
        return f"format: {error}"
    except OSError as error:
        return f"file: {error}"
    return "ok"


def test_paths_that_cannot_be_read_are_told_as_python_tells_them(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    for path in (
        tmp_path / "none", tmp_path, tmp_path / "one", tmp_path / "x" / "y", tmp_path / 'both\' and "', tmp_path / "ä\t\\",
        os.fsdecode(os.fsencode(tmp_path) + b"/\xff"), Path("/proc/version"),
    ):  # fmt: skip
        assert told(path) == [said(lambda path=path: ps.load(path))]  # type: ignore[misc]


def test_what_may_not_be_replaced_is_told_as_python_tells_it(tmp_path: Path) -> None:
    flow = ps.realnvp(2, layers=1, hidden=(2,), rng=0)
    source = tmp_path / "model"
    flow.save(source)
    (tmp_path / "text").write_text("not a model\n" * 10)
    (tmp_path / "header").write_bytes(struct.pack("<Q", 9) + b'{"spec":0')
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    os.mkfifo(tmp_path / "fifo")
    for name in ("text", "header", ".", "one", "none/x", "fifo"):
        before = sorted(os.listdir(tmp_path))
        expected = said(lambda name=name: flow.save(tmp_path / name))  # type: ignore[misc]
        assert expected != "ok"
        assert told("-w", "1", source, tmp_path / name) == [expected]
        assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "text").read_text() == "not a model\n" * 10


def test_a_file_takes_the_place_of_another_at_once(tmp_path: Path) -> None:
    source, other = tmp_path / "model", tmp_path / "folder"
    ps.realnvp(2, layers=1, hidden=(2,), rng=0).save(source)
    data = source.read_bytes()
    other.mkdir()
    mask = os.umask(0o027)
    try:
        assert told("-w", version(data), source, "new", cwd=other) == ["ok"]
    finally:
        os.umask(mask)
    new = other / "new"
    assert new.read_bytes() == data
    assert stat.S_IMODE(new.stat().st_mode) == 0o640
    new.chmod(0o604)
    inode = new.stat().st_ino
    (tmp_path / "link").symlink_to("folder/new")
    assert told("-w", "3.4", source, tmp_path / "link") == ["ok"]
    assert (tmp_path / "link").is_symlink()
    assert version(new.read_bytes()) == "3.4"
    assert stat.S_IMODE(new.stat().st_mode) == 0o604
    assert new.stat().st_ino != inode
    (tmp_path / "dangling").symlink_to("folder/later")
    (other / "empty").write_bytes(b"")
    for name in (tmp_path / "dangling", other / "empty", other / ("ä" * 127), f"{other}//slashes/"):
        assert told("-w", version(data), source, name) == ["ok"]
    assert {path.read_bytes() for path in other.iterdir()} == {data, new.read_bytes()}
    assert sorted(os.listdir(other)) == sorted(["new", "later", "empty", "ä" * 127, "slashes"])


def test_truncations_and_flips_of_files_are_refused_or_load_the_same(tmp_path: Path) -> None:
    found = []
    for name, data in files.special():
        if name in ("nothing learned", "one member"):
            (tmp_path / name).write_bytes(data)
            found.append(tmp_path / name)
    told(*found, name="test_file")
