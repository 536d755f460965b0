"""Folders for work that goes on where a killed process left it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from parity.io.replacing import lock
from parity.spec.errors import InputError

PREFIX = ".parity-resume-"
IDENTITY = "identity"  # the file that says what the work is


@contextmanager
def resuming(target: Path, identity: str) -> Iterator[Path]:
    """Yield a folder next to a target for the files that become it.

    If an earlier process was killed or interrupted while it did the same work, the folder is the
    one that it left, with the files in it. It is removed at the end, and where an error ends the
    work.

    Args:
        target: What will be made; only its name and folder count.
        identity: What the work is. What was left of another work is removed.

    Raises:
        InputError: Another process is at work on the same target.
        OSError: The file system refuses.
    """
    place = target.with_name(PREFIX + target.name)
    with contextlib.suppress(FileExistsError):
        place.mkdir()
    if place.is_symlink() or not place.is_dir():
        kind = "a link" if place.is_symlink() else "no folder"
        raise InputError(f"{place} is {kind}, expected a folder of {target.name}'s own")
    handle = os.open(place, os.O_RDONLY)
    try:
        if not lock(handle, wait=False) and os.name == "posix":
            raise InputError(f"{target} is being written by another process ({place})")
        said = place / IDENTITY
        work = place / "work"
        if not said.is_file() or said.read_text(encoding="utf-8") != identity:
            for path in place.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            work.mkdir()
            said.write_text(identity, encoding="utf-8")
        try:
            yield work
        except Exception:  # but for an interrupt, after which the work can go on
            shutil.rmtree(place, ignore_errors=True)
            raise
        shutil.rmtree(place, ignore_errors=True)
    finally:
        os.close(handle)
