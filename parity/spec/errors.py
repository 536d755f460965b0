"""The one exception that the command line turns into a line on stderr and exit status 2."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names the file, key or value, and says what was expected. What a
    file brings into it stays in that line, and cannot speak to the terminal: such characters are
    escaped.
    """

    def __init__(self, message: object) -> None:
        super().__init__(printable(str(message)))


def printable(text: str) -> str:
    """Without what a terminal would obey, and in one line; names come from files at will."""
    if text.isprintable():
        return text
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)
