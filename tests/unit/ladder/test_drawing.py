"""References and ports that draw random numbers, which the other side cannot share."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen, nnx
from torch import nn
from torch.nn import functional

from parity import Port, check
from parity.capture.torch_draws import Quiet, Watch, seeded
from parity.spec.errors import InputError

LINEAR: list = [(r"(.*)\.weight", r"\1.kernel", (1, 0)), (r"(.*)\.bias", r"\1.bias")]
SIZE = (3, 4)


class Middle(nn.Module):
    """Something between two linear layers."""

    def __init__(self, between: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.between(self, self.a(x)))


class Plain(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.a, self.b = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.b(self.a(x))


def port(between: Any, **fields: Any) -> Port:
    return Port(Middle(between), Plain(), SIZE, weights=LINEAR, **fields)


CALLS: dict[str, Callable] = {
    "dropout": lambda m, x: functional.dropout(x, 0.5, m.training),
    "in place": lambda m, x: functional.dropout(x.clone(), 0.5, m.training, inplace=True),
    "by name": lambda m, x: functional.dropout(input=x, p=0.5, training=m.training),
    "alpha": lambda m, x: functional.alpha_dropout(x, 0.5, m.training),
    "torch's": lambda m, x: torch.dropout(x, 0.5, m.training),
    "in eval mode": lambda m, x: functional.dropout(x, 0.5),
}


@pytest.mark.parametrize("between", CALLS.values(), ids=CALLS)
def test_functions_of_dropout_are_switched_off(between: Callable) -> None:
    """Catches a right port that fails because the reference draws its own dropout masks."""
    report = check(port(between), levels=("L2", "L3"))
    report.assert_faithful()
    assert any(note.startswith("switched off on both sides: (network) (") for note in report.notes)


def test_every_rung_runs_without_what_was_drawn() -> None:
    """Catches a run of the reference, such as of training, that still draws."""
    between = CALLS["dropout"]
    sgd = (lambda m: torch.optim.SGD(m.parameters(), 0.1), optax.sgd(0.1))
    check(port(between, optimizers=sgd)).assert_faithful()
    alone = check(port(between, optimizers=sgd), levels=("L5",))
    alone.assert_faithful()
    assert max(c.error for c in alone.checks) < 1e-8  # not hidden by a reference that draws
    assert not check(
        Port(Middle(lambda m, x: between(m, x) * 1.001), Plain(), SIZE, weights=LINEAR)
    ).ok


class Path(nn.Module):
    """A layer that is dropped at random, as the public libraries write it."""

    def __init__(self) -> None:
        super().__init__()
        self.drop_prob = 0.4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        return x * x.new_empty((len(x), 1)).bernoulli_(keep) / keep


class DropPath(Path):
    """`Path` under its usual name."""


def with_layer(layer: nn.Module) -> Port:
    reference = Middle(lambda m, x: m.path(x))
    reference.path = layer
    return Port(reference, Plain(), SIZE, weights=LINEAR)


@pytest.mark.parametrize(("layer", "shown"), [(DropPath(), "path"), (Path(), "path (drop_prob)")])
def test_dropped_paths_are_switched_off(layer: nn.Module, shown: str) -> None:
    """Catches DropPath and StochasticDepth, under any name, that make a right port fail."""
    report = check(with_layer(layer), levels=("L1", "L2"))
    report.assert_faithful()
    assert f"switched off on both sides: {shown}" in report.notes


class Attention(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)
        self.fused = fused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.fused:
            return self.attn(x, x, x, need_weights=False)[0]
        parts = functional.linear(x, self.attn.in_proj_weight, self.attn.in_proj_bias)
        q, k, v = (p.unflatten(-1, (2, 2)).transpose(1, 2) for p in parts.chunk(3, -1))
        rate = 0.5 if self.training else 0.0
        y = functional.scaled_dot_product_attention(q, k, v, dropout_p=rate)
        return self.attn.out_proj(y.transpose(1, 2).flatten(2))


def attention(p: dict, x: jax.Array) -> jax.Array:
    parts = x @ p["w"].T + p["b"]
    q, k, v = (jnp.reshape(y, (*x.shape[:2], 2, 2)) for y in jnp.split(parts, 3, -1))
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(2.0), -1)
    y = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)
    return y @ p["v"].T + p["c"]


@pytest.mark.parametrize("fused", [False, True])
def test_dropout_inside_of_attention_is_switched_off(fused: bool) -> None:
    """Catches attention that drops weights by itself, and the layer left out with the dropout."""
    names = {
        "w": "attn.in_proj_weight",
        "b": "attn.in_proj_bias",
        "v": "attn.out_proj.weight",
        "c": "attn.out_proj.bias",
    }
    shapes = {"w": (12, 4), "b": (12,), "v": (4, 4), "c": (4,)}
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    weights = {name: (key, None) for name, key in names.items()}
    report = check(
        Port(Attention(fused), attention, (2, 3, 4), weights=weights, params=params),
        levels=("L2", "L3"),
    )
    report.assert_faithful()
    assert any("attn (dropout)" in note for note in report.notes)


class Noisy(nn.Module):
    """Draws where nothing tells how to switch it off."""

    def __init__(self, draw: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.draw(x) if self.training else x


DRAWS: dict[str, Callable[[torch.Tensor], Any]] = {
    "torch": torch.randn_like,
    "python": lambda x: random.random(),
    "numpy": lambda x: float(np.random.rand()),  # noqa: NPY002 - what a network may use
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_what_cannot_be_switched_off_is_named(draw: Callable) -> None:
    """Catches a verdict on a reference that gives two answers, and the wrong layer named."""
    message = "the reference gives two answers in train mode: first in path, which draws"
    with pytest.raises(InputError, match=message):
        check(with_layer(Noisy(draw)))
    between = port(lambda m, x: x + draw(x))
    with pytest.raises(InputError, match="two answers in eval mode: first between its layers"):
        check(between)


def test_what_is_drawn_and_not_used_is_no_fault() -> None:
    """Catches a reference refused for numbers that change nothing."""
    check(port(lambda m, x: x + 0 * torch.rand_like(x)), levels=("L2",)).assert_faithful()


def test_the_state_of_the_generators_is_left_alone() -> None:
    """Catches a check that changes the numbers an author's program draws after it."""
    made = port(lambda m, x: x)
    torch.manual_seed(5)
    check(made, levels=("L2",))
    torch_next = torch.rand(1).item()
    torch.manual_seed(5)
    assert torch_next == torch.rand(1).item()
    with Watch() as watch, seeded(3):
        torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002 - a network may use it
    assert not watch.drawn
    with Watch() as watch:
        random.random()
    assert watch.drawn


