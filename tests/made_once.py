"""Folders that take long to make and are kept, such as environments with other packages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from parity.io.replacing import lock


def made_once(place: Path, make: Callable[[], object]) -> Path:
    """Make a folder unless it is there whole; of several processes one makes it, the others wait.

    Args:
        place: The folder.
        make: Called where nothing is there; what it makes is whole when it returns.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(place.with_name(f"{place.name}.lock"), os.O_CREAT | os.O_RDWR)
    try:
        lock(handle)
        if not (place / "whole").exists():
            shutil.rmtree(place, ignore_errors=True)
            make()
            (place / "whole").touch()
    finally:
        os.close(handle)
    return place
