"""The ladder against a trace: the same verdicts as against the live module."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
import safetensors.numpy
import torch
from flax import nnx
from torch.utils.checkpoint import checkpoint

from parity import Port, check
from parity.cli import main
from parity.ladder import recording
from parity.ladder.climb import climb
from parity.report.report import Report
from parity.spec.errors import InputError
from parity.testing import cases
from parity.trace import recorder
from parity.trace.reading import TraceFile
from tests.recorded import WEIGHTS, live, ported, recorded, schedules
from tests.resnet import Norm
from tests.unit.ladder.test_port_forms import LINEAR, Checkpointed, Softmax


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of the live reference, with everything."""
    path = tmp_path_factory.mktemp("trace") / "ref.trace"
    recording.record(live(), path)
    return path


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of runs in float64 alone."""
    path = tmp_path_factory.mktemp("trace") / "poor.trace"
    recording.record(live(), path, parts=())
    return path


def lines(report: Report) -> dict[str, Any]:
    """What a report says, without what the clock and the file's name do."""
    found = report.to_dict()
    found["notes"] = [n for n in found["notes"] if not n.startswith("the reference is ")]
    return {k: v for k, v in found.items() if k != "seconds"}


def test_the_report_is_that_of_the_live_module(trace: Path) -> None:
    """Catches a number, a limit or a verdict that a recording changes: the JSON is the same."""
    one, other = check(live()), check(recorded(trace))
    assert one.ok, one.failures()
    assert {c.rung for c in one.checks} == {"L0", "L1", "L2", "L3", "L4", "L5"}
    expected, found = lines(one), lines(other)
    for ours, theirs in zip(expected["checks"], found["checks"], strict=True):
        assert ours == theirs
    assert expected == found


def test_a_fault_is_found_at_the_same_place(trace: Path) -> None:
    """Catches a recording against which a wrong port passes, or fails elsewhere."""
    levels = ("L1", "L2")
    one = climb(live(port=ported(1e-3)), levels)
    other = check(recorded(trace, port=ported(1e-3)), levels)
    assert not one.ok
    assert lines(one) == lines(other)
    assert other.explanation() == ["the reference is a recording: causes are not sought"]


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_what_is_computed_again_is_recorded_alike(factor: float, tmp_path: Path) -> None:
    """Catches casts and dropouts that are left out, but not where a checkpoint runs again."""
    optimizers = (lambda m: torch.optim.Adam(m.parameters(), 1e-3), optax.adam(1e-3))
    port = Port(Checkpointed(), Softmax(factor), (3, 4), LINEAR, optimizers=optimizers, steps=2)
    recording.record(port, tmp_path / "ref.trace")
    given: dict[str, Any] = {"inputs": (), "optimizers": (None, optimizers[1])}
    other = dataclasses.replace(port, reference=str(tmp_path / "ref.trace"), **given)
    levels = ("L0", "L1", "L2", "L3", "L4", "L5")
    one, found = climb(port, levels), climb(other, levels)
    assert one.ok == (factor == 1.0)
    assert lines(one) == lines(found)


class Replacing(torch.nn.BatchNorm2d):
    """Does not write to its buffers, but replaces them."""

    def forward(self, x: torch.Tensor) -> Any:
        for name, buffer in list(self.named_buffers()):
            setattr(self, name, buffer.clone())
        return super().forward(x)


