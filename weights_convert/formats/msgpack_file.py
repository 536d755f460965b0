"""Flax's msgpack files, as `flax.serialization.to_bytes` writes them.

A name is the path through the nested maps, joined by dots.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import serialization

from parity.spec.errors import InputError
from weights_convert.formats import msgpack_scan
from weights_convert.formats.base import Contents, numpy_dtype, parted, unreadable
from weights_convert.formats.nested import flatten, nest


def read(path: Path, key: str | None = None) -> Contents:
    """Read a file.

    Args:
        path: The file.
        key: The entry to read, as for `weights_convert.formats.read`.

    Raises:
        InputError: It is damaged, or holds something else than nested arrays.
        OSError: The file system refuses.
    """
    data = path.read_bytes()
    try:
        msgpack_scan.check(data)
        tree = serialization.msgpack_restore(data)
    except Exception as error:  # bytes at will: msgpack, NumPy and Flax may fail in any way
        raise unreadable(path, "is not a whole msgpack file of Flax's", error) from error
    if not isinstance(tree, Mapping):
        raise InputError(f"{path} holds a {type(tree).__name__}, expected nested maps of arrays")
    found, others = flatten(tree, path, key)
    arrays, foreign = parted({name: _own(array) for name, array in found.items()})
    return Contents("msgpack", arrays, skipped=others, foreign=foreign, key=key or "")


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file.

    Raises:
        OSError: The file system refuses.
    """
    path.write_bytes(serialization.msgpack_serialize(nest(arrays), in_place=True))


def _own(array: np.ndarray) -> np.ndarray:
    """Convert to the bfloat16 dtype that this project uses."""
    return array.astype(numpy_dtype("bfloat16")) if array.dtype.name == "bfloat16" else array
