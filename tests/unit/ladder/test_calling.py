"""Whatever networks are called with and return: names, plain values, nests, orders, layouts."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch import nn

from parity import Port, check
from parity.capture.records import Returned
from parity.ladder.outputs import pair_outputs
from parity.spec.errors import InputError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 4)).astype(np.float32)
MASK = np.array([True, False, True, True])
LINEAR: list = [(r"(.*)\.weight", r"\1.kernel", (1, 0)), (r"(.*)\.bias", r"\1.bias")]
ALL = ("L0", "L1", "L2", "L3")


class Takes(nn.Module):
    """Takes an array, a mask or none, a scale, a bool, and indices."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None = None,
        scale: float | torch.Tensor = 1.0,
        flip: bool = False,
        which: torch.Tensor | None = None,
    ) -> torch.Tensor:
        x = self.a(x if mask is None else x * mask) * scale
        x = x.flip(-1) if flip else x
        return x if which is None else x[:, which]


class Louder(Takes):
    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return super().forward(*args, **kwargs) * 1.1


class Took(nnx.Module):
    def __init__(self) -> None:
        self.a = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

    def __call__(
        self, x: Any, mask: Any = None, scale: Any = 1.0, flip: bool = False, which: Any = None
    ) -> jax.Array:
        x = self.a(x if mask is None else x * mask) * scale
        x = x[..., ::-1] if flip else x  # a traced bool would raise
        return x if which is None else x[:, which]


class Renamed(Took):
    """`Took`, whose arguments have other names and another order."""

    def __call__(self, *, indices: Any = None, hidden: Any, keep: Any, factor: Any) -> jax.Array:
        return super().__call__(hidden, keep, factor, False, indices)


def takes(**fields: Any) -> Port:
    return Port(**({"reference": Takes(), "port": Took(), "weights": LINEAR, "inputs": X} | fields))


INPUTS: dict[str, dict] = {
    "none": {"inputs": (X, None, 2.0)},
    "numbers": {"inputs": (X, MASK, 3, True)},
    "keywords": {"keywords": {"mask": MASK, "flip": True, "which": np.array([2, 0])}},
    "0-d": {"keywords": {"scale": np.float32(1.5)}},
    "0-d integer": {"keywords": {"scale": np.array(2)}},
    "drawn": {"inputs": (3, 4), "keywords": {"mask": (3, 4)}},
    "only keywords": {"inputs": (), "keywords": {"x": X, "mask": None}},
}


@pytest.mark.parametrize("fields", INPUTS.values(), ids=INPUTS)
def test_whatever_a_network_takes(fields: dict[str, Any]) -> None:
    """Catches an argument that is refused, traced although it is plain, lost or swapped."""
    report = check(takes(**fields), levels=ALL)
    report.assert_faithful()
    wrong = takes(**fields, reference=Louder())
    assert not check(wrong, levels=("L2",)).ok


def test_gradients_of_every_input_are_compared() -> None:
    """Catches an input by keyword whose gradient nothing compares."""
    report = check(takes(keywords={"mask": (3, 4), "scale": np.float32(2)}), levels=("L3",))
    found = {str(c.quantity) for c in report.checks if c.layer == "(network)"}
    assert found == {"loss", *(f"gradient of input {i}" for i in range(3))}


def test_other_names_and_another_order() -> None:
    """Catches two functions that call each side, one of which is not used, or loses a keyword."""

    def port_call(network: Any, x: Any, mask: Any, scale: Any, which: Any = None) -> Any:
        return {"y": network(hidden=x, keep=mask, factor=scale, indices=which)}

    def reference_call(network: Any, x: Any, mask: Any, scale: Any, which: Any = None) -> Any:
        return {"y": network(x, mask, scale, which=which)}

    sgd = (lambda m: torch.optim.SGD(m.parameters(), 0.1), optax.sgd(0.1))
    given = takes(
        port=Renamed(),
        inputs=(X, MASK, 2.0),
        keywords={"which": np.array([1, 3])},
        call=(reference_call, port_call),
        optimizers=sgd,
        steps=3,
    )
    check(given).assert_faithful()
    swapped = dataclasses.replace(
        given,
        call=(reference_call, lambda n, *a, **k: -port_call(n, *a, **k)["y"]),
        outputs={"": "y"},
    )
    assert not check(swapped, levels=("L2",)).ok


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n = nn.BatchNorm1d(4, momentum=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.n(x)


class Normed(nnx.Module):
    def __init__(self) -> None:
        self.mean, self.var = nnx.BatchStat(jnp.zeros(4)), nnx.BatchStat(jnp.ones(4))
        self.scale, self.bias = nnx.Param(jnp.ones(4)), nnx.Param(jnp.zeros(4))
        self.train()

    def train(self, **attributes: Any) -> None:
        self.training = True

    def eval(self, **attributes: Any) -> None:
        self.training = False

    def __call__(self, x: jax.Array) -> jax.Array:
        mean, var = self.mean[...], self.var[...]
        if self.training:
            mean, var = x.mean(0), x.var(0)
            self.mean[...] = 0.9 * self.mean[...] + 0.1 * mean
            self.var[...] = 0.9 * self.var[...] + 0.1 * var * len(x) / (len(x) - 1)
        return (x - mean) / jnp.sqrt(var + 1e-5) * self.scale[...] + self.bias[...]


def test_a_network_that_is_called_twice_keeps_its_statistics() -> None:
    """Catches statistics of a first call that are lost where a function calls a network again."""
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    twice = (lambda net, x, y: (net(x), net(y)),) * 2
    check(
        Port(
            Norms(),
            Normed(),
            ((5, 4), (6, 4)),
            weights=[(rf"n\.{a}", b) for a, b in names.items()],
            call=twice,
        ),
        levels=("L2", "L3"),
    ).assert_faithful()


class Out(NamedTuple):
    hidden: Any
    logits: Any


@dataclasses.dataclass
class TorchOut:
    logits: Any
    hidden: Any


@flax.struct.dataclass
class FlaxOut:
    hidden: Any
    logits: Any


class Model(collections.OrderedDict):
    """As `transformers` returns: a mapping in its own order, with None left out."""


class Two(nn.Module):
    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.wrap = wrap

    def forward(self, x: torch.Tensor) -> Any:
        hidden = self.a(x)
        return self.wrap(hidden, self.b(hidden))


class TwoPort(nnx.Module):
    def __init__(self, wrap: Any) -> None:
        rngs = nnx.Rngs(0)
        self.a, self.b = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)
        self.wrap = wrap

    def __call__(self, x: jax.Array) -> Any:
        hidden = self.a(x)
        return self.wrap(hidden, self.b(hidden))


