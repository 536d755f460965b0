"""Checks on an Orbax directory before Orbax and TensorStore open anything in it.

These follow links, wait for pipes, and allocate arrays as large as their metadata say.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import tensorstore

from weights_convert.formats import msgpack_scan
from weights_convert.formats.base import BESIDE, TIMES, LimitError, check_count
from weights_convert.formats.sniffing import ORBAX_FILE, ORBAX_OLD_FILE

MOST_FILES = 100_000
LONGEST = 50_000_000  # bytes of metadata
# Dtypes of `ml_dtypes`, whose names do not end with their bits -> bytes.
SMALL = {
    "bfloat16": 2,
    "float8_e3m4": 1,
    "float8_e4m3": 1,
    "float8_e4m3b11fnuz": 1,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
}
ARRAY_METADATA = (".zarray", "zarr.json")


def check(path: Path) -> None:
    """Look at every file, every name, and every array's shape.

    Raises:
        ValueError: Something leaves the directory, is no file, or would grow beyond measure.
        OSError: The file system refuses.
    """
    sizes = dict(_files(path))
    for name in ("_METADATA", "_CHECKPOINT_METADATA", "_sharding"):
        if sizes.get(path / name, 0) > LONGEST:
            raise LimitError(f"{name} has more than {LONGEST:,} bytes")
    entries: dict[str, Any] = {"use_ocdbt": (path / "manifest.ocdbt") in sizes}
    if path / ORBAX_OLD_FILE in sizes:
        check_old(path / ORBAX_OLD_FILE)
    if path / ORBAX_FILE in sizes:
        entries = json.loads((path / ORBAX_FILE).read_text(encoding="utf-8"))
        check_names(entries)
    total = sum(_bytes(text) for text in _array_metadata(path, entries, sizes))
    if total > TIMES * sum(sizes.values()) + BESIDE:
        raise LimitError(f"it would grow to {total:,} bytes")


def check_old(file: Path) -> None:
    """Look at the tree of before version 0.3, whose keys are the names of folders.

    Raises:
        ValueError: It is no msgpack, too much, or a key is a path.
    """
    data = file.read_bytes()
    msgpack_scan.check(data)
    tree = msgpack.unpackb(data, strict_map_key=False, ext_hook=lambda code, content: None)
    nodes, count = [tree], 0
    while nodes:
        node = nodes.pop()
        children = node.values() if isinstance(node, dict) else node
        for key in node if isinstance(node, dict) else ():
            _check_part(file.name, key)
        nodes += [child for child in children if isinstance(child, dict | list)]
        count += len(node)
    check_count(count)


def _check_part(where: str, part: object) -> None:
    """Refuse a part of a name that would lead to another path."""
    text = str(part)
    if not re.fullmatch(r"[^/\\\0]+", text) or not text.isprintable() or text in (".", ".."):
        raise ValueError(f"its {where} names an array {text!r}")


def _files(path: Path) -> Iterator[tuple[Path, int]]:
    """Yield each file with its size.

    Raises:
        ValueError: There are too many, or something else than files and folders.
    """
    folders, count = [path], 0
    while folders:
        for entry in os.scandir(folders.pop()):
            count += 1
            status = entry.stat(follow_symlinks=False)
            if count > MOST_FILES:
                raise LimitError(f"it has more than {MOST_FILES:,} files")
            if stat.S_ISDIR(status.st_mode):
                folders.append(Path(entry.path))
            elif stat.S_ISREG(status.st_mode):
                yield Path(entry.path), status.st_size
            else:
                what = "link" if entry.is_symlink() else "pipe or device"
                raise ValueError(f"{entry.name} in it is a {what}, expected only files and folders")


def check_names(entries: Any) -> None:
    """Refuse names of arrays that are paths.

    Args:
        entries: The contents of `_METADATA`.

    Raises:
        ValueError: A part of a name is empty or contains a separator.
    """
    if not isinstance(entries, dict) or not isinstance(entries.get("tree_metadata"), dict):
        raise ValueError("its _METADATA names no tree of arrays")
    if wrong := [k for k in ("use_ocdbt", "use_zarr3") if type(entries.get(k, True)) is not bool]:
        raise ValueError(f"its _METADATA says {wrong[0]} {str(entries[wrong[0]])[:60]!r}")
    tree = entries["tree_metadata"]
    check_count(len(tree))
    for value in tree.values():
        keys = value["key_metadata"] if isinstance(value, dict) else None
        if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
            raise ValueError("its _METADATA has a name without keys")
        for key in keys:
            _check_part(ORBAX_FILE, key.get("key"))


def _array_metadata(path: Path, entries: dict[str, Any], sizes: dict[Path, int]) -> Iterator[bytes]:
    """Yield each array's metadata, with its shape and dtype."""
    for file, size in sizes.items():
        if file.name in ARRAY_METADATA:
            if size > LONGEST:
                raise ValueError(f"{file.name} has more than {LONGEST:,} bytes")
            yield file.read_bytes()
    if not entries.get("use_ocdbt", True):
        return
    spec = {"driver": "ocdbt", "base": f"file://{path.absolute()}/"}
    store = tensorstore.KvStore.open(spec).result()
    for key in store.list().result():
        if key.rpartition(b"/")[2].decode(errors="replace") in ARRAY_METADATA:
            yield store.read(key).result().value


def _bytes(text: bytes) -> int:
    """Return the bytes an array takes by its metadata; at least those of one chunk.

    Raises:
        ValueError: The metadata are invalid.
    """
    entries = json.loads(text.decode())  # of bytes, `json` would guess the encoding
    if not isinstance(entries, dict):
        raise ValueError("an array's metadata are none")
    dtype = entries.get("dtype", entries.get("data_type"))
    grid = entries.get("chunk_grid", {})
    chunks = entries.get("chunks") or grid.get("configuration", {}).get("chunk_shape", [])
    sides = (entries.get("shape"), chunks)
    for found in sides:
        if not isinstance(found, list) or not all(type(n) is int and n >= 0 for n in found):
            raise ValueError(f"an array of shape {str(found)[:60]}")
    digits = re.search(r"\d+$", dtype) if isinstance(dtype, str) else None
    if digits is None and dtype not in ("bool", *SMALL):
        raise ValueError(f"an array of dtype {str(dtype)[:60]}")
    # `<f4` counts bytes, `float32` bits: at most eight times too much is still none too little.
    size = SMALL.get(str(dtype)) or (int(digits[0]) if digits else 1)
    size = size // 8 if size > 8 else size
    return max(math.prod(found or [1]) for found in sides) * max(size, 1)
