"""A run of several processes of which one is killed: a random one, or the one that started them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

PROMPT = 60  # seconds in which everything has ended
# The network of `tests.fuzz.kill_training` is in no list, and each process needs it.
PROGRAM = (
    "import sys; from tests.fuzz import kill_training; kill_training.recipe();"
    "from parity.cli import main; sys.exit(main())"
)


def train(
    arguments: list[str], log: Path, rng: random.Random, delay: float | None, since: Path | None
) -> bool:
    """`parity train` in processes of its own.

    Args:
        arguments: Its arguments.
        log: Where its output goes.
        rng: Draws which process is killed.
        delay: Seconds until then; none is if not given.
        since: A file from which on they count, once it is there.

    Returns:
        Whether it ended before it was killed.

    Raises:
        RuntimeError: It failed, or a process was killed and it did not fail well.
    """
    with log.open("ab") as file:
        command = [sys.executable, "-c", PROGRAM, *arguments]
        starter = subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE, text=True)
    if delay is None:
        said = starter.communicate()[1]
        if starter.returncode:
            raise RuntimeError(f"{log}: exit status {starter.returncode}: {said}")
        return True
    while since and starter.poll() is None and not since.exists():
        time.sleep(0.02)
    time.sleep(delay)
    workers = _children(starter.pid)
    victim = rng.choice([starter.pid, *workers])
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    begun = time.monotonic()
    said = starter.communicate(timeout=PROMPT)[1]
    if starter.returncode == 0:
        return True
    while any(map(_lives, workers)):
        if time.monotonic() - begun > PROMPT:
            raise RuntimeError(f"{log}: still there after {PROMPT} s: {workers}")
        time.sleep(0.02)
    if victim != starter.pid and said.count("\n") != 1:
        raise RuntimeError(f"{log}: expected one line, it said {said!r}")
    return False


def _children(process: int) -> list[int]:
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
        return [int(number) for number in text.split()]
    return []


def _lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
