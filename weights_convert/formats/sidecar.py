"""The separate manifest file of formats that cannot store text: JSON next to the checkpoint.

It holds the manifest, the hash of its checkpoint, and a seal: its own hash. So any change of either
file is detected. Two files cannot be replaced in one step; until the new checkpoint is in place,
the old one is recognised by `before`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.spec.errors import InputError
from weights_convert.hashes import file_sha256, text_sha256

# Under which the manifest is kept among the metadata.
KEY = "parity"
TOOL = "parity-suite"

INSIDE = "parity.json"  # in a directory
LONGEST = 20_000_000  # bytes
SUFFIX = ".manifest.json"  # after the name of a file
SEAL = "seal_sha256"


def place(path: Path) -> Path:
    """Return the path of a checkpoint's manifest: next to a link, or else next to its target."""
    if path.is_dir():
        return path / INSIDE
    linked = path.is_symlink() and not beside(path).exists()
    return beside(Path(os.path.realpath(path)) if linked else path)


def beside(path: Path) -> Path:
    """Return the path of a file's manifest: next to it."""
    return path.with_name(path.name + SUFFIX)


def check_replaceable(file: Path) -> None:
    """Refuse to overwrite a file that is not one of our manifests.

    Raises:
        InputError: It is not one of our manifests.
        OSError: It cannot be read.
    """
    if not os.path.lexists(file):
        return
    head = b""
    if file.is_file():
        with file.open("rb") as opened:
            head = opened.read(1 << 16)
    # A checkpoint may have our manifest in it, but none starts as JSON does.
    if not (head.startswith(b"{") and is_ours(head.decode(errors="replace"))):
        raise InputError(
            f"{file} exists and is no manifest of {TOOL}'s, whose place it takes: not replaced"
        )


def is_ours(text: str) -> bool:
    """Return whether a text was written by us, even if it was damaged since."""
    return f'"{TOOL}"' in text or SEAL in text


def seal(entries: Mapping[str, Any]) -> str:
    """JSON that ends with its own hash."""
    return _dump({**entries, SEAL: text_sha256(_dump(entries))})


def unseal(text: str, where: str, remedy: str = "remove it") -> dict[str, Any]:
    """Verify a text from `seal`, and return its entries.

    Args:
        text: The sealed text.
        where: Where it was found, for the message.
        remedy: How to remove one without a seal, from an older version, for the message.

    Raises:
        InputError: The text was changed.
    """
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON: {error}") from error
    if not isinstance(entries, dict) or SEAL not in entries:
        raise InputError(
            f"{where} is damaged, or of version 1, which had no {SEAL}: {remedy}, and the"
            " checkpoint is read, as unverified"
        )
    whole = {name: value for name, value in entries.items() if name != SEAL}
    if seal(whole) != text:
        raise InputError(f"{where} is damaged, or was changed: its {SEAL} is not that of its text")
    return whole


def write(path: Path, metadata: Mapping[str, str], sha256: str | None = None) -> str:
    """Write the manifest of a checkpoint that is there, if it has one.

    Args:
        path: The checkpoint.
        metadata: Its texts, the manifest among them.
        sha256: Its hash, if it is known.

    Returns:
        The checkpoint's hash, if it has a manifest; else nothing.
    """
    if KEY not in metadata:
        return ""
    manifest = json.loads(metadata[KEY])
    sha256 = _hash(path) if sha256 is None else sha256
    entries = {"tool": TOOL, "file_sha256": sha256, "manifest": manifest}
    place(path).write_text(seal(entries) + "\n", encoding="utf-8")
    return sha256


def read(path: Path, sha256: str) -> dict[str, str]:
    """Read a checkpoint's separate manifest: `KEY` -> text; empty where there is none.

    Args:
        path: The checkpoint.
        sha256: The checkpoint's hash, as in `weights_convert.formats.Contents`.

    Raises:
        InputError: It is damaged, or written for other contents than the checkpoint's; it is a link
            to another folder than the checkpoint's, or no file.
    """
    file = place(path)
    if not os.path.lexists(file):
        return {}
    folders = {os.path.realpath(file.parent), os.path.dirname(os.path.realpath(path))}
    if os.path.dirname(os.path.realpath(file)) not in folders:
        raise InputError(f"{file} is a link that leaves its folder: not read")
    if not file.is_file() or file.stat().st_size > LONGEST:
        raise InputError(f"{file} is not a file of at most {LONGEST:,} bytes")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is damaged: {error}") from error
    entries = parse(text, file)
    if entries is None:
        return {}
    for state in (entries, entries.get("before", {})):
        if state.get("file_sha256") == sha256:
            return {KEY: _dump(state["manifest"])} if state["manifest"] is not None else {}
    raise InputError(
        f"{path} is not what its manifest was written for: damaged, or changed since (then remove"
        f" {file.name})"
    )


def parse(text: str, file: Path) -> dict[str, Any] | None:
    """Parse a manifest's file; return None if it was not written by this program.

    Raises:
        InputError: It is damaged.
    """
    if not is_ours(text):
        try:
            others = isinstance(json.loads(text), dict)
        except (ValueError, RecursionError):
            others = False
        if others:
            return None
        raise InputError(f"{file} is damaged: it is no JSON object")
    entries = unseal(text.removesuffix("\n"), str(file))
    states = [entries, *([entries["before"]] if "before" in entries else [])]
    if not all(isinstance(s, dict) and {"file_sha256", "manifest"} <= s.keys() for s in states):
        raise InputError(f"{file} is damaged: its entries are none that we write")
    return entries


def covering(new: Path, target: Path) -> None:
    """Make a new manifest file also valid for the checkpoint that it is about to replace.

    Args:
        new: The temporary manifest file.
        target: The existing checkpoint.
    """
    entries = unseal(new.read_text(encoding="utf-8").removesuffix("\n"), str(new))
    sha256 = _hash(target)
    try:
        old = read(target, sha256).get(KEY)
    except (InputError, OSError):
        return  # it was not whole: nothing to be known by
    manifest = None if old is None else json.loads(old)
    entries["before"] = {"file_sha256": sha256, "manifest": manifest}
    new.write_text(seal(entries) + "\n", encoding="utf-8")


def _hash(path: Path) -> str:
    return file_sha256(path, without=INSIDE)


def _dump(entries: Mapping[str, Any]) -> str:
    return json.dumps(entries, indent=1)
