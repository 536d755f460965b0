"""Files that are either whole or not there, and never cost what was there before."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from parity.spec.errors import InputError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path to write; what is written there takes the target's place at the end.

    The path has the target's name, in a folder of its own beside the target. All that lies in that
    folder at the end is flushed to disk and moved beside the target, which comes last: it may have
    companions, named after it. If anything fails, all is as before.

    Args:
        target: A file or directory, which may exist.

    Raises:
        InputError: The file system refuses.
    """
    target = Path(os.path.realpath(target))  # a link stays a link
    try:
        with tempfile.TemporaryDirectory(prefix=".parity-", dir=target.parent) as folder:
            staging = Path(folder)
            yield staging / target.name
            for file in staging.rglob("*"):
                if file.is_file():
                    with file.open("rb+") as handle:
                        os.fsync(handle.fileno())
            _move(staging, target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error


def _move(staging: Path, target: Path) -> None:
    """Move everything from the folder to the target's, or nothing."""
    companions = [path.name for path in staging.iterdir() if path.name != target.name]
    aside = staging.with_name(staging.name + ".old")  # outlives the folder, should undoing fail
    undo: list[tuple[Path, Path]] = []

    def move(source: Path, to: Path) -> None:
        os.replace(source, to)
        undo.append((to, source))

    try:
        for name in (*companions, target.name):
            old, new = target.with_name(name), staging / name
            # The target itself is replaced in one step, if it is a file; a directory cannot be.
            if old.exists() and (name != target.name or old.is_dir()):
                aside.mkdir(exist_ok=True)
                move(old, aside / name)
            move(new, old)
    except BaseException:
        for source, to in reversed(undo):
            os.replace(source, to)
        if aside.exists():
            aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)
