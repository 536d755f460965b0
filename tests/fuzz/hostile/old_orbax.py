"""Orbax directories of before version 0.3: a tree in msgpack, whose keys name folders of arrays."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz.hostile import Kind
from tests.fuzz.hostile.msgpack_files import array, packed
from tests.fuzz.hostile.orbax_directories import Edit, content, edits, kind, linked, piped, without

TREE = "checkpoint"  # the file with the tree
INDEX = "model.safetensors.index.json"


def old(tree: bytes) -> Edit:
    """With a tree of the old kind alone."""
    return edits(without("_METADATA"), content(TREE, tree))


def indexed(part: Edit) -> Edit:
    """No Orbax directory, but one with an index of shards that is something else."""
    return edits(without("_METADATA"), content(INDEX, b'{"weight_map": {"a": "b"}}'), part)


def trees() -> dict[str, bytes]:
    """Contents of the tree's file."""
    weight = {"weight": "PLACEHOLDER://a.weight"}
    million = (10**6).to_bytes(4, "big") + b"\x80" * 10**6
    return {
        "a name of ../": packed({"../outside": "PLACEHOLDER://../outside"}),
        "a name of ..": packed({"..": "PLACEHOLDER://.."}),
        "a name with a newline": packed({"a\nb": "PLACEHOLDER://a"}),
        "a name that is bytes": packed({b"a": "PLACEHOLDER://a"}),
        "an array that is not there": packed({"b": "PLACEHOLDER://b"}),
        "objects": packed({"a": array((1,), "O", bytes(8))}),
        "a name twice": b"\x82\xa1a\xc0\xa1a\xc0",
        "5,000 deep": b"\x81\xa1a" * 5000 + b"\xc0",
        "a million empty maps": b"\x81\xa1a\xdd" + million,
        "cut short": packed({"a": weight})[:-4],
        "no array in it": packed({"a": "text"}),
    }


def kinds() -> Iterator[Kind]:
    """All; `both` has a tree of each age, of which Orbax reads both."""
    made = trees()
    moved = edits(old(packed({"a": {"weight": "PLACEHOLDER://a.weight"}})), linked(TREE))
    for name, tree in made.items():
        yield kind(f"old: {name}", old(tree), ocdbt=False)
    for name in ("a name of ..", "objects", "a million empty maps"):
        yield kind(f"both: {name}", content(TREE, made[name]), ocdbt=False)
    yield kind("old: the tree is a link", moved, ocdbt=False)
    yield kind("an index of shards that is a link", indexed(linked(INDEX)))
    yield kind("an index of shards that is a pipe", indexed(piped(INDEX)))
