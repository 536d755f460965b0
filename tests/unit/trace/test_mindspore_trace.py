"""A small network recorded by MindSpore 2.10, and our two sides checked against the recording.

`tests/mindspore_pair/reference.py` made `tests/golden/mindspore_small.trace`, in float32, since
MindSpore's convolutions have no float64. `test_real_mindspore_trace.py` makes it again.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import jax_impl.layers
from parity import check
from parity.ladder.recorded_steps import compare
from parity.report.report import Report
from parity.trace.reading import TraceFile
from tests.mindspore_pair import twins
from tests.unit.trace.test_recorded_reference import rewritten

LAYERS = {"conv", "bn", "act", "dilated", "up", "up_bn", "resize", "head"}


@pytest.fixture(scope="module")
def report() -> Report:
    """Return what every rung says of the JAX side."""
    return check(twins.make_port(), ("L0", "L1", "L2", "L3", "L4", "L5"))


def test_jax_side_is_mindspores(report: Report) -> None:
    """Catches any layer, gradient, statistic or step of Adam that is not MindSpore's."""
    report.assert_faithful()
    for rung in ("L1", "L2"):
        assert {c.layer for c in report.checks if c.rung == rung} >= LAYERS
    trained = {(c.layer, c.quantity.path) for c in report.checks if c.rung == "L4"}
    assert len(trained) == 1 + 12  # the rate, and every parameter
    assert len({c.quantity.step for c in report.checks if c.rung == "L4"}) > 4
    assert {c.quantity.step for c in report.checks if c.rung == "L5"} == {3}


def test_it_says_what_judges(report: Report) -> None:
    """Catches a report that claims float64 of a recording in float32."""
    said = "\n".join(report.notes)
    assert "recorded by mindspore 2.10" in said
    assert "not recorded in float64, so the limit of float32's numerics judges" in said
    limits = [c.limit for c in report.checks if c.rung in ("L1", "L2", "L3", "L4")]
    assert 1e-8 < min(limits) < 1e-6
    assert max(c.limit for c in report.checks if c.rung in ("L1", "L2")) < 1e-2


class Shifted(jax_impl.layers.ConvTranspose2dSame):
    """Cut at the top instead of at the bottom: as padding 1 and output padding 1."""

    def __init__(self) -> None:
        super().__init__(3, 4, 3, 2, rngs=nnx.Rngs(0))
        self.cut = 1


def shifted(network: twins.JaxNet) -> None:
    network.up = Shifted()


def other_momentum(network: twins.JaxNet) -> None:
    network.up_bn.momentum = 0.8


def other_corners(network: twins.JaxNet) -> None:
    network.resize = Corners()


class Corners(nnx.Module):
    """Bilinear, the corners' pixels in their places."""

    def __call__(self, x: jax.Array) -> jax.Array:
        size = (2 * x.shape[1], 2 * x.shape[2])
        return jax_impl.layers.Resize(True, rngs=nnx.Rngs(0))(x, size)


@pytest.mark.parametrize(
    ("fault", "rung", "layer"),
    [(shifted, "L1", "up"), (other_momentum, "L1", "up_bn"), (other_corners, "L1", "resize")],
)
def test_a_wrong_layer_is_named(
    fault: Callable[[twins.JaxNet], None], rung: str, layer: str
) -> None:
    """Catches limits of float32 under which a layer's fault would pass."""
    port = twins.make_port()
    fault(port.port)
    wrong = [c for c in check(port, (rung,)).failures() if c.layer == layer]
    assert wrong


def test_layers_that_nobody_recorded_alone(tmp_path: Path) -> None:
    """Catches float64's limits for what was recorded in float32: a sound port would fail.

    So would each block of one whose network is wrong elsewhere: blocks are never recorded alone.
    """
    trace = TraceFile(twins.TRACE)
    trace.index["alone"] = []
    path = rewritten(trace, tmp_path / "ref.trace")
    check(twins.make_port(path), ("L1",)).assert_faithful()
    port = twins.make_port(path)
    shifted(port.port)
    assert {c.layer for c in check(port, ("L1",)).failures()} == {"up"}


