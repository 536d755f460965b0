"""Shards of a checkpoint with an index, as Hugging Face's libraries write them."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from parity.spec.errors import InputError, listed, shortened
from weights_convert.formats.base import first_line
from weights_convert.formats.safetensors_file import once
from weights_convert.streaming.plan import Tensor
from weights_convert.streaming.safetensors_shards import Shard
from weights_convert.streaming.source import Source

SAFETENSORS = "model.safetensors.index.json"
TORCH = "pytorch_model.bin.index.json"
SUFFIX = ".index.json"
LONGEST = 50_000_000  # bytes of an index: some hundred thousand tensors
SNAPSHOTS, BLOBS = "snapshots", "blobs"  # of a repository in the cache of Hugging Face


class Opened(Protocol):
    """A shard, opened."""

    @property
    def tensors(self) -> Mapping[str, Tensor]: ...

    @property
    def beside(self) -> tuple[str, ...]: ...

    def load(self, name: str) -> np.ndarray: ...


def find(path: Path) -> Path | None:
    """Return the index that a path is or that lies in it; None if there is none.

    Raises:
        InputError: There are several, none of which is the one of safetensors.
    """
    if not path.is_dir():
        return path if path.name.endswith(SUFFIX) and path.is_file() else None
    found = sorted(p for p in path.iterdir() if p.name.endswith(SUFFIX))
    known = [p for name in (SAFETENSORS, TORCH) for p in found if p.name == name]
    if len(found) > 1 and not known:
        raise InputError(f"{path} holds {listed(p.name for p in found)}: name one of them")
    return next(iter(known or found), None)


def open_shards(index: Path) -> Source:
    """Open every shard that an index names, and compare what it holds with what the index says.

    Raises:
        InputError: The index is damaged or names a path outside of its folder; a shard is missing,
            damaged, or holds other tensors or another number of bytes.
        OSError: The file system refuses.
    """
    said, size = _read(index)
    shards: dict[str, list[str]] = defaultdict(list)
    for name, shard in said.items():
        shards[shard].append(name)
    files = {shard: _inside(index, shard) for shard in shards}
    _refuse_one_file_twice(index, files)
    opened = {shard: _opened(file) for shard, file in files.items()}
    for shard, names in shards.items():
        _compare(index, shard, names, opened[shard].tensors)
    tensors = {name: opened[shard].tensors[name] for name, shard in said.items()}
    # Tied tensors count once or each time, as the writer likes.
    least = sum({id(t): t.nbytes for t in tensors.values()}.values())
    most = sum(t.nbytes for t in tensors.values())
    if size is not None and not least <= size <= most:
        raise InputError(f"{index} says total_size {size:,}, but its shards hold {most:,} bytes")

    def load(name: str) -> np.ndarray:
        return opened[said[name]].load(name)

    kind = "safetensors" if next(iter(files.values())).suffix == ".safetensors" else "torch"
    format = f"{kind}, {len(files)} shards"
    path = index.parent if find(index.parent) == index else index
    beside = tuple(dict.fromkeys(name for shard in opened.values() for name in shard.beside))
    return Source(path, format, tensors, load, (index, *files.values()), {}, beside)


def _read(index: Path) -> tuple[dict[str, str], int | None]:
    """Return an index's tensors, with the shard of each, and the bytes it says they take."""
    if index.is_symlink():
        _refuse_outside(index, index, index.name)
    if index.stat().st_size > LONGEST:
        raise InputError(f"{index} has more than {LONGEST:,} bytes: not read")
    try:
        entries = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{index} is damaged: {first_line(error)}") from error
    found: Any = entries.get("weight_map") if isinstance(entries, dict) else None
    if not isinstance(found, dict) or not found:
        raise InputError(f"{index}: expected an object weight_map, from tensors to files")
    for name, shard in found.items():
        if not isinstance(shard, str) or not name or not name.isprintable():
            raise InputError(f"{index}: weight_map says {name!r}: {shard!r}, expected texts")
    metadata = entries.get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    if size is None:
        return found, None
    known = isinstance(size, int | float) and not isinstance(size, bool)
    if not known or (isinstance(size, float) and not math.isfinite(size)):
        shown = shortened(repr(size), 60)
        raise InputError(f"{index} says total_size {shown}, expected a number of bytes")
    return found, int(size)


def _inside(index: Path, shard: str) -> Path:
    """Return a shard's path.

    Raises:
        InputError: It is missing, no file, or leaves the index's folder.
    """
    if not shard.isprintable() or Path(shard).name != shard or shard in ("", ".."):
        raise InputError(f"{index} names {shard!r}, expected the name of a file beside it")
    file = index.parent / shard
    if not os.path.lexists(file):
        raise InputError(f"{index} names {shard}, which is missing")
    if file.is_symlink():
        _refuse_outside(index, file, shard)
    if not file.is_file():
        raise InputError(f"{index} names {shard}, which is not a file")
    return file


def _refuse_outside(index: Path, file: Path, shard: str) -> None:
    """Refuse a link that leaves the folder, but for those within a repository in the cache."""
    folder = Path(os.path.realpath(index.parent))
    allowed = [folder]
    if folder.parent.name == SNAPSHOTS:
        allowed.append(folder.parent.parent / BLOBS)
    if Path(os.path.realpath(file)).parent not in allowed:
        raise InputError(f"{index} names {shard}, a link that leaves its folder: not read")


def _refuse_one_file_twice(index: Path, files: Mapping[str, Path]) -> None:
    known: dict[tuple[int, int], str] = {}
    for shard, file in files.items():
        status = file.stat()
        other = known.setdefault((status.st_dev, status.st_ino), shard)
        if other != shard:
            raise InputError(f"{index} names {other} and {shard}, which are the same file")


def _opened(file: Path) -> Opened:
    if file.suffix == ".safetensors":
        return Shard(file)
    from weights_convert.streaming.torch_shards import TorchShard

    return TorchShard(file, flat=True)


def _compare(index: Path, shard: str, said: list[str], held: Mapping[str, Tensor]) -> None:
    if missing := [name for name in said if name not in held]:
        raise InputError(f"{index.parent / shard} lacks {listed(missing)}, which {index.name} says")
    expected = set(said)
    if more := [name for name in held if name not in expected]:
        raise InputError(
            f"{index.parent / shard} holds {listed(more)}, of which {index.name} says otherwise"
        )
