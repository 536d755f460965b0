"""Compiled XLA programs, kept between processes: compiling takes longer than most runs."""

from __future__ import annotations

import os
import time
from pathlib import Path

LARGEST = 2**30  # bytes
INTERVAL = (
    3600.0  # seconds in which the directory's size is looked at once: it has 10,000s of files
)


def keep_compiled(directory: Path) -> None:
    """Cache compiled programs in a directory, unless set otherwise; call before importing JAX."""
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(directory),
        # Small programs too: a ladder has hundreds.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    if _is_due(directory.with_name(f"{directory.name}.checked")):
        drop_oldest(directory, LARGEST)


def _is_due(stamp: Path) -> bool:
    """Return whether a file was not touched for `INTERVAL`, and touch it."""
    try:
        if 0 <= time.time() - stamp.stat().st_mtime < INTERVAL:
            return False
    except OSError:  # it is not there
        pass
    try:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
    except OSError:  # a home that cannot be written has no cache to keep small
        return False
    return True


def of_user() -> Path:
    """Return the user's cache directory for compiled programs, by the XDG standard."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "parity-suite" / "xla"


def drop_oldest(directory: Path, largest: int) -> None:
    """Delete a directory's oldest files until at most `largest` bytes are left.

    JAX can keep a limit itself, but then looks at every file whenever it adds one: a ladder took a
    third longer.
    """
    files = [(path, path.stat()) for path in directory.glob("*")]
    excess = sum(stat.st_size for _, stat in files) - largest
    for path, stat in sorted(files, key=lambda file: file[1].st_mtime):
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= stat.st_size
