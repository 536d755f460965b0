"""The result of comparing two traces, and how one's names become the other's."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from parity.spec.errors import InputError

Rename = tuple[re.Pattern[str], str]


@dataclasses.dataclass(frozen=True)
class Compared:
    """One quantity of both traces.

    Attributes:
        run: The run, such as `train float64`.
        what: What was compared, such as `output 0` or `gradient`.
        one: Its layer or tensor in the first trace.
        other: The same in the second.
        error: The relative difference in the Euclidean norm, over the best order of axes.
        limit: How large it may be.
        note: Why it cannot be compared; or the order of axes, where it is another one.
    """

    run: str
    what: str
    one: str
    other: str
    error: float
    limit: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Return whether the difference is within the limit."""
        return self.error <= self.limit

    def __str__(self) -> str:
        name = self.one if self.one == self.other else f"{self.one} ({self.other})"
        note = f": {self.note}" if self.note else ""
        found = f"difference {self.error:.1e}, limit {self.limit:.1e}"
        return f"{self.run}, {name}, {self.what}: {found}{note}"


@dataclasses.dataclass
class Comparison:
    """What two traces have in common.

    Attributes:
        compared: What was compared, run by run, a layer after the other as the first ran them.
        left_out: Lines on what has no counterpart.
    """

    compared: list[Compared]
    left_out: list[str]

    @property
    def ok(self) -> bool:
        """Return whether something was compared, and nothing differs."""
        return bool(self.compared) and all(c.ok for c in self.compared)

    def first(self) -> Compared | None:
        """Return the first that differs, layers before what follows from them."""
        return next((c for c in self.compared if not c.ok), None)


def renames(texts: Sequence[str]) -> list[Rename]:
    """Return what `PATTERN=REPLACEMENT` says; the last `=` counts.

    Raises:
        InputError: There is no `=`, or the pattern is none.
    """
    found = []
    for text in texts:
        pattern, sign, replacement = text.rpartition("=")
        if not sign:
            raise InputError(f"--rename {text!r}, expected PATTERN=REPLACEMENT")
        try:
            compiled = re.compile(pattern)
            compiled.sub(replacement, "")
            re.compile(f"(?:{pattern})|").sub(
                replacement, ""
            )  # does it name groups that there are?
        except (re.error, IndexError) as error:
            raise InputError(f"--rename {text!r}: {error}") from error
        found.append((compiled, replacement))
    return found
