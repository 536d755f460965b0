"""Blocks of both sides that hold the same weights and end at the same place, or elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import torch
from flax import nnx
from torch import nn

from parity import Port, check
from parity.capture.records import NETWORK
from parity.ladder import recording, runs
from parity.report.report import Report
from tests.unit.ladder.test_pairs import OwnScale, Scaled


def named_blocks(scaled: bool, ends: bool, names: str) -> Report:
    """Blocks and nothing behind the last; each holds a scale of its own."""

    class Ported(nnx.Module):
        def __init__(self) -> None:
            for i, name in enumerate(names):
                setattr(self, name, OwnScale(scaled or i == 0, ends))

        def __call__(self, x: jax.Array) -> jax.Array:
            for name in names:
                y = getattr(self, name)(x)
                x = jax.nn.relu(y) if ends else y
            return x

    class Reference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = Scaled(), Scaled()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x))

    rules = {
        f"{theirs}.{tensor}": (f"{ours}.{key}", axes)
        for ours, theirs in zip("ab", names, strict=True)
        for tensor, key, axes in (
            ("scale", "scale", None),
            ("fc.kernel", "fc.weight", (1, 0)),
            ("fc.bias", "fc.bias", None),
        )
    }
    return check(Port(Reference(), Ported(), (5, 4), rules))


@pytest.mark.parametrize("names", ["ab", "xy"])
def test_a_wrong_block_behind_which_nothing_stands_is_named(names: str) -> None:
    """Catches the last block unpaired, since no layer behind it tells where it ends."""
    report = named_blocks(False, False, names)
    fault = report.fault()
    assert fault is not None
    assert (fault.layer, fault.reference) == (names[1], "b")
    assert report.causes


@pytest.mark.parametrize("names", ["ab", "xy"])
def test_blocks_of_one_name_may_end_elsewhere(names: str) -> None:
    """Catches a right port failed, or its blocks blamed: what stands around them does the rest."""
    report = named_blocks(True, True, names)
    report.assert_faithful()
    assert not {(p.reference, p.port) for p in report.pairs} & {("a", names[0]), ("b", names[1])}


@pytest.mark.parametrize("names", ["ab", "xy"])
def test_blocks_that_end_elsewhere_are_not_blamed_for_a_fault_before_them(names: str) -> None:
    """Catches an activation "left out", proved of a block that leaves it to others, rightly."""

    class Early(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = Scaled(), Scaled()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(torch.sin(x)))

    class Late(nnx.Module):
        def __init__(self) -> None:
            for name in names:
                setattr(self, name, OwnScale(True, True))

        def __call__(self, x: jax.Array) -> jax.Array:
            x = jnp.cos(x)
            for name in names:
                x = jax.nn.relu(getattr(self, name)(x))
            return x

    rules = {
        f"{theirs}.{tensor}": (f"{ours}.{key}", axes)
        for ours, theirs in zip("ab", names, strict=True)
        for tensor, key, axes in (
            ("scale", "scale", None),
            ("fc.kernel", "fc.weight", (1, 0)),
            ("fc.bias", "fc.bias", None),
        )
    }
    report = check(Port(Early(), Late(), (5, 4), rules))
    assert not report.ok
    assert not any("relu" in cause.what for cause in report.causes), report.explanation()
    assert not {(p.reference, p.port) for p in report.pairs} & {("a", names[0]), ("b", names[1])}


def test_a_block_without_tensors_of_its_own_is_the_one_of_its_contents() -> None:
    """Catches a wrong block of another name that is no pair, so that nobody is told where."""

    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x + self.fc(x))

    class Sum(nnx.Module):
        def __init__(self, factor: float) -> None:
            self.dense, self.factor = nnx.Linear(4, 4, rngs=nnx.Rngs(0)), factor

        def __call__(self, x: jax.Array) -> jax.Array:
            return jax.nn.relu(x + self.dense(x) * self.factor)

    class Two(nnx.Module):
        def __init__(self) -> None:
            self.x, self.y = Sum(1.0), Sum(1.5)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.y(self.x(x))

    torch.manual_seed(0)
    rules = [
        (rf"{ours}\.fc\.{key}", f"{theirs}.dense.{leaf}", axes)
        for ours, theirs in zip("01", "xy", strict=True)
        for key, leaf, axes in (("weight", "kernel", (1, 0)), ("bias", "bias", None))
    ]
    report = check(Port(nn.Sequential(Sums(), Sums()), Two(), (5, 4), rules))
    fault = report.fault()
    assert fault is not None
    assert (fault.layer, fault.reference) == ("y", "1")


class Activated(nnx.Module):
    """A layer of the user's own that holds the activation, too."""

    def __init__(self, act: Callable[[jax.Array], jax.Array]) -> None:
        self.kernel, self.bias = nnx.Param(jnp.ones((4, 4))), nnx.Param(jnp.ones(4))
        self.act = act

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.act(x @ self.kernel[...] + self.bias[...])


ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "elu": jax.nn.elu}


