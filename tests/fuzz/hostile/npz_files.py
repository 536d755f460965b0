"""NumPy's files whose headers lie."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.fuzz.hostile import Kind, files
from tests.fuzz.hostile.zips import Entry, archive


def headed(header: str | bytes, body: bytes = bytes(8), version: int = 1) -> bytes:
    """A .npy file with a header at will."""
    text = header.encode("latin1") if isinstance(header, str) else header
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + body


def described(descr: str = "'<f4'", shape: str = "(2,)", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}\n"


def headers() -> dict[str, bytes]:
    """Name -> a .npy file."""
    return {
        "a dim of 2**62": headed(described(shape=f"({2**62},)")),
        "dims whose product overflows": headed(described(shape=f"({2**32}, {2**32})")),
        "a negative dim": headed(described(shape="(-2,)")),
        "two negative dims": headed(described(shape="(-1, -2)")),
        "a dim of 0 beside 2**62": headed(described(shape=f"(0, {2**62})"), b""),
        "dims that are true": headed(described(shape="(True, 2)")),
        "dims of a float": headed(described(shape="(2.0,)")),
        "dims of text": headed(described(shape="('2',)")),
        "100 dims": headed(described(shape=f"({'1,' * 100})"), bytes(4)),
        "a dim of 5,000 digits": headed(described(shape=f"({'9' * 5000},)")),
        "objects": headed(described("'|O'")),
        "objects within a record": headed(described("[('a', '<f4'), ('b', '|O')]")),
        "records": headed(described("[('a', '<f4'), ('b', '<i4')]", shape="(1,)")),
        "records of records, 50 deep": headed(described("[('a', " * 50 + "'<f4'" + ")]" * 50)),
        "text of 2**31 letters": headed(described(f"'<U{2**31 - 1}'", shape="(0,)"), b""),
        "raw bytes": headed(described("'|V4'")),
        "a dtype of no size": headed(described("'|V0'", shape=f"({2**62},)"), b""),
        "dates": headed(described("'<M8[ns]'", shape="(1,)")),
        "the other byte order": headed(described("'>f4'")),
        "a dtype of another world": headed(described("'float9000'")),
        "a dtype that is code": headed(described("__import__('os').system('true')")),
        "a header that is code": headed("__import__('os').system('true')"),
        "a header 5,000 brackets deep": headed("(" * 5000 + ")" * 5000),
        "a header of 60,000 minuses": headed("-" * 60_000 + "1"),
        "a header that is none": headed("\xff" * 100),
        "a header that lacks the shape": headed("{'descr': '<f4', 'fortran_order': False}"),
        "a header with more": headed(described()[:-2] + ", 'x': 1}"),
        "a header of 4 GiB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
        "a header cut short": headed(described())[:40],
        "an order of text": headed(described(order="'yes'")),
        "version 3": headed(described(), version=3),
        "version 9": headed(described(), version=9),
        "another magic": b"\x93PANDAS" + headed(described())[6:],
        "too little": headed(described(), bytes(7)),
        "too much": headed(described(), bytes(9)),
        "nothing": b"",
    }


def kinds() -> Iterator[Kind]:
    """All."""
    plain = ("records", "records of records, 50 deep", "raw bytes", "dates", "the other byte order")
    archives = {name: archive([Entry("a.npy", data)]) for name, data in headers().items()}
    yield from files("npz", archives, dict.fromkeys(plain, "it is described, and not read"))
