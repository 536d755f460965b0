"""Lines of text at a terminal, whose words stay whole."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import TextIO


def broken(line: str, width: int) -> Iterator[tuple[int, int, int]]:
    """Break a line between words, as a terminal breaks it within them.

    A word that is wider than the terminal stays whole.

    Args:
        line: Its first words, if two spaces or more follow, are a heading: what follows is indented
            as the first line is behind it.
        width: How many characters fit.

    Yields:
        Of each line: how many spaces come first, and which characters of the line follow, from the
        first to before the last.
    """
    lead = len(line) - len(line.lstrip())
    heading = re.match(r"\s*\S+( \S+)* {2,}", line)
    indent = min(heading.end() if heading else lead + 2, width // 2)
    lengths = map(len, line[heading.end() if heading else 0 :].split())
    longest = max((length for length in lengths if length <= width), default=0)
    indent = min(indent, width - longest)  # a name that fits a line of its own is whole
    first = start = last = 0
    for word in re.finditer(r"\S+", line):
        if last > start and word.end() - first + (indent if start else 0) > width:
            yield (indent if start else 0), first, last
            first = start = word.start()
        last = word.end()
    yield (indent if start else 0), first, len(line)


def say(text: str, to: TextIO | None = None) -> None:
    """Print lines; at a terminal they are broken between words.

    Args:
        text: The lines.
        to: Where to; standard output if not given.
    """
    stream = sys.stdout if to is None else to
    if stream.isatty():
        with contextlib.suppress(OSError, ValueError):
            given = os.environ.get("COLUMNS", "")
            width = int(given) if given.isdigit() else os.get_terminal_size(stream.fileno()).columns
            lines = text.splitlines() or [""]
            parts = [(line, part) for line in lines for part in broken(line, width or 80)]
            text = "\n".join(" " * part[0] + line[part[1] : part[2]] for line, part in parts)
    print(text, file=stream, flush=True)
