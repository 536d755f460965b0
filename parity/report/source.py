"""Lines of the user's source files."""

from __future__ import annotations

import dataclasses
from pathlib import PurePath


@dataclasses.dataclass(frozen=True, order=True)
class SourceLine:
    """A line of a source file; false where it is not known.

    Attributes:
        path: The file, as Python knows it; empty where it is not known.
        number: The line, from 1.
    """

    path: str = ""
    number: int = 0

    def __str__(self) -> str:
        """The file's name, without its folder, and the line's number."""
        return f"{PurePath(self.path).name}:{self.number}" if self.path else ""

    def __bool__(self) -> bool:
        return bool(self.path)


NO_LINE = SourceLine()  # not known
