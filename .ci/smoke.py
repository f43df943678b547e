"""A first use of an installed penstock: import, train, sample, keep, and every command once.

Usage: ``python smoke.py [cpp | numba]``, the backend that has to be the one that runs. Works in an empty folder of its own
and needs nothing beyond the package and its dependencies.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np

import penstock as ps


def penstock(*arguments: str, fails: bool = False) -> str:
    """Run the installed command, and return what it prints, or how it failed."""
    command = Path(sysconfig.get_path("scripts")) / "penstock"
    done = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=300)
    if fails:
        assert done.returncode == 1, f"penstock {' '.join(arguments)} did not fail"
        return done.stderr
    if done.returncode:
        sys.exit(f"penstock {' '.join(arguments)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    """Stop at the first thing that is not as it should be."""
    backend = sys.argv[1] if len(sys.argv) > 1 else "cpp"
    package = Path(ps.__file__).resolve()
    assert Path(__file__).resolve().parents[1] / "src" not in package.parents, f"{package} is not an installed package"
    x = np.random.default_rng(0).standard_normal((500, 3))
    flow = ps.realnvp(3, layers=2, hidden=(16,), rng=0).fit(x, epochs=2, rng=0)
    assert flow.backend == backend, f"the backend is {flow.backend}, not {backend}"
    drawn = flow.sample(100, rng=0)
    assert drawn.shape == (100, 3)
    assert np.isfinite(drawn).all()
    flow.save("flow.safetensors")
    again = ps.load("flow.safetensors")
    assert (again.log_prob(drawn) == flow.log_prob(drawn)).all()

    told = penstock("info")
    assert f"penstock {ps.__version__}" in told
    assert backend in told
    assert "dim 3" in penstock("info", "flow.safetensors")
    np.save("x.npy", x)
    penstock("fit", "x.npy", "-o", "fitted.safetensors", "--epochs", "1")
    penstock("sample", "fitted.safetensors", "-n", "10", "-o", "drawn.npy")
    penstock("score", "fitted.safetensors", "drawn.npy", "-o", "log_prob.npy")
    assert np.load("log_prob.npy").shape == (10,)
    penstock("demo", "--quiet", "--epochs", "1", "-o", "demo")  # its table comes with the package
    assert ps.load("demo/galaxies.safetensors").dim == 7
    if backend == "cpp":
        assert (Path(penstock("config", "--includedir").strip()) / "penstock" / "penstock.h").is_file()
    else:
        assert "no C library" in penstock("config", "--libs", fails=True)
    print(f"penstock {ps.__version__} works, backend {backend}: {package.parent}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        main()
        os.chdir("/")  # a folder in use cannot be removed everywhere