WRAPS: dict[str, tuple[Any, Any]] = {
    "fields in another order": (lambda h, y: TorchOut(y, h), lambda h, y: FlaxOut(h, y)),
    "named tuple and mapping": (lambda h, y: Out(h, y), lambda h, y: {"logits": y, "hidden": h}),
    "nested": (
        lambda h, y: {"hidden": (h, h + 1), "logits": y},
        lambda h, y: Model(logits=y, hidden=[h, h + 1]),
    ),
    "mapping and tuple": (lambda h, y: Model(logits=y, hidden=h), lambda h, y: (y, h)),
    "something that is no array": (lambda h, y: (h, y, None, "cache"), lambda h, y: [h, y]),
}


def two(ours: Any, theirs: Any, **fields: Any) -> Port:
    return Port(Two(ours), TwoPort(theirs), (3, 4), weights=LINEAR, **fields)


@pytest.mark.parametrize(("ours", "theirs"), WRAPS.values(), ids=WRAPS)
def test_outputs_are_matched(ours: Any, theirs: Any) -> None:
    """Catches outputs compared with each other although their names are not the same."""
    report = check(two(ours, theirs), levels=("L2", "L3"))
    report.assert_faithful()
    assert not [o for o in report.left_out if not o.counts and "return" in o.reason]


def test_outputs_that_one_side_lacks_are_named() -> None:
    """Catches an output that is left out in silence, or that makes a right port fail."""
    report = check(
        two(
            lambda h, y: Model(logits=y, cache=(h, h)),
            lambda h, y: {"logits": y, "extra": h},
        ),
        levels=("L2", "L3"),
    )
    report.assert_faithful()
    assert {(o.layer, o.reference, o.reason) for o in report.left_out} == {
        ("(none)", "cache.0", "the port does not return it"),
        ("(none)", "cache.1", "the port does not return it"),
        ("extra", "(none)", "the reference does not return it"),
    }
    assert "L2 not compared: extra (reference: (none)): output" in str(report)


def test_given_names() -> None:
    """Catches names that are not used, or whose mistakes pass."""
    wraps = (lambda h, y: {"last": h, "scores": y}, lambda h, y: {"states": (h, y)})
    names = {"states.0": "last", "states.1": "scores"}
    report = check(two(*wraps, outputs=names), levels=("L2", "L3"))
    report.assert_faithful()
    assert "outputs: 0 is last, 1 is scores" in report.notes
    crossed = {"states.1": "last", "states.0": "scores"}
    assert not check(two(*wraps, outputs=crossed), levels=("L2",)).ok
    part = check(two(*wraps, outputs={"states.0": "last", "states.1": None}), levels=("L2",))
    part.assert_faithful()
    assert {o.layer if o.reference == "(none)" else o.reference for o in part.left_out} == {
        "states.1",
        "scores",
    }
    with pytest.raises(InputError, match="outputs: the port has no output 'state', it has states"):
        check(two(*wraps, outputs={"state": "last"}))
    with pytest.raises(InputError, match="outputs: the reference has no output 'first'"):
        check(two(*wraps, outputs={"states": "first"}))
    with pytest.raises(InputError, match="no output of one side is one of the other's"):
        check(two(*wraps, outputs={"states": None}))


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda h, y: "text", "the port returned a str, expected arrays"),
        (lambda h, y: None, "the port returned nothing, expected arrays"),
        (lambda h, y: h, r"the reference returns 2 outputs \(hidden, logits\), the port 1 output:"),
        (lambda h, y: {"hidden": 3.0, "logits": y}, "output hidden: the port returned a float"),
    ],
)
def test_outputs_that_cannot_be_matched(wrap: Any, message: str) -> None:
    """Catches a port that returns less, or no array, and whose check compares what is left."""
    with pytest.raises(InputError, match=message):
        check(two(lambda h, y: Out(h, y), wrap))


