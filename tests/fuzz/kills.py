"""Writing that is killed: afterwards the target is the old one or the new one, whole.

Two sorts of kills. At random instants, half of them anywhere in the run and half while it writes.
And at every step: before each change that Python makes to the file system, which random instants
would hardly hit.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

from parity.spec.errors import InputError
from tests.fuzz.forge import Forge
from tests.fuzz.samples import SUFFIXES, source
from weights_convert import convert, load
from weights_convert.hashes import tensor_sha256s, whole_sha256

LEFT = (".parity-", ".tmp")  # what left-over names contain


@dataclasses.dataclass
class Kills:
    """What became of one format's target.

    Attributes:
        format: A key of `formats.FORMATS`.
        way: `random` or `steps`.
        killed: How many runs were killed before they ended.
        writing: How many of them after the writing had begun.
        old: How many left the old target.
        new: How many left the new one.
        faults: What was neither, a line each.
        left: How many folders lay there after the last one.
        swept: Whether the next run removed them.
    """

    format: str
    way: str
    killed: int = 0
    writing: int = 0
    old: int = 0
    new: int = 0
    faults: list[str] = dataclasses.field(default_factory=list)
    left: int = 0
    swept: bool = True

    @property
    def ok(self) -> bool:
        return self.killed > 0 and not self.faults and self.swept


def endure(
    folder: Path,
    format: str,
    way: str,
    count: int,
    seed: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Kills:
    """Kill so many conversions of one format.

    Args:
        folder: Where files are made.
        format: A key of `formats.FORMATS`.
        way: `random`, or `steps`: one kill before each step, however many there are.
        count: How many random kills.
        seed: Of the instants.
        progress: Called with what is done next.
    """
    case = Case(folder, format)
    kills = Kills(format, way)
    rng = random.Random(f"{seed} {format}")
    with Forge() as forge:
        whole, begun, steps = case.measure(forge)
        for step in range(1, steps + 1) if way == "steps" else ():
            progress(f"kills, {way}, {format}: {step}/{steps}")
            case.restore()
            _count(kills, case, *forge.run(case, step=step))
        tries = 0
        while way == "random" and kills.killed < count and tries < 10 * count:
            progress(f"kills, {way}, {format}: {kills.killed}/{count}")
            tries += 1
            case.restore()
            writing = bool(tries % 2)  # some end before they are killed: they do not count
            delay = rng.uniform(0, 1.1 * (whole - begun if writing else whole))
            _count(kills, case, *forge.run(case, delay=delay, writing=writing))
        kills.left = len(case.left())
        case.restore()
        forge.run(case)
        kills.swept = not case.left()
    shutil.rmtree(case.folder)
    return kills


def _count(kills: Kills, case: Case, done: bool, wrote: bool) -> None:
    if not done:
        kills.killed += 1
        kills.writing += wrote
        case.judge(kills)


class Case:
    """An old checkpoint, which a new one is to replace.

    Args:
        folder: In which a folder is made.
        format: A key of `formats.FORMATS`.
    """

    def __init__(self, folder: Path, format: str) -> None:
        self.folder = folder / f"kills-{format}"
        self.old, self.there = self.folder / "old", self.folder / "there"
        for path in (self.folder, self.old, self.there):
            path.mkdir()
        self.name = f"x{SUFFIXES[format]}"
        self.source = source(self.folder, 1)
        self.target = self.there / self.name
        convert(source(self.folder, 0), self.old / self.name, to="torch")
        self.hashes = {"old": self.state(self.old / self.name)}
        self.restore()
        convert(self.source, self.target, to="torch")
        self.hashes["new"] = self.state(self.target)

    @staticmethod
    def state(path: Path) -> tuple[str, str]:
        """What a whole checkpoint with its manifest is told by."""
        found = load(path)
        if found.manifest is None:
            raise InputError(f"{path} has lost its manifest")
        return whole_sha256(tensor_sha256s(found.arrays)), found.manifest.to_json()

    def restore(self) -> None:
        """Put the old one in place; what else lies there stays."""
        for path in self.there.glob(f"{self.name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.old, self.there, dirs_exist_ok=True)

    def left(self) -> list[str]:
        return [p.name for p in self.there.iterdir() if any(mark in p.name for mark in LEFT)]

    def judge(self, kills: Kills) -> None:
        """Count what lies there now."""
        try:
            found = self.state(self.target)
        except InputError as error:
            kills.faults.append(str(error))
            return
        which = next((name for name, state in self.hashes.items() if state == found), None)
        if which is None:
            kills.faults.append(f"{self.target} is neither the old nor the new one")
        kills.old += which == "old"
        kills.new += which == "new"

    def measure(self, forge: Forge) -> tuple[float, float, int]:
        """Seconds of a run, seconds before it writes, and its steps while it writes."""
        times = []
        for _ in range(5):
            self.restore()
            times.append(forge.time(self))
        whole, begun, steps = zip(*times, strict=True)
        return statistics.median(whole), statistics.median(begun), max(steps)
