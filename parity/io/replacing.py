"""Replacing files atomically: the target is always either the old or the complete new one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from parity.spec.errors import InputError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]  # Windows has none

PREFIX = ".parity-writing-"
LEFT = re.compile(rf"{re.escape(PREFIX)}[a-z0-9_]{{8}}")  # what a killed process leaves
HERE, EXCHANGE = -100, 2  # of renameat2: relative to the current folder; swap the two


def put(new: Path, target: Path) -> None:
    """Move a new file or directory to its place, in one step where the system can."""
    if not target.is_dir():
        os.replace(new, target)
    elif not _exchange(new, target):
        aside = Path(tempfile.mkdtemp(prefix=".parity-old-", dir=target.parent)) / target.name
        try:
            os.replace(target, aside)
            try:
                os.replace(new, target)
            except BaseException:
                os.replace(aside, target)
                raise
            shutil.rmtree(aside, ignore_errors=True)
        finally:
            with contextlib.suppress(OSError):
                aside.parent.rmdir()  # unless the old one is in it, which could not be put back


@contextmanager
def replacing(target: Path, move: Callable[[Path, Path], None] = put) -> Iterator[Path]:
    """Yield a path to write; the file or directory there replaces the target at the end.

    The path has the target's name, in a temporary folder next to the target. At the end it is
    flushed to disk and moved. If anything fails, nothing has changed. If the process is killed, the
    target is the old one or the new one; the folder is left, and removed by the next writer.

    Args:
        target: A file or directory, which may exist.
        move: Moves the new file, its first argument, to the target, its second, or does nothing.

    Raises:
        InputError: The file system refuses.
    """
    target = Path(os.path.realpath(target))  # a link stays a link
    try:
        with _staging(target.parent) as staging:
            yield staging / target.name
            for file in staging.rglob("*"):
                flush(file)
            move(staging / target.name, target)
            flush(target.parent)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error


def _exchange(one: Path, other: Path) -> bool:
    """Swap two directories in one step (Linux); whether it could be done."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):  # another system
        return False
    return renameat2(HERE, os.fsencode(one), HERE, os.fsencode(other), EXCHANGE) == 0


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Make a folder to write in, locked while it is in use, so that others see who is dead."""
    sweep(folder)
    while True:
        made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
        with _held(made):
            if not made.exists():  # swept away before it was locked
                continue
            try:
                yield made
            finally:
                shutil.rmtree(made, ignore_errors=True)
            return


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep a folder locked, where the system can."""
    if not fcntl:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        lock(handle)
        yield
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove from a folder what processes left that were killed while they wrote there."""
    if not fcntl:
        return
    for path in folder.glob(f"{PREFIX}*"):
        if not LEFT.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if lock(handle, wait=False):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(handle)


def lock(handle: int, wait: bool = True) -> bool:
    """Take a folder for this process alone, until it ends or closes it; whether it is taken.

    Where the system has no locks it never is.
    """
    if not fcntl:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # taken, or a file system without locks
        return False
    return True


def flush(path: Path) -> None:
    """Flush a file, or a folder's names, to the disk."""
    if path.is_dir():
        with contextlib.suppress(OSError):  # not every system can, with folders
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    else:
        with path.open("rb+") as file:
            os.fsync(file.fileno())
