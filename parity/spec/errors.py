"""The one exception that the command line turns into a line on stderr and exit status 2."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar

SHOWN = 5  # offenders that a message names; the others it counts
WIDEST = 300  # characters of one of them
LONGEST = 5_000  # characters of a whole message: a path may have 4,096
_all_listed = ContextVar("all_listed", default=False)


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names the file, key or value, and says what was expected. Text from
    a file stays in that line and cannot control the terminal: such characters are escaped. A
    message longer than `LONGEST` loses its middle, but for one that was asked to list all.
    """

    def __init__(self, message: object) -> None:
        text = printable(str(message))
        super().__init__(text if _all_listed.get() else shortened(text, LONGEST))


@contextlib.contextmanager
def all_listed(wanted: bool = True) -> Iterator[None]:
    """Let messages list every item, not only the first few, until the block ends."""
    token = _all_listed.set(wanted)
    try:
        yield
    finally:
        _all_listed.reset(token)


def listed(items: Iterable[object], joint: str = ", ", shown: int = SHOWN) -> str:
    """Join the first few items in one line, with the number of the others, for a message.

    Inside of `all_listed` all items are joined.

    Args:
        items: The items, the most informative first.
        joint: The separator.
        shown: Number of items to list.
    """
    texts = list(map(str, items))
    if _all_listed.get():
        return joint.join(texts)
    more = f" and {len(texts) - shown:,} more" if len(texts) > shown else ""
    return joint.join(shortened(text, WIDEST) for text in texts[:shown]) + more


def in_list(items: Sequence[str]) -> Sequence[str]:
    """Return those of the items that `listed` names."""
    return items if _all_listed.get() else items[:SHOWN]


def shortened(text: str, longest: int) -> str:
    """Shorten a text of more characters by leaving out its middle."""
    if len(text) <= longest:
        return text
    end = longest // 4
    return f"{text[: longest - end - 5]} ... {text[-end:]}"


def one_line(text: object, longest: int = WIDEST) -> str:
    """Join the lines of a text, such as an exception's, and cut it off after so many characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= longest else f"{line[:longest]} ..."


def printable(text: str) -> str:
    """Escape control characters, and join lines: file names may contain anything."""
    if text.isprintable():
        return text
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)
