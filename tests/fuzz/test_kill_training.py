"""Training runs that are killed, on both sides."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


def kills(framework: str, count: int, seed: int) -> subprocess.CompletedProcess:
    """In a process of its own, which forks: this one may have started threads."""
    command = [sys.executable, "-m", "tests.fuzz.kill_training", "--framework", framework]
    return subprocess.run(
        [*command, "--kills", str(count), "--seed", str(seed)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.parametrize("framework", ["torch", pytest.param("jax", marks=pytest.mark.long)])
def test_a_killed_run_goes_on_bitwise(framework: str) -> None:
    """Catches whatever a checkpoint forgets: of optimizer, statistics, masks, order, log.

    JAX's: `long`; that its runs go on bit for bit `test_training.py` shows without a kill.
    """
    done = kills(framework, 1, 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"| {framework} | fp32 | 1 | 1 |" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_fifty_killed_runs_go_on_bitwise(framework: str) -> None:
    """Catches what only one instant in many shows."""
    done = kills(framework, 50, 0)
    assert done.returncode == 0, done.stdout + done.stderr
