"""Starting, watching and ending several processes that train together.

`torchrun` does the same for PyTorch and may be used instead. This launcher also watches JAX's
processes on several machines, and reports failures in one line: what libraries write to standard
error goes to a file, whose last lines are shown where nothing else gives the reason.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from parity.io.interrupts import SIGNALS, watched
from parity.spec.errors import InputError, printable
from parity.spec.training.parallel import LOST, MEETING
from parity.training.dist_env import (
    LOCAL,
    STARTER,
    DistEnv,
    check_coordinator,
    check_port,
    free_port,
    started,
)

GRACE = 10  # seconds that a process has to end after it was asked to, or after another has
POLL = 0.1
# Environment variable of a process started here: the file for the output of its libraries.
LOG = "PARITY_LOG"
# Environment variable of a process that ends with the one that started it: the starter's number.
PARENT = "PARITY_PARENT"
BROKEN = 70  # exit status of a process with an unexpected error
SHOWN = 30  # lines of a log, at most
PR_SET_PDEATHSIG = 1  # of Linux's prctl


def needed(framework: str, env: DistEnv) -> bool:
    """Return whether other processes must be started; not in a process that was itself started."""
    several = env.processes > 1 if framework == "torch" else env.nodes > 1
    return several and not started()


def environments(framework: str, env: DistEnv) -> list[dict[str, str]]:
    """Return each process's environment variables; for PyTorch, those that `torchrun` sets.

    Raises:
        InputError: The coordinator's port is in use, or it cannot be reached.
    """
    if env.coordinator and env.node == 0:
        check_port(*env.coordinator)
    elif env.coordinator:
        check_coordinator(*env.coordinator)
    if framework != "torch":
        return [{}]
    host, port = env.coordinator or (LOCAL, free_port())
    shared = {
        "WORLD_SIZE": env.processes,
        "LOCAL_WORLD_SIZE": env.devices,
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
    }
    own = [{"RANK": env.process + i, "LOCAL_RANK": i} for i in range(env.devices)]
    return [{name: str(value) for name, value in (shared | more).items()} for more in own]


@dataclasses.dataclass
class Worker:
    """A process that was started.

    Attributes:
        process: The process.
        rank: Its rank among all processes.
        log: File with the output of its libraries; unless its rank is 0, with all its output.
    """

    process: subprocess.Popen
    rank: int
    log: Path

    @property
    def code(self) -> int | None:
        return self.process.poll()

    @property
    def lines(self) -> list[str]:
        """Return the lines of the log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return text.strip().splitlines()


@dataclasses.dataclass(frozen=True)
class Words:
    """The messages about the processes of a command.

    Attributes:
        name: The command's name in messages.
        hint: Advice after the message that a process was lost; may be empty.
        answer: A line printed at the first Ctrl-C; may be empty.
    """

    name: str
    hint: str = ""
    answer: str = ""


def run(command: Sequence[str], framework: str, env: DistEnv, words: Words) -> int:
    """Run a command in the processes of this machine until all have ended, or one has failed.

    The first one's output is this process's. The first signal goes to all, the second ends them.

    Args:
        command: The command with its arguments, the same for all.
        framework: `torch` or `jax`.
        env: Where this machine's processes and devices are.
        words: The messages about them.

    Returns:
        The exit status of the one that failed, 1 where a signal killed it; 0 if none did.

    Raises:
        InputError: As for `environments`.
    """
    several = environments(framework, env)
    with tempfile.TemporaryDirectory(prefix="parity-launch-") as folder:
        workers: list[Worker] = []
        asked: list[int] = []

        def forward(number: int, frame: FrameType | None) -> None:
            del frame
            asked.append(number)
            for worker in workers:
                if worker.code is None:
                    worker.process.send_signal(number)

        def kill() -> None:
            for worker in workers:
                if worker.code is None:
                    worker.process.kill()

        before = {n: signal.signal(n, forward) for n in SIGNALS}
        try:
            with watched(words.answer, kill):
                for i, more in enumerate(several):
                    log = Path(folder) / f"{i}"
                    workers.append(_start(command, more, env.process + i, log))
                    if asked:
                        break
                _watch(workers, asked)
            failed = [worker for worker in workers if worker.code]
            return Teller(words, env).status(failed, asked)
        finally:
            _end(workers)
            for number, handler in before.items():
                signal.signal(number, handler)


def work(function: Callable[[], int], lost: Callable[[BaseException], bool]) -> int:
    """Run the work of one of several processes, and report failures to the launcher.

    Args:
        function: The work; returns the exit status.
        lost: Returns whether an error means that another process has died.
    """
    if STARTER in os.environ:
        tie(int(os.environ[STARTER]))
        _divert()
    try:
        return function()
    except (InputError, FloatingPointError, KeyboardInterrupt):
        raise
    except Exception as error:
        if STARTER not in os.environ and lost(error):
            raise InputError(f"another process is gone: {str(error).splitlines()[0]}") from error
        with os.fdopen(os.dup(2), "w", errors="backslashreplace") as log:
            traceback.print_exc(file=log)
        # Not by the usual way out, on which libraries wait for those that are gone.
        sys.stdout.flush()
        os._exit(LOST if lost(error) else BROKEN)


