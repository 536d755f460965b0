"""The process that trains one run of a study: how its end is understood."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from parity.study.running import Child, Ended
from parity.training.launch import BROKEN


def test_an_error_that_nobody_expected_is_no_failed_seed(tmp_path: Path) -> None:
    """Catches too little memory, which ends a process with status 1, too, recorded as a NaN."""
    log = tmp_path / "seed-1.txt"

    def ended(program: str) -> Ended:
        return Child()._watch([sys.executable, "-c", program], log)

    nan = "import sys; print('parity train: stopped: loss is nan', file=sys.stderr)"
    assert ended(f"{nan}; print('and more'); sys.exit(1)") == Ended(1, "loss is nan")
    broken = ended("raise MemoryError('too little')")
    assert broken.status not in (0, 1)
    assert broken.why == (
        "ended unexpectedly (exit status 1); its last line: MemoryError: too little;"
        f" {log} holds all that it printed"
    )
    assert ended("import sys; print('parity train: error: no file'); sys.exit(2)").why == "no file"


@pytest.mark.parametrize(
    ("program", "how"),
    [
        ("print('epoch 3 of 9', flush=True); os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("print('epoch 3 of 9', flush=True); os.abort()", "signal 6"),
        ("print('epoch 3 of 9'); sys.exit(70)", "exit status 70"),
    ],
)
def test_a_process_that_was_killed_is_said_to_be(tmp_path: Path, program: str, how: str) -> None:
    """Catches the last line of a run's progress told as the error that ended it."""
    log = tmp_path / "seed-1.txt"
    ended = Child()._watch([sys.executable, "-c", f"import os, signal, sys; {program}"], log)
    assert ended == Ended(
        BROKEN,
        f"ended unexpectedly ({how}); its last line: epoch 3 of 9; {log} holds all that it printed",
    )


def test_a_process_that_was_killed_before_it_said_anything(tmp_path: Path) -> None:
    """Catches an empty last line that is quoted."""
    log = tmp_path / "seed-1.txt"
    program = "import os; os.kill(os.getpid(), 9)"
    ended = Child()._watch([sys.executable, "-c", program], log)
    assert ended.why == f"ended unexpectedly (signal 9); {log} holds all that it printed"


def test_a_process_that_obeyed_a_signal_is_no_error(tmp_path: Path) -> None:
    """Catches a run that somebody stopped, which goes on, taken for a crash."""
    ended = Child()._watch([sys.executable, "-c", "import sys; sys.exit(143)"], tmp_path / "log")
    assert ended.status == 143
