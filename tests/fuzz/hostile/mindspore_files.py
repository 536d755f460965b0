"""MindSpore's checkpoints: protobuf that lies."""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Iterator

from tests.fuzz.hostile import Content, Kind, files

NUMBERS = bytes(24)
VARINT, FIXED64, BYTES, START, END, FIXED32 = range(6)


def varint(value: int) -> bytes:
    """A number; a negative one takes ten bytes, as int64 do."""
    value %= 2**64
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes | int, length: int | None = None) -> bytes:
    """A field of a message: bytes, or a number."""
    if isinstance(content, int):
        return varint(number << 3 | VARINT) + varint(content)
    size = len(content) if length is None else length
    return varint(number << 3 | BYTES) + varint(size) + content


def value(
    dims: tuple[int, ...] = (2, 3),
    kind: bytes = b"Float32",
    content: bytes = NUMBERS,
    tag: bytes = b"a.weight",
) -> bytes:
    """A whole tensor under its name."""
    tensor = b"".join(field(1, d) for d in dims) + field(2, kind) + field(3, content)
    return field(1, field(1, tag) + field(2, tensor))


def wrapped(inner: bytes) -> bytes:
    """A tensor's message under a name."""
    return field(1, field(1, b"a.weight") + field(2, inner))


def tensors() -> dict[str, Content]:
    """Tensors that lie."""
    packed = field(1, b"".join(map(varint, (2, 3))))
    rest = field(2, b"Float32") + field(3, NUMBERS)
    return {
        "a dim of 2**62": value((2**62,)),
        "dims whose product is 6 again": value((2**63 + 3, 2)),
        "a negative dim": value((-2, 3)),
        "two negative dims": value((-2, -3)),
        "a dim of 0 beside 2**63 - 1": value((0, 2**63 - 1), content=b""),
        "a dim of 0 beside 2**63": value((0, 2**63), content=b""),
        "a dim of 0 beside bytes": value((0,)),
        "100 dims": value((1,) * 99 + (6,)),
        "10,000 dims": value((1,) * 10_000 + (6,)),
        "10,000 packed dims": wrapped(field(1, b"\x01" * 10_000) + rest),
        "packed dims cut short": wrapped(field(1, b"\x02\x83") + rest),
        "dims both ways": wrapped(packed + field(1, 2) + rest),
        "too few bytes": value(content=NUMBERS[:-1]),
        "too many bytes": value(content=NUMBERS + b"\x00"),
        "no bytes": wrapped(field(1, 6) + field(2, b"Float32")),
        "bytes twice": wrapped(field(1, 6) + rest + field(3, NUMBERS)),
        "a dtype twice": wrapped(field(1, 6) + field(2, b"Int32") + rest),
        "no dtype": wrapped(field(1, 6) + field(3, NUMBERS)),
        "an unknown dtype": value(kind=b"Float33"),
        "a dtype of 8 bits": value((24,), kind=b"Int8"),
        "a dtype that is not UTF-8": value(kind=b"\xff\xfe"),
        "a dtype that is a number": wrapped(field(1, 6) + field(2, 7) + field(3, NUMBERS)),
        "a text for a dtype": value((6,), kind=b"str"),
        "an unknown field": wrapped(field(1, 6) + rest + field(9, b"x")),
        "bytes that are a number": wrapped(field(1, 6) + field(2, b"Float32") + field(3, 7)),
    }


