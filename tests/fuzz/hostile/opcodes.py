"""Pickles written opcode by opcode: no pickler writes what hostile ones hold."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any


@dataclasses.dataclass(frozen=True)
class Global:
    """Something to import."""

    module: str
    name: str


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of what a REDUCE takes."""

    function: Any
    args: tuple


@dataclasses.dataclass(frozen=True)
class Persistent:
    """What the file's reader finds by an id."""

    id: Any


class Raw(bytes):
    """Opcodes as they are."""


def called(path: str, *args: Any) -> Call:
    """A call of a function by its dotted name."""
    module, _, name = path.rpartition(".")
    return Call(Global(module, name), args)


def joined(*parts: Any) -> Raw:
    """Values on the stack, and opcodes, which are bytes, between them."""
    return Raw(b"".join(part if isinstance(part, bytes) else ops(part) for part in parts))


def pickled(value: Any, protocol: int = 2) -> bytes:
    """A whole pickle of one value."""
    return b"\x80" + bytes([protocol]) + ops(value) + b"."


def ops(value: Any) -> bytes:
    """The opcodes that leave a value on the stack: of what is here, plain values and containers."""
    match value:
        case Raw():
            return value
        case Global(module, name):
            return f"c{module}\n{name}\n".encode()
        case Call(function, args):
            return ops(function) + ops(args) + b"R"
        case Persistent(id_):
            return ops(id_) + b"Q"
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case bytes():
            return b"B" + struct.pack("<I", len(value)) + value
        case tuple():
            return b"(" + b"".join(map(ops, value)) + b"t"
        case list():
            return b"](" + b"".join(map(ops, value)) + b"e"
        case dict():
            return b"}(" + b"".join(ops(k) + ops(v) for k, v in value.items()) + b"u"
    raise TypeError(type(value).__name__)
