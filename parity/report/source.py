"""Lines of the user's source files."""

from __future__ import annotations

import dataclasses
import sysconfig
import traceback
from pathlib import Path, PurePath

# Lines of installed packages, of Python itself and of this package are no user's.
PACKAGES = {"site-packages", "dist-packages"}
FOLDERS = (Path(sysconfig.get_path("stdlib")).resolve(), Path(__file__).resolve().parents[1])


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

    def excerpt(self, around: int = 4) -> list[tuple[int, str]]:
        """Return the lines around it with their numbers; nothing where the file cannot be read."""
        try:
            lines = Path(self.path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return []
        first, last = max(self.number - around, 1), min(self.number + around, len(lines))
        return [(number, lines[number - 1]) for number in range(first, last + 1)]


NO_LINE = SourceLine()  # not known


def raised_at(error: BaseException | None) -> SourceLine:
    """Return the innermost line of the user's that an exception came through.

    Args:
        error: None, or an exception of libraries alone, came through no line that is known.
    """
    if error is None:
        return NO_LINE
    if isinstance(error, SyntaxError) and Path(error.filename or "").is_file():
        return SourceLine(str(error.filename), error.lineno or 1)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename).resolve()
        library = PACKAGES & set(file.parts) or any(file.is_relative_to(f) for f in FOLDERS)
        if not library and not frame.filename.startswith("<"):
            return SourceLine(frame.filename, frame.lineno or 1)
    return NO_LINE
