"""What a kind of hostile file is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a hostile file is made.

    Attributes:
        file: The file or directory to make, in a folder of its own.
        outside: A folder that it must not reach.
        canary: A path outside; what a file runs makes something there.
    """

    file: Path
    outside: Path
    canary: Path


@dataclasses.dataclass(frozen=True)
class Kind:
    """One way to do harm.

    Attributes:
        group: What sort of file, such as `torch zip`.
        name: What is wrong with it.
        make: Makes the file.
        harmless: Why it may be read after all, as plain arrays; it must be refused if empty.
    """

    group: str
    name: str
    make: Callable[[Place], None]
    harmless: str = ""

    @property
    def task(self) -> str:
        """How it is read, a key of `tests.fuzz.watch.TASKS`."""
        return "onnx" if self.group == "onnx" else "inspect"


def of_bytes(group: str, name: str, data: bytes, harmless: str = "") -> Kind:
    """A kind that is the same bytes everywhere."""
    return Kind(group, name, lambda place: _write(place, data), harmless)


def of_function(group: str, name: str, data: Callable[[], bytes], harmless: str = "") -> Kind:
    """A kind whose bytes are large, and made when they are needed."""
    return Kind(group, name, lambda place: _write(place, data()), harmless)


def of_each(
    group: str, cases: dict[str, bytes], harmless: dict[str, str] | None = None
) -> Iterator[Kind]:
    """Kinds from name -> bytes."""
    for name, data in cases.items():
        yield of_bytes(group, name, data, (harmless or {}).get(name, ""))


def _write(place: Place, data: bytes) -> None:
    place.file.write_bytes(data)