def holding(theirs: str, act: str, last: bool) -> Port:
    """A port whose layers hold the activations, which the reference applies outside of its own.

    Args:
        theirs: The reference's activation.
        act: That of the port's first layer; `right` for the same.
        last: Whether there is one behind the last layer, too.
    """

    class Outside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            activation = getattr(torch, theirs)
            y = self.b(activation(self.a(x)))
            return activation(y) if last else y

    class Inside(nnx.Module):
        def __init__(self) -> None:
            self.a = Activated(ACTIVATIONS[theirs if act == "right" else act])
            self.b = Activated(ACTIVATIONS[theirs] if last else lambda x: x)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.b(self.a(x))

    rules = [(r"(.)\.weight", r"\1.kernel", (1, 0)), (r"(.)\.bias", r"\1.bias")]
    return Port(Outside(), Inside(), (5, 4), rules)


@pytest.mark.parametrize("theirs", ["tanh", "relu"])  # of which one may be applied twice
@pytest.mark.parametrize("act", ["right", "elu"])
@pytest.mark.parametrize("last", [True, False])
def test_a_layer_that_holds_the_activation_of_the_network(
    theirs: str, act: str, last: bool
) -> None:
    """Catches a right port failed, whose layers do more than the reference's of their names.

    One that holds another activation is wrong, and not for holding one.
    """
    report = check(holding(theirs, act, last))
    assert report.ok == (act == "right"), report.reason()
    if not report.ok:
        assert [c.fault for c in report.causes][:1] == ["activation"], report.explanation()
        assert "ELU" in report.explanation()[0]


