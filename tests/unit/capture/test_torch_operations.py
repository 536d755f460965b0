"""Recording a module's operations, and running it again with some of them replaced."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from parity.capture.records import Call
from parity.capture.torch_calls import Origin
from parity.capture.torch_operations import CallValue, ChangedSide, Tape
from parity.capture.torch_side import TorchSide

X = np.random.default_rng(0).normal(size=(2, 6, 5, 3))


class Net(nn.Module):
    """A function between two layers, an operator, and a method that works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.max_pool2d(self.first(x), 2)
        y = self.norm(y) * 0.5
        y.add_(1.0)
        return self.last(functional.gelu(y))


def side() -> TorchSide:
    torch.manual_seed(0)
    return TorchSide(Net(), "float64")


def test_operations_keep_their_meaning() -> None:
    """Catches an operation that is lost, or whose settings, origin or line are."""
    tape = Tape(side(), (X,), False, CallValue(fed=False))
    names = [o.name for o in tape.operations]
    assert names == ["conv2d", "max_pool2d", "group_norm", "mul", "add", "gelu", "conv2d"]
    first, pool, norm, *_, gelu, last = tape.operations
    assert first.arguments["padding"] == (1, 1)
    assert str(first.tensor("weight")) == "first.weight (4, 3, 3, 3)"
    assert str(first.tensor("input")) == "input 0 (2, 3, 6, 5)"
    assert pool.arguments["kernel_size"] == 2
    assert pool.arguments["ceil_mode"] is False
    assert norm.arguments["eps"] == 1e-5
    assert norm.module == "norm"
    assert gelu.arguments["approximate"] == "none"
    assert str(gelu.line).startswith("test_torch_operations.py:")
    value = last.tensor("input")
    assert value is not None
    assert value.operation == gelu.index


def test_a_span_begins_where_both_sides_agree() -> None:
    """Catches operations of layers that are right, tried as causes of what comes after them."""
    tape = Tape(side(), (X,), False, CallValue("last", fed=True), known=("first", "norm"))
    assert [o.name for o in tape.operations] == ["mul", "add", "gelu"]
    fed = Tape(side(), (X,), False, CallValue("norm", fed=True), known=("first",))
    assert [o.name for o in fed.operations] == ["max_pool2d"]
    assert fed.value.shape == (2, 3, 2, 4)  # the port's layout


def test_a_tensor_says_what_it_is() -> None:
    """Catches a stored table taken for an input, or for a layer's output, because of its name."""

    class Tables(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.register_buffer("input 0 table", torch.ones(3, 1, 1))
            self.register_buffer("the output of a table", torch.ones(3, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for table in self.buffers():
                x = x * table
            return self.conv(x + 1) * x.detach()

    tape = Tape(TorchSide(Tables(), "float64"), (X,), False, CallValue(fed=False), known=("conv",))
    found = {v.source: v.origin for o in tape.every for v in o.values()}
    assert found.pop("input 0 table") is found.pop("the output of a table") is Origin.STORED
    assert found["input 0"] is Origin.INPUT
    assert found["conv.weight"] is Origin.STORED
    assert found["the output of conv"] is Origin.LAYER
    assert found["add"] is Origin.OPERATION


def test_a_replay_is_the_run_with_one_change() -> None:
    """Catches a replay that is another run, or in which something else is replaced."""
    tape = Tape(side(), (X,), False, CallValue(fed=False))
    np.testing.assert_array_equal(tape.replay({}), tape.value)
    halved = next(o for o in tape.operations if o.name == "mul")
    changed = tape.replay({halved.index: lambda call: call(other=2.0)})
    with torch.no_grad():
        net = side().module
        y = net.norm(functional.max_pool2d(net.first(torch.tensor(X.transpose(0, 3, 1, 2))), 2))
        expected = net.last(functional.gelu(y * 2.0 + 1.0)).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(changed, expected, rtol=1e-12)


def test_gradients_and_statistics_follow_the_change() -> None:
    """Catches a change that only the output sees."""
    torch.manual_seed(0)
    module = nn.BatchNorm2d(3)
    plain = TorchSide(module, "float64")
    changed = ChangedSide.of(plain, lambda: {1: lambda call: call(eps=0.1, momentum=0.5)})
    recorded = ChangedSide.of(plain, record=True)
    call = Call("", (X,))
    recorded.run_layer(call, [X], True)
    assert [o.name for o in recorded.operations][-2:] == ["add", "batch_norm"]
    at = recorded.operations[-1].index
    changed = ChangedSide.of(plain, lambda: {at: lambda call: call(eps=0.1, momentum=0.5)})
    twin = TorchSide(nn.BatchNorm2d(3, eps=0.1, momentum=0.5), "float64")
    found, expected = (s.run_layer(call, [X], True) for s in (changed, twin))
    np.testing.assert_allclose(found.outputs[0], expected.outputs[0], rtol=1e-12)
    np.testing.assert_allclose(found.input_gradients[0], expected.input_gradients[0], rtol=1e-9)
    for name, array in expected.statistics.items():
        np.testing.assert_allclose(found.statistics[name], array, rtol=1e-12)


def test_attention_is_opened() -> None:
    """Catches attention that is one operation, in which no scale and no softmax can be changed."""
    torch.manual_seed(0)
    made = TorchSide(nn.MultiheadAttention(8, 2, batch_first=True), "float64")
    recorded = ChangedSide.of(made, record=True)
    x = np.random.default_rng(0).normal(size=(2, 5, 8))
    found = recorded.run_layer(Call("", (x, x, x)), None, False)
    names = [o.name for o in recorded.operations]
    assert "softmax" in names or "scaled_dot_product_attention" in names
    assert "linear" in names
    expected = made.run_layer(Call("", (x, x, x)), None, False)
    np.testing.assert_allclose(found.outputs[0], expected.outputs[0], rtol=1e-12)
