"""The one exception that the command line turns into a line on stderr and exit status 2."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names the file, key or value, and says what was expected. What a
    file brings into it stays in that line, and cannot speak to the terminal: such characters are
    escaped.
    """

    def __init__(self, message: object) -> None:
        text = str(message)
        super().__init__(text if text.isprintable() else "".join(map(_visible, text)))


def _visible(character: str) -> str:
    printable = character.isprintable()
    return character if printable else character.encode("unicode_escape").decode()
