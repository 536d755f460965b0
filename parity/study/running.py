"""Training the runs of a study, one after the other; any number of processes may share a folder."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from parity.io.files import make_folder, write_atomically
from parity.io.interrupts import SIGNALS
from parity.spec.errors import InputError
from parity.spec.training.written import to_toml
from parity.study import claims
from parity.study.plan import Plan, StudyRun, read_state, state_of
from parity.training.launch import BROKEN, PARENT
from parity.training.stopping import STOPPED

NOT_FINITE, REFUSED = 1, 2  # exit statuses of `parity train`
STOPPED_BY = tuple(128 + number for number in SIGNALS)  # of a process that obeyed a signal
PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process that trained a run ended.

    Attributes:
        status: Its exit status; 0: finished, `NOT_FINITE`: a loss or gradient was not finite; any
            other: the run could not be trained.
        why: What it said of it, where it failed.
    """

    status: int
    why: str = ""


class Interrupted(Exception):  # noqa: N818  # it is no error
    """A signal was obeyed; the run that was trained goes on from its checkpoint another time.

    Attributes:
        status: The exit status for it.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


Trains = Callable[[Plan, StudyRun, Path], Ended]


def train_all(
    plan: Plan,
    runs: Sequence[StudyRun],
    out: Path,
    trains: Trains,
    say: Callable[[str], None],
    after: Callable[[], None] = lambda: None,
    retry_failed: bool = False,
) -> list[StudyRun]:
    """Train what is not trained yet, and nobody else trains.

    A run that stopped because a number was not finite is recorded, and the next begins: it would
    stop there again.

    Args:
        plan: The study.
        runs: Its runs, in order.
        out: Its folder.
        trains: Trains one run, in this process or another.
        say: Called with lines on what is done.
        after: Called after each run.
        retry_failed: Train runs again that have failed, from the beginning of the failed step.

    Returns:
        The runs that another process holds.

    Raises:
        InputError: A run cannot be trained; nothing is lost, the others are as they were.
        Interrupted: A signal was obeyed.
    """
    held = []
    for i, run in enumerate(runs, 1):
        if _ended(out, run, retry_failed):
            continue
        with claims.claimed(claim_of(out, run)) as mine:
            if not mine:
                held.append(run)
                continue
            if _ended(out, run, retry_failed):  # by another, in the meantime
                continue
            say(f"{i} of {len(runs)}: {run.words}")
            _train(plan, run, out, trains)
        after()
    return held


def _ended(out: Path, run: StudyRun, retry_failed: bool) -> bool:
    """Return whether there is nothing left to train.

    A run whose folder or log is gone is trained anew, however it ended.
    """
    state = read_state(out, run)
    return bool(state) and (state["status"] == "finished" or not retry_failed)


def claim_of(out: Path, run: StudyRun) -> Path:
    return out / f"{run.name}.claim"


def _train(plan: Plan, run: StudyRun, out: Path, trains: Trains) -> None:
    state_of(out, run).unlink(missing_ok=True)
    ended = trains(plan, run, out)
    if ended.status in STOPPED_BY:
        raise Interrupted(ended.status)
    if ended.status not in (0, NOT_FINITE):
        raise InputError(f"{run.words}: {ended.why or f'exit status {ended.status}'}")
    record: dict[str, Any] = {"status": "finished" if ended.status == 0 else "failed"}
    record |= {"why": ended.why, "epochs": plan.epochs}
    write_atomically(state_of(out, run), json_bytes(record))


def json_bytes(value: Any) -> bytes:
    import json

    return json.dumps(value, indent=1).encode()


@dataclasses.dataclass(frozen=True)
class Child:
    """Trains each run in a process of its own, by `parity train`.

    Its memory, compiled programs and settings of a framework end with it. Its output is written to
    a file beside the run's folder.

    Attributes:
        options: More arguments of `parity train`, such as `--workers 2`.
        say: Called with each line of its output.
    """

    options: tuple[str, ...] = ()
    say: Callable[[str], None] = lambda line: None

    def __call__(self, plan: Plan, run: StudyRun, out: Path) -> Ended:
        folder = out / run.name
        make_folder(folder.parent)
        recipe = folder.with_name(f"{folder.name}.toml")
        write_atomically(recipe, to_toml(plan.recipe_for(run)).encode())
        command = [sys.executable, "-m", "parity", "train", str(recipe), *self.options]
        command += ["--framework", run.framework, "--data", plan.data, "--out", str(folder)]
        command += ["--epochs", str(plan.epochs), "--devices", str(plan.devices)]
        command += ["--resume"] * folder.exists()
        command += ["--deterministic"] * run.deterministic
        return self._watch(command, folder.with_name(f"{folder.name}.txt"))

    def _watch(self, command: list[str], log: Path) -> Ended:
        asked: list[int] = []
        paths = [PACKAGE_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        environment[PARENT] = str(os.getpid())
        last = stopped = ""
        with log.open("ab") as file:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a signal from the terminal is passed on, once
                env=environment,
            )

            def forward(number: int, frame: object) -> None:
                del frame
                asked.append(number)
                if process.poll() is None:
                    process.send_signal(number)

            before = {number: signal.signal(number, forward) for number in SIGNALS}
            try:
                assert process.stdout
                for raw in process.stdout:
                    file.write(raw)
                    file.flush()
                    line = raw.decode(errors="replace").strip()
                    last, stopped = line or last, line if line.startswith(STOPPED) else stopped
                    self.say(last)
                status = process.wait()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                if process.stdout:
                    process.stdout.close()
                for number, handler in before.items():
                    signal.signal(number, handler)
        if asked:
            return Ended(128 + asked[0])
        if status == 0:
            return Ended(0)
        # An error that nobody expected, such as too little memory, ends with the same status.
        if stopped and status == NOT_FINITE:
            return Ended(NOT_FINITE, stopped.removeprefix(STOPPED))
        if status == REFUSED or status in STOPPED_BY:
            return Ended(status, last.removeprefix("parity train: error: "))
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        end = f"ended unexpectedly ({how})" + f"; its last line: {last}" * bool(last)
        return Ended(BROKEN, f"{end}; {log} holds all that it printed")
