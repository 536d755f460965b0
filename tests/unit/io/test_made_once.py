"""Environments that the tests make for themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys, time
from pathlib import Path
from tests.made_once import made_once
place = Path(sys.argv[1])
def make():
    place.mkdir()
    with (place.parent / "made").open("a") as file:
        file.write("x")
    time.sleep(1)
made_once(place, make)
assert (place / "whole").exists()
"""


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    """Catches a process that deletes what another one is installing."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "place")]
    root = Path(__file__).resolve().parents[3]
    both = [subprocess.Popen(command, cwd=root) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert (tmp_path / "made").read_text() == "x"
