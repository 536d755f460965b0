"""Ports that are right and unusual must pass, wrong or unfit ones must be told in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from parity import Port, check
from parity.capture.records import ForwardError
from parity.spec.errors import InputError

ROWS = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
LINEAR = [(r"(.*)\.weight", r"\1.kernel", (1, 0)), (r"(.*)\.bias", r"\1.bias", None)]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.a(x)))


class TwoPort(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.a = nnx.Linear(6, 6, rngs=rngs)
        self.b = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.b(jnp.tanh(self.a(x)))


def two(**fields: Any) -> Port:
    given = {"reference": Two(), "port": TwoPort(), "weights": LINEAR, "inputs": ROWS}
    return Port(**(given | fields))


def frozen() -> Port:
    """A parameter that the reference does not train."""
    p = two()
    p.reference.a.weight.requires_grad_(False)
    return p


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.embed(ids)


class WordsPort(nnx.Module):
    def __init__(self) -> None:
        self.embed = nnx.Embed(9, 6, rngs=nnx.Rngs(0))

    def __call__(self, ids: jax.Array) -> jax.Array:
        return self.embed(ids)


def embedding() -> Port:
    """A layer of Flax's that keeps the precision it was made in."""
    rules = [(r"(.*)\.weight", r"\1.embedding")]
    return Port(Words(), WordsPort(), inputs=(np.array([[1, 2], [8, 0]]),), weights=rules)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6, bias=False)
        self.b = nn.Linear(6, 6, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.a(x)))


class TiedPort(nnx.Module):
    def __init__(self) -> None:
        self.a = nnx.Linear(6, 6, use_bias=False, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.a(jnp.tanh(self.a(x)))


def tied() -> Port:
    """One tensor under two names."""
    return Port(Tied(), TiedPort(), inputs=ROWS, weights={"a.kernel": ("a.weight", (1, 0))})


class Fused(nnx.Module):
    def __init__(self) -> None:
        self.both = nnx.Linear(6, 12, rngs=nnx.Rngs(0))
        self.last = nnx.Linear(12, 3, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(jnp.tanh(self.both(x)))


class Apart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(torch.cat((self.q(x), self.k(x)), 1)))


def fuse(source: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    source = dict(source)  # as a careful user does
    return {
        "both.kernel": np.concatenate((source["q.weight"], source["k.weight"])).T,
        "both.bias": np.concatenate((source["q.bias"], source["k.bias"])),
        "last.kernel": source["last.weight"].T,
        "last.bias": source["last.bias"],
    }


def fused() -> Port:
    """Tensors of the port that are made of several."""
    return Port(Apart(), Fused(), inputs=ROWS, weights=fuse)


class Quiet(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x)


def no_tensors() -> Port:
    """Nothing to carry over, no layer to look into."""
    return Port(Quiet(), lambda params, x: jnp.tanh(x), params={}, inputs=ROWS, weights={})


class Auxiliary(Two):
    def forward(self, x: torch.Tensor) -> Any:
        y = super().forward(x)
        return (y, y.sum(1)) if self.training else y


class AuxiliaryPort(TwoPort):
    def __call__(self, x: jax.Array, train: bool = False) -> Any:
        y = super().__call__(x)
        return (y, y.sum(1)) if train else y


def auxiliary() -> Port:
    """An output that there is in train mode only."""
    modes = ({"train": False}, {"train": True})
    return two(reference=Auxiliary(), port=AuxiliaryPort(), modes=modes)


@pytest.mark.parametrize(
    "make", [frozen, embedding, tied, fused, no_tensors, auxiliary], ids=lambda f: f.__name__
)
def test_right_and_unusual(make: Callable[[], Port]) -> None:
    """Catches a right port that is called wrong, or refused."""
    check(make()).assert_faithful()


def test_made_of_wrong_tensors_is_seen() -> None:
    """Catches a tensor that is not compared because it was made."""

    def exchanged(source: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        made = fuse(source)
        return made | {"both.bias": made["both.bias"][::-1].copy()}

    assert not check(Port(Apart(), Fused(), inputs=ROWS, weights=exchanged)).ok


class Overflows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) * 4


class OverflowsPort(nnx.Module):
    """Right in float64; in any other precision all its outputs are 7."""

    def __init__(self) -> None:
        self.a = nnx.Linear(6, 6, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.a(x) * 4
        return y if y.dtype == jnp.float64 else y + jax.lax.stop_gradient(7 - y)


def test_a_reference_that_overflows_is_no_yardstick() -> None:
    """Catches a limit that is infinite, under which anything passes, and a layer that is blamed."""
    rows = ROWS.copy()
    rows[0] = 6e4
    p = Port(Overflows(), OverflowsPort(), inputs=rows, weights=LINEAR)
    report = check(p, precision="float16")
    assert not report.ok
    assert not report.failures()
    assert {o.reason for o in report.missing()} == {"the reference itself is not finite in float16"}
    assert {(o.rung, o.layer) for o in report.missing()} >= {("L1", "a"), ("L2", "(network)")}
    assert "not everything was compared" in report.reason()
    assert not report.causes


class WithoutGradient(Two):
    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": np.zeros((4, 6))}, "targets are expected to be a tuple of arrays"),
        ({"losses": abs}, "losses are .*, expected two functions"),
        ({"layers": ["a"]}, "layers are .*, expected a mapping"),
        ({"layers": "name"}, "layers are 'name', expected a mapping"),
        ({"layout": None}, "layout is None, expected a mapping"),
        ({"inputs": (-1, 6)}, "shape .*, expected sides of 1 or more"),
        ({"inputs": np.array(["a"])}, "array of <U1, expected numbers"),
        (
            {"weights": {"a.kernel": ("a.weight",)}},
            "a.kernel is .*, expected the reference's name, or",
        ),
        ({"weights": 3}, "weights are 3, expected"),
        ({"weights": [("(", "x")]}, r"'\(' is no pattern"),
        ({"weights": [(r"(.*)", r"\2")]}, r"is no template"),
        ({"weights": ["ab"]}, "'ab' is no rule"),
        ({"weights": lambda source: source["nothing"]}, "the function raised KeyError"),
        ({"reference": WithoutGradient()}, "the reference raised"),
        ({"reference": nn.Sequential(nn.LazyLinear(3))}, "has no shape yet"),
    ],
)
def test_unfit_ports_are_refused(fields: dict[str, Any], message: str) -> None:
    """Catches a traceback where one line says what is wrong."""
    with pytest.raises((InputError, ForwardError)) as caught:
        check(two(**fields))
    assert re.search(message, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)


def test_a_tensor_of_pytorchs_will_do() -> None:
    """Catches an input refused because it has a gradient."""
    rows = torch.tensor(ROWS, requires_grad=True)
    check(two(inputs=(rows,)), levels=("L2",)).assert_faithful()


class Stage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x)


