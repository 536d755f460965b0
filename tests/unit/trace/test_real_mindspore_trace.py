"""MindSpore itself records: the copied recorder, in MindSpore's own environment."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from parity import check
from parity.ladder.recorded_steps import compare
from parity.trace import recorder
from parity.trace.reading import TraceFile
from tests.mindspore_environment import mindspore_python
from tests.mindspore_pair import twins

pytestmark = pytest.mark.mindspore

PAIR = Path(twins.__file__).parent

REFUSED = """
import sys
sys.path.insert(0, sys.argv[1])
import mindspore, numpy as np, recorder
from mindspore import nn, ops

class Draws(nn.Cell):
    def construct(self, x):
        return x + ops.standard_normal(x.shape)

mindspore.set_context(mode=mindspore.GRAPH_MODE)
x = np.ones((2, 3), np.float32)
half = nn.Dense(3, 2)
half.to_float(mindspore.float16)
for parameter in half.get_parameters():
    parameter.set_dtype(mindspore.float16)
for cell, options in ((Draws(), {}), (half, {}), (nn.Dense(3, 2), {"parts": ["all"]})):
    try:
        recorder.record_mindspore("refused.trace", cell, [x], **options)
    except recorder.TraceError as error:
        print(error)
dense, drop = nn.Dense(3, 2), nn.Dropout(p=0.5)
before = dense.weight.asnumpy().copy()
net = nn.SequentialCell([dense, drop])
recorder.record_mindspore("probe.trace", net, [x])
assert (dense.weight.asnumpy() == before).all()
assert mindspore.get_context("mode") == mindspore.GRAPH_MODE
"""


AGAIN = """
import sys
sys.path.insert(0, sys.argv[1])
import recorder, reference

def record(path, again):
    net, x, labels, weights = reference.make_reference()
    if again:
        net.bn.recompute()
    options = {"loss": reference.loss, "targets": [labels, weights], "parts": ()}
    recorder.record_mindspore(path, net, [x], **options)

record("once.trace", False)
record("again.trace", True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the recorder and the reference alone, and the trace they wrote."""
    folder = tmp_path_factory.mktemp("mindspore")
    shutil.copy(recorder.__file__, folder)
    shutil.copy(PAIR / "reference.py", folder)
    run(folder, "reference.py", "recorder.py", "small.trace")
    return folder


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [mindspore_python(), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_trace_is_mindspores(folder: Path) -> None:
    """Catches a trace in tests/golden that this MindSpore and this recorder do not give.

    Not bit for bit: its threads add in another order each time.
    """
    ours, theirs = TraceFile(twins.TRACE), TraceFile(folder / "small.trace")
    assert ours.index.keys() == theirs.index.keys()
    for key in ("layers", "trained", "rates", "notes", "framework", "precision"):
        assert ours.index[key] == theirs.index[key], key
    state, again = (t.arrays(t.index["state"]) for t in (ours, theirs))
    assert {n: a.tobytes() for n, a in state.items()} == {n: a.tobytes() for n, a in again.items()}
    found = compare(ours, theirs)
    assert found.ok, str(found.first())
    assert not found.left_out


def test_jax_side_against_a_new_recording(folder: Path) -> None:
    """Catches verdicts that hold for one recording alone."""
    levels = ("L0", "L1", "L2", "L3", "L4", "L5")
    check(twins.make_port(folder / "small.trace"), levels).assert_faithful()


def test_what_cannot_be_recorded_is_refused(folder: Path) -> None:
    """Catches a network that draws, or of another precision, recorded all the same."""
    (folder / "refused.py").write_text(REFUSED)
    lines = run(folder, "refused.py", ".").splitlines()
    said = [line for line in lines if "WARNING" not in line]
    assert "draws random numbers in eval mode" in said[0]
    assert "float16, expected float32" in said[1]
    assert "parts: 'all', expected some of" in said[2]
    assert not (folder / "refused.trace").exists()
    probe = TraceFile(folder / "probe.trace")
    assert probe.index["notes"]["switched_off"] == ["1"]
    assert probe.index["notes"]["probe"] == [0]


def test_what_is_computed_again_is_recorded_once(folder: Path) -> None:
    """Catches calls of the backward pass, in which `recompute` runs cells again.

    And statistics without its second update of them, which training has as well.
    """
    (folder / "again.py").write_text(AGAIN)
    run(folder, "again.py", ".")
    once, again = (TraceFile(folder / f"{name}.trace") for name in ("once", "again"))
    calls = [[c["layer"] for c in t.index["runs"][-1]["calls"]] for t in (once, again)]
    assert calls[0] == [name for name in calls[1] if "recompute" not in name]
    found = compare(once, again)
    twice = {"bn.moving_mean", "bn.moving_variance"}
    assert {c.one for c in found.compared if not c.ok} == twice
    assert {c.run for c in found.compared if not c.ok} == {"train float32"}
    single, double = (t.runs["train", "float32", None] for t in (once, again))
    for name in twice:  # one update is known as well
        first = again.array(double["first_statistics"][name])
        np.testing.assert_array_equal(first, once.array(single["statistics"][name]))
