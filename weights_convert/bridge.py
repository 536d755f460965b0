"""The manifest beside a file, while that file is being replaced.

Two files cannot be renamed at once. So between the old pair and the new one the manifest is a
bridge: it holds the new manifest, and the old one with the hash of the file that it belongs to.
Whichever file lies there then, cut off at whatever instant, finds its own.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from parity.spec.errors import InputError

# How a bridge starts. Damaged, it is taken for a manifest of an unknown version and refused.
START = '{"tool": "parity-suite", "version": "bridge", '


def bridge(old: Path, old_manifest: str | None, new_manifest: str) -> str:
    """The text that lies beside a file while it is replaced.

    Args:
        old: The file.
        old_manifest: What lay beside it, if anything did.
        new_manifest: What will.
    """
    fields = {"sha256": _sha256(old), "old": old_manifest, "new": new_manifest}
    return START + json.dumps(fields)[1:]


def crossed(text: str, file: Path) -> str | None:
    """The manifest of a file, by what lies beside it; none if there was none.

    Args:
        text: A manifest, or a bridge.
        file: The checkpoint.

    Raises:
        InputError: It is a damaged bridge.
    """
    if not text.startswith(START):
        return text
    try:
        fields = json.loads(text)
        sha256, old, new = fields["sha256"], fields["old"], fields["new"]
    except (ValueError, KeyError, RecursionError) as error:
        raise InputError(f"the manifest of {file} is damaged: {error!r}") from error
    if not isinstance(new, str) or not isinstance(old, str | None):
        raise InputError(f"the manifest of {file} is damaged: a bridge between no manifests")
    return old if _sha256(file) == sha256 else new


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
