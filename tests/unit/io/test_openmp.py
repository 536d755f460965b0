"""How PyTorch's threads wait."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from parity.io import openmp

CODE = """
import os, sys
os.getloadavg = lambda: (float(sys.argv[1]) * os.cpu_count(), 0.0, 0.0)
from parity.cli import main
main(["recipes"])
print(os.environ.get("OMP_WAIT_POLICY"), "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("given", "load", "found"),
    [
        ({}, "1.5", "passive"),
        ({}, "0.5", "None"),
        ({"OMP_WAIT_POLICY": "active"}, "1.5", "active"),
        ({"GOMP_SPINCOUNT": "5"}, "1.5", "None"),
    ],
)
def test_a_command_sets_it_before_torch(given: dict[str, str], load: str, found: str) -> None:
    """Catches a setting that comes too late to be read, slows an idle machine, or the user's."""
    env = {k: v for k, v in os.environ.items() if k not in openmp.SETTINGS} | given
    done = subprocess.run(
        [sys.executable, "-c", CODE, load], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"{found} False"


def test_too_late_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches children that wait otherwise than the process that they are compared with."""
    for name in openmp.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(openmp, "is_busy", lambda: True)
    monkeypatch.setitem(sys.modules, "torch", sys)
    openmp.wait_asleep_if_busy()
    assert "OMP_WAIT_POLICY" not in os.environ
