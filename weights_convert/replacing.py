"""Replacing checkpoints atomically, together with their manifests."""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from parity.io import replacing as whole
from parity.io.replacing import flush, put
from weights_convert.formats import sidecar


def replacing(target: Path) -> AbstractContextManager[Path]:
    """Yield a path to write; see `parity.io.replacing.replacing`.

    The file written there replaces the target, and a manifest next to it replaces the target's. If
    the process is killed, the target is the old one or the new one, with its own manifest.

    Args:
        target: A file or directory, which may exist.

    Raises:
        InputError: The file system refuses.
    """
    return whole.replacing(target, _move)


def _move(new: Path, target: Path) -> None:
    """Move a checkpoint and its manifest to their places, or nothing."""
    manifest, place = sidecar.beside(new), sidecar.beside(target)
    if not manifest.exists():
        put(new, target)
        return
    before = place.read_bytes() if place.is_file() else None
    first = manifest
    # The same bytes may have either manifest: then nothing needs to be bridged.
    if target.exists() and not filecmp.cmp(new, target, shallow=False):
        first = Path(shutil.copyfile(manifest, new.with_name("covering")))
        sidecar.covering(first, target)
        flush(first)
    os.replace(first, place)
    try:
        put(new, target)
    except BaseException:
        _restore(place, before, new.parent)
        raise
    if first != manifest:
        with contextlib.suppress(OSError):  # what covers both is read like the manifest
            os.replace(manifest, place)


def _restore(place: Path, before: bytes | None, staging: Path) -> None:
    if before is None:
        place.unlink()
        return
    old = staging / "before"
    old.write_bytes(before)
    os.replace(old, place)
