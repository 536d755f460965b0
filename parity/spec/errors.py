"""The one exception that the command line turns into a line on stderr and exit status 2."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names the file, key or value, and says what was expected.
    """


def printable(text: str) -> str:
    """Without what a terminal would obey, and in one line; names come from files at will."""
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)
