"""Writing files: they are complete or absent, have one writer at a time, and are never written through a link."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

SCOPE = "scope.safetensors"
"""The file beside a model's weights that notices are judged by. No answer depends on it."""


def write_atomic(path: str | os.PathLike[str], content: str | bytes, follow: bool = False) -> None:
    """Write a file so that after a crash at any point there is the old file or the new one, never a part.

    follow: for a path that the user typed; see `replacing`. Half a character, which a file name can hold, is written
    as its escape (`\\udce9`), which is also how JSON spells it.
    """
    with replacing(path, follow) as file:
        file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


@contextmanager
def replacing(path: str | os.PathLike[str], follow: bool = False) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends, whole; an error in the block leaves the old one.

    Only a regular file is replaced, and no link is followed: a folder of somebody else's may hold `summary.json` as a
    link to any file of yours. follow: for a path that the user typed, a link is followed, and a pipe or a device such
    as /dev/stdout is written into. Raises ValueError for everything else.
    """
    path = Path(path)
    if follow and path.exists() and not path.is_file():
        with _stream(path) as file:
            yield file
        return
    path = Path(os.path.realpath(path)) if follow else path
    part = path.with_name(f".part-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}")
    refuse_links(path)
    refuse_links(part)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _claimed(part) as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
    except OSError as error:
        if error.filename is not None and Path(error.filename) not in (path, path.parent, part):
            raise  # of another file, which the block reads
        raise _unwritable(path, error) from None


def resolved(path: Path) -> Path:
    """The file that a path typed by the user leads to, through links. Raises ValueError if it is not a file."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is not a file, and lines can only be added to a file; name one, or leave it out")
    return Path(os.path.realpath(path))


def make_folder(folder: Path) -> Path:
    """Make a folder inside a run, such as `audio`. Raises ValueError if it is a link or a file."""
    refuse_links(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None
    return folder


@contextmanager
def replacing_files(folder: Path, stale: str) -> Iterator[Path]:
    """An empty folder to write files in, which then replace those of the same names in `folder`, each at once.

    stale: a pattern; files of that kind which were not written again are removed. Raises ValueError if it fails.
    """
    part = make_folder(folder) / ".part"
    try:
        shutil.rmtree(part, ignore_errors=True)  # what a kill has left
        part.mkdir()
        yield part
        written = {path.name: path for path in part.iterdir()}
        for path in sorted(set(folder.glob(stale)) - {folder / name for name in written}):
            path.unlink()
        for name, path in written.items():
            path.replace(folder / name)
    except OSError as error:
        raise _unwritable(folder, error) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def grow(path: Path) -> Iterator[BinaryIO]:
    """Open a file to append to it. When the block ends, the new part is on the disk. Raises ValueError if it fails."""
    refuse_links(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _CAREFUL, 0o666), "r+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unwritable(path, error) from None


def size_of(path: str | os.PathLike[str]) -> int:
    """Size of a file in bytes; 0 if it does not exist."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def check_size(path: str | os.PathLike[str], size: int) -> None:
    """Raise ValueError if a file does not have the size that it had after the last `append`."""
    if (found := size_of(path)) != size:
        raise ValueError(
            f"{path}: holds {found:,} bytes where this run had written {size:,}: it was removed or changed meanwhile,"
            " and what it held is lost; start the command again, in a new place if need be"
        )


@contextmanager
def sole_writer(path: str | os.PathLike[str]) -> Iterator[None]:
    """Lock a file that is appended to. Raises ValueError if another process is writing it."""
    path = Path(path)
    lock = path.with_name(f".{path.name}.lock")
    refuse_links(path)
    refuse_links(lock)
    held = FileLock(lock, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except Timeout:  # an OSError itself
        raise ValueError(f"{path}: another process is writing it; wait for that one, or name another") from None
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        yield
    finally:
        held.release()


_CAREFUL = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""Flags for opening a file that may be something else: a link is an error, and a pipe is not waited for."""


def refuse_links(path: Path) -> None:
    """Raise ValueError if the path is anything but a regular file or a folder."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # it does not exist; if it cannot be examined, writing will say why
    if stat.S_ISLNK(mode):
        raise ValueError(f"{path}: is a link, and is not written through; remove it, or choose another folder")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError(f"{path}: is a pipe or a device, not a file; remove it, or choose another folder")


@contextmanager
def _stream(path: Path) -> Iterator[BinaryIO]:
    """Open a pipe or a device for writing. Raises ValueError if it is neither, or if nobody reads the pipe."""
    mode = path.stat().st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        raise ValueError(f"{path}: is not a file; name a file")
    try:
        descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))  # no waiting for a reader
        os.set_blocking(descriptor, True)
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise ValueError(f"{path}: nobody reads this pipe; start its reader first, or name a file") from None
        raise _unwritable(path, error) from None


def _claimed(part: Path) -> BinaryIO:
    """Open the temporary file beside the real one, empty and locked.

    Its name depends only on the real name, so the next writer reuses what a kill has left. A second process that writes
    the same file at the same time waits for the lock.
    """
    while True:
        file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | _CAREFUL, 0o666), "r+b")
        with suppress(ImportError, OSError):  # Windows, and network drives without locks
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        mine = os.fstat(file.fileno())
        if _same(mine, part) and mine.st_nlink == 1:
            file.truncate(0)
            return file
        file.close()
        if mine.st_nlink > 1:
            part.unlink(missing_ok=True)  # another name of a file that has one already


def _same(mine: os.stat_result, path: Path) -> bool:
    """Whether a path still leads to the open file. Another process may have renamed it meanwhile."""
    try:
        return os.path.samestat(mine, path.lstat())
    except FileNotFoundError:
        return False


def _unwritable(path: Path, error: OSError) -> ValueError:
    reason = error.strerror or str(error) or type(error).__name__
    return ValueError(f"{path}: cannot be written ({reason}); check the folder, its permissions and free space")
