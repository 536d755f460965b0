"""Reads files in a child process, killed when it takes too long and replaced when it dies."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.fuzz.canaries import Canaries
from tests.fuzz.watch import ROOT

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
        module: What the child runs.
        seconds: How long it may take for one file; see `SECONDS`.
        tasks: What is done with the files that are read first, keys of `watch.TASKS`.
    """

    def __init__(
        self,
        canaries: Canaries | None = None,
        warm: list[Path] | None = None,
        module: str = "tests.fuzz.watch",
        seconds: float = SECONDS,
        tasks: tuple[str, ...] = ("load", "inspect"),
    ) -> None:
        self.canaries, self.module, self.seconds, self.tasks = canaries, module, seconds, tasks
        self.warm = warm or []
        self.folder = tempfile.mkdtemp(prefix="parity-sandbox-")
        self.child: subprocess.Popen[str] | None = None
        self.answers = -1
        self.served = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
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
        found = self._ask(path, task, size, self.seconds)
        if found is None:
            late = self.child is not None and self.child.poll() is None
            outcome = "late" if late else "died"
            line = self._last_words()
            self.stop()
            found = {"outcome": outcome, "line": line, "seconds": self.seconds if late else 0.0}
        empty: dict[str, Any] = {
            "events": [],
            "memory": 0,
            "said": "",
            "line": "",
            "starved": False,
        }
        found = empty | found
        return Verdict(
            found["outcome"],
            found["line"],
            tuple(self._faults(found, size)),
            found["seconds"],
            found["memory"],
            found,
        )

    def _faults(self, found: dict[str, Any], size: int) -> list[str]:
        faults = [f"did: {event}" for event in found["events"]]
        if self.canaries:
            faults += [f"outside: {name}" for name in self.canaries.touched()]
        if found["memory"] > 2 * size + BESIDE:
            faults.append(f"memory: {found['memory']:,} bytes for a file of {size:,}")
        if found["starved"]:
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
        assert self.child is not None
        assert self.child.stdin is not None
        try:
            request = {"path": str(path), "task": task, "size": size}
            print(json.dumps(request), file=self.child.stdin, flush=True)
        except OSError:
            return None
        text = b""
        clock = Clock(self.child.pid)
        while not text.endswith(b"\n"):
            if not select.select([self.answers], [], [], 0.2)[0]:
                if clock.spent() > seconds or clock.passed() > LONGEST * seconds:
                    return None
                continue
            more = os.read(self.answers, 1 << 16)
            if not more:
                self.child.wait()
                return None
            text += more
        return json.loads(text)

    def start(self) -> None:
        """Start a child, in place of the one there is."""
        self.stop()
        self.answers, theirs = os.pipe()
        environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        self.child = subprocess.Popen(
            [sys.executable, "-m", self.module, str(theirs), self.folder],
            stdin=subprocess.PIPE,
            pass_fds=[theirs],
            cwd=self.folder,
            env=environment,
            text=True,
        )
        os.close(theirs)
        self.served = 0
        asked = [(path, task) for path in self.warm * 2 for task in self.tasks]
        for path, task in (*asked, (Path(self.folder), "settle")):
            if self._ask(path, task, size_of(path), START) is None:
                raise RuntimeError(f"the child cannot read {path}: {self._last_words()}")

    def stop(self) -> None:
        """End the child."""
        if self.child is None:
            return
        self.child.kill()
        self.child.wait()
        if self.child.stdin:
            self.child.stdin.close()
        os.close(self.answers)
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
