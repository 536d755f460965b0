"""Mutants of hostile files: changed at random, cut, and spliced with each other."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tests.fuzz.cases import Arena, Read
from tests.fuzz.hostile import Kind, Place
from tests.fuzz.hostile.orbax_directories import lay

LARGEST = 2**18  # bytes of a file that is mutated: in a larger one, hardly any byte matters
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0xFE, ord("{"), ord("("), ord("["), ord("."), ord("/"))

Edit = tuple[int, int, bytes]  # from where, to where, and what stands there afterwards


def drawn(data: bytes, other: bytes, rng: np.random.Generator) -> dict[str, Edit]:
    """One change of each sort, at the same place.

    Args:
        data: What is changed, at least one byte.
        other: Another file, from which pieces come.
        rng: Draws where and how.
    """
    at, start = int(rng.integers(len(data))), int(rng.integers(len(other) + 1))
    few, wide = int(rng.integers(1, 9)), (4, 8)[rng.integers(2)]
    border = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63)[rng.integers(7)]
    number = (border % 2 ** (8 * wide)).to_bytes(wide, ("little", "big")[rng.integers(2)])
    known = INTERESTING[rng.integers(len(INTERESTING))]
    graft = other[start : start + int(rng.integers(1, 257))]
    return {
        "one bit the other way": (at, at + 1, bytes([data[at] ^ 1 << int(rng.integers(8))])),
        "one byte that means something in many formats": (at, at + 1, bytes([known])),
        "a number at a border": (at, at + wide, number),
        "a few bytes between": (at, at, rng.bytes(few)),
        "a few bytes away": (at, at + few, b""),
        "a piece many times": (at, at, data[at : at + int(rng.integers(1, 65))] * few),
        "without its end": (at, len(data), b""),
        "from somewhere on, another file": (at, len(data), other[start:]),
        "a piece of another file over its own": (at, at + len(graft), graft),
    }


def mutate(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Some changes, one after the other: mostly one or two."""
    for _ in range(int(rng.geometric(0.5))):
        if data:
            edits = list(drawn(data, other, rng).values())
            at, end, piece = edits[rng.integers(len(edits))]
            data = data[:at] + piece + data[end:]
    return data


class Breeder:
    """Makes mutants of hostile kinds, and has them read.

    Args:
        arena: Where they are made and read.
        kinds: Of what; those that are too large are left out.
    """

    def __init__(self, arena: Arena, kinds: Iterable[Kind]) -> None:
        self.arena = arena
        self.stock: dict[Kind, dict[str, bytes]] = {}
        for kind in kinds:
            kind.make(arena.place())
            files = files_in(arena.folder)
            if files and max(map(len, files.values())) <= LARGEST:
                self.stock[kind] = files
        self.kinds = list(self.stock)

    def read(self, seed: int, number: int) -> Read:
        """Change one file of a kind, and have it read; it may be read as plain arrays."""
        rng = np.random.default_rng([seed, number])
        kind = self.kinds[rng.integers(len(self.kinds))]
        mates = [k for k in self.kinds if k.group == kind.group] if rng.integers(4) else self.kinds
        mate = self.stock[mates[rng.integers(len(mates))]]
        files = dict(self.stock[kind])
        name = list(files)[rng.integers(len(files))]
        other = list(mate.values())[rng.integers(len(mate))]
        files[name] = mutate(files[name], other, rng)
        title = f"mutant {number} of {kind.name}"
        make = functools.partial(_lay, files)
        return self.arena.read(Kind(kind.group, title, make, "arrays, and nothing else"))


def files_in(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, by its path, but for links, pipes and more than can be changed."""
    found = (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    kept = {p.relative_to(folder).as_posix(): p for p in found}
    return {name: p.read_bytes() for name, p in kept.items() if p.stat().st_size <= LARGEST + 1}


def _lay(files: dict[str, bytes], place: Place) -> None:
    lay(place.file.parent, files)