def test_names_in_common_come_first() -> None:
    """Catches pairs by order where one name is the same on both sides."""
    found = pair_outputs(
        [Returned("a", place=0), Returned("b", place=1)],
        [Returned("b", place=0), Returned("c", place=1)],
        None,
    )
    assert [(a.name, b.name) for a, b in found.pairs] == [("b", "b")]
    assert (found.reference, found.port) == (("a",), ("c",))
    other = pair_outputs([Returned("a", place=0)], [Returned("c", place=0)], None)
    assert len(other.pairs) == 1


class First(nnx.Module):
    """Takes and returns PyTorch's layout, and computes in its own."""

    def __init__(self) -> None:
        self.c = nnx.Conv(3, 4, (1, 1), rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.c(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


class Last(First):
    """Takes its own layout."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.c(x).transpose(0, 3, 1, 2)


CONV: list = [(r"0\.weight", "c.kernel", (2, 3, 1, 0)), (r"0\.bias", "c.bias")]


def conv(port: nnx.Module, shape: tuple[int, ...], **fields: Any) -> Port:
    reference = nn.Sequential(nn.Conv2d(3, 4, 1))
    return Port(reference, port, shape, weights=CONV, **fields)


def test_a_layout_for_each_input_and_output() -> None:
    """Catches an array that is turned although both sides lay it out alike, or the reverse."""
    ours, theirs = {"0": None}, {0: None}
    check(
        conv(First(), (2, 3, 5, 6), input_layouts=ours, output_layouts=theirs), levels=ALL
    ).assert_faithful()
    check(
        conv(Last(), (2, 5, 6, 3), output_layouts={0: (0, 1, 2, 3)}), levels=ALL
    ).assert_faithful()
    sgd = (lambda m: torch.optim.SGD(m.parameters(), 0.1), optax.sgd(0.1))
    wrong = conv(First(), (2, 3, 5, 6), input_layouts=ours, output_layouts=theirs)
    check(dataclasses.replace(wrong, optimizers=sgd), levels=("L5",)).assert_faithful()
    wrong.reference.append(nn.Tanh())
    assert not check(wrong, levels=("L2",)).ok


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {},
            r"output 0: shape \(2, 4, 5, 6\), the reference's in the port's layout \(2, 5, 6, 4\);"
            r" if that is meant, say so with Port\(output_layouts={0: None}\)",
        ),
        ({"output_layouts": {1: None}}, "output_layouts: there is no output 1"),
        ({"output_layouts": {0: (0, 1)}}, r"output_layouts: 0: \(0, 1\) is no permutation of 4"),
        ({"input_layouts": {"x": None}}, "input_layouts: there is no input x, but 0"),
        ({"input_layouts": {0: (0, 1)}}, r"input_layouts: 0: \(0, 1\) is no permutation of 4"),
        ({"input_layouts": 3}, "input_layouts is 3, expected a mapping"),
        ({"keywords": ["x"]}, "keywords is .*, expected a mapping"),
        ({"call": len}, "call is .*, expected two functions"),
        ({"keywords": {"y": {3}}}, "input y is .3., expected an array, a shape or"),
    ],
)
def test_what_cannot_be_called(fields: dict[str, Any], message: str) -> None:
    """Catches an option whose mistake is a traceback, or a message about the loss of the tool."""
    with pytest.raises(InputError, match=message):
        check(conv(Last(), (2, 5, 6, 3), **fields))


def test_a_mapping_is_one_argument() -> None:
    """Catches an author who gives keywords as inputs, and is told only that a layer failed."""
    with pytest.raises(InputError, match=r"arguments by name are Port\(keywords=\.\.\.\)"):
        check(takes(inputs={"x": X, "mask": MASK}))


def test_batches_are_called_like_the_inputs() -> None:
    """Catches a trajectory whose batches would be called with another network's arguments."""
    sgd = (lambda m: torch.optim.SGD(m.parameters(), 0.1), optax.sgd(0.1))
    given = takes(inputs=(X, None, 2.0), optimizers=sgd, steps=2)
    right = dataclasses.replace(given, batches=[((X + 1, None, 2.0), ())])
    check(right, levels=("L5",)).assert_faithful()
    wrong = dataclasses.replace(given, batches=[((X + 1, None, 3.0), ())])
    with pytest.raises(InputError, match="the inputs of batch 0 are not nested as `inputs`"):
        check(wrong, levels=("L5",))