def _divert() -> None:
    """Redirect the output of libraries, but not that of Python code, to the log."""
    sys.stdout.flush()
    handle = os.open(os.environ[LOG], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for name, number in (("stdout", 1), ("stderr", 2)):
        own = os.dup(number)
        os.dup2(handle, number)
        setattr(sys, name, os.fdopen(own, "w", buffering=1, errors="backslashreplace"))
    os.close(handle)


def tie_to_parent() -> None:
    """End when the process that asked for it does; processes started from here are not asked."""
    if parent := os.environ.pop(PARENT, ""):
        tie(int(parent))


def tie(starter: int) -> None:
    """End when the process that started this one does, however it ends. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != starter:  # it has ended already
            os.kill(os.getpid(), signal.SIGKILL)


def _start(command: Sequence[str], more: Mapping[str, str], rank: int, log: Path) -> Worker:
    where: dict[str, Any] = {}
    if rank:
        with log.open("wb") as file:
            where = {"stdout": file, "stderr": file, "stdin": subprocess.DEVNULL}
            where["stdout"] = where["stderr"] = os.dup(file.fileno())
    own = {STARTER: str(os.getpid()), LOG: str(log)}
    try:
        # A separate session: signals from the terminal are passed on from here, once.
        process = subprocess.Popen(
            command, env=os.environ | dict(more) | own, start_new_session=True, **where
        )
    finally:
        if rank:
            os.close(where["stdout"])
    return Worker(process, rank, log)


def _watch(workers: Sequence[Worker], asked: Sequence[int]) -> None:
    """Wait until all processes have ended, or one has failed and a grace period is over."""
    while True:
        time.sleep(POLL)
        codes = [worker.code for worker in workers]
        if all(code == 0 for code in codes):
            return
        if any(codes):
            break
    deadline = time.monotonic() + (GRACE if asked else 1)
    while time.monotonic() < deadline and any(worker.code is None for worker in workers):
        time.sleep(POLL)


@dataclasses.dataclass(frozen=True)
class Teller:
    """Reports why processes failed.

    Attributes:
        words: The messages about the command.
        env: Where this machine's processes and devices are.
    """

    words: Words
    env: DistEnv

    def status(self, failed: Sequence[Worker], asked: Sequence[int]) -> int:
        """Print the reason, unless the first process did so; return the exit status."""
        if not failed:
            return 0
        if asked:
            if not any(worker.code == 128 + asked[0] for worker in failed if worker.rank == 0):
                print(f"parity {self.words.name}: interrupted", file=sys.stderr)
            return 128 + asked[0]
        worker = min(failed, key=lambda w: (_order(w.code), w.rank))
        code, rank, lines = worker.code or 0, worker.rank, worker.lines
        if code == -signal.SIGABRT and any("RegisterTask" in line for line in lines):  # JAX's way
            where = "{}:{}".format(*self.env.coordinator or (LOCAL, 0))
            count = self.env.processes
            self._say(f"{where}: {count} processes did not meet there within {MEETING} s")
            return 2
        if code == LOST or (code == -signal.SIGABRT and any("task died" in line for line in lines)):
            self._say(
                "a process of another machine is gone, those of this one were ended",
                self.words.hint,
            )
            return 1
        if code < 0:
            name = signal.Signals(-code).name
            words = f" ({printable(lines[-1])})" if lines and -code != signal.SIGKILL else ""
            self._say(
                f"process {rank} was killed by {name}{words}, the others were ended",
                self.words.hint,
            )
            return 1
        if code == BROKEN:
            print("\n".join(map(printable, lines[-SHOWN:])), file=sys.stderr)
            self._say(f"process {rank} failed")
            return 1
        if rank:
            print(printable(lines[-1]) if lines else f"process {rank} failed", file=sys.stderr)
        return code

    def _say(self, line: str, hint: str = "") -> None:
        after = f"; {hint}" if hint else ""
        print(f"parity {self.words.name}: error: {line}{after}", file=sys.stderr)


def _order(code: int | None) -> int:
    """Return a sort key for exit codes; the likeliest root cause of a failure comes first."""
    if code is not None and code < 0 and code != -signal.SIGABRT:
        return 0
    return {LOST: 2, -signal.SIGABRT: 3}.get(code or 0, 1)


def _end(workers: Sequence[Worker]) -> None:
    for worker in workers:
        if worker.code is None:
            worker.process.terminate()
    deadline = time.monotonic() + 1  # nothing of them is to be kept
    for worker in workers:
        try:
            worker.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