@pytest.mark.parametrize("act", ["right", "elu"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("where", ["trace", "trace of whole runs", "large"])
def test_layers_of_a_reference_that_cannot_be_run_with_other_values(
    where: str, act: str, last: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a right port failed where it cannot be tried at which place its layers end."""
    port = holding("relu", act, last)
    if where == "large":
        monkeypatch.setattr(runs, "LARGE", 0)
    else:
        parts = recording.PARTS if where == "trace" else ("numerics",)
        recording.record(port, tmp_path / "ref.trace", parts=parts)
        port = dataclasses.replace(port, reference=tmp_path / "ref.trace", inputs=None)
    report = check(port)
    assert report.ok == (act == "right"), report.reason()
    if act == "right":
        assert [n for n in report.notes if n.startswith("not paired")], report.notes
        assert not report.causes


def test_a_port_of_which_every_layer_pads_by_itself() -> None:
    """Catches a right port failed, since L1 compared nothing: no layer is fed what its pair is."""

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Conv1d(3, 4, 3), nn.Conv1d(4, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pad = nn.functional.pad
            return self.b(pad(torch.tanh(self.a(pad(x, (2, 0)))), (2, 0)))

    class Pads(nnx.Module):
        def __init__(self) -> None:
            self.a, self.b = (
                nnx.Conv(n, 4, (3,), padding=((2, 0),), rngs=nnx.Rngs(0)) for n in (3, 4)
            )

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.b(jnp.tanh(self.a(x)))

    rules = [(r"(.)\.weight", r"\1.kernel", (2, 1, 0)), (r"(.)\.bias", r"\1.bias")]
    report = check(Port(Padded(), Pads(), (2, 7, 3), rules, layout={3: (0, 2, 1)}))
    report.assert_faithful()
    assert NETWORK in {c.layer for c in report.checks if c.rung == "L1"}


def test_layers_that_end_elsewhere_are_not_blamed_for_a_fault_before_them() -> None:
    """Catches a ReLU "added", proved of a layer that holds the network's, rightly."""

    class Outside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.b(torch.relu(self.a(torch.sin(x)))))

    class Inside(nnx.Module):
        def __init__(self) -> None:
            self.a, self.b = Activated(jax.nn.relu), Activated(jax.nn.relu)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.b(self.a(jnp.cos(x)))

    rules = [(r"(.)\.weight", r"\1.kernel", (1, 0)), (r"(.)\.bias", r"\1.bias")]
    report = check(Port(Outside(), Inside(), (5, 4), rules))
    assert not report.ok
    assert not any("ReLU" in cause.what for cause in report.causes), report.explanation()


class Own(nnx.Module):
    """A linear layer of the user's own class, that holds the activation or not."""

    def __init__(self, ends: bool) -> None:
        self.kernel, self.bias = nnx.Param(jnp.ones((4, 4))), nnx.Param(jnp.ones(4))
        self.ends = ends

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.kernel[...] + self.bias[...]
        return jax.nn.relu(y) if self.ends else y


class Derived(nnx.Linear):
    """Made of a layer of Flax's, and more than that."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(super().__call__(x))


class ThreeLinears(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.b(torch.tanh(self.a(torch.sin(x))))))


def three(second: nnx.Module, before: Callable[[jax.Array], jax.Array]) -> Report:
    """Check a port of which the second layer holds the activation behind it."""

    class Ported(nnx.Module):
        def __init__(self) -> None:
            self.a, self.b = Own(False), second
            self.c = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.c(self.b(jnp.tanh(self.a(before(x)))))

    rules = [(r"(.*)\.weight", r"\1.kernel", (1, 0)), (r"(.*)\.bias", r"\1.bias")]
    return check(Port(ThreeLinears(), Ported(), (5, 4), rules))


SECOND = {"own": lambda: Own(True), "derived": lambda: Derived(4, 4, rngs=nnx.Rngs(0))}


@pytest.mark.parametrize("kind", SECOND)
def test_a_layer_that_holds_an_activation_is_no_pair(kind: str) -> None:
    """Catches a right port failed: a class made of one of Flax's was taken for that one."""
    three(SECOND[kind](), jnp.sin).assert_faithful()


@pytest.mark.parametrize("kind", SECOND)
def test_layers_of_one_class_that_end_differently_are_not_blamed(kind: str) -> None:
    """Catches an activation "after" a right layer proved, since one of its class ends alike."""
    report = three(SECOND[kind](), jnp.cos)
    assert not report.ok
    assert not any("ReLU" in cause.what for cause in report.causes), report.explanation()
    assert ("b", "b") not in {(p.reference, p.port) for p in report.pairs}


IDEMPOTENT: dict[str, tuple[Callable, Callable]] = {
    "absolute": (torch.abs, jnp.abs),
    "clipped": (lambda x: x.clamp(-0.3, 0.3), lambda x: jnp.clip(x, -0.3, 0.3)),
    "normalized": (
        lambda x: nn.functional.normalize(x, dim=-1),
        lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True),
    ),
}


@pytest.mark.parametrize("kind", IDEMPOTENT)
def test_a_layer_that_holds_what_changes_nothing_twice_is_no_pair(kind: str) -> None:
    """Catches a right layer blamed behind a fault: done twice it is the same."""
    mine, other = IDEMPOTENT[kind]

    class Reference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(mine(self.b(torch.sin(x))))

    class Holds(Own):
        def __call__(self, x: jax.Array) -> jax.Array:
            return other(super().__call__(x))

    class Ported(nnx.Module):
        def __init__(self) -> None:
            self.b, self.c = Holds(False), nnx.Linear(4, 4, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.c(self.b(jnp.cos(x)))

    rules = [(r"(.*)\.weight", r"\1.kernel", (1, 0)), (r"(.*)\.bias", r"\1.bias")]
    report = check(Port(Reference(), Ported(), (5, 4), rules))
    assert not report.ok
    assert ("b", "b") not in {(p.reference, p.port) for p in report.pairs}


@pytest.mark.parametrize("error", [AssertionError, AttributeError, RuntimeError])
def test_a_reference_that_refuses_other_values_is_no_reason_to_fail(
    error: type[Exception],
) -> None:
    """Catches a right port failed, or a traceback: the reference asserts what a layer gives."""

    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            if not torch.allclose(y, x @ self.a.weight.T + self.a.bias, atol=0.05):
                raise error("not this layer's values")
            return self.b(torch.relu(y))

    class Ported(nnx.Module):
        def __init__(self) -> None:
            self.a, self.b = Own(True), Own(False)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.b(self.a(x))

    rules = [(r"(.*)\.weight", r"\1.kernel", (1, 0)), (r"(.*)\.bias", r"\1.bias")]
    check(Port(Strict(), Ported(), (5, 4), rules)).assert_faithful()
