"""What is in the sdist and in the compiled wheel, what must not be, and how large it may be.

Usage: ``python check_package.py DIST``, a folder with one sdist and one wheel.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

SDIST_BYTES = 6_000_000
LIBRARY_BYTES = 2_500_000
DATA = {"penstock/data/galaxies.npz", "penstock/data/LICENSE-galaxies"}
SDIST = {"LICENSE", "CITATION.cff", "CHANGELOG.md", "README.md", "CMakeLists.txt", "PKG-INFO", "pyproject.toml"}
SDIST |= {".ci/run", "cpp/README.md", "docs/file-format.md", "tests/cases.py", "tests/cpp/CMakeLists.txt"}
SDIST |= {"benchmarks/run.py", "src/penstock/py.typed", *(f"src/{name}" for name in DATA)}
SDIST |= {"cuda/pyproject.toml", "cpp/cuda/device_cuda.cu", ".ci/build_cuda.sh"}
SDIST |= {"cmake/install.cmake", "cpp/include/penstock/penstock.h", "tests/c/agree.c"}
HEADERS = {f"penstock/include/penstock/penstock.{suffix}" for suffix in ("h", "hpp", "f90")}
CMAKE = {f"penstock/cmake/penstockConfig{word}.cmake" for word in ("", "Version")}
WHEEL = (
    HEADERS
    | CMAKE
    | {"penstock/__init__.py", "penstock/py.typed", "penstock/_core.pyi", "penstock/_numba/__init__.py", *DATA}
)


def check_sdist(path: Path) -> None:
    """Everything that builds and tests, nothing that was built, and not large."""
    size = path.stat().st_size
    assert size <= SDIST_BYTES, f"{path.name} has {size} bytes, more than {SDIST_BYTES}"
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= SDIST, f"{path.name} lacks {sorted(SDIST - names)}"
    built = [name for name in names if re.search(r"\.(so|o|pyc|nb[ic])$|__pycache__|^build/|^\.git/", name)]
    assert not built, f"{path.name} holds {built}"
    print(f"{path.name}: {size} bytes, {len(names)} files")


def check_wheel(path: Path) -> None:
    """The package, its licences, one extension and one library, both stripped, and what finds the library; no tests."""
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        assert names >= WHEEL, f"{path.name} lacks {sorted(WHEEL - names)}"
        licences = {name.partition(".dist-info/licenses/")[2] for name in names if ".dist-info/licenses/" in name}
        expected = {"LICENSE", "src/penstock/data/LICENSE-galaxies"}
        assert licences == expected, f"{path.name} has the licences {sorted(licences)}, not {sorted(expected)}"
        strange = [name for name in names if not re.match(r"penstock(-[\d.]+\.dist-info)?/", name) or "/test" in name]
        assert not strange, f"{path.name} holds {strange}"
        extensions = [name for name in names if name.endswith(".so")]
        assert len(extensions) == 1, f"{path.name} holds the extensions {extensions}"
        libraries = [name for name in names if "libpenstock" in name]
        assert libraries == ["penstock/libpenstock.so.0"], f"{path.name} holds the libraries {libraries}"
        found = {name for name in names if name.startswith(("penstock/include/", "penstock/cmake/"))}
        assert found == HEADERS | CMAKE, f"{path.name} holds {sorted(found)}"
        size = archive.getinfo(libraries[0]).file_size
        assert size <= LIBRARY_BYTES, f"{libraries[0]} has {size} bytes, more than {LIBRARY_BYTES}"
        with tempfile.TemporaryDirectory() as folder:
            for name in extensions + libraries:
                check_stripped(archive.extract(name, folder))
    print(f"{path.name}: {path.stat().st_size} bytes, {len(names)} files, library of {size} bytes")


def check_stripped(path: str) -> None:
    """No table of symbols and nothing for a debugger."""
    sections = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True, check=True).stdout
    assert ".dynsym" in sections, "readelf shows no sections"
    left = set(re.findall(r"\.symtab|\.debug_\w+", sections))
    assert not left, f"{Path(path).name} is not stripped: {sorted(left)}"


if __name__ == "__main__":
    dist = Path(sys.argv[1])
    [sdist], [wheel] = dist.glob("penstock-*.tar.gz"), dist.glob("penstock-*.whl")
    check_sdist(sdist)
    check_wheel(wheel)
