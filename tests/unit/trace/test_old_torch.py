"""An old PyTorch itself records: the copied recorder alone, in an environment of its time."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from parity import check
from parity.io import compilation_cache
from parity.ladder.recorded_steps import compare
from parity.ladder.recording import record
from parity.trace import recorder
from parity.trace.reading import TraceFile
from tests.made_once import made_once
from tests.recorded import live, recorded

pytestmark = pytest.mark.old_torch

VERSION = "1.5.1"
PYTHON = "PARITY_PYTHON37"  # where Python 3.7 is

REFERENCE = """
import numpy as np, torch
from torch import nn
import recorder

class Reference(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.slope, self.drop = nn.PReLU(6), nn.Dropout(0.3)
        self.pool, self.head = nn.MaxPool2d(2), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        return self.head(self.pool(self.drop(self.slope(self.norm(self.conv(x))))))

made = np.load("weights.npz")
net = Reference()
net.load_state_dict({name: torch.tensor(made[name]) for name in made.files if name != "x"})
recorder.record_torch(
    "old.trace", net, [made["x"]], rates=5, steps=2,
    optimizer=lambda m: torch.optim.Adam(m.parameters(), 1e-3, weight_decay=1e-2),
    schedule=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.5 ** step),
)
"""


def old_python() -> Path:
    """Return the environment's Python; it is made once, where what can be made again is kept."""
    place = compilation_cache.of_user().with_name(f"torch-{VERSION}")

    def make() -> None:
        if PYTHON not in os.environ:
            pytest.skip(f"${PYTHON} does not say where a Python 3.7 is")
        subprocess.run([os.environ[PYTHON], "-m", "venv", place], check=True)
        wanted = [f"torch=={VERSION}", "numpy"]
        subprocess.run([place / "bin/pip", "install", "--quiet", *wanted], check=True)

    return made_once(place, make) / "bin" / "python"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recorder alone, and the trace that PyTorch 1.5 wrote by it."""
    python = old_python()
    folder = tmp_path_factory.mktemp("old")
    shutil.copy(recorder.__file__, folder)
    port = live()
    state = {name: tensor.numpy() for name, tensor in port.reference.state_dict().items()}
    x = torch.tensor(port.arrays(True)[0].transpose(0, 3, 1, 2).copy(), dtype=torch.float32)
    np.savez(folder / "weights.npz", x=x.numpy(), **state)
    (folder / "reference.py").write_text(REFERENCE)
    done = subprocess.run(
        [python, "reference.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_whole_ladder_against_an_old_recording(folder: Path) -> None:
    """Catches a recorder that an old PyTorch cannot run, or whose trace no port passes."""
    trace = TraceFile(folder / "old.trace")
    assert trace.index["framework"].startswith(f"torch {VERSION}")
    report = check(recorded(folder / "old.trace"))
    report.assert_faithful()
    assert {c.rung for c in report.checks} == {"L0", "L1", "L2", "L3", "L4", "L5"}


def test_an_old_and_a_new_recording_are_equal(folder: Path, tmp_path: Path) -> None:
    """Catches hooks of an old PyTorch that see other calls, arguments or gradients."""
    old = TraceFile(folder / "old.trace")
    port = live()
    options = {"module": port.reference, "inputs": [np.load(folder / "weights.npz")["x"]]}
    options |= {"rates": 5, "steps": 2, "optimizer": port.optimizers[0]}
    options["schedule"] = lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.5**step)
    record(options, tmp_path / "new.trace")
    found = compare(old, TraceFile(tmp_path / "new.trace"))
    assert found.ok, str(found.first())
    assert not found.left_out
