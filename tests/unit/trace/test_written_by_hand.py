"""Traces that somebody wrote by hand: what they lack is said, and is no fault of the port."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from parity import Port, check
from parity.capture.records import NHWC
from parity.ladder.recording import record_port
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


def test_an_input_of_whole_numbers_has_no_gradient(tmp_path: Path) -> None:
    """Catches the gradient of the second input sought at the first, which holds whole numbers."""
    path, ids = tmp_path / "ids.trace", np.array([2, 0, 1])
    y = W[ids] * SCALE[:3]
    with recorder.Trace(path) as trace:
        trace.state("linear.weight", W, trained=True)
        for mode in ("eval", "train"):
            trace.run(mode)
            trace.input("ids", ids)
            trace.input("x", SCALE[:3])
            trace.output("", y)
        trace.loss(np.mean(y**2))
        dy, dw = 2 * y / y.size, np.zeros_like(W)
        np.add.at(dw, ids, dy * SCALE[:3])
        trace.gradient("linear.weight", dw)
        trace.gradient("x", dy * W[ids])
        with pytest.raises(recorder.TraceError, match="input of floating-point numbers"):
            trace.gradient("ids", ids)
    assert len(TraceFile(path).index["runs"][1]["input_gradients"]) == 1

    def embedded(params: dict, ids: jnp.ndarray, x: jnp.ndarray) -> jnp.ndarray:
        return params["w"][ids] * x

    loss = (None, lambda y: jnp.mean(y**2))
    found = Port(str(path), embedded, params={"w": W}, weights=RULES, losses=loss)
    report = check(found, ("L0", "L2", "L3"))
    assert report.ok, report.failures()
    assert "gradient of input 0" in {str(c.quantity) for c in report.checks}


def rounded(path: Path, lacking: tuple[str, ...]) -> Path:
    """Write a linear layer's runs, rounded and disturbed as well; `lacking`: without gradients."""
    with recorder.Trace(path) as trace:
        trace.state("linear.weight", W, trained=True)
        runs = {"exact": ("float64", None), "rounded": ("float32", None), "moved": ("float64", 0)}
        for mode in ("eval", "train"):
            for name, (precision, disturbance) in runs.items():
                x, scale, w = (a.astype(precision) for a in (X, SCALE, W))
                x = x * (1 + 2.0**-16) if disturbance == 0 else x
                y = (x @ w) * scale
                dy = 2 * y / y.size
                trace.run(mode, precision, disturbance)
                trace.input("x", x)
                trace.input("scale", scale)
                trace.output("", y)
                if mode == "train":
                    trace.loss(np.mean(y**2))
                if mode == "train" and name not in lacking:
                    trace.gradient("linear.weight", x.T @ (dy * scale))
                    trace.gradient("x", (dy * scale) @ w.T)
                    trace.gradient("scale", dy * (x @ w))
    return path


@pytest.mark.parametrize("lacking", ["rounded", "moved"])
def test_gradients_of_the_exact_run_alone(lacking: str, tmp_path: Path) -> None:
    """Catches a sound port failed for gradients that were recorded in float64 alone."""
    report = checked(rounded(tmp_path / "lacking.trace", (lacking,)), ("L0", "L2", "L3"))
    assert report.ok, report.failures()
    where = "float32" if lacking == "rounded" else "float64, disturbed"
    reason = f"the trace holds no gradients in {where}: structure alone is compared"
    assert ("L3", "gradient of parameters", reason) in left_out(report)
    kinds = {(str(c.quantity), c.kind) for c in report.checks if c.rung == "L3"}
    assert ("gradient of input 1", "structure") in kinds
    assert ("gradient of input 1", "numerics") not in kinds
    assert ("loss", "numerics") in kinds
    full = checked(rounded(tmp_path / "full.trace", ()), ("L0", "L3"))
    assert full.ok, full.failures()
    assert ("gradient of input 1", "numerics") in {(str(c.quantity), c.kind) for c in full.checks}


def test_steps_without_a_loss(tmp_path: Path) -> None:
    """Catches training called not finite, or passed in silence, where no loss was recorded."""
    path = tmp_path / "steps.trace"
    with recorder.Trace(path) as trace:
        trace.state("linear.weight", W, trained=True)
        for mode in ("eval", "train"):
            trace.run(mode)
            trace.input("x", X)
            trace.input("scale", SCALE)
            trace.output("", Y)
        trace.loss(np.mean(Y**2))
        dw = X.T @ (2 * Y / Y.size * SCALE)
        trace.gradient("linear.weight", dw)
        trace.training("trajectory")
        trace.step({"linear.weight": W - 0.1 * dw})
    report = checked(path, ("L0", "L5"), optimizers=(None, optax.sgd(0.1)))
    assert report.ok, report.failures()
    assert ("L5", "loss of step 1", "the trace does not hold it") in left_out(report)
    wrong = checked(path, ("L0", "L5"), optimizers=(None, optax.sgd(0.2)))
    assert {c.layer for c in wrong.failures()} == {"(network)"}


def test_other_keyword_arguments(tmp_path: Path) -> None:
    """Catches a run in eval mode, or a batch, that is repeated with another run's arguments."""
    for kind in ("eval", "batch", "none"):
        path = tmp_path / f"{kind}.trace"
        with recorder.Trace(path) as trace:
            trace.state("linear.weight", W, trained=True)
            for mode in ("eval", "train"):
                run = trace.run(mode)
                trace.input("x", X)
                scale = SCALE * 2 if kind == mode else SCALE
                run["kwargs"] = trace.tree({"scale": scale})
                trace.output("", (X @ W) * scale)
            trace.loss(np.mean(Y**2))
            scale = SCALE * 2 if kind == "batch" else SCALE
            batch = {"args": trace.tree([X]), "kwargs": trace.tree({"scale": scale})}
            trace.index["batches"].append(batch | {"targets": []})
        if kind == "none":
            assert not checked(path, ("L2",)).failures()
            continue
        named = "batch 0" if kind == "batch" else "the run in eval mode"
        with pytest.raises(InputError, match=f"{named} has other keyword arguments than the run"):
            checked(path, ("L2",))


class Scaled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2, bias=False)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * scale


def test_a_port_recorded_without_a_loss(tmp_path: Path) -> None:
    """Catches a recorded port that is refused as a reference, as if it had had a loss."""
    rules = [(r"linear\.weight", "w", "o i -> i o")]
    live = Port(Scaled(), port, (X, SCALE), rules, params={"w": W.astype(np.float32)})
    path = tmp_path / "port.trace"
    record_port(live, path)
    assert TraceFile(path).index["notes"]["probe"] == [0]
    again = Port(str(path), port, weights=[("w", "w")], params={"w": np.ones_like(W)})
    report = check(again, ("L0", "L2", "L3"))
    assert report.ok, report.failures()
    assert "loss" in {str(c.quantity) for c in report.checks}
