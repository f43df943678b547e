"""Every example of a docstring gives what it prints, and the examples are there."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from typing import Any

import pytest

import penstock as ps

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# Two rooms of engines, whose functions nobody calls by hand, and a script.
WITHOUT = ("penstock._numba", "penstock._core", "penstock.__main__")


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
