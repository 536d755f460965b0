"""Mixed precision: one rule on both sides, and JAX no less exact than PyTorch."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx

import jax_impl.layers
import jax_impl.ops.precision
from parity.ladder.tolerances import FEW, K, floor
from parity.model_checks.small_networks import small
from parity.spec.tensors import tensors
from parity.spec.training.optimizers import Optimizer, idle
from tests.training import SGD, SIDES, all_of, batch, same, trainer

Record = list[tuple[str, str, tuple[int, ...]]]
HALVES = {"bf16": "bfloat16", "fp16": "float16"}
CONTAINERS = {"Sequential", "ModuleList", "Identity"}
LEAVES = [name for name in jax_impl.layers.__all__ if name not in CONTAINERS]
GRADIENT = Optimizer("sgd", 1.0, momentum=0.0)  # whose step is the gradient


def in_torch(model: str, precision: str, level: str) -> Record:
    """What each layer gives in one step, in call order: its class, precision, NHWC shape."""
    made, calls = trainer("torch", model, SGD, precision, level=level), []

    def record(module: torch.nn.Module, _: Any, outputs: Any) -> None:
        y = outputs[0] if isinstance(outputs, tuple) else outputs
        shape = tuple(y.shape) if y.ndim < 4 else tuple(y.permute(0, 2, 3, 1).shape)
        calls.append((type(module).__name__, str(y.dtype).removeprefix("torch."), shape))

    for module in made.model.modules():
        if type(module).__name__ in LEAVES:
            module.register_forward_hook(record)
    made.step(batch(model, 0), 0.0)
    return calls


@contextlib.contextmanager
def watched(calls: Record) -> Iterator[None]:
    """Within it every layer of ours that is called leaves its name, precision and shape."""

    def watching(name: str, original: Any) -> Any:
        def call(self: nnx.Module, *args: Any) -> Any:
            outputs = original(self, *args)
            y = outputs[0] if isinstance(outputs, tuple) else outputs
            if type(self).__name__ == name:
                calls.append((name, str(y.dtype), y.shape))
            return outputs

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in LEAVES:
            kind = getattr(jax_impl.layers, name)
            patch.setattr(kind, "__call__", watching(name, kind.__call__))
        yield


def in_jax(model: str, precision: str, level: str) -> Record:
    made, calls = trainer("jax", model, SGD, precision, level=level), []
    with watched(calls):
        inputs = made._inputs(batch(model, 0))
        jax.eval_shape(made._program.evaluate, made.state.trained | made.state.rest, inputs)
    return calls


# The rule knows a level and a half precision, and looks at no network: so each network meets both
# levels and both precisions here, and each pair of them two networks. All of them: `long`.
PAIRED = {
    "enet": {("bf16", "O1"), ("fp16", "O2")},
    "erfnet": {("fp16", "O1"), ("bf16", "O2")},
    "genet": {("bf16", "O1"), ("fp16", "O2")},
    "icnet": {("fp16", "O1"), ("bf16", "O2")},
}


@pytest.mark.parametrize(
    ("model", "level", "precision"),
    [
        pytest.param(m, o, p, marks=[] if (p, o) in PAIRED[m] else [pytest.mark.long])
        for m in PAIRED
        for o in ("O1", "O2")
        for p in HALVES
    ],
)
def test_each_layer_gives_the_same_precision(model: str, precision: str, level: str) -> None:
    """Catches a layer that computes in float32 on one side and in half precision on the other."""
    expected, found = in_torch(model, precision, level), in_jax(model, precision, level)
    assert found == expected
    half = HALVES[precision]
    convolutions = [dtype for name, dtype, _ in found if name.startswith("Conv")]
    assert convolutions
    assert set(convolutions) == {half}
    assert level == "O1" or {dtype for _, dtype, _ in found} == {half}


def gradient(side: str, model: str, precision: str, level: str) -> dict[str, np.ndarray]:
    """Return every parameter's gradient, and what the statistics gain; in float64."""
    options = {} if precision == "fp64" else {"level": level, "loss_scale": 1024.0}
    made = trainer(side, model, GRADIENT, precision, **options)
    before = all_of(side, model, made.snapshot())
    result = made.step(batch(model, 0), 1.0)
    assert not result.fault
    after = all_of(side, model, made.snapshot())
    return {k: np.asarray(after[k], np.float64) - before[k] for k in after} | {
        "loss": np.array(result.loss)
    }


