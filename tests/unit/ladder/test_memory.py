"""A check holds nothing twice, and what it saves by that changes no number."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import torch
from torch import nn

from parity import Port, Report, check
from parity.capture.spill import SpillFile
from parity.capture.torch_side import TorchSide
from parity.ladder import l4_update
from parity.ladder.runs import Runs
from tests.pair import port

ADAM = (lambda m: torch.optim.Adam(m.parameters(), 1e-3), optax.adam(1e-3))


def test_a_weights_function_may_write_to_what_it_is_given() -> None:
    """Catches an author's float64 module, or what it is compared with, changed by the function."""
    module = nn.Sequential(nn.Linear(4, 3)).double()
    before = module[0].weight.detach().clone()

    def weights(arrays: Any) -> dict[str, np.ndarray]:
        kernel = arrays.pop("0.weight")
        kernel *= 2
        arrays["0.bias"] += 1
        return {"w": kernel.T, "b": arrays["0.bias"]}

    def doubled(p: Any, x: jax.Array) -> jax.Array:
        return x @ (p["w"] / 2) + p["b"] - 1

    params = {"w": jnp.zeros((4, 3)), "b": jnp.zeros(3)}
    made = Port(module, doubled, (2, 4), params=params, weights=weights)
    report = check(made, levels=("L0", "L2", "L3"))
    assert torch.equal(module[0].weight, before)
    report.assert_faithful()


def test_a_run_for_the_order_of_layers_keeps_no_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches all activations held for the names of the layers that gave them."""
    kept: list[Any] = []
    plain = TorchSide.run

    def run(self: TorchSide, *args: Any, **kwargs: Any) -> Any:
        result = plain(self, *args, **kwargs)
        kept.append([o.size for call in result.calls.values() for o in call.outputs])
        return result

    monkeypatch.setattr(TorchSide, "run", run)
    module = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    params = {"w": jnp.asarray(module[0].weight.detach().numpy().T), "b": jnp.zeros(2)}
    with torch.no_grad():
        module[0].bias.zero_()
    made = Port(module, lambda p, x: jnp.tanh(x @ p["w"] + p["b"]), (4, 3), params=params)
    with ThreadPoolExecutor(1) as pool:
        assert Runs(made, "float32", pool).assignment.map["w"][0] == "0.weight"
    assert kept[0] == [0, 0]


def test_a_run_for_its_outputs_keeps_no_layers() -> None:
    """Catches all activations of train mode held beside those of the oracle, for the loss alone."""
    with ThreadPoolExecutor(1) as pool:
        runs = Runs(port(), "float32", pool)
        runs.loss(())
        assert not runs.whole._paired(True)[1].calls
        assert runs.oracle(True).calls


@pytest.fixture(scope="module")
def trained() -> Any:
    return port(optimizers=ADAM)


def test_steps_in_a_file(monkeypatch: pytest.MonkeyPatch, trained: Any) -> None:
    """Catches a large network whose steps are others, or that are all held at the same time."""

    def found(report: Report) -> list[tuple]:
        return [(c.kind, c.layer, str(c.quantity)) for c in report.checks]

    def numbers(report: Report) -> list[float]:
        return [number for c in report.checks for number in (c.error, c.limit)]

    plain = check(trained, ("L4",))
    held: list[bool] = []
    steps = l4_update.Update._steps

    def watched(self: l4_update.Update, *args: Any) -> Any:
        held.append(isinstance(self.fed.gradients, l4_update.SpilledSteps))
        made = steps(self, *args)
        assert not any(isinstance(array, np.ndarray) for array in made.values())
        return made

    monkeypatch.setattr(l4_update, "LARGE", 0)
    monkeypatch.setattr(l4_update.Update, "_steps", watched)
    spilled = check(trained, ("L4",))
    assert held == [True] * 5
    assert found(spilled) == found(plain)
    # Sums are taken in the order in which the numbers lie.
    np.testing.assert_allclose(numbers(spilled), numbers(plain), rtol=1e-12)
    plain.assert_faithful()


def test_a_wrong_step_in_a_file(monkeypatch: pytest.MonkeyPatch, trained: Any) -> None:
    """Catches a cause that is not sought, or not found, where steps are in a file."""
    monkeypatch.setattr(l4_update, "LARGE", 0)
    wrong = dataclasses.replace(trained, optimizers=(ADAM[0], optax.adam(1e-3, eps=1e-3)))
    report = check(wrong, ("L4",))
    assert not report.ok
    assert report.causes


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ml_dtypes.bfloat16, np.int64, bool])
@pytest.mark.parametrize("shape", [(), (0, 3), (4, 3)])
def test_a_file_takes_any_array(dtype: Any, shape: tuple[int, ...]) -> None:
    """Catches a type or a shape that comes back as another one, or cannot be written."""
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    keep = SpillFile()
    kept = [keep(array.T), keep(array)]
    for one, expected in zip(kept, (array.T, array), strict=True):
        found = np.asarray(one)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)
