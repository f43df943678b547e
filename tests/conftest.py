"""Which items are for CI because of what Numba's compiler takes."""

from __future__ import annotations

import pytest

from cases import BACKENDS

# What engines say of tables, for which nothing is compiled.
WITHOUT_COMPILING = ("test_plan.py",)


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Beside the compiled core the twin is for CI: all that it needs takes a minute or two to compile.

    CI holds the backends against each other in its slow tests, and runs everything on the pure-Python wheel, as
    ``PENSTOCK_BACKEND=numba pytest`` does anywhere.
    """
    if len(BACKENDS) > 1:
        for item in items:
            if on_numba(item) and item.path.name not in WITHOUT_COMPILING:
                item.add_marker(pytest.mark.slow)


def on_numba(item: pytest.Item) -> bool:
    """Whether an item runs the twin: alone, in its own file, or beside the compiled core."""
    alone = hasattr(item, "callspec") and "numba" in item.callspec.id
    return alone or item.path.name == "test_numba.py" or item.name.startswith("test_backends_agree")
