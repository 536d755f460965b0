"""What a fault of the contract is: a text of a file, and what stands there instead."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from tests.mutation.judges import JUDGES

KINDS = (
    "recipes",
    "data",
    "networks",
    "losses",
    "optimizers",
    "the loop",
    "scores",
    "names",
    "mixed precision",
)


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: One of `KINDS`.
        title: What is done wrong.
        file: Where, relative to the checkout.
        right: The text that stands there, exactly once.
        wrong: What is injected in its place.
        judges: Keys of `JUDGES`: whose tests may find it.
        equivalent: Why nothing computed or written differs; empty where something does.
    """

    kind: str
    title: str
    file: str
    right: str
    wrong: str
    judges: tuple[str, ...]
    equivalent: str = ""

    @property
    def module(self) -> str:
        """What the file is imported as."""
        parts = Path(self.file).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def selection(self) -> list[str]:
        """What pytest is asked to run."""
        return [test for judge in self.judges for test in JUDGES[judge].tests]


def stale(faults: Iterable[Fault], root: Path) -> list[str]:
    """One line for each fault that cannot be injected: its text is not there exactly once."""
    texts: dict[str, str] = {}
    found = []
    for fault in faults:
        if fault.file not in texts:
            path = root / fault.file
            texts[fault.file] = path.read_text() if path.is_file() else ""
        count = texts[fault.file].count(fault.right)
        if count != 1:
            first = fault.right.strip().splitlines()[0]
            found.append(f"{fault.title}: {first!r} stands {count} times in {fault.file}, not once")
    return found
