"""Runs of `convert` in children that can be killed at an instant, or before a step.

python -m tests.fuzz.forge FD
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from tests.fuzz.watch import ROOT
from weights_convert import convert

# Python's names for changes to the file system.
STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "ctypes.dlsym")


class Target(Protocol):
    """What to convert, and where to."""

    source: Path
    target: Path


class Forge:
    """A process that has imported everything, and forks one to be killed for each run."""

    def __enter__(self) -> Forge:
        self.answers, theirs = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.fuzz.forge", str(theirs)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs],
            cwd="/",
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            text=True,
        )
        os.close(theirs)
        self._lines = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        os.close(self.answers)

    def time(self, case: Target) -> tuple[float, float, int]:
        """One whole run: seconds, seconds until it writes, steps of the writing."""
        start = time.perf_counter()
        self._ask(case, 0)
        begun = 0.0
        while True:
            found = next(self._lines)
            if found.get("writing"):
                begun = time.perf_counter() - start
            if "ended" in found:
                return time.perf_counter() - start, begun, found["steps"]

    def run(
        self, case: Target, delay: float | None = None, writing: bool = False, step: int = 0
    ) -> tuple[bool, bool]:
        """One run, killed.

        Args:
            case: What to write where.
            delay: Seconds until it is killed; not at all if not given.
            writing: Count them from when it begins to write.
            step: Or it is killed before this step of the writing, counted from 1.

        Returns:
            Whether it ended before it was killed, and whether it had begun to write.
        """
        self._ask(case, step)
        child = next(self._lines)["child"]
        deadline = None if delay is None or writing else time.perf_counter() + delay
        wrote = done = False
        while True:
            wait = None if deadline is None else max(deadline - time.perf_counter(), 0)
            if not self._pending and not select.select([self.answers], [], [], wait)[0]:
                with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                    os.kill(child, signal.SIGKILL)
                deadline = None
                continue
            found = next(self._lines)
            if found.get("writing"):
                wrote = True
                if writing and delay is not None:
                    deadline = time.perf_counter() + delay
            done = done or "steps" in found
            if "ended" in found:
                return done, wrote

    def _ask(self, case: Target, step: int) -> None:
        assert self.process.stdin is not None
        request = {"source": str(case.source), "target": str(case.target), "step": step}
        print(json.dumps(request), file=self.process.stdin, flush=True)

    _pending: bytes = b""

    def _read(self) -> Iterator[dict]:
        while True:
            while b"\n" not in self._pending:
                more = os.read(self.answers, 1 << 16)
                if not more:
                    raise RuntimeError("the process that forks has died")
                self._pending += more
            line, _, self._pending = self._pending.partition(b"\n")
            yield json.loads(line)


def serve(descriptor: int) -> None:
    """What the process of a `Forge` does: fork a child per request, and say how it ended."""
    for name in ("orbax_directory", "torch_file"):
        importlib.import_module(f"weights_convert.formats.{name}")
    for line in sys.stdin:
        request = json.loads(line)
        receive, send = os.pipe()
        child = os.fork()
        if not child:
            os.close(receive)
            _say(descriptor, child=os.getpid())  # itself, so that nothing is said before it
            _write(request, descriptor, send)
        os.close(send)
        os.waitpid(child, 0)
        steps = os.read(receive, 64)
        os.close(receive)
        _say(descriptor, ended=True, **({"steps": int(steps)} if steps else {}))


def _write(request: dict, descriptor: int, send: int) -> None:
    """In the child: convert, and die before a step if so asked."""
    from weights_convert import formats

    counted = [-1]  # steps since the writing began

    def hook(event: str, args: tuple) -> None:
        reads = event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if counted[0] < 0 or event not in STEPS or reads:
            return
        counted[0] += 1
        if counted[0] == request["step"]:
            os.kill(os.getpid(), signal.SIGKILL)

    write = formats.write

    def begin(*args: Any) -> str:
        counted[0] = 0
        _say(descriptor, writing=True)
        return write(*args)

    formats.write = begin  # type: ignore[assignment]  # any arguments will do: it passes them on
    sys.addaudithook(hook)
    convert(request["source"], request["target"], to="torch")
    os.write(send, str(counted[0]).encode())
    os._exit(0)


def _say(descriptor: int, **facts: object) -> None:
    os.write(descriptor, json.dumps(facts).encode() + b"\n")


if __name__ == "__main__":
    serve(int(sys.argv[1]))
