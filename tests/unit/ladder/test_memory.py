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
from torch.nn.utils import prune

from parity import Port, Report, check
from parity.capture.records import Call
from parity.capture.spill import SpillFile
from parity.capture.torch_copies import copied
from parity.capture.torch_side import TorchSide
from parity.ladder import l4_update
from parity.ladder.runs import Runs
from parity.spec import draw
from tests.pair import port

ADAM = (lambda m: torch.optim.Adam(m.parameters(), 1e-3), optax.adam(1e-3))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 7, 1, bias=False))


def make() -> np.random.Generator:
    return draw.generator(0, "rounding")


@pytest.mark.parametrize("layer", ["0", "1", "2"])
def test_a_layer_is_disturbed_as_in_the_whole_network(layer: str) -> None:
    """Catches limits of L1 that are not those of before, and noise that is another layer's."""
    side = TorchSide(net(), "float64")
    whole, alone = side.disturbed(2.0**-24, make()), side.noisy(2.0**-24, make)
    x = np.random.default_rng(0).standard_normal((2, 6, 6, 3 if layer == "0" else 5))
    call = Call(layer, (x,))
    expected, plain = (each.run_layer(call, None, True).outputs[0] for each in (whole, side))
    for _ in range(2):  # nothing is left of the first run
        found = alone.run_layer(call, None, True).outputs[0]
        np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(found, plain)
    assert alone.module is side.module


def test_the_reference_shares_what_it_does_not_write_to() -> None:
    """Catches a copy of all weights in the working precision, and a user's module that changes."""
    module = net()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    side = TorchSide(module, "float32")
    shared = {n: p.data_ptr() for n, p in side.module.named_parameters()}
    assert shared == {n: p.data_ptr() for n, p in module.named_parameters()}
    side.run((np.zeros((2, 6, 6, 3), np.float32),), True)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name


class Renormalised(nn.Module):
    """An embedding that PyTorch writes to while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 3, max_norm=0.1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_module_that_writes_to_its_weights(dtype: str) -> None:
    """Catches a run that changes what the next run, or the user's module, begins with."""
    module = Renormalised()
    before = module.table.weight.detach().clone()
    side = TorchSide(module, dtype)
    kept = side.module.table.weight.detach().clone()  # type: ignore[union-attr]  # a module
    side.run((np.arange(4),), False)
    assert torch.equal(module.table.weight, before)
    assert torch.equal(side.module.table.weight, kept)  # type: ignore[union-attr]  # a module


@pytest.mark.parametrize("prepared", ["prune", "spectral_norm"])
def test_a_module_that_keeps_what_it_computed(prepared: str) -> None:
    """Catches a layer refused because PyTorch does not copy the weight that it computed last."""
    layer = nn.Linear(4, 3)
    if prepared == "prune":
        prune.l1_unstructured(layer, "weight", amount=0.5)
    else:
        layer = nn.utils.spectral_norm(layer)
    side = TorchSide(nn.Sequential(layer), "float64")
    x = np.ones((2, 4))
    with torch.no_grad():
        expected = copied(layer).double().eval()(torch.tensor(x))
    assert np.array_equal(side.run((x,), False).outputs[0], expected.numpy())


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