@pytest.mark.parametrize(
    ("model", "precision", "level"),
    [
        ("enet", "bf16", "O1"),
        ("erfnet", "fp16", "O2"),
        # The other pairs of the same networks, precisions and levels.
        pytest.param("enet", "fp16", "O2", marks=pytest.mark.long),
        pytest.param("erfnet", "bf16", "O2", marks=pytest.mark.long),
    ],
)
def test_jax_is_no_less_exact_than_pytorch(model: str, precision: str, level: str) -> None:
    """Catches sums in half precision: biases' gradients came out a hundred times less exact.

    By the oracle's rule: error(JAX) <= K error(PyTorch) + floor, against PyTorch in float64. A few
    numbers, and biases before a batch norm, whose gradient is 0, share the worst error of their
    sort and are measured against its median size.
    """
    exact = gradient("torch", model, "fp64", level)
    made = {side: gradient(side, model, precision, level) for side in SIDES}
    config = small(model, least=True)[0]
    specs, unused = tensors(config), idle(config, exact)
    sorts: dict[str, list[str]] = {}
    for key, array in exact.items():
        kind = specs[key].kind if key in specs else key
        sort = kind if array.size < FEW or kind == "bias" else key
        if key not in unused:
            sorts.setdefault(sort, []).append(key)
    for sort, keys in sorts.items():
        typical = np.median([np.linalg.norm(exact[k]) for k in keys])
        errors = {
            side: max(
                np.linalg.norm(made[side][k] - exact[k]) / max(np.linalg.norm(exact[k]), typical)
                for k in keys
            )
            for side in SIDES
        }
        assert errors["jax"] <= K * errors["torch"] + floor(HALVES[precision]), (sort, errors)


@pytest.mark.parametrize(("precision", "level"), [("bf16", "O1"), ("fp16", "O2")])
@pytest.mark.parametrize("side", SIDES)
def test_it_trains_and_goes_on(side: str, precision: str, level: str) -> None:
    """Catches masters that are kept in half precision, or not at all, in a snapshot."""
    optimizer = dataclasses.replace(SGD, lr=0.02)
    made, other = (
        trainer(side, "genet", optimizer, precision, level=level, loss_scale="dynamic")
        for _ in range(2)
    )
    losses = [made.step(batch("genet", 0), optimizer.lr).loss for _ in range(8)]
    assert losses[-1] < 0.7 * losses[0]
    middle = made.snapshot()
    assert {a.dtype for a in middle.arrays.values()} == {np.dtype("f4"), np.dtype("i8")}
    kernel = next(a for k, a in middle.arrays.items() if k.startswith("conv1"))
    narrow = kernel.astype(jax.numpy.dtype(HALVES[precision])).astype(np.float32)
    assert not np.array_equal(narrow, kernel)
    other.restore(middle)
    for i in range(2):
        assert made.step(batch("genet", i), optimizer.lr) == other.step(
            batch("genet", i), optimizer.lr
        )
    assert same(made.snapshot(), other.snapshot())
    classes, loss = made.evaluate(batch("genet", 0))
    assert classes.shape == (2,)
    assert np.isfinite(loss)


def test_long_sums_in_half_precision() -> None:
    """Catches what a bias's gradient would be without its sum in float32."""
    y = np.random.default_rng(0).random((4, 64, 64, 8)).astype("bfloat16")

    def total(bias: Any) -> Any:
        layer = jax_impl.ops.precision.add_bias(y * 0, nnx.Param(bias), None)
        return (layer * y).astype("float32").sum()

    found = np.asarray(jax.jit(jax.grad(total))(np.zeros(8, "bfloat16")), np.float64)
    exact = np.asarray(y, np.float64).sum((0, 1, 2))
    np.testing.assert_allclose(found, exact, rtol=2**-8)
