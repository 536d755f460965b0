"""Recognising files and folders that resemble checkpoints but cannot be read.

The error says what they are and what to pass instead, not that they are damaged.
"""

from __future__ import annotations

import json
from pathlib import Path

from parity.spec.errors import listed

ORBAX_FILES = ("_METADATA", "checkpoint")  # of which an Orbax directory has one
SHARD = ".distcp"  # of torch.distributed.checkpoint
METADATA = ".metadata"  # next to its shards
INDEX = ".index.json"  # of Hugging Face's shards
LONGEST = 5_000_000  # bytes of it
UTILITY = "torch.distributed.checkpoint.format_utils dcp_to_torch"

# What a file that is none starts with -> what it is.
HEADS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: `git lfs pull` gets it",
    b"<!DOCTYPE": "a page of HTML, not a checkpoint: the download went wrong",
    b"<!doctype": "a page of HTML, not a checkpoint: the download went wrong",
    b"<html": "a page of HTML, not a checkpoint: the download went wrong",
    b"\x89HDF\r\n": "an HDF5 file, as Keras writes them, which is not read",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"7z\xbc\xaf": "an archive of 7-Zip: unpack it first",
    b"\x93NUMPY": "one array of NumPy's, expected several with names (.npz)",
}

# Files in a folder that hold weights, the likeliest first.
WEIGHTS = (
    *("*.safetensors", "*.bin", "*.pth", "*.pt", "*.ckpt", "*.msgpack", "*.npz", "*.tar"),
    "checkpoint_*",  # of Flax, as it was before Orbax
)
# How TensorFlow's file begins that names its last checkpoint.
LAST_OF_TENSORFLOW = b"model_checkpoint_path"
# Other files that training leaves in such a folder.
NO_WEIGHTS = ("optimizer", "scheduler", "random_states", "scaler", "rng", "training_args")


def file(path: Path, head: bytes) -> str:
    """Describe a file of a known kind that cannot be read; else return an empty string.

    Args:
        path: The file.
        head: Its first bytes.
    """
    for start, what in HEADS.items():
        if head.startswith(start):
            return what
    if path.name.endswith(INDEX) and head.lstrip().startswith(b"{"):
        shards = _shards(path)
        return f"an index of shards, not a checkpoint: {_join(shards)}"
    if path.suffix == SHARD:
        return (
            "a shard of torch.distributed.checkpoint, which holds a part of the tensors without"
            f" their names: {_dcp(path.parent)}"
        )
    return ""


def directory(path: Path) -> str:
    """Return why a directory is not a readable checkpoint, and what to pass instead."""
    if (path / METADATA).is_file() and any(path.glob(f"*{SHARD}")):
        return f"not one file: it is a checkpoint of torch.distributed.checkpoint: {_dcp(path)}"
    if indices := sorted(path.glob(f"*{INDEX}")):
        # A link may lead anywhere: only paths that the user named are followed.
        shards = [] if indices[0].is_symlink() else _shards(indices[0])
        return f"not an Orbax checkpoint: it holds shards: {_join(shards)}"
    deeper = sorted(
        found.parent
        for name in ORBAX_FILES
        for found in (*path.glob(f"*/{name}"), *path.glob(f"*/*/{name}"))
        if found.is_file() and not _is_tensorflow(found.parent)
    )
    if deeper:
        others = f" (and {len(set(deeper)) - 1} more)" if len(set(deeper)) > 1 else ""
        return f"not an Orbax checkpoint ({_lacks(path)}), but {deeper[0]} is one{others}"
    if _is_tensorflow(path):
        return "not an Orbax checkpoint: it holds a checkpoint of TensorFlow, which is not read"
    lacks = _lacks(path)
    for depth in ("", "*/", "*/*/"):
        held = [p for name in WEIGHTS for p in sorted(path.glob(depth + name)) if p.is_file()]
        if found := [p for p in held if not p.name.startswith(NO_WEIGHTS)]:
            names = listed(str(p.relative_to(path)) for p in found)
            return f"not an Orbax checkpoint ({lacks}); name a file in it: {names}"
    return f"not an Orbax checkpoint ({lacks})"


def _lacks(path: Path) -> str:
    """Return what of an Orbax checkpoint a directory does not have."""
    there = [name for name in ORBAX_FILES if (path / name).is_file()]
    return f"its {there[0]} is not Orbax's" if there else f"no {' or '.join(ORBAX_FILES)} in it"


def _is_tensorflow(path: Path) -> bool:
    """Return whether a directory holds a checkpoint of TensorFlow, or the name of its last one."""
    if any(path.glob("*.index")) and any(path.glob("*.data-*-of-*")):
        return True
    last = path / "checkpoint"
    if last.is_symlink() or not last.is_file():  # a link may lead anywhere, a pipe would wait
        return False
    with last.open("rb") as file:
        return file.read(len(LAST_OF_TENSORFLOW)) == LAST_OF_TENSORFLOW


def _dcp(folder: Path) -> str:
    return f"`python -m {UTILITY} {folder} OUT.pth` makes one file of it"


def _shards(index: Path) -> list[str]:
    """Return the files that an index names."""
    try:
        if not index.is_file() or index.stat().st_size > LONGEST:  # a pipe would wait
            return []
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted({str(name) for name in found.values()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return []


def _join(shards: list[str]) -> str:
    if len(shards) == 1:
        return f"name the one file, {shards[0]}"
    named = f" ({listed(shards)})" if shards else ""
    return (
        f"load the shards{named}, and save their tensors as one file (save_file of safetensors,"
        " torch.save); `parity convert --rules` reads shards"
    )
