"""Files that appear at once and for good: others see the old file or the new one, never a part, also after a crash.

Where the system can, a file has no name until it is complete, so that nothing is left of it whatever ends the process.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

MOUNTS = "/proc/self/mountinfo"
STALE = 3600.0  # seconds after which no file is still being written


@contextmanager
def replacing(path: str, *, named: bool = False) -> Iterator[BinaryIO]:
    """A file to write that takes the place of ``path`` when the block ends well, and vanishes when it does not.

    ``named``: it has a name beside ``path`` meanwhile, by which other processes write into it.
    """
    target = _target(path)
    folder, beside = os.path.dirname(target), _beside(target)
    try:
        with (None if named else _unnamed(folder)) or open(beside, "x+b") as file:
            with suppress(OSError):  # a file that is replaced keeps its permissions
                mode = os.stat(target).st_mode & 0o7777
                os.chmod(file.fileno(), mode | (stat.S_IRUSR | stat.S_IWUSR if named else 0))
            yield file
            if named:
                with suppress(OSError):
                    os.chmod(file.fileno(), os.stat(target).st_mode & 0o7777)
            file.flush()
            os.fsync(file.fileno())
            if isinstance(file.name, int):
                _give_name(file, beside)
        os.replace(beside, target)
    except OSError as error:
        with suppress(OSError):
            os.unlink(beside)
        raise _about(path, beside, error) from error
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise
    with suppress(OSError):  # some folders may not be read, and some network file systems cannot sync one
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def joining(path: str, name: str) -> Iterator[BinaryIO]:
    """The file ``name`` that another process has made by ``replacing(path, named=True)``."""
    try:
        with open(name, "r+b") as file:
            yield file
    except FileNotFoundError as error:
        if error.filename != name:
            raise
        words = f"cannot write {path!r}: {name!r}, which another process has made, is not there; all must see one file system"
        raise FileNotFoundError(error.errno, words) from None
    except OSError as error:
        raise _about(path, name, error) from error


def _about(path: str, own: str, error: OSError) -> OSError:
    """An error of a file that is written for ``path``, in words; one of another file, which the block reads, as it is."""
    if error.filename not in (None, own):
        return error
    return type(error)(error.errno, f"cannot write {path!r}: {error.strerror or error}")


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise OSError if a file at ``path`` could not be created or replaced; leaves no trace."""
    name = os.fsdecode(path)
    target = _target(name)
    folder, beside = os.path.dirname(target), _beside(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"cannot write {name!r}: the folder {folder!r} does not exist")
    try:
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        os.unlink(beside)
    except OSError as error:
        raise type(error)(error.errno, f"cannot write {name!r}: {error.strerror}") from None


def remove_stale(path: str) -> None:
    """Remove what processes have left of files for ``path`` that were killed in the moment between naming and replacing one."""
    folder, name = os.path.split(os.fsencode(_target(path)))
    ours = re.compile(rb"\.%s\.\d+-[0-9a-f]{8}\.tmp" % re.escape(name[:64]))
    with suppress(OSError):
        for other in os.listdir(folder):
            old = os.path.join(folder, other)
            if ours.fullmatch(other) and time.time() - os.lstat(old).st_mtime > STALE:
                os.unlink(old)


def _target(path: str) -> str:
    """The file that is to be replaced: at the end of all links, and one that can be replaced at all."""
    target = os.path.realpath(path)
    if os.path.isdir(target):
        raise IsADirectoryError(f"cannot write {path!r}: it is a folder")
    if os.path.islink(target):
        raise OSError(errno.ELOOP, f"cannot write {path!r}: its symbolic links go in a circle")
    if os.path.exists(target) and not os.path.isfile(target):
        raise OSError(f"cannot write {path!r}: it is not an ordinary file")
    if _is_mounted(target):
        raise OSError(errno.EBUSY, f"cannot write {path!r}: a file is mounted there, which cannot be replaced")
    return target


def _is_mounted(target: str) -> bool:
    """Whether a single file is mounted at this place, as containers do."""
    try:
        with open(MOUNTS, "rb") as file:
            places = [line.split()[4] for line in file]
    except (OSError, IndexError):
        return False
    wanted = os.fsencode(target)
    return any(re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), place) == wanted for place in places)


def _beside(target: str) -> str:
    """The name of a temporary file in the folder of ``target``, short enough for every file system."""
    folder, name = os.path.split(os.fsencode(target))
    own = b".%s.%d-%s.tmp" % (name[:64], os.getpid(), os.urandom(4).hex().encode())
    return os.fsdecode(os.path.join(folder, own))


def _unnamed(folder: str) -> BinaryIO | None:
    """A file without a name in a folder; None where the system or the file system has none."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None or not os.path.isdir("/proc/self/fd"):
        return None
    try:
        return os.fdopen(os.open(folder, flag | os.O_RDWR, 0o666), "w+b")
    except OSError:
        return None


def _give_name(file: BinaryIO, name: str) -> None:
    """Put a file without a name at a name that nothing has."""
    descriptors = os.open("/proc/self/fd", os.O_RDONLY)
    try:
        # With a descriptor of a folder this is linkat, which follows the symbolic link of /proc.
        os.link(str(file.fileno()), name, src_dir_fd=descriptors, follow_symlinks=True)
    except OSError:
        file.seek(0)
        with open(name, "xb") as copy:
            with suppress(OSError):
                os.chmod(name, os.fstat(file.fileno()).st_mode & 0o7777)
            shutil.copyfileobj(file, copy)
            copy.flush()
            os.fsync(copy.fileno())
    finally:
        os.close(descriptors)
