"""Msgpack whose lengths, types and arrays lie."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types

from tests.fuzz.hostile import Content, Kind, files

ARRAY, COMPLEX, SCALAR = 1, 2, 3  # Flax's types
NUMBERS = bytes(24)


def packed(value: Any) -> bytes:
    return msgpack.packb(value, strict_types=False)


def typed(data: bytes, code: int = ARRAY) -> Any:
    """A value of one of Flax's types."""
    return msgpack.ExtType(code, data)


def array(shape: Any = (2, 3), dtype: Any = "float32", body: Any = NUMBERS) -> Any:
    """An array as Flax packs it."""
    return typed(packed((shape, dtype, body)))


def holding(value: Any) -> bytes:
    return packed({"a": value})


def raw(data: bytes) -> bytes:
    """A map whose only value is these bytes."""
    return b"\x81\xa1a" + data


def arrays() -> dict[str, Content]:
    """Arrays that lie."""

    def chunked(**parts: Any) -> bytes:
        """An array in pieces, as Flax packs a large one."""
        return holding({"__msgpack_chunked_array__": True} | parts)

    return {
        "a dim of 2**62": holding(array((2**62,))),
        "dims whose product overflows": holding(array((2**32, 2**32))),
        "a negative dim": holding(array((-1, 3))),
        "two negative dims": holding(array((-2, -3))),
        "a dim of 0 beside 2**62": holding(array((0, 2**62), body=b"")),
        "dims of floats": holding(array((2.0, 3.0))),
        "dims of text": holding(array(("2", 3))),
        "dims that are a map": holding(array({2: 3})),
        "100 dims": holding(array((1,) * 99 + (6,))),
        "too few bytes": holding(array((2, 4))),
        "too many bytes": holding(array((2, 2))),
        "a dtype of objects": holding(array((3,), "O")),
        "a dtype of objects by its name": holding(array((3,), "object")),
        "a dtype with objects in it": holding(array((1,), "f4,O,f8")),
        "a dtype of records": holding(array((3,), "f4,i4")),
        "a dtype of 2**31 letters": holding(array((0,), "U536870911", b"")),
        "a dtype of no size": holding(array((2**62,), "V0", b"")),
        "a dtype that is code": holding(array((3,), "__import__('os').system('true')")),
        "a dtype of another world": holding(array((3,), "float9000")),
        "a dtype of a number": holding(array((3,), 7)),
        "a dtype of a list": holding(array((3,), [["a", "O"]])),
        "bytes that are text": holding(array(body="a" * 24)),
        "bytes that are a list": holding(array(body=[0] * 24)),
        "no array at all": holding(typed(b"")),
        "an array of garbage": holding(typed(b"\xc1" * 10)),
        "an array of two": holding(typed(packed(((2, 3), "float32")))),
        "an array with more behind": holding(typed(packed(((2, 3), "float32", NUMBERS)) + b"\x00")),
        "an array that holds a million empty lists": holding(
            typed(b"\xdd" + struct.pack(">I", 10**6) + b"\x90" * 10**6)
        ),
        "an array in an array": holding(array(body=array())),
        "a complex of three": holding(typed(packed((1, 2, 3)), COMPLEX)),
        "a complex of text": holding(typed(packed(("a", "b")), COMPLEX)),
        "a scalar of many": holding(typed(packed(((2, 3), "float32", NUMBERS)), SCALAR)),
        "a scalar of objects": holding(typed(packed(((), "O", bytes(8))), SCALAR)),
        "chunks of a lying shape": chunked(shape={"0": 2**62}, chunks={"0": array()}),
        "chunks without a shape": chunked(chunks={"0": array()}),
        "chunks that are none": chunked(shape={"0": 6}, chunks={"0": 5}),
        "chunks numbered wrongly": chunked(shape={"1": 6}, chunks={"7": array((6,))}),
        "chunks of a shape with -1": chunked(shape={"0": -1}, chunks={"0": array((6,))}),
        "an unknown type": holding(typed(b"abc", 77)),
        "a time": raw(b"\xc7\x0c\xff" + bytes(12)),
        "a time of 5 bytes": raw(b"\xc7\x05\xff" + bytes(5)),
    }


def structure() -> dict[str, Content]:
    """Bytes that are no such tree."""
    good = holding(array())
    nested = functools.reduce(lambda inner, _: {"a": inner}, range(300), array())
    within = functools.reduce(lambda inner, _: packed(typed(inner)), range(1000), b"\xc0")
    long = struct.pack(">I", 2**32 - 1)
    return {
        "maps 100,000 deep": b"\x81\xa1a" * 10**5 + b"\xc0",
        "lists 100,000 deep": raw(b"\x91" * 10**5 + b"\xc0"),
        "maps 900 deep": b"\x81\xa1a" * 900 + b"\xc0",
        "maps 300 deep, and an array": packed(nested),
        "types 1,000 deep": raw(within),
        "a map of 2**32 - 1": b"\xdf" + long + b"\xa1a\xc0",
        "a list of 2**32 - 1": raw(b"\xdd" + long + b"\xc0"),
        "text of 4 GiB": raw(b"\xdb" + long + b"abc"),
        "bytes of 4 GiB": raw(b"\xc6" + long + b"abc"),
        "a type of 4 GiB": raw(b"\xc9" + long + b"\x01abc"),
        "a map of 65,535": b"\xde\xff\xff\xa1a\xc0",
        "a key twice": b"\x82" + good[1:] * 2,
        "a key twice, deep": raw(b"\x82" + good[1:] * 2),
        "one path in two ways": b"\x82"
        + packed("a.b")
        + packed(array())
        + raw(raw(packed(array())))[1:].replace(b"\xa1a\x81\xa1a", b"\xa1a\x81\xa1b", 1),
        "a number as a key": b"\x81\x07" + packed(array()),
        "a list as a key": b"\x81\x91\x01" + packed(array()),
        "a map as a key": b"\x81\x80" + packed(array()),
        "nil as a key": b"\x81\xc0" + packed(array()),
        "NaN as a key": b"\x81\xcb\x7f\xf8" + bytes(6) + packed(array()),
        "a key that is not UTF-8": b"\x81\xa2\xff\xfe" + packed(array()),
        "a key with escapes": b"\x81" + packed("\x1b[2J\n") + packed(array()),
        "a byte that means nothing": raw(b"\xc1"),
        "no value": b"\x81\xa1a",
        "more behind": good + b"\xc0",
        "another tree behind": good * 2,
        "text for an array": holding("text"),
        "a number for an array": holding(5),
        "nothing in it": holding({}),
        "nothing but nil": holding(None),
        "true for an array": holding(True),
    }


def large() -> dict[str, Content]:
    """Trees that take far more memory than bytes: name -> a list of one thing, many times."""

    def listed(count: int, one: bytes) -> Callable[[], bytes]:
        return lambda: raw(b"\xdd" + struct.pack(">I", count) + one * count)

    return {
        "16 million empty lists": listed(2**24, b"\x90"),
        "16 million empty maps": listed(2**24, b"\x80"),
        "4 million empty types": listed(2**22, b"\xc7\x00\x07"),
        "16 million nils": listed(2**24, b"\xc0"),
        "4 million dates": listed(2**22, b"\xd6\xff" + bytes(4)),
    }


FINE = {
    "bytes that are text": "msgpack's older form had no other",
    "a number as a key": "as `nnx` numbers the layers of a list",
    "maps 300 deep, and an array": "a long name",
}


def kinds() -> Iterator[Kind]:
    """All."""
    yield from files("msgpack", arrays() | structure() | large(), FINE)