class Staged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Stage(), Stage()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x))


class StagePort(nnx.Module):
    """Right, but for numbers of few bits, as float16's are: a tie that is broken otherwise."""

    def __init__(self, fault: float) -> None:
        self.a, self.fault = nnx.Linear(6, 6, rngs=nnx.Rngs(0)), fault

    def __call__(self, x: jax.Array) -> jax.Array:
        tie = jnp.round(x * 2**14) == x * 2**14
        return self.a(x) + jnp.where(tie, 1.0, 0.0) + self.fault


class StagedPort(nnx.Module):
    def __init__(self) -> None:
        self.one, self.two = StagePort(0.0), StagePort(1.0)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.two(self.one(x))


def test_a_block_alone_is_fed_unrounded_numbers() -> None:
    """Catches a right block that is blamed for what rounding to half precision makes of ties."""
    p = Port(Staged(), StagedPort(), inputs=ROWS, weights=LINEAR)
    report = check(p, precision="float16")
    failed = {c.layer for c in report.failures() if (c.rung, c.kind) == ("L1", "structure")}
    assert failed == {"two"}


class Grows(nn.Module):
    """Its second layer is fed numbers that are too large for float16."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x) * 1e3 * 1e3) * 1e-3


class GrowsPort(nnx.Module):
    def __init__(self) -> None:
        self.a = nnx.Linear(6, 6, rngs=nnx.Rngs(0))
        self.b = nnx.Linear(6, 6, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.b(self.a(x) * 1e3 * 1e3) * 1e-3


class Doubled(nnx.Module):
    """A linear layer that adds its bias twice."""

    def __init__(self, inner: nnx.Linear) -> None:
        self.kernel, self.bias = inner.kernel, inner.bias

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel[...] + self.bias[...] * 2.0


def test_a_layer_that_is_fed_too_large_numbers_is_compared_in_float64() -> None:
    """Catches a right layer that fails, or is passed over, where what it is fed overflows."""
    right = Port(Grows(), GrowsPort(), inputs=ROWS, weights=LINEAR)
    report = check(right, ("L0", "L1"), "float16")
    assert not report.failures()
    kinds = {c.kind for c in report.checks if (c.rung, c.layer) == ("L1", "b")}
    assert kinds == {"structure"}
    assert ("L1", "b") in {(o.rung, o.layer) for o in report.missing()}
    wrong = GrowsPort()
    wrong.b = Doubled(wrong.b)
    port = Port(Grows(), wrong, inputs=ROWS, weights=LINEAR)
    found = check(port, ("L0", "L1"), "float16")
    assert found.fault().layer == "b"
