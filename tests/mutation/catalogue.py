"""The faults of the contract: what one is, and all of them, as `faults.diff` lists them."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.mutation.judges import JUDGES

PATH = Path(__file__).with_name("faults.diff")
HEADING = re.compile(r"== (.+) \| (.+) \| (.+)")


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: What it is a fault of, such as `recipes`.
        title: What is done wrong.
        file: Where, relative to the checkout.
        right: The text that stands there, exactly once.
        wrong: What is injected in its place.
        judges: Keys of `JUDGES`: whose tests may find it.
    """

    kind: str
    title: str
    file: str
    right: str
    wrong: str
    judges: tuple[str, ...]

    @property
    def module(self) -> str:
        """What the file is imported as."""
        parts = Path(self.file).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def selection(self) -> list[str]:
        """What pytest is asked to run."""
        return [test for judge in self.judges for test in JUDGES[judge].tests]


def listed(text: str) -> Iterator[Fault]:
    """Read a list of faults; see the beginning of `faults.diff`."""
    kind = file = title = ""
    judges: tuple[str, ...] = ()
    sides: dict[str, list[str]] = {"-": [], "+": []}

    def made() -> Iterator[Fault]:
        if title:
            right, wrong = ("\n".join(lines) for lines in sides.values())
            yield Fault(kind, title, file, right, wrong, judges)

    for line in text.splitlines():
        if line[:1] in sides:
            sides[line[0]].append(line[2:])
        elif line and not line.startswith("#"):
            yield from made()
            heading, sides = HEADING.fullmatch(line), {"-": [], "+": []}
            title = "" if heading else line
            if heading:
                kind, file, judges = heading[1], heading[2], tuple(heading[3].split(", "))
    yield from made()


FAULTS = tuple(listed(PATH.read_text()))
KINDS = tuple(dict.fromkeys(fault.kind for fault in FAULTS))


def fast() -> list[Fault]:
    """One of each kind."""
    return [next(fault for fault in FAULTS if fault.kind == kind) for kind in KINDS]


def stale(faults: Iterable[Fault], root: Path) -> list[str]:
    """One line for each fault that cannot be injected: its text is not there exactly once."""
    text = functools.cache(lambda path: path.read_text() if path.is_file() else "")
    found = []
    for fault in faults:
        count = text(root / fault.file).count(fault.right)
        if count != 1:
            first = fault.right.strip().splitlines()[0]
            found.append(f"{fault.title}: {first!r} stands {count} times in {fault.file}, not once")
    return found
