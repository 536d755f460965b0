"""Hostile files, each read once; what is found of each is what the table prints."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.canaries import Canaries
from tests.fuzz.hostile import Kind, Place
from tests.fuzz.samples import network, sample
from tests.fuzz.sandbox import Sandbox, Verdict
from weights_convert import formats


class Read(NamedTuple):
    """How one hostile file was taken: what it was, and what the child says."""

    kind: Kind
    verdict: Verdict

    @property
    def faults(self) -> tuple[str, ...]:
        """What must not be."""
        if self.verdict.outcome == "loaded" and not self.kind.harmless:
            return (*self.verdict.faults, "loaded: it must be refused")
        return self.verdict.faults


class Arena(NamedTuple):
    """A child that has read everything once, and a folder in which hostile files are made."""

    sandbox: Sandbox
    canaries: Canaries
    folder: Path

    def place(self) -> Place:
        """Empty the folder for one file."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        return Place(self.folder / "file", self.canaries.folder, self.canaries.canary)

    def read(self, kind: Kind) -> Read:
        """Make a hostile file and have it read."""
        where = self.place()
        kind.make(where)
        return Read(kind, self.sandbox.read(where.file, kind.task))


@contextmanager
def arena() -> Iterator[Arena]:
    """Make an arena; beside its folder lies `outside`, with a secret in it, which is watched."""
    with tempfile.TemporaryDirectory(prefix="parity-arena-") as name:
        folder = Path(name)
        warm = [sample(folder, format) for format in formats.FORMATS] + [network(folder)]
        canaries = Canaries(folder / "outside")
        (canaries.folder / "secret").write_bytes(b"kept\n" * 100)
        canaries.watch()
        try:
            with Sandbox(canaries, warm, tasks=("load", "inspect", "onnx")) as sandbox:
                yield Arena(sandbox, canaries, folder / "inside")
        finally:
            canaries.close()
