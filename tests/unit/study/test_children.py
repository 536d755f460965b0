"""The process that trains one run of a study: how its end is understood."""

from __future__ import annotations

import sys
from pathlib import Path

from parity.study.running import Child, Ended


def test_an_error_that_nobody_expected_is_no_failed_seed(tmp_path: Path) -> None:
    """Catches too little memory, which ends a process with status 1, too, recorded as a NaN."""
    log = tmp_path / "seed-1.txt"

    def ended(program: str) -> Ended:
        return Child()._watch([sys.executable, "-c", program], log)

    nan = "import sys; print('parity train: stopped: loss is nan', file=sys.stderr)"
    assert ended(f"{nan}; print('and more'); sys.exit(1)") == Ended(1, "loss is nan")
    broken = ended("raise MemoryError('too little')")
    assert broken.status not in (0, 1)
    assert broken.why.startswith("ended unexpectedly: MemoryError: too little (")
    assert str(log) in broken.why
    assert ended("import sys; print('parity train: error: no file'); sys.exit(2)").why == "no file"
