"""Reads files in a child process, killed when it takes too long and replaced when it dies."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self
from unittest import mock

from tests.fuzz import watch
from tests.fuzz.canaries import Canaries

SPAWN = multiprocessing.get_context("spawn")  # it inherits nothing that was imported

SECONDS = 10.0  # for one file, less what the child waits for a core: the machine may be busy
LONGEST = 12  # times that much may pass on the clock, whatever it waits for
START = 120.0  # for the child's imports, on a busy machine
BESIDE = 256 * 2**20  # bytes of memory, beside twice the file
FRESH = 2000  # files, after which the child is replaced: libraries leak a little


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How a file was taken.

    Attributes:
        outcome: `refused` with an InputError, `loaded`, `error` for another exception, `died` or
            `late`.
        line: What was said.
        faults: What must not be, a line each: code run, files outside, memory, time, more said than
            one line.
        seconds: How long it took.
        memory: How many bytes the child's memory grew to beyond what it was.
        answer: Everything that the child answered.
    """

    outcome: str
    line: str
    faults: tuple[str, ...]
    seconds: float
    memory: int
    answer: dict[str, Any]

    @property
    def refused(self) -> bool:
        """In one line, and nothing else happened."""
        return self.outcome == "refused" and not self.faults


class Clock:
    """Measures time from now on, with and without what a process waits for a core.

    Linux counts that time (`/proc/PID/schedstat`, the second number, in nanoseconds); where it does
    not, all time counts.
    """

    def __init__(self, process: int) -> None:
        self.process = process
        self.start = time.monotonic()
        self.before = self._waited()

    def passed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.start

    def spent(self) -> float:
        """Return the seconds since the start in which the process worked, or waited by itself."""
        return self.passed() - (self._waited() - self.before)

    def _waited(self) -> float:
        try:
            return int(Path(f"/proc/{self.process}/schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError):
            return 0.0


class Sandbox:
    """A child process that reads files.

    Args:
        canaries: Where files lie that nothing may open; none are watched if not given.
        warm: Files that are read first, so that everything is imported.
        serve: What the child runs.
        seconds: How long it may take for one file; see `SECONDS`.
        tasks: What is done with the files that are read first, keys of `watch.TASKS`.
    """

    def __init__(
        self,
        canaries: Canaries | None = None,
        warm: Sequence[Path] = (),
        serve: Callable[[Connection, str], None] = watch.serve,
        seconds: float = SECONDS,
        tasks: tuple[str, ...] = ("load", "inspect"),
    ) -> None:
        self.canaries, self.serve, self.seconds, self.tasks = canaries, serve, seconds, tasks
        self.warm = warm
        self.folder = tempfile.mkdtemp(prefix="parity-sandbox-")
        self.child: Any = None
        self.served = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def read(self, path: Path, task: str = "load") -> Verdict:
        """Have one file read.

        Args:
            path: A file or directory, in a folder of its own.
            task: A key of `watch.TASKS`.
        """
        if self.child is None or self.served >= FRESH:
            self.start()
        self.served += 1
        size = size_of(path)
        if self.canaries:
            self.canaries.touched()  # whatever came before
        found: dict[str, Any] = {"said": "", "line": "", "events": [], "memory": 0}
        answer = self._ask(path, task, size, self.seconds)
        if answer is None:
            late = self.child.is_alive()
            outcome, seconds = ("late", self.seconds) if late else ("died", 0.0)
            answer = {"outcome": outcome, "line": self._last_words(), "seconds": seconds}
            self.stop()
        found |= answer
        faults = tuple(self._faults(found, size))
        names = ("outcome", "line", "seconds", "memory")
        return Verdict(faults=faults, answer=found, **{name: found[name] for name in names})

    def _faults(self, found: dict[str, Any], size: int) -> list[str]:
        faults = [f"did: {event}" for event in found["events"]]
        if self.canaries:
            faults += [f"outside: {name}" for name in self.canaries.touched()]
        if found["memory"] > 2 * size + BESIDE:
            faults.append(f"memory: {found['memory']:,} bytes for a file of {size:,}")
        if found.get("starved"):
            faults.append(f"memory: asked for more than there is: {found['line'].strip()[:200]}")
        if found["outcome"] in ("late", "died", "error"):
            faults.append(f"{found['outcome']}: {found['line'][-300:]}")
        if found["said"].strip():
            faults.append(f"printed: {found['said'].strip()[:300]}")
        line = found["line"].removesuffix("\n")
        if found["outcome"] == "refused" and not (line and line.isprintable()):
            faults.append(f"not one line: {line[:300]!r}")
        return faults

    def _ask(self, path: Path, task: str, size: int, seconds: float) -> dict[str, Any] | None:
        """The child's answer; none where it dies or is late."""
        request = {"path": str(path), "task": task, "size": size}
        clock = Clock(self.child.pid)
        try:
            self.pipe.send_bytes(json.dumps(request).encode())
            while not self.pipe.poll(0.2):
                if clock.spent() > seconds or clock.passed() > LONGEST * seconds:
                    return None
            return json.loads(self.pipe.recv_bytes())
        except (OSError, EOFError):
            self.child.join()
            return None

    def start(self) -> None:
        """Start a child, in place of the one there is."""
        self.stop()
        self.pipe, theirs = SPAWN.Pipe()
        self.child = SPAWN.Process(target=self.serve, args=(theirs, self.folder))
        with mock.patch.dict(os.environ, JAX_PLATFORMS="cpu"):
            self.child.start()
        theirs.close()
        self.served = 0
        asked = [(path, task) for path in (*self.warm, *self.warm) for task in self.tasks]
        for path, task in (*asked, (Path(self.folder), "settle")):
            if self._ask(path, task, size_of(path), START) is None:
                raise RuntimeError(f"the child cannot read {path}: {self._last_words()}")

    def stop(self) -> None:
        """End the child."""
        if self.child is not None:
            self.child.kill()
            self.child.join()
            self.pipe.close()
            self.child = None

    def _last_words(self) -> str:
        try:
            text = Path(self.folder, "said").read_text(errors="replace").strip()
        except OSError:
            return ""
        return text.splitlines()[-1] if text else ""


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a directory; links are not followed."""
    if path.is_dir():
        return sum(p.lstat().st_size for p in path.rglob("*") if not p.is_dir())
    return path.stat().st_size if path.exists() else 0
