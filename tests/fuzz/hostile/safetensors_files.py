"""Safetensors whose header lies."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from tests.fuzz.hostile import Content, Kind, files

BODY = bytes(range(24))


def entry(shape: Any = (2, 3), offsets: Any = (0, 24), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def headed(header: Any, body: bytes = BODY, length: int | None = None) -> bytes:
    """A file with a header at will, as JSON values or as bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length % 2**64) + text + body


def offsets() -> dict[str, Content]:
    """Tensors that lie elsewhere than between their neighbours."""
    half = entry((3,), (0, 12))
    return {
        "two at one place": headed({"a": entry(), "b": entry()}),
        "two that overlap": headed({"a": half, "b": entry((4,), (8, 24))}),
        "a gap between": headed({"a": entry((2,), (0, 8)), "b": entry((3,), (12, 24))}),
        "a gap before": headed({"a": entry((5,), (4, 24))}),
        "bytes behind": headed({"a": half}),
        "not in order": headed({"b": entry((3,), (12, 24)), "a": half}),
        "from the end backwards": headed({"a": entry((2, 3), (24, 0))}),
        "outside": headed({"a": entry((2, 3), (2**40, 2**40 + 24))}),
        "up to 2**64 - 1": headed({"a": entry((2, 3), (0, 2**64 - 1))}),
        "beyond 2**64": headed({"a": entry((2, 3), (0, 2**64 + 24))}),
        "negative": headed({"a": entry((2, 3), (-24, 0))}),
        "of floats": headed({"a": entry((2, 3), (0.0, 24.0))}),
        "of text": headed({"a": entry((2, 3), ("0", "24"))}),
        "one": headed({"a": entry((2, 3), (0,))}),
        "three": headed({"a": entry((2, 3), (0, 24, 24))}),
        "none": headed({"a": {"dtype": "F32", "shape": [2, 3]}}),
    }


def shapes() -> dict[str, Content]:
    """Tensors of another shape or dtype than their bytes."""
    return {
        "a dim of 2**62": headed({"a": entry((2**62,))}),
        "dims whose product is 6 again": headed({"a": entry((2**63 + 3, 2))}),
        "a dim of 2**70": headed({"a": entry((2**70,))}),
        "a negative dim": headed({"a": entry((-2, -3))}),
        "a dim of 0 beside 2**62": headed({"a": entry((0, 2**62), (0, 0))}, b""),
        "a dim of 0 beside 2**63": headed({"a": entry((0, 2**63), (0, 0))}, b""),
        "dims of floats": headed({"a": entry((2.0, 3))}),
        "dims that are true": headed({"a": entry((True, 6))}),
        "100 dims": headed({"a": entry([1] * 99 + [6])}),
        "1,000,000 dims": headed({"a": entry([1] * 10**6 + [6])}),
        "no shape": headed({"a": {"dtype": "F32", "data_offsets": [0, 24]}}),
        "too few numbers": headed({"a": entry((2, 2))}),
        "an unknown dtype": headed({"a": entry(dtype="F33")}),
        "a dtype of 4 bits": headed({"a": entry((48,), dtype="F4")}),
        "a dtype of 8 bits": headed({"a": entry((24,), dtype="F8_E4M3")}),
        "no dtype": headed({"a": {"shape": [2, 3], "data_offsets": [0, 24]}}),
        "a number as dtype": headed({"a": entry(dtype=7)}),
    }


def headers() -> dict[str, Content]:
    """Headers that are none."""
    good = json.dumps({"a": entry()}).encode()
    twice = good[:-1] + b", " + good[1:]
    notes = good[:-1] + b', "__metadata__": '
    return {
        "a length of 2**63": headed(good, length=2**63),
        "a length of 2**64 - 1": headed(good, length=-1),
        "a length of 99,000,000": headed(good, length=99_000_000),
        "a length one too long": headed(good, length=len(good) + 1),
        "a length one too short": headed(good, length=len(good) - 1),
        "a length of 0": headed(good, length=0),
        "a name twice": headed(twice),
        "a name twice, the second another": headed(twice.replace(b"[2, 3]", b"[3, 2]", 1)),
        "a field twice": headed(good.replace(b'"shape"', b'"shape": [6], "shape"')),
        "metadata twice": headed(notes + b'{"a": "b"}, "__metadata__": {"a": "c"}}'),
        "a metadata key twice": headed(notes + b'{"a": "b", "a": "c"}}'),
        "metadata of numbers": headed(notes + b'{"a": 1}}'),
        "metadata in metadata": headed(notes + b'{"a": {"b": "c"}}}'),
        "metadata that is a list": headed(notes + b"[1]}"),
        "metadata that is null": headed(notes + b"null}"),
        "JSON 100,000 deep": headed(b'{"a": ' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
        "metadata 100,000 deep": headed(notes + b"[" * 10**5 + b"]" * 10**5 + b"}"),
        "objects 100,000 deep": headed(b'{"a": ' * 10**5 + b"1" + b"}" * 10**5),
        "no JSON": headed(b"{nothing of the kind}"),
        "JSON with a comma too many": headed(good[:-1] + b",}"),
        "JSON of NaN": headed(good.replace(b"[2, 3]", b"[NaN, 3]")),
        "JSON that is not UTF-8": headed(good.replace(b'"a"', b'"\xff"')),
        "JSON with something behind": headed(good + b"{}"),
        "nothing in it": headed(b"{}", b""),
        "a field too many": headed(good.replace(b'"shape"', b'"code": "x", "shape"')),
        "a number of a million digits": headed(good.replace(b"[2, 3]", b"9" * 10**6)),
        "a name with escapes": headed({"\x1b[2J\n": entry()}),
        "a name of half a letter": headed(good.replace(b'"a"', b'"\\ud800"')),
        "no name": headed({"": entry()}),
    }


def empty(count: int) -> bytes:
    """So many tensors without a number."""
    return headed({str(i): entry((0,), (0, 0)) for i in range(count)}, b"")


def large() -> dict[str, Content]:
    """Headers that want memory for next to nothing."""
    return {
        "1,000,000 empty tensors": lambda: empty(10**6),
        "60,000 empty tensors": lambda: empty(60_000),
        "40,000 empty tensors": lambda: empty(40_000),
        "1,000,000 notes": lambda: headed(
            {"__metadata__": {str(i): "" for i in range(10**6)}, "a": entry()}
        ),
    }


FINE = {
    "offsets: not in order": "any order of names is allowed, and the bytes are all there once",
    "header: no name": "a tensor may be called nothing",
    "header: metadata that is null": "null is no metadata",
    "header: a field too many": "what the format does not know is not looked at",
    "header: 40,000 empty tensors": "they are not too many, and each is an array",
    "shape: a dtype of 4 bits": "it is described, and not read",
    "shape: a dtype of 8 bits": "it is described, and not read",
}


def kinds() -> Iterator[Kind]:
    """All."""
    groups = {"offsets": offsets(), "shape": shapes(), "header": headers() | large()}
    for title, cases in groups.items():
        named = {f"{title}: {name}": content for name, content in cases.items()}
        yield from files("safetensors", named, FINE)
