"""Flax's msgpack files, as `flax.serialization.to_bytes` writes them.

A name is the path through the nested maps, joined by dots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import numpy as np
from flax import serialization

from parity.spec.errors import InputError
from weights_convert.formats import Contents, first_line, numpy_dtype
from weights_convert.formats.nested import flatten, nest


def read(path: Path) -> Contents:
    """Read a file.

    Raises:
        InputError: It is damaged, or holds something else than nested arrays.
        OSError: The file system refuses.
    """
    data = path.read_bytes()
    try:
        refuse_repeated(data)
        tree = serialization.msgpack_restore(data)
    except Exception as error:  # bytes at will: msgpack, NumPy and Flax may fail in any way
        reason = first_line(error)
        raise InputError(f"{path} is not a whole msgpack file of Flax's: {reason}") from error
    if not isinstance(tree, Mapping):
        raise InputError(f"{path} holds a {type(tree).__name__}, expected nested maps of arrays")
    arrays = {name: _own(array) for name, array in flatten(tree, path).items()}
    return Contents("msgpack", arrays)


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file.

    Raises:
        OSError: The file system refuses.
    """
    path.write_bytes(serialization.msgpack_serialize(nest(arrays), in_place=True))


def refuse_repeated(data: bytes) -> None:
    """Refuse a map with a key twice, of which the last would win unseen.

    Raises:
        ValueError: Says which.
    """

    def pairs(items: list[tuple[Any, Any]]) -> dict[Any, Any]:
        found = dict(items)
        if len(found) < len(items):
            twice = Counter(str(key) for key, _ in items).most_common(1)[0][0]
            raise ValueError(f"it holds {twice} more than once")
        return found

    msgpack.unpackb(
        data,
        object_pairs_hook=pairs,
        ext_hook=lambda code, content: None,  # arrays: not looked at here
        strict_map_key=False,
    )


def _own(array: np.ndarray) -> np.ndarray:
    """With the dtype under which `parity` knows bfloat16."""
    return array.astype(numpy_dtype("bfloat16")) if array.dtype.name == "bfloat16" else array
