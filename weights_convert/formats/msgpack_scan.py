"""Scanning msgpack data before it is unpacked. Imports no framework.

A single byte of msgpack can be a dict, which takes a hundred bytes in memory, so objects are
counted first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import numpy as np

from weights_convert.formats.base import DTYPES, LimitError, numpy_dtype

MOST_OBJECTS = 500_000  # keys, arrays, maps; a tensor takes about ten

# Flax's types, and the key of an array in pieces.
ARRAY, COMPLEX, SCALAR = 1, 2, 3
CHUNKED = "__msgpack_chunked_array__"

# First byte -> bytes of the length that follows, and of a type's code after it.
TEXT = {0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0), 0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0)}
TYPES = {0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)}
FIXED = {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}  # types of 1 to 16 bytes, with their code
NUMBERS = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
LISTS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}  # and how many objects an item is


def check(data: bytes) -> None:
    """Refuse data with too many objects, duplicate keys, or arrays that contradict their headers.

    Raises:
        ValueError: Such a fault, or msgpack's own error for invalid data.
    """
    if count(data) > MOST_OBJECTS:
        raise LimitError(f"it holds more than {MOST_OBJECTS:,} objects")
    msgpack.unpackb(data, object_pairs_hook=_pairs, ext_hook=_extension, strict_map_key=False)


def count(data: bytes) -> int:
    """Count the objects in msgpack data, up to just over `MOST_OBJECTS`; it may be truncated."""
    total, at, end = 0, 0, len(data)
    while at < end and total <= MOST_OBJECTS:
        first = data[at]
        at += 1
        total += 1
        if 0xA0 <= first <= 0xBF:
            at += first & 0x1F
        elif first in TEXT or first in TYPES:
            wide, code = TEXT.get(first) or TYPES[first]
            at += wide + code + int.from_bytes(data[at : at + wide], "big")
        elif first in LISTS:
            at += LISTS[first][0]
        else:
            at += NUMBERS.get(first, FIXED.get(first, 0))
    return total


def _pairs(given: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    items = list(given)  # of a msgpack without compiled code it is a generator
    found = dict(items)
    if len(found) < len(items):
        twice = Counter(str(key) for key, _ in items).most_common(1)[0][0]
        raise ValueError(f"it holds {twice} more than once")
    if wrong := [key for key in found if type(key) not in (str, int)]:
        raise ValueError(f"it holds a key that is a {type(wrong[0]).__name__}")
    if CHUNKED in found:
        sides = found.get("shape")
        if not isinstance(sides, dict) or not _are_sides(list(sides.values())):
            raise ValueError("it holds an array in pieces without a shape")
    return found


def _extension(code: int, content: bytes) -> None:
    """Compare an array's number of bytes with its shape, without building it.

    Raises:
        ValueError: They do not match.
    """
    if code not in (ARRAY, COMPLEX, SCALAR):
        raise ValueError(f"it holds an object of type {code}, which is not Flax's")
    if code == COMPLEX:
        return
    if count(content) > 80:  # three, and at most 64 sides
        raise ValueError("it holds an array of more than a shape, a dtype and bytes")
    shape, name, body = msgpack.unpackb(content, raw=True)
    if not isinstance(name, bytes) or not isinstance(body, bytes) or not isinstance(shape, list):
        raise ValueError("it holds an array without a shape, a dtype or bytes")
    text = name.decode("ascii")
    dtype = numpy_dtype(text) if text in DTYPES else np.dtype(text)
    right = _are_sides(shape) and math.prod(shape) * dtype.itemsize == len(body)
    if not right or dtype.kind not in "biufcV" or dtype.names or (code == SCALAR and shape):
        shown = "x".join(str(side)[:30] for side in shape) or "a scalar"
        raise ValueError(f"it holds {len(body)} bytes that claim to be {shown} of {text[:30]}")


def _are_sides(sides: list[Any]) -> bool:
    return all(type(n) is int and 0 <= n < 2**31 for n in sides)