def every_parameter() -> optax.GradientTransformation:
    """Return the optimizer, but for gamma and beta, which decay too."""
    return optax.chain(
        optax.add_decayed_weights(twins.DECAY),
        twins.eps_hat_adam(),
        optax.scale_by_learning_rate(twins.rate),
    )


def test_a_wrong_decay_is_found() -> None:
    """Catches steps that are compared so loosely that a decay of gamma and beta is not seen."""
    port = dataclasses.replace(twins.make_port(), optimizers=(None, every_parameter()))
    wrong = {c.layer for c in check(port, ("L4",)).failures()}
    assert wrong == {"bn", "up_bn"}


def torch_trace(path: Path, change: Callable[[twins.TorchNet], None] | None = None) -> TraceFile:
    twins.record_torch_twin(TraceFile(twins.TRACE), path, change)
    return TraceFile(path)


def test_torch_side_is_mindspores(tmp_path: Path) -> None:
    """Catches a layer, a gradient or a step of PyTorch's side that is not MindSpore's."""
    found = compare(TraceFile(twins.TRACE), torch_trace(tmp_path / "t.trace"))
    assert found.ok, str(found.first())
    runs = {c.run for c in found.compared}
    steps = {f"trajectory, step {i}" for i in (1, 2, 3)}
    assert runs == {"before", "eval float32", "train float32", *steps}
    assert {c.one for c in found.compared if c.run == "train float32"} >= LAYERS
    moved = [c for c in found.compared if c.run == "trajectory, step 3"]
    assert len(moved) == 17  # the loss, twelve parameters, four statistics
    assert {line.partition(",")[2].partition(":")[0].strip() for line in found.left_out} == {
        "1 layer only in the first",
        "gradients of outputs of 8 layers only in the first",  # PyTorch's run in float32 has none
        *(
            f"{n}.num_batches_tracked, {k}"
            for n in ("bn", "up_bn")
            for k in ("values", "statistic")
        ),
        *(f"step {i}, {n}.num_batches_tracked, state" for n in ("bn", "up_bn") for i in (1, 2, 3)),
    }


def test_a_wrong_layer_of_torchs_is_named(tmp_path: Path) -> None:
    """Catches two traces compared so loosely that another eps passes."""

    def change(network: twins.TorchNet) -> None:
        network.up_bn.eps = 1e-5

    found = compare(TraceFile(twins.TRACE), torch_trace(tmp_path / "t.trace", change))
    assert not found.ok
    first = found.first()
    assert first is not None
    assert first.one == "up_bn"


def test_widened_arrays_are_of_the_same_file() -> None:
    """Catches a file that is closed as soon as its numbers in float64 are not wanted any more."""
    trace = TraceFile(twins.TRACE)
    name = trace.index["state"]["conv.weight"]
    wide = trace.widened().array(name)
    assert wide.dtype == np.float64
    assert trace.array(name).dtype == np.float32
    np.testing.assert_array_equal(trace.array(name), wide)
    assert trace.narrow
    assert trace.runs["eval", "float64", None] is trace.runs["eval", "float32", None]


def test_rounding_moves_every_number_to_a_neighbour() -> None:
    """Catches a disturbance that float32 rounds away, or that reaches beyond rounding."""
    from parity.trace import recorder

    array = np.array([1.0, -3.0, 0.0, 1e-30, 2.0**20], np.float32)
    moved = recorder.neighbours(array, recorder.generator(0, "x"))
    assert moved.dtype == np.float32
    assert moved[2] == 0
    apart = abs(moved - array)
    assert (apart[array != 0] > 0).all()
    assert (apart <= np.spacing(abs(array))).all()
    torch.testing.assert_close(torch.tensor(moved), torch.tensor(array))


def test_a_trace_that_holds_itself_closes_its_file() -> None:
    """Catches a file that stays open, or warns in another test, since its trace is in a cycle."""
    trace: Any = TraceFile(twins.TRACE)
    trace.itself, file = trace, trace.file
    del trace
    gc.collect()
    assert file.closed