class NormAgain(torch.nn.Module):
    """A batch norm that the backward pass runs once more."""

    def __init__(self, kind: type = torch.nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = kind(3)

    def forward(self, x: torch.Tensor) -> Any:
        return checkpoint(self.norm, x, use_reentrant=False)


class NormOnce(nnx.Module):
    def __init__(self) -> None:
        self.norm = Norm(3, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(x)


@pytest.mark.parametrize("kind", [torch.nn.BatchNorm2d, Replacing])
def test_statistics_that_are_updated_again_are_recorded_alike(kind: type, tmp_path: Path) -> None:
    """Catches running statistics taken before a checkpoint updates them a second time."""
    port = Port(NormAgain(kind), NormOnce(), (2, 4, 5, 3), WEIGHTS)
    recording.record(port, tmp_path / "ref.trace")
    other = dataclasses.replace(port, reference=str(tmp_path / "ref.trace"), inputs=())
    one, found = (climb(p, ("L1", "L2")) for p in (port, other))
    assert {str(c.quantity) for c in one.failures()} == {"mean after a step", "var after a step"}
    assert lines(one) == lines(found)


class BlockAgain(torch.nn.Module):
    """A block with a batch norm, which the backward pass runs once more."""

    def __init__(self) -> None:
        super().__init__()
        self.block = torch.nn.Sequential(collections.OrderedDict(norm=torch.nn.BatchNorm2d(3)))

    def forward(self, x: torch.Tensor) -> Any:
        return checkpoint(self.block, x, use_reentrant=False)


class BlockOnce(nnx.Module):
    def __init__(self) -> None:
        self.block = NormOnce()

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.block(x)


def test_a_block_that_is_run_again_is_right_alone(tmp_path: Path) -> None:
    """Catches a block judged by statistics that a checkpoint around it updated a second time."""
    rules = [(rf"block\.{pattern}", name and f"block.{name}") for pattern, name, *_ in WEIGHTS]
    port = Port(BlockAgain(), BlockOnce(), (2, 4, 5, 3), [r for r in rules if "norm" in r[0]])
    recording.record(port, tmp_path / "ref.trace")
    other = dataclasses.replace(port, reference=str(tmp_path / "ref.trace"), inputs=())
    one, found = (check(p, levels=("L1", "L2")) for p in (port, other))
    alone = [c for c in found.checks if c.layer == "block" and "after" in str(c.quantity)]
    assert len(alone) == 2
    assert all(c.ok for c in alone)
    for report in (one, found):
        first = report.first_failure()
        assert first is not None
        assert (first["rung"], first["layer"]) == ("L2", "block.norm")


def test_the_tests_of_a_port_are_the_same(trace: Path) -> None:
    """Catches `parity.testing` that has no tests, or others, for a recorded reference."""
    levels = ("L0", "L1", "L2", "L3", "L4", "L5")
    assert cases(recorded(trace), levels) == cases(live(), levels)


def test_what_a_trace_lacks_is_counted(poor: Path) -> None:
    """Catches a trace of half a reference that passes as if it were whole."""
    report = check(recorded(poor))
    assert report.ok
    assert {c.kind for c in report.checks} == {"structure"}
    reasons = {(o.rung, o.reason) for o in report.left_out}
    assert any(r == "L1" and "no layers alone" in why for r, why in reasons)
    for rung in ("L2", "L3"):
        assert any(r == rung and "structure alone is compared" in why for r, why in reasons)
    assert ("L4", "the trace holds no steps of update in float64") in reasons
    assert ("L5", "the trace holds no steps of trajectory in float64") in reasons
    alone = {c.layer for c in report.checks if c.rung == "L1"}
    assert {"conv", "norm", "slope", "head"} <= alone
    report = check(recorded(poor, port=ported(1e-3)), ("L1", "L2"))
    assert {c.layer for c in report.failures()} == {"head", "(network)"}


def test_without_gradients_nothing_is_proved(poor: Path, tmp_path: Path) -> None:
    """Catches a pass of a network whose gradients nobody recorded."""
    trace = TraceFile(poor)
    for run in trace.index["runs"]:
        run["parameter_gradients"], run["loss"] = {}, None
    path = rewritten(trace, tmp_path / "no.trace")
    report = check(recorded(path), ("L3",))
    assert not report.ok
    missing = {str(o.quantity) for o in report.missing()}
    assert {"loss"} <= missing


def test_steps_without_one_of_decay(trace: Path, tmp_path: Path) -> None:
    """Catches steps that are there and not compared, for the trace lacks one on zeros."""
    found = TraceFile(trace)
    steps = [t for t in found.index["training"] if t["kind"] != "decay"]
    found.index["training"] = steps
    path = rewritten(found, tmp_path / "no.trace")
    report = check(recorded(path), ("L4",))
    assert report.ok, report.failures()
    assert {c.kind for c in report.checks if c.rung == "L4"} == {"structure", "numerics"}
    reasons = [o.reason for o in report.left_out if o.rung == "L4"]
    assert reasons == ["the trace holds no steps of decay in float64"]
    wrong = recorded(path, optimizers=(None, optax.adam(schedules()[1])))
    assert {c.rung for c in check(wrong, ("L4",)).failures()} == {"L4"}


def rewritten(trace: TraceFile, path: Path) -> Path:
    """Write a trace again, with another index."""
    with recorder.Trace(path) as made:
        for number, name in enumerate(trace.index["arrays"]):
            assert name == f"a{number}"  # what it is called again
            made.array(trace.array(name))
        made.index = trace.index | {"arrays": made.index["arrays"]}
    return path


def in_float32(trace: TraceFile, path: Path) -> Path:
    """Write what a framework without float64 would have recorded."""
    with recorder.Trace(path) as made:
        wide = {name: trace.array(name) for name in trace.index["arrays"]}
        assert list(wide) == [f"a{number}" for number in range(len(wide))]  # called so again
        for array in wide.values():
            made.array(array)
        narrow = {n: a.astype(np.float32) if a.dtype == "f8" else a for n, a in wide.items()}
        rounded = {name: made.array(array) for name, array in narrow.items()}

        def turned(value: Any) -> Any:
            if isinstance(value, dict):
                return {k: rounded[v] if k == "array" else turned(v) for k, v in value.items()}
            return [rounded[v] if isinstance(v, str) else turned(v) for v in value]

        kept = {
            kind: [r for r in trace.index[kind] if r["precision"] == "float32"]
            for kind in ("runs", "alone", "training")
        }
        for run in kept["runs"]:
            twin = trace.runs[run["mode"], "float64", None]
            for call, other in zip(run["calls"], twin["calls"], strict=True):
                call |= {key: turned(other[key]) for key in ("args", "kwargs")}
                call["cotangents"] = [c and rounded[c] for c in other["cotangents"]]
        made.index = trace.index | kept | {"arrays": made.index["arrays"]}
    return path


def test_a_reference_without_float64(trace: Path, tmp_path: Path) -> None:
    """Catches a sound port that fails, or a wrong one that passes, where no oracle exists."""
    path = in_float32(TraceFile(trace), tmp_path / "narrow.trace")
    report = check(recorded(path))
    assert report.ok, report.failures()
    assert {c.rung for c in report.checks} == {"L0", "L1", "L2", "L3", "L4"}
    assert min(c.margin for c in report.checks) > 3
    assert any("recorded in float32 alone" in note for note in report.notes)
    wrong = dataclasses.replace(recorded(path), optimizers=(None, optax.adam(schedules()[1])))
    assert {c.rung for c in check(wrong, ("L0", "L4")).failures()} == {"L4"}
    failed = check(recorded(path, port=ported(1e-2)), ("L1", "L2")).failures()
    assert {(c.rung, c.layer) for c in failed} == {("L2", "head"), ("L2", "(network)")}


@pytest.mark.parametrize(
    ("changes", "precision", "message"),
    [
        ({}, "bfloat16", "was recorded in float32, not in bfloat16"),
        ({"inputs": (2, 8, 10, 3)}, "float32", "inputs is given, expected it left out"),
        ({"losses": (None, lambda y: y.sum())}, "float32", "was recorded without"),
    ],
)
def test_a_port_that_does_not_fit(trace: Path, changes: dict, precision: str, message: str) -> None:
    """Catches a comparison of things that were never computed alike."""
    with pytest.raises(InputError, match=message):
        climb(recorded(trace, **changes), ("L0",), precision)


def test_a_trace_that_is_not_there() -> None:
    """Catches a traceback for a path with a typing error."""
    with pytest.raises(InputError, match=r"cannot read nowhere\.trace: No such file"):
        climb(recorded("nowhere.trace"), ("L0",))


FACTORY = """
import sys
sys.path.insert(0, {root!r})
import torch
from tests.recorded import Reference, live, recorded

def make_port():
    return live()

def make_reference():
    return Reference(), torch.ones(1, 3, 4, 4)

def elsewhere():
    return recorded("ref.trace")

def wrong():
    return 3

def drawing():
    class Net(torch.nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)
    return Net(), torch.ones(1, 2)
"""


@pytest.fixture
def factory(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(FACTORY.format(root=str(Path(__file__).parents[3])))
    return str(path)


def test_record_and_compare_commands(
    factory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches commands that do not do what the functions do, and a wrong exit status."""
    one, port, other = (str(tmp_path / name) for name in ("a", "b", "c"))
    assert main(["record", f"{factory}:make_port", one, "--without", "alone,update"]) == 0
    assert main(["record", f"{factory}:make_port", port, "--side", "port"]) == 0
    assert "6 runs" in capsys.readouterr().out
    assert main(["compare", one, port]) == 0
    out = capsys.readouterr().out
    assert "EQUAL" in out
    assert "2 layers only in the first: drop, pool" in out
    assert main(["record", f"{factory}:make_reference", other, "--eval"]) == 0
    assert main(["compare", one, other]) == 1
    out = capsys.readouterr().out
    assert "DIFFERENT look at conv.weight first: before, conv.weight, values" in out
    assert "differs: eval float64, (network), input 0" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}:wrong"], "returned a int, expected a module and its inputs"),
        (["{}:drawing"], "draws random numbers in eval mode"),
        (["{}:make_port", "--side", "left"], "side 'left', expected one of reference, port"),
        (["{}:make_port", "--without", "all"], "--without 'all', expected some of"),
        (["{}:make_port", "--precision", "int8"], "precision 'int8'"),
    ],
)
def test_record_refuses(
    factory: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """Catches a file that is written for a mistake, or a traceback."""
    given = [a.format(factory) for a in arguments]
    assert main(["record", given[0], str(tmp_path / "no.trace"), *given[1:]]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert {p.suffix for p in tmp_path.iterdir()} <= {".py", ""}


def test_rules_of_a_port_whose_reference_is_a_trace(
    poor: Path, factory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a checkpoint that a proven port's rules cannot convert, for its module is elsewhere.

    Also a trace that is not found beside the file that makes the port.
    """
    shutil.copy(poor, tmp_path / "ref.trace")
    state = live().reference.state_dict()
    torch.save(state, tmp_path / "in.pth")
    files = [str(tmp_path / name) for name in ("in.pth", "out.safetensors", "back.safetensors")]
    rules = ["--rules", f"{factory}:elsewhere"]
    for source, target in itertools.pairwise(files):
        assert main(["convert", *rules, source, target]) == 0
    back = safetensors.numpy.load_file(files[-1])
    assert {n: a.tobytes() for n, a in back.items()} == {
        n: t.numpy().tobytes() for n, t in state.items() if "tracked" not in n
    }
    torch.save({n: t for n, t in state.items() if n != "head.bias"}, files[0])
    (tmp_path / "out.safetensors").unlink()
    capsys.readouterr()
    assert main(["convert", *rules, *files[:2]]) == 2
    assert "nothing fills head.bias of the port" in capsys.readouterr().err
    assert main(["suggest", f"{factory}:elsewhere"]) == 2
    assert "its reference is a trace, expected a module" in capsys.readouterr().err


def test_what_a_mapping_says_of_a_recording(tmp_path: Path) -> None:
    """Catches a trace that calls its runs in bfloat16 float32, and parts that come back."""
    options = {"module": torch.nn.Linear(3, 2), "inputs": torch.ones(1, 3)}
    given = options | {"precision": "bfloat16", "parts": ("numerics", "alone")}
    recording.record(given, tmp_path / "a.trace", parts=("numerics", "update"))
    trace = TraceFile(tmp_path / "a.trace")
    assert trace.precision == "bfloat16"
    assert ("eval", "bfloat16", None) in trace.runs
    assert not trace.index["alone"]
    for options_, message in (
        (options | {"torch": 1}, "the factory returned 'torch'"),
        (options | {"parts": ("alone", "all")}, "parts: 'all', expected some of"),
    ):
        with pytest.raises(InputError, match=message):
            recording.record(options_, tmp_path / "b.trace")
    assert [p.name for p in tmp_path.iterdir()] == ["a.trace"]


class Single(nnx.Module):
    def __init__(self) -> None:
        self.a = nnx.Linear(4, 4, use_bias=False, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.a(x)


def test_gradients_that_plain_calls_left_out_are_not_pytorchs(tmp_path: Path) -> None:
    """Catches a checkpoint of PyTorch's blamed for what another framework's trace lacks."""
    x, w = np.ones((3, 4)), np.arange(16.0).reshape(4, 4)
    with recorder.Trace(tmp_path / "x", framework="mine 1.0") as trace:
        trace.state("a.weight", w, trained=True)
        for mode in ("eval", "train"):
            trace.run(mode)
            trace.input("x", x)
            trace.tap("a", x @ w, inputs=[x])
            trace.output("y", x @ w)
        trace.loss((x @ w).sum())
        trace.gradient("a.weight", np.full((4, 4), 3.0))
    rules = [("a.weight", "a.kernel")]
    losses = (None, lambda y: y.sum())
    report = check(Port(str(tmp_path / "x"), Single(), weights=rules, losses=losses))
    assert report.ok
    (reason,) = (o.reason for o in report.left_out if o.layer == "a")
    assert reason == "the trace holds no gradient of its output; L3 compares the network's"
