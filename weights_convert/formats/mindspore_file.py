"""Reading and writing MindSpore's checkpoints, which are protobuf messages, without protobuf.

    Checkpoint { repeated Value value = 1 }
    Value { string tag = 1; TensorProto tensor = 2; MapTensorProto maptensor = 3 }
    TensorProto { repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3 }

A large tensor comes in slices, one value after the other under one tag; a scalar has no dims, or
one of 0. Behind the last value there may be a checksum. The format is that of
`mindspore/train/serialization.py` of MindSpore 2.x. No framework is imported.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from weights_convert.formats.base import (
    MOST_TENSORS,
    Contents,
    Foreign,
    LimitError,
    numpy_dtype,
    unreadable,
)

# The format's name of a dtype -> ours.
DTYPES = {
    "Float64": "float64",
    "Float32": "float32",
    "Float16": "float16",
    "BFloat16": "bfloat16",
    "Int64": "int64",
    "Int32": "int32",
    "Bool": "bool",
}
NAMES = {ours: theirs for theirs, ours in DTYPES.items()}

# The format's name of another dtype -> bits of a number: they are described.
OTHERS = {
    "Int8": 8,
    "UInt8": 8,
    "Int16": 16,
    "UInt16": 16,
    "UInt32": 32,
    "UInt64": 64,
    "Int4": 4,
    "Float8E4M3FN": 8,
    "Float8E5M2": 8,
    "HiFloat8": 8,
    "Complex64": 64,
    "Complex128": 128,
}

TEXT = "str"  # the dtype of a text
VARINT, BYTES = 0, 2  # wire types of protobuf
LONGEST = 64  # dims of a tensor: NumPy's limit
SLICE = 512 * 1024 * 1024  # bytes of one value, as MindSpore cuts them

# What opens an encrypted file, but for its lowest bits, which say how.
ENCRYPTED = 0x7F3A5ED8

# A checksum: a tag, and the CRC-32 of all before it in ten bytes.
TRAILER = b"crc_num"
TRAILER_SIZE = len(TRAILER) + 10


class DamagedError(Exception):
    """The bytes do not follow the format; the message says where."""


def looks_like(head: bytes) -> bool:
    """Return whether a file starts like this format: a value that opens with a printable tag."""
    try:
        key, at = varint(head, 0)
        _, at = varint(head, at)
        inner, at = varint(head, at)
        length, at = varint(head, at)
    except DamagedError:
        return False
    text = head[at : at + length]
    return (key, inner) == (1 << 3 | BYTES, 1 << 3 | BYTES) and bool(text) and _printable(text)


def is_encrypted(head: bytes) -> bool:
    """Return whether a file starts like an encrypted checkpoint."""
    return any(int.from_bytes(head[:4], order) & ~3 == ENCRYPTED for order in ("little", "big"))


def read(path: Path) -> Contents:
    """Read a file.

    Raises:
        InputError: It is damaged, encrypted, or holds something else than dense tensors.
        OSError: The file system refuses.
    """
    data = path.read_bytes()
    try:
        found, texts = _arrays(_without_trailer(data))
    except (DamagedError, LimitError) as error:
        raise unreadable(path, "is not a whole MindSpore checkpoint", error) from None
    foreign = {tag: a for tag, a in found.items() if isinstance(a, Foreign)}
    arrays = {tag: a for tag, a in found.items() if not isinstance(a, Foreign)}
    return Contents("mindspore", arrays, skipped=texts, foreign=foreign)


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file, without a checksum.

    Raises:
        OSError: The file system refuses.
    """
    with path.open("wb") as file:
        for name, array in arrays.items():
            content = array.tobytes()
            for start in range(0, max(len(content), 1), SLICE):
                file.write(_value(name, array, content[start : start + SLICE]))


def varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Read a base-128 number of at most 64 bits, and where what follows it starts.

    Raises:
        DamagedError: It does not end.
    """
    value = 0
    for i in range(10):
        if at + i >= len(data):
            raise DamagedError("it ends within a number")
        value |= (data[at + i] & 0x7F) << (7 * i)
        if data[at + i] < 0x80:
            return value & (2**64 - 1), at + i + 1
    raise DamagedError(f"a number of more than 10 bytes at byte {at}")


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and content of each field of a message.

    Raises:
        DamagedError: A field is longer than what is there, or of another kind than the format's.
    """
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        size, at = varint(data, at)
        if wire == VARINT:
            yield number, size
        elif wire == BYTES:
            if size > len(data) - at:
                raise DamagedError(f"a field of {size} bytes, of which {len(data) - at} are there")
            yield number, data[at : at + size]
            at += size
        else:
            raise DamagedError(f"a field of wire type {wire}")


