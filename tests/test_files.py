"""Files appear at once and for good, whatever their names, folders and links are, and however the process ends."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from helpers import python
from penstock import _files

posix = pytest.mark.skipif(os.name != "posix", reason="a rule of POSIX systems")


def put(path: Path | str, data: bytes) -> None:
    """Write a file as the library does."""
    with _files.replacing(str(path)) as file:
        file.write(data)


@pytest.fixture(params=["unnamed", "named"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to write: into a file without a name, and where the system has none."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system has no files without a name")
    return str(request.param)


@pytest.mark.parametrize(
    "name", ["x" * 255, "x" * 246, "ä" * 127, "日" * 85], ids=["255", "246", "two bytes", "three bytes"]
)
@pytest.mark.usefixtures("way")
def test_every_name_that_the_system_takes_is_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    _files.check_writable(path)
    assert os.listdir(tmp_path) == []
    for data in (b"one", b"two"):
        put(path, data)
        assert path.read_bytes() == data
    assert os.listdir(tmp_path) == [name]


def test_a_checkpoint_may_have_the_longest_name(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 127)
    flow = ps.realnvp(2, layers=1, hidden=(4,), rng=0)
    flow.fit(flow.sample(100, rng=0), epochs=1, rng=0, checkpoint=path)
    assert (ps.load(path).params == flow.params).all()


@posix
def test_a_folder_that_may_not_be_read_takes_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def no_reading(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags == os.O_RDONLY and os.path.isdir(path) and str(path) == str(tmp_path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", no_reading)
    put(tmp_path / "x", b"data")
    assert (tmp_path / "x").read_bytes() == b"data"
    assert os.listdir(tmp_path) == ["x"]


@posix
@pytest.mark.usefixtures("way")
def test_permissions_stay_and_new_files_follow_the_mask(tmp_path: Path) -> None:
    path, mask = tmp_path / "x", os.umask(0o027)
    try:
        put(path, b"one")
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o7777 == 0o640
    path.chmod(0o604)
    put(path, b"two")
    assert path.stat().st_mode & 0o7777 == 0o604


@posix
def test_links_are_followed_and_those_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "inner" / "file")
    _files.check_writable(link)
    put(link, b"data")
    assert link.is_symlink()
    assert (tmp_path / "inner" / "file").read_bytes() == b"data"
    one, two = tmp_path / "one", tmp_path / "two"
    one.symlink_to(two)
    two.symlink_to(one)
    for write in (_files.check_writable, lambda path: put(path, b"data")):
        with pytest.raises(OSError, match="circle") as error:
            write(str(one))
        assert error.value.errno == errno.ELOOP
    assert one.is_symlink()
    assert two.is_symlink()


@posix
def test_a_mounted_file_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, mounts = tmp_path / "a model", tmp_path / "mountinfo"
    path.write_bytes(b"old")
    escaped = str(path).replace(" ", "\\040")
    mounts.write_text(f"22 1 0:20 / /proc rw - proc proc rw\n23 1 0:21 /y {escaped} rw - ext4 /dev/x rw\n")
    monkeypatch.setattr(_files, "MOUNTS", str(mounts))
    flow = ps.realnvp(2, layers=1, hidden=(4,), rng=0)
    with pytest.raises(OSError, match="mounted") as error:
        flow.fit(flow.sample(100, rng=0), epochs=1, rng=0, checkpoint=path)
    assert error.value.errno == errno.EBUSY
    assert not flow.initialised
    put(tmp_path / "another", b"data")


@pytest.mark.usefixtures("way")
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")

    @contextmanager
    def failing() -> Iterator[None]:
        with _files.replacing(str(path)) as file:
            file.write(b"new")
            yield

    with pytest.raises(ZeroDivisionError), failing():
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


KILLED = """if True:
    import os, signal, sys
    from penstock._files import replacing
    with replacing(sys.argv[1]) as file:
        file.write(bytes(100_000))
        file.flush()
        os.kill(os.getpid(), getattr(signal, sys.argv[2]))
"""


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="this system has no files without a name")
@pytest.mark.parametrize("sign", ["SIGKILL", "SIGTERM"])
def test_nothing_is_left_of_a_file_when_the_process_is_killed(sign: str, tmp_path: Path) -> None:
    done = python(KILLED, str(tmp_path / "x"), sign, check=False)
    assert done.returncode == -getattr(signal, sign)
    assert os.listdir(tmp_path) == []


def test_a_fit_with_a_checkpoint_removes_what_killed_ones_have_left(tmp_path: Path) -> None:
    flow = ps.realnvp(2, layers=1, hidden=(4,), rng=0)
    x, name = flow.sample(100, rng=0), "a+b" + 70 * "x"
    stale = [f".{name[:64]}.{pid}-0123abcd.tmp" for pid in (1, os.getpid())]
    others = [
        f".{name[:64]}.12-0123abcd.tmp", f".{name[:64]}.12-0123abcd.tmp2", f".{name[:64]}.x-0123abcd.tmp", "keep",
        f".{name[:63]}.1-0123abcd.tmp", ".aab.1-0123abcd.tmp",
    ]  # fmt: skip
    for file in (*stale, *others):
        (tmp_path / file).write_bytes(b"left")
    for file in (*stale, *others[1:]):
        os.utime(tmp_path / file, (1e9, 1e9))
    flow.fit(x, epochs=1, rng=0, checkpoint=tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == sorted([name, *others])  # the first of them may be of one that is at work


TERMINATED = """if True:
    import os, signal, sys
    if hasattr(os, "O_TMPFILE"):
        del os.O_TMPFILE
    from penstock.cli import main, sinks
    real = sinks._npy
    def stopped(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)
    sinks._npy = stopped
    sys.exit(main(sys.argv[1:]))
"""


@posix
def test_the_command_line_cleans_up_when_it_is_terminated(tmp_path: Path) -> None:
    model = tmp_path / "model"
    ps.realnvp(2, layers=1, hidden=(4,), rng=0).save(model)
    done = python(TERMINATED, "sample", str(model), "-n", "10", "-o", str(tmp_path / "s.npy"), check=False)
    assert done.returncode == 143
    assert done.stderr.strip() == "penstock: terminated"
    assert os.listdir(tmp_path) == ["model"]