def values() -> dict[str, Content]:
    """Messages of other fields than the format's."""
    good, other = value(), value(tag=b"b.weight")
    scalar = value((), content=bytes(4), tag=b"c.weight")
    deep = functools.reduce(lambda inner, _: field(1, b"a") + field(2, inner), range(1000), b"")
    return {
        "no name": field(1, field(2, b"")),
        "an empty name": value(tag=b""),
        "a name that is a number": b"\x0a\x04" + field(1, 5) + field(2, b""),
        "a name that is not UTF-8": good + value(tag=b"\xff\xfe"),
        "a name with escapes": good + value(tag=b"\x1b[2J\n"),
        "a name with ../": good + value(tag=b"../../outside/secret"),
        "a name of 1 MB": good + value(tag=b"x" * 10**6),
        "two names": field(1, field(1, b"a") + field(1, b"b") + field(2, b"")),
        "no tensor": field(1, field(1, b"a.weight")),
        "two tensors under a name": field(1, field(1, b"a") + field(2, b"") + field(2, b"")),
        "a map of tensors": field(1, field(1, b"a.weight") + field(3, b"x")),
        "a name twice": good + other + good,
        "a slice of another shape": good + value((3, 2)),
        "a slice of another dtype": good + value(kind=b"Int32"),
        "a slice too many": good + good,
        "a slice too few": value((4, 3)),
        "a slice elsewhere": value((4, 3)) + other + value((4, 3)),
        "another field among the values": good + field(2, b"x"),
        "a number among the values": good + field(1, 7),
        "only a text": value((1,), b"str", "2.3.1".encode("utf-32-le"), b"version"),
        "a group": good + varint(1 << 3 | START) + good + varint(1 << 3 | END),
        "a group that does not end": good + varint(1 << 3 | START) * 1000,
        "groups 100,000 deep": good + varint(1 << 3 | START) * 10**5,
        "8 fixed bytes": good + varint(1 << 3 | FIXED64) + bytes(8),
        "4 fixed bytes": good + varint(1 << 3 | FIXED32) + bytes(4),
        "wire type 7": good + varint(1 << 3 | 7) + b"\x00",
        "field 0": good + field(0, b"x"),
        "field 2**29": good + field(2**29, b"x"),
        "an endless number": good + b"\xff" * 100,
        "a number of 70 bits": good + b"\x0a" + b"\xff" * 9 + b"\x7f",
        "a length of 2**63": good + field(1, b"x", 2**63),
        "a length of 2**64 - 1": good + field(1, b"x", 2**64 - 1),
        "a length one too long": good[:-1],
        "a value longer inside than outside": field(1, field(1, b"a.weight", 2**20)),
        "a tensor longer than its value": field(1, field(1, b"a.weight") + field(2, b"x", 2**20)),
        "values 1,000 deep": field(1, deep),
        "zeros behind": good + bytes(100),
        "a checksum of other bytes": good + b"crc_num" + (1).to_bytes(10, "big"),
        "a checksum cut short": good + b"crc_num" + zlib.crc32(good).to_bytes(9, "big"),
        "a checksum twice": _summed(_summed(good)),
        "a checksum and more": _summed(good) + other,
        "a checksum of nothing": _summed(b""),
        "encrypted": struct.pack("<I", 0x7F3A5ED8) + bytes(100),
        "encrypted, the other way round": struct.pack(">I", 0x7F3A5ED9) + bytes(100),
        "a scalar with two numbers": good + scalar.replace(bytes(4), bytes(8)),
    }


def empty(count: int) -> bytes:
    """So many tensors without a number."""
    return b"".join(value((0,), b"Bool", b"", b"%d" % i) for i in range(count))


def large() -> dict[str, Content]:
    """Files whose messages take far more memory than bytes."""
    return {
        "200,000 empty tensors": lambda: empty(200_000),
        "40,000 empty tensors": lambda: empty(40_000),
        "3,000,000 slices of nothing": lambda: value((0,), b"Bool", b"") * (3 * 10**6),
    }


def _summed(data: bytes) -> bytes:
    return data + b"crc_num" + zlib.crc32(data).to_bytes(10, "big")


FINE = {
    "a name with ../": "a name is only a name here",
    "a name of 1 MB": "a name is only a name here",
    "a dtype of 8 bits": "it is described, and not read",
    "40,000 empty tensors": "they are not too many, and each is an array",
}


def kinds() -> Iterator[Kind]:
    """All."""
    yield from files("mindspore", tensors() | values() | large(), FINE)
