"""Ports whose weights come by rules that stack, split and join, through the whole ladder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen, nnx
from torch import nn

from parity import Port, check
from parity.spec.errors import InputError
from weights_convert.rules import Rules

DEPTH, WIDTH, HEADS = 2, 6, 2
STEPS = (lambda m: torch.optim.Adam(m.parameters(), 1e-2), optax.adam(1e-2))


class Block(nn.Module):
    """Attention whose query, key and value are one matrix, as GPT-2 and timm have it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        found = torch.softmax(parts[0] @ parts[1].mT, -1) @ parts[2]
        return x + self.out(found.transpose(1, 2).flatten(2))


class Stacked(nn.Module):
    """Several blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(DEPTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Attention(nnx.Module):
    """Attention with three projections into heads."""

    def __init__(self, rngs: nnx.Rngs, names: tuple[str, ...] = ("query", "key", "value")) -> None:
        for name in names:
            shape = (HEADS, WIDTH // HEADS)
            setattr(self, name, nnx.LinearGeneral(WIDTH, shape, rngs=rngs))
        self.out = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = self.query(x), self.key(x), self.value(x)
        weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k))
        return x + self.out(jnp.einsum("bhts,bshd->bthd", weights, v).reshape(x.shape))


class Scanned(nnx.Module):
    """Blocks whose weights are stacked, run by a scan."""

    def __init__(self) -> None:
        keys = jax.random.split(jax.random.key(0), DEPTH)
        self.blocks = nnx.vmap(lambda key: Attention(nnx.Rngs(key)))(keys)

    def __call__(self, x: jax.Array) -> jax.Array:
        def step(x: jax.Array, block: Attention) -> jax.Array:
            return block(x)

        return nnx.scan(step, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.blocks)


class LinenBlock(linen.Module):
    """One block of a Linen scan."""

    @linen.compact
    def __call__(self, x: jax.Array, _: Any) -> tuple[jax.Array, None]:
        fused = linen.DenseGeneral((3, HEADS, WIDTH // HEADS), name="qkv")(x)
        q, k, v = (fused[..., i, :, :] for i in range(3))
        weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k))
        found = jnp.einsum("bhts,bshd->bthd", weights, v)
        return x + linen.DenseGeneral(WIDTH, axis=(-2, -1), name="out")(found), None


class LinenScanned(linen.Module):
    """Blocks whose weights are stacked by Linen's lifted scan."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scan = linen.scan(
            LinenBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=DEPTH
        )
        return scan(name="blocks")(x, None)[0]


LAYER = r"layers\.(?P<layer>\d+)"
NAMES = ("query", "key", "value")
SCANNED: list[tuple] = [
    (
        rf"{LAYER}\.qkv\.weight",
        [f"blocks.{name}.kernel" for name in NAMES],
        "layer (qkv h d) i -> qkv layer i h d",
    ),
    (
        rf"{LAYER}\.qkv\.bias",
        [f"blocks.{name}.bias" for name in NAMES],
        "layer (qkv h d) -> qkv layer h d",
    ),
    (rf"{LAYER}\.out\.weight", "blocks.out.kernel", "layer o i -> layer i o"),
    (rf"{LAYER}\.out\.bias", "blocks.out.bias", "layer o -> layer o"),
]
LINEN = [
    (rf"{LAYER}\.qkv\.weight", "blocks.qkv.kernel", "layer (n h d) i -> layer i n h d"),
    (rf"{LAYER}\.qkv\.bias", "blocks.qkv.bias", "layer (n h d) -> layer n h d"),
    (rf"{LAYER}\.out\.weight", "blocks.out.kernel", "layer o (h d) -> layer h d o"),
    (rf"{LAYER}\.out\.bias", "blocks.out.bias", "layer o -> layer o"),
]


def port(module: Any, rules: Any, **fields: Any) -> Port:
    torch.manual_seed(0)
    return Port(
        Stacked(), module, (2, 5, WIDTH), weights=rules, optimizers=STEPS, layout={}, **fields
    )


def exchanged(rules: list[tuple]) -> list[tuple]:
    """Return the rules with the query's and the key's names exchanged."""
    return [
        (pattern, [t[1], t[0], t[2]] if isinstance(t, list) else t, axes)
        for pattern, t, axes in rules
    ]


