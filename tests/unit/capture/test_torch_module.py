"""A module in one precision: copies that share memory, and copies that are disturbed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from parity.capture.records import Call
from parity.capture.torch_copies import copied
from parity.capture.torch_side import TorchSide
from parity.spec import draw


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
