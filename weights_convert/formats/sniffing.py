"""Detecting the format of a file or directory from its content."""

from __future__ import annotations

import zipfile
from pathlib import Path

from parity.spec.errors import InputError
from weights_convert.formats import mindspore_file, strangers

# The number that PyTorch's files before 1.6 open with, 0x1950a86a20f9469cfc6c, as pickled.
LEGACY_TORCH = bytes.fromhex("6cfc9c46f9206aa85019")

ORBAX_FILE = "_METADATA"
ORBAX_OLD_FILE = "checkpoint"  # before version 0.3: msgpack with small arrays in it

# The longest header that the format allows, in bytes; its length comes first.
SAFETENSORS_HEADER = 100_000_000


def sniff(path: Path) -> str:
    """Return the format of an existing file or directory, by its content.

    Returns:
        A key of `FORMATS`. A damaged file of a format still counts as one.

    Raises:
        InputError: Nothing is there, or it is none of the formats.
    """
    if path.is_dir():
        if is_orbax(path):
            return "orbax"
        raise InputError(f"{path} is a directory, but {strangers.directory(path)}")
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if not path.is_file():
        raise InputError(f"{path} is neither a file nor a directory")
    with path.open("rb") as file:
        head = file.read(64)
    if what := strangers.file(path, head):
        raise InputError(f"{path} is {what}")
    if not head:
        raise InputError(f"{path} is empty")
    if head.startswith(b"PK\x03\x04"):
        return _sniff_zip(path)
    if LEGACY_TORCH in head:
        return "torch"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= SAFETENSORS_HEADER:
        return "safetensors"
    if mindspore_file.is_encrypted(head):
        raise InputError(f"{path} is an encrypted MindSpore checkpoint: decrypt it there first")
    if mindspore_file.looks_like(head):
        return "mindspore"
    if _starts_a_map(head):
        return "msgpack"
    what = "a pickle, but not one of torch.save" if head[0] == 0x80 else "of no known format"
    raise InputError(
        f"{path} is {what}; expected a torch file, safetensors, Flax's msgpack, NumPy's .npz, a"
        " MindSpore checkpoint or an Orbax directory"
    )


def is_orbax(path: Path) -> bool:
    """Return whether a directory is an Orbax checkpoint, of any version."""
    if (path / ORBAX_FILE).is_file():
        return True
    if not (path / ORBAX_OLD_FILE).is_file():
        return False
    if (path / ORBAX_OLD_FILE).is_symlink():  # not followed; what reads the directory refuses it
        return True
    with (path / ORBAX_OLD_FILE).open("rb") as file:  # TensorFlow has a text of this name
        return _starts_a_map(file.read(1))


def _starts_a_map(head: bytes) -> bool:
    """Return whether msgpack data starts with a map that is not empty."""
    return bool(head) and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF))


def _sniff_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # damaged in whichever way; reading it says so
        return "torch"
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    if any(name.endswith(".npy") for name in names):
        return "npz"
    raise InputError(
        f"{path} is a zip archive, but neither a torch file (no data.pkl in it) nor NumPy's (no"
        " .npy)"
    )