def test_a_scanned_port_with_its_projections_apart() -> None:
    """Catches tensors that are stacked or split whose gradients or steps are not compared.

    A layer in the scan holds the tensors of all steps, so it is compared in place, not alone.
    """
    report = check(port(Scanned(), SCANNED), levels=("L0", "L1", "L2", "L3", "L4"))
    report.assert_faithful()
    names = {f"blocks.{layer}.{leaf}" for layer in (*NAMES, "out") for leaf in ("kernel", "bias")}
    stepped = {f"{c.layer}.{c.quantity.path}" for c in report.checks if c.quantity.step == 1}
    assert names <= stepped
    assert "L2" in {c.rung for c in report.checks if c.layer == "blocks.out#2"}
    sources = {c.layer: c.reference for c in report.checks if c.rung == "L0"}
    assert sources["blocks.key.kernel"] == "layers.0.qkv.weight + layers.1.qkv.weight"


def test_query_and_key_exchanged() -> None:
    """Catches a fault of the rules themselves that no rung sees: each element is used once."""
    report = check(port(Scanned(), exchanged(SCANNED)), levels=("L0", "L3"))
    assert {c.rung for c in report.failures()} == {"L3"}


def test_a_linen_scan() -> None:
    """Catches rules that only fit the names and arrays of NNX."""
    module, x = LinenScanned(), jnp.zeros((2, 5, WIDTH))
    given = port(module, LINEN, params=module.init(jax.random.key(0), x))
    report = check(given, levels=("L0", "L3"))
    report.assert_faithful()
    assert {c.layer for c in report.checks if c.rung == "L3"} >= {"blocks.qkv", "blocks.out"}


class RowModule(nnx.Module):
    """A linear map whose bias is a row of a matrix."""

    def __init__(self) -> None:
        self.kernel = nnx.Param(jnp.zeros((4, 3)))
        self.bias = nnx.Param(jnp.zeros((1, 3)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel[...] + self.bias[...]


class Rows(nnx.Module):
    """It, and what follows."""

    def __init__(self) -> None:
        self.row = RowModule()

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(self.row(x))


def test_a_layer_with_a_reshaped_tensor_is_fed_alone() -> None:
    """Catches a layer that is left out of L1, though each of its elements is known."""
    torch.manual_seed(0)
    rules = [(r"0\.weight", "row.kernel", "o i -> i o"), (r"0\.bias", "row.bias", "o -> 1 o")]
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    report = check(Port(module, Rows(), (2, 4), rules), levels=("L0", "L1"))
    report.assert_faithful()
    alone = {c.quantity.path for c in report.checks if c.rung == "L1" and c.layer == "row"}
    assert {"kernel", "bias"} <= alone


class Words(nn.Module):
    """An embedding that is the head's weight, too, and a constant that nobody ports."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.register_buffer("version", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.embed(x)) @ self.embed.weight.T


def words(params: dict, x: jax.Array) -> jax.Array:
    """Embed words, with the table twice and its mean subtracted by hand."""
    y = params["table"][x]
    y = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-5)
    return (y * params["scale"] + params["bias"]) @ params["head"]


TIED = [
    (r"embed\.weight", ["table", "head"], "v d -> v d, d v"),
    (r"norm\.weight", "scale"),
    (r"norm\.bias", "bias"),
    ("version", None),
]


def tied(rules: Any) -> Port:
    params = {
        "table": np.zeros((7, 4), np.float32),
        "head": np.zeros((4, 7), np.float32),
        "scale": np.zeros(4, np.float32),
        "bias": np.zeros(4, np.float32),
    }
    tokens = np.array([[1, 2, 3]])
    return Port(Words(), words, (tokens,), rules, params=params, train=False, layout={})


def test_one_tensor_becomes_two(tmp_path: Path) -> None:
    """Catches a tied weight that cannot be untied, and a table that a file cannot hold."""
    report = check(tied(TIED), levels=("L0", "L2"))
    report.assert_faithful()
    path = tmp_path / "rules.toml"
    path.write_text(
        """rules = [
  ['embed\\.weight', ['table', 'head'], 'v d -> v d, d v'],
  ['norm\\.weight', 'scale'],
  ['norm\\.bias', 'bias'],
  ['version', []],
]
"""
    )
    again = check(tied(str(path)), levels=("L0", "L2"))
    assert [(c.layer, c.reference) for c in again.checks] == [
        (c.layer, c.reference) for c in report.checks
    ]
    with pytest.raises(InputError, match=r"rule 5, .*: nothing of the reference fits it"):
        check(tied(Rules.of([*TIED, ("more", None)])), levels=("L0",))
