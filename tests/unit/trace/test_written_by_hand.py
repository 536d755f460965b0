"""Traces that somebody wrote by hand: what they lack is said, and is no fault of the port."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from parity import Port, check
from parity.capture.records import NHWC
from parity.report.report import Report
from parity.spec import draw
from parity.spec.errors import InputError
from parity.trace import recorder
from parity.trace.reading import TraceFile
from parity.trace.side import RecordedSide

RNG = draw.generator(0, "by hand")
X, SCALE, W = (RNG.standard_normal(s) for s in ((5, 3), (5, 2), (3, 2)))
Y = (X @ W) * SCALE
RULES = [(r"linear\.weight", "w", "i o -> i o")]


def port(params: dict, x: jnp.ndarray, scale: jnp.ndarray) -> jnp.ndarray:
    return (x @ params["w"]) * scale


def written(path: Path, *parts: str) -> Path:
    """Write a linear layer times an input; `parts`: what is recorded beside its outputs."""
    dy = 2 * Y / Y.size
    with recorder.Trace(path) as trace:
        if "state" in parts:
            trace.state("linear.weight", W, trained=True)
        for mode in ("eval", "train")[: 1 + ("train" in parts)]:
            trace.run(mode)
            trace.input("x", X)
            trace.input("scale", SCALE)
            trace.tap("linear", X @ W, inputs=[X])
            trace.output("", Y)
        if "train" in parts:
            trace.loss(np.mean(Y**2))
        if "weight" in parts:
            trace.gradient("linear.weight", X.T @ (dy * SCALE))
        if "scale" in parts:
            trace.gradient("scale", dy * (X @ W))
    return path


def checked(path: Path, levels: tuple[str, ...], **changes: object) -> Report:
    fields = {"weights": RULES, "losses": (None, lambda y: jnp.mean(y**2))} | changes
    return check(Port(str(path), port, params={"w": W}, **fields), levels)


def left_out(report: Report) -> set[tuple[str, str, str]]:
    return {(o.rung, str(o.quantity), o.reason) for o in report.left_out}


def test_the_least_that_is_worth_comparing(tmp_path: Path) -> None:
    """Catches a port failed, or passed in silence, because a trace holds no weights."""
    path = written(tmp_path / "least.trace")
    report = checked(path, ("L0", "L1", "L2"), weights=None, losses=None)
    assert report.ok, report.failures()
    assert ("L0", "values", "the trace holds no state") in left_out(report)
    wrong = Port(str(path), lambda p, x, s: port(p, x, s) * 1.001, params={"w": W})
    assert not check(wrong, ("L0", "L2")).ok
    with pytest.raises(InputError, match=r"weights are given, expected none: .* holds no state"):
        checked(path, ("L0",))


def test_gradients_that_nobody_recorded_are_not_zero(tmp_path: Path) -> None:
    """Catches a sound port failed, its gradients compared with zeros where a trace holds none."""
    path = written(tmp_path / "no.trace", "state", "train", "weight")
    report = checked(path, ("L0", "L1", "L2", "L3"))
    assert not report.failures()
    lacking = {("L3", f"gradient of input {i}", "the trace does not hold it") for i in (0, 1)}
    assert lacking <= left_out(report)
    path = written(tmp_path / "none.trace", "state", "train", "scale")
    report = checked(path, ("L0", "L3"))
    assert not report.failures()
    assert not report.ok  # parameters must be compared
    assert "gradient of input 1" in {str(c.quantity) for c in report.checks}


def test_one_input_without_a_gradient(tmp_path: Path) -> None:
    """Catches the second input's gradient taken for the first's, where that was not recorded."""
    path = written(tmp_path / "second.trace", "state", "train", "weight", "scale")
    report = checked(path, ("L0", "L3"))
    assert report.ok, report.failures()
    (found,) = (str(c.quantity) for c in report.checks if "gradient of input" in c.quantity)
    assert found == "gradient of input 1"
    side = RecordedSide(TraceFile(path), "float64", NHWC)
    first, second = side.run((), True).input_gradients
    assert (first.size, second.shape) == (0, SCALE.shape)


def test_steps_alone(tmp_path: Path) -> None:
    """Catches a rung that a trace lacks named by half a sentence."""
    path = written(tmp_path / "steps.trace", "state", "train", "weight")
    report = checked(path, ("L4", "L5"), optimizers=(None, optax.sgd(0.1)))
    assert ("L4", "step 1", "the trace holds no steps of update in float64") in left_out(report)
    reason = "the trace holds no steps of trajectory in float64"
    assert ("L5", "state after 1 step", reason) in left_out(report)
