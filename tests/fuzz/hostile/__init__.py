"""Files made to do harm: a module per format, and what a kind of them is.

Another format needs a module with `kinds()` and a line in `MODULES`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

MODULES = (
    "pickles",
    "torch_files",
    "archives",
    "npz_files",
    "safetensors_files",
    "msgpack_files",
    "mindspore_files",
    "orbax_directories",
    "old_orbax",
    "manifests",
    "onnx_files",
)


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
    make: Callable[[Place], object]
    harmless: str = ""

    @property
    def task(self) -> str:
        """How it is read, a key of `tests.fuzz.watch.TASKS`."""
        return "onnx" if self.group == "onnx" else "inspect"


Content = bytes | Callable[[], bytes]


def files(
    group: str, contents: Mapping[str, Content], fine: Mapping[str, str] | None = None
) -> Iterator[Kind]:
    """Kinds that are one file each.

    Args:
        group: Of all of them.
        contents: Name -> what the file holds, or what makes it where that is large.
        fine: Name -> why it may be read after all; the others must be refused.
    """
    for name, content in contents.items():
        yield Kind(group, name, functools.partial(_write, content), (fine or {}).get(name, ""))


def _write(content: Content, place: Place) -> None:
    place.file.write_bytes(content if isinstance(content, bytes) else content())


@functools.cache
def all_kinds() -> tuple[Kind, ...]:
    """Every kind of hostile file, by group in the order of `MODULES`."""
    found: list[Kind] = []
    for name in MODULES:
        found += importlib.import_module(f"{__name__}.{name}").kinds()
    return tuple(found)
