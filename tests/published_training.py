"""What the published training programs say, read so that nothing of it is passed over.

`golden/published_training.json` holds the numbers of the published programs. A test takes a part of
it with `holds("enet/optimizer")` and fails if it leaves a number of its part unread; another test
compares the parts that are taken with the whole file.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Path_ = tuple[str | int, ...]
FILE = Path(__file__).parent / "golden" / "published_training.json"
TAKEN: set[Path_] = set()  # the parts that a test holds our contract against


def document() -> dict[str, Any]:
    """The whole file."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def leaves(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The path of each number, text and null."""
    pairs: Any = enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, dict):
        pairs = value.items()
    elif not isinstance(value, list):
        yield path
    for key, inner in pairs:
        yield from leaves(inner, (*path, key))


class Entry:
    """A part of the file that knows which of its leaves were read.

    Args:
        value: A list or a table.
        path: Where it stands.
        unread: Paths of leaves, shared with the parts inside of it.
    """

    def __init__(self, value: Any, path: Path_, unread: set[Path_] | None = None) -> None:
        self.value, self.path = value, path
        self.unread = set(leaves(value, path)) if unread is None else unread

    def __getitem__(self, key: Any) -> Any:
        inner, path = self.value[key], (*self.path, key)
        if isinstance(inner, dict | list):
            return Entry(inner, path, self.unread)
        self.unread.discard(path)
        return inner

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        """What a list holds."""
        return (self[i] for i in range(len(self.value)))

    def items(self) -> Iterator[tuple[str, Any]]:
        """What a table holds."""
        return ((key, self[key]) for key in self.value)

    def plain(self) -> Any:
        """All of it, to be compared as a whole."""
        self.unread -= set(leaves(self.value, self.path))
        return self.value


def part(path: str) -> Any:
    """A part by its keys, joined by `/`: an `Entry`, or the number or text that stands there."""
    value, keys = document(), tuple(path.split("/"))
    for key in keys:
        value = value[key]
    return Entry(value, keys) if isinstance(value, dict | list) else value


def holds(*paths: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a test these parts first; it fails if it leaves anything of them unread."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        def held(**fixtures: Any) -> None:
            entries = [part(path) for path in paths]
            test(*entries, **fixtures)
            unread = sorted(
                map(str, (p for e in entries if isinstance(e, Entry) for p in e.unread))
            )
            assert not unread, f"not compared: {', '.join(unread[:5])}"

        TAKEN.update(tuple(path.split("/")) for path in paths)
        signature = inspect.signature(test)
        rest = list(signature.parameters.values())[len(paths) :]
        held.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]  # any function may have one
        held.__name__, held.__doc__, held.__module__ = test.__name__, test.__doc__, test.__module__
        return held

    return decorate


def passed_over(found: dict[str, Any], taken: set[Path_]) -> list[Path_]:
    """Leaves that are in no part that a test takes."""
    return [p for p in leaves(found) if not any(p[: len(part)] == part for part in taken)]
