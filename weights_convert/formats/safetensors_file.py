"""Safetensors: a JSON header and raw bytes. Imports no framework."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from weights_convert.formats.base import (
    Contents,
    Foreign,
    LimitError,
    check_count,
    check_growth,
    numpy_dtype,
    unreadable,
)
from weights_convert.memory import ahead, as_bytes

# Bytes of a header that are read, a twentieth of what the format allows: a header of many small
# things takes some forty times its size in memory.
LONGEST = 5_000_000

# The format's name of a dtype -> ours; the others are described under their own.
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "BOOL": "bool",
}


def read(path: Path, mapped: bool = False) -> Contents:
    """Read a file.

    Args:
        path: The file.
        mapped: Whether to memory-map the arrays; only for a file that no other process can change.

    Raises:
        InputError: It is damaged, or too large.
        OSError: The file system refuses.
    """
    data = np.memmap(path, np.uint8, "r") if mapped else np.fromfile(path, np.uint8)
    try:
        length = _checked_length(data[:8].tobytes())
        header = _header(path, data[8 : 8 + length].tobytes())
        metadata = header.pop("__metadata__", None) or {}
        check_count(len(header))
        body = data[8 + length :]
        known = {name: DTYPES.get(entry["dtype"]) for name, entry in header.items()}
        arrays = {k: _array(body, header[k], dtype) for k, dtype in known.items() if dtype}
        foreign = {
            name: Foreign(entry["dtype"], tuple(entry["shape"]))
            for name, entry in header.items()
            if not known[name]
        }
        tied = tied_names(arrays.keys(), foreign.keys(), metadata)
        arrays |= {name: arrays[kept] for name, kept in tied.items()}
        check_growth(sum(array.nbytes for array in arrays.values()), path)
    except (SafetensorError, RecursionError, ValueError) as error:
        raise unreadable(path, "is not a whole safetensors file", error) from error
    said = {k: text for k, text in metadata.items() if k not in tied}
    return Contents("safetensors", arrays, said, foreign=foreign)


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """Read a file's header alone.

    Returns:
        Name -> `dtype`, `shape` and `data_offsets` as the file says them; the metadata; and the
        byte of the file that offsets are counted from.

    Raises:
        InputError: It is damaged, or too large.
        OSError: The file system refuses.
    """
    try:
        with path.open("rb") as file:
            length = _checked_length(file.read(8))
            entries = _header(path, file.read(length))
        metadata = entries.pop("__metadata__", None) or {}
        check_count(len(entries))
    except (SafetensorError, RecursionError, ValueError) as error:
        raise unreadable(path, "is not a whole safetensors file", error) from error
    return entries, metadata, 8 + length


def _checked_length(head: bytes) -> int:
    """Return the length of a header from the bytes before it.

    Raises:
        LimitError: It is too long.
    """
    length = int.from_bytes(head, "little")
    if length > LONGEST:
        raise LimitError(f"a header of {length:,} bytes, expected at most {LONGEST:,}")
    return length


def _header(path: Path, text: bytes) -> dict[str, Any]:
    with safe_open(path, "numpy"):  # looks at every offset; `deserialize` copies every tensor
        return json.loads(text.decode(), object_pairs_hook=once)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, for `json.loads`.

    Raises:
        ValueError: It has a key twice, of which the last would win unseen.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it holds {twice} more than once")
    return found


def tied_names(
    names: Container[str], others: Container[str], metadata: Mapping[str, str]
) -> dict[str, str]:
    """Return the tensors that `save_model` left out since they share memory, by the metadata.

    Args:
        names: The tensors that are read.
        others: Those that are not.
        metadata: The file's.

    Returns:
        Name -> the tensor that it shares memory with.
    """
    return {
        name: kept
        for name, kept in metadata.items()
        if kept in names and name not in names and name not in others
    }


def _array(body: np.ndarray, entry: dict[str, Any], dtype: str) -> np.ndarray:
    """Return one tensor, as a view of the file's bytes."""
    start, end = entry["data_offsets"]
    return body[start:end].view(numpy_dtype(dtype)).reshape(entry["shape"])


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a file.

    Raises:
        OSError: The file system refuses.
    """
    # By hand: the library's `save` copies all of it, and its `save_file` lets only the owner read.
    names = {ours: theirs for theirs, ours in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    ordered = sorted(arrays.items(), key=lambda item: -item[1].itemsize)  # aligned
    for name, array in ordered:
        start, end = end, end + array.nbytes
        dtype = names[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for data in ahead(as_bytes, (array for _, array in ordered)):
            file.write(data.data)
