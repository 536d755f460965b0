"""Hostile files, each read once; what is found of each is what the table prints."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fuzz.canaries import Canaries
from tests.fuzz.hostile import Kind, Place
from tests.fuzz.samples import network, sample
from tests.fuzz.sandbox import Sandbox, Verdict
from weights_convert import formats


@dataclasses.dataclass(frozen=True)
class Read:
    """How one hostile file was taken.

    Attributes:
        kind: What it was.
        verdict: What the child says.
    """

    kind: Kind
    verdict: Verdict

    @property
    def faults(self) -> tuple[str, ...]:
        """What must not be."""
        if self.verdict.outcome == "loaded" and not self.kind.harmless:
            return (*self.verdict.faults, "loaded: it must be refused")
        return self.verdict.faults


@contextmanager
def arena() -> Iterator[tuple[Sandbox, Path]]:
    """A child that has read everything once, and a folder in which hostile files are made.

    Beside that folder lies one called `outside`, with a secret in it, which is watched.
    """
    with tempfile.TemporaryDirectory(prefix="parity-arena-") as name:
        folder = Path(name)
        warm = [sample(folder, format) for format in formats.FORMATS] + [network(folder)]
        canaries = Canaries(folder / "outside")
        (canaries.folder / "secret").write_bytes(b"kept\n" * 100)
        canaries.watch()
        try:
            with Sandbox(canaries, warm, tasks=("load", "inspect", "onnx")) as sandbox:
                yield sandbox, folder / "inside"
        finally:
            canaries.close()


def place(folder: Path, canaries: Canaries) -> Place:
    """An empty folder for one file."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return Place(folder / "file", canaries.folder, canaries.canary)


def read(kind: Kind, sandbox: Sandbox, folder: Path) -> Read:
    """Make a hostile file and have it read."""
    assert sandbox.canaries is not None
    where = place(folder, sandbox.canaries)
    kind.make(where)
    return Read(kind, sandbox.read(where.file, kind.task))