def test_functions_that_drop_nothing_stay() -> None:
    """Catches a dropout that is off, or in eval mode, listed as switched off."""
    found: dict[str, str] = {}
    x = torch.ones(3)
    with Quiet([], found):
        functional.dropout(x, 0.5, training=False)
        functional.dropout(x, 0.0)
        functional.alpha_dropout(x, 0.5)
        torch.dropout(x, 0.5, False)
        functional.scaled_dot_product_attention(x[None, None], x[None, None], x[None, None])
    assert not found


class PortedPath(nnx.Module):
    """Drops a branch at random, by its own stream."""

    def __init__(self, rate: float, keep: bool = False) -> None:
        # A name that tells what it holds, or one that does not.
        setattr(self, "keep" if keep else "drop_prob", 1 - rate if keep else rate)
        self.deterministic = False
        self.rngs = nnx.Rngs(0)

    def __call__(self, x: jax.Array) -> jax.Array:
        keep = getattr(self, "keep", None) or 1 - self.drop_prob
        if self.deterministic or keep == 1:
            return x
        return x * jax.random.bernoulli(self.rngs(), keep, (len(x), 1)) / keep


class WithPath(Plain):
    def __init__(self, path: nnx.Module) -> None:
        super().__init__()
        self.path = path

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.b(self.path(self.a(x)))


def test_what_a_port_drops_is_switched_off_or_named() -> None:
    """Catches a right port that fails because it draws, and nobody who tells its author so."""
    reference = with_layer(DropPath()).reference
    made = Port(reference, WithPath(PortedPath(0.4)), SIZE, weights=LINEAR)
    check(made, levels=("L1", "L2", "L3")).assert_faithful()
    made = Port(reference, WithPath(PortedPath(0.4, keep=True)), SIZE, weights=LINEAR)
    report = check(made, levels=("L2",))
    assert not report.ok
    (note,) = (note for note in report.notes if "two answers" in note)
    assert "the port gives two answers in train mode" in note
    assert "test_drawing.py:" in note


def test_flaxs_attention_is_silenced() -> None:
    """Catches dropout inside of Flax's own attention, which is on while a network trains."""
    attend = nnx.MultiHeadAttention(2, 4, dropout_rate=0.5, decode=False, rngs=nnx.Rngs(0))

    class Attends(nnx.Module):
        def __init__(self) -> None:
            self.attn = attend

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.attn(x)

    def weights(a: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = {"attn.out.kernel": a["attn.out_proj.weight"].T.reshape(2, 2, 4)}
        found["attn.out.bias"] = a["attn.out_proj.bias"]
        parts = zip(
            ("query", "key", "value"),
            np.split(a["attn.in_proj_weight"], 3),
            np.split(a["attn.in_proj_bias"], 3),
            strict=True,
        )
        for name, w, b in parts:
            found[f"attn.{name}.kernel"] = w.T.reshape(4, 2, 2)
            found[f"attn.{name}.bias"] = b.reshape(2, 2)
        return found

    report = check(
        Port(Attention(False), Attends(), (2, 3, 4), weights=weights), levels=("L2", "L3")
    )
    # Flax's softmax is one of float32.
    assert max(c.error for c in report.checks) < 1e-5


class LinenDrops(linen.Module):
    """Asks for random numbers, under a name of its own, although nothing is dropped."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.Dense(4, name="a")(x)
        x = linen.Dropout(0.5, deterministic=False)(x)
        noise = jax.random.normal(self.make_rng("drop_path"), x.shape)
        return linen.Dense(4, name="b")(x + 0 * noise)


def test_a_linen_module_gets_the_numbers_that_it_asks_for() -> None:
    """Catches a Linen port that cannot run because nobody hands it a key."""
    module = LinenDrops()
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = module.init(keys, jnp.ones(SIZE))
    check(
        Port(Middle(CALLS["dropout"]), module, SIZE, weights=LINEAR, params=params),
        levels=("L2", "L3"),
    ).assert_faithful()