def _without_trailer(data: bytes) -> memoryview:
    """Check and remove the checksum."""
    body, trailer = memoryview(data)[:-TRAILER_SIZE], data[-TRAILER_SIZE:]
    if not trailer.startswith(TRAILER):
        return memoryview(data)
    if int.from_bytes(trailer[len(TRAILER) :], "big") != zlib.crc32(body):
        raise DamagedError("its checksum is of other bytes")
    return body


def _arrays(data: memoryview) -> tuple[dict[str, np.ndarray | Foreign], tuple[str, ...]]:
    """Return the tensors, and the names of texts among them (UTF-32, such as a version)."""
    slices: dict[str, list[memoryview]] = {}
    kinds: dict[str, tuple[str, list[int]]] = {}
    last = None
    for count, (number, value) in enumerate(fields(data)):
        if count >= MOST_TENSORS:
            raise LimitError(f"it holds more than {MOST_TENSORS:,} values")
        if number != 1 or isinstance(value, int):
            raise DamagedError(f"field {number} where values are expected")
        tag, kind, content = _parse_value(value)
        if tag in kinds and (tag != last or kinds[tag] != kind):
            raise DamagedError(f"{tag} is there twice")
        kinds[tag], last = kind, tag
        slices.setdefault(tag, []).append(content)
    if not kinds:
        raise DamagedError("it holds no tensor")
    texts = tuple(tag for tag, (kind, _) in kinds.items() if kind == TEXT)
    return {t: _array(t, *kinds[t], slices[t]) for t in kinds if t not in texts}, texts


def _parse_value(value: memoryview) -> tuple[str, tuple[str, list[int]], memoryview]:
    tag, tensor = "", None
    for number, part in fields(value):
        if isinstance(part, int) or number not in (1, 2):
            raise DamagedError(f"{tag or 'a value'} is not a dense tensor")
        if tag if number == 1 else tensor is not None:
            raise DamagedError(f"{tag or 'a value'} has field {number} twice")
        if number == 1:
            tag = _text(part)
        else:
            tensor = part
    if not tag or tensor is None:
        raise DamagedError(f"{tag or 'a value'} has no {'tensor' if tag else 'name'}")
    dims: list[int] = []
    kind, content = "", memoryview(b"")
    for number, part in fields(tensor):
        if number == 1:
            dims += _dims(part)
        elif number == 2 and not isinstance(part, int) and not kind:
            kind = _text(part)
        elif number == 3 and not isinstance(part, int) and not content:
            content = part
        else:
            raise DamagedError(f"{tag} has a field {number} twice, or that tensors do not have")
        if len(dims) > LONGEST:
            raise DamagedError(f"{tag} has more than {LONGEST} dims")
    return tag, (kind, dims), content


def _dims(part: int | memoryview) -> list[int]:
    """Parse dims: one number, or several packed ones, as protobuf allows either."""
    if isinstance(part, int):
        return [part]
    found, at = [], 0
    while at < len(part):
        dim, at = varint(part, at)
        found.append(dim)
        if len(found) > LONGEST:
            break
    return found


def _array(tag: str, kind: str, dims: list[int], slices: list[memoryview]) -> np.ndarray | Foreign:
    if kind not in DTYPES and kind not in OTHERS:
        raise DamagedError(
            f"{tag} is {kind or 'of no dtype'}, expected {', '.join((*DTYPES, *OTHERS))}"
        )
    bits = numpy_dtype(DTYPES[kind]).itemsize * 8 if kind in DTYPES else OTHERS[kind]
    size = sum(map(len, slices))
    if dims == [0] and size == -(-bits // 8):
        dims = []
    if -(-math.prod(dims) * bits // 8) != size:
        shape = "x".join(map(str, dims)) or "a scalar"
        raise DamagedError(f"{tag} is {shape} of {kind}, but has {size} bytes")
    if max(dims, default=0) >= 2**31:  # next to a 0
        raise DamagedError(f"{tag} has a dim of {max(dims)}")
    if kind in OTHERS:
        return Foreign(kind, tuple(dims))
    dtype = numpy_dtype(DTYPES[kind])
    return np.frombuffer(b"".join(slices), dtype).reshape(dims).copy()


def _text(data: memoryview) -> str:
    try:
        text = bytes(data).decode()
    except UnicodeDecodeError:
        raise DamagedError("a name that is not UTF-8") from None
    if not text.isprintable():
        raise DamagedError(f"the name {text!r}")
    return text


def _printable(text: bytes) -> bool:
    return all(0x20 <= c < 0x7F for c in text)


def _value(name: str, array: np.ndarray, content: bytes) -> bytes:
    dims = b"".join(_varint(1 << 3 | VARINT) + _varint(n) for n in array.shape)
    tensor = dims + _bytes(2, NAMES[array.dtype.name].encode()) + _bytes(3, content)
    return _bytes(1, _bytes(1, name.encode()) + _bytes(2, tensor))


def _bytes(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
