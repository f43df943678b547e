"""Every example of a docstring gives what it prints, and the examples are there."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from typing import Any

import pytest

import penstock as ps

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# Two rooms of engines, whose functions nobody calls by hand, a script, and a door whose own tests run its examples.
WITHOUT = ("penstock._numba", "penstock._core", "penstock.__main__", "penstock.dask")


def examples() -> list[Any]:
    """The docstrings with examples of all modules of the package."""
    found: dict[str, Any] = {}
    for info in pkgutil.walk_packages(ps.__path__, "penstock."):
        if not info.name.startswith(WITHOUT):
            for test in doctest.DocTestFinder().find(importlib.import_module(info.name)):
                if test.examples:
                    found[test.name] = test
    return [pytest.param(test, id=name) for name, test in sorted(found.items())]


EXAMPLES = examples()


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_gives_what_it_prints(example: Any) -> None:
    said: list[str] = []
    failures, tried = doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(example, out=said.append)
    assert tried
    assert not failures, "".join(said)


def test_every_recipe_has_an_example() -> None:
    from penstock.recipes import RECIPES

    names = {parameter.id for parameter in EXAMPLES}
    assert {f"penstock.recipes.{name}" for name in RECIPES} <= names
    assert "penstock.flow.Flow" in names


def public() -> list[tuple[str, Any]]:
    """What a user may call: names at the top, verbs and other methods of a flow, functions of ``ops``, with their docstrings."""
    found = [(name, getattr(ps, name)) for name in ps.__all__]
    found += [(f"ops.{name}", getattr(ps.ops, name)) for name in ps.ops.__all__]
    found += [(f"sbi.{name}", getattr(ps.sbi, name)) for name in ps.sbi.__all__]
    for owner in (ps.Flow, ps.Adam, ps.sbi.Posterior, ps.sbi.Likelihood, ps.sbi.Prior):
        for name, value in inspect.getmembers(owner, inspect.isfunction):
            if not name.startswith("_"):
                found.append((f"{owner.__name__}.{name}", value))
    return [
        (name, value)
        for name, value in found
        if (inspect.isclass(value) or inspect.isfunction(value))
        # One of the warnings shows how all are used.
        and not (inspect.isclass(value) and issubclass(value, Warning) and value is not ps.PenstockWarning)
    ]


@pytest.mark.parametrize("name", [name for name, _ in public()])
def test_what_is_public_is_described_with_an_example(name: str) -> None:
    value = dict(public())[name]
    text = inspect.getdoc(value) or ""
    assert ">>> " in text or value is ps.History, "no example"
    if inspect.isclass(value):
        return
    signature = inspect.signature(value)
    described = {
        word.strip(" *") for line in re.findall(r"^([\w, *]+?)(?: :.*)?$", text, re.M) for word in line.split(",")
    }
    for parameter in signature.parameters:
        assert parameter == "self" or parameter in described, f"{parameter} is not described"
    if signature.return_annotation not in ("None", None) and "Iterator" not in signature.return_annotation:
        assert re.search(r"^Returns$", text, re.M), "no word of what it returns"


@pytest.mark.parametrize("name", [name for name, _ in public()])
def test_public_signatures_have_types(name: str) -> None:
    value = dict(public())[name]
    called = value.__init__ if inspect.isclass(value) else value
    if not inspect.isfunction(called):
        return
    for parameter, shown in inspect.signature(called).parameters.items():
        if parameter != "self" and shown.kind not in (shown.VAR_POSITIONAL, shown.VAR_KEYWORD):
            assert shown.annotation not in (shown.empty, "Any", "Any | None"), f"{name}: {parameter}"
