"""`parity pairs`, `Report.pairs`, and pairs that must not cross."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from parity import Port, check, cli

FACTORY = """
from tests.unit.capture.test_transformations import transformed


def make_port():
    return transformed("scan")
"""


def test_the_command_lists_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a pair that is not shown, or a layer without a counterpart that is not marked."""
    (tmp_path / "port.py").write_text(FACTORY)
    out = tmp_path / "pairs.json"
    assert cli.main(["pairs", f"{tmp_path / 'port.py'}:make_port", "--json", str(out)]) == 0
    assert "6 pairs, 1 without a counterpart" in capsys.readouterr().out
    rows = {(row["kind"], row["reference"]): row for row in json.loads(out.read_text())}
    assert rows["tensor", "0.weight"]["port"] == "a.kernel"
    assert rows["layer", "2"]["port"] == "b"
    assert rows["layer", "2"]["how"] == "weights"
    assert rows["layer", "1"]["how"] == "not paired"
    assert cli.main(["pairs", "enet"]) == 2


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attn(x, x, x, need_weights=False)[0]


class Fused(nnx.Module):
    """Holds the fused projection in a layer of its own, whose output is three times as wide."""

    def __init__(self) -> None:
        self.qkv = nnx.Linear(8, 24, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(8, 8, rngs=nnx.Rngs(1))

    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = (t.reshape(*t.shape[:2], 2, 4) for t in jnp.split(self.qkv(x), 3, -1))
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2)
        return self.out(jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape))


def test_a_layer_that_holds_a_part_of_anothers_weights_is_not_that_layer() -> None:
    """Catches a right port failed because a projection is compared with a whole attention."""
    rules = [
        (r"attn\.in_proj_weight", "qkv.kernel", (1, 0)),
        (r"attn\.in_proj_bias", "qkv.bias"),
        (r"attn\.out_proj\.weight", "out.kernel", (1, 0)),
        (r"attn\.out_proj\.bias", "out.bias"),
    ]
    report = check(Port(Attention(), Fused(), inputs=(2, 6, 8), weights=rules))
    report.assert_faithful()
    paired = {(p.reference, p.port) for p in report.pairs if p.kind == "layer"}
    assert ("attn", "out") in paired


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c = nn.Conv2d(3, 4, 1)
        self.l = nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.l(self.c(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Upstream(nnx.Module):
    """Is wrong before the linear layer, so that no value behind it shows the order of axes."""

    def __init__(self) -> None:
        self.c = nnx.Conv(3, 4, (1, 1), rngs=nnx.Rngs(0))
        self.l = nnx.Linear(4, 6, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.l(self.c(x) * 1.001)


@pytest.mark.parametrize("side", [5, 6])
def test_channels_last_inside_behind_a_fault(side: int) -> None:
    """Catches a right linear layer failed for its axes: by the shape, or where all sides agree."""
    rules = [
        ("c.weight", "c.kernel", (2, 3, 1, 0)),
        ("l.weight", "l.kernel", (1, 0)),
        (r"(.*)", r"\1"),
    ]
    port = Port(ChannelsLast(), Upstream(), inputs=(2, side, side, 3), weights=rules)
    report = check(port, levels=("L0", "L1", "L2"))
    assert {c.layer for c in report.failures()} == {"l", "(network)"}
    assert {c.rung for c in report.failures()} == {"L2"}
    assert report.parting is not None
    assert "mul" in report.parting.port  # the very operation, not the layer behind it


def test_a_guessed_pair_is_questioned_where_all_the_rest_is_right() -> None:
    """Catches a right port failed for two fresh norms that were taken for each other."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.LayerNorm(4), nn.LayerNorm(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.tanh(self.first(x)) + x)

    class Crossed(nnx.Module):
        def __init__(self) -> None:
            self.b = nnx.LayerNorm(4, epsilon=1e-5, rngs=nnx.Rngs(0))
            self.a = nnx.LayerNorm(4, epsilon=1e-5, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.b(jnp.tanh(self.a(x)) + x)

    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    check(Port(Two(), Crossed(), inputs=(x,))).assert_faithful()


class Norms(nn.Module):
    """Eleven norms, fresh: every scale is ones, and every bias zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.LayerNorm(4) for _ in range(11))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x) * (i + 1)
        return x


class PortedNorms(nnx.Module):
    def __init__(self, name: str) -> None:
        self.name = name
        for i in range(11):
            setattr(self, f"{name}_{i}", nnx.LayerNorm(4, epsilon=1e-5, rngs=nnx.Rngs(0)))

    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(11):
            x = getattr(self, f"{self.name}_{i}")(x) * (i + 1)
        return x


@pytest.mark.parametrize("name", ["blocks", "stage"])
def test_equal_tensors_pair_by_name_then_by_order(name: str) -> None:
    """Catches norms that cross because all hold ones: `x_10` comes after `x_9`, not after `x_1`."""
    report = check(Port(Norms(), PortedNorms(name), inputs=(3, 4)))
    report.assert_faithful()
    assert {(p.reference, p.port) for p in report.pairs if p.kind == "layer"} == {
        (f"blocks.{i}", f"{name}_{i}") for i in range(11)
    }


class Counted(nn.Embedding):
    """Is fed the sequence, and counts the places itself, as Bart's does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.arange(x.shape[1]))


class Places(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.places = Counted(5, 4)
        self.out = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x + self.places(x[..., 0]))


class PortedPlaces(nnx.Module):
    def __init__(self, first: int = 0) -> None:
        self.places = nnx.Embed(5, 4, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.first = first

    def __call__(self, x: jax.Array) -> jax.Array:
        at = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
        return self.out(x + self.places((at + self.first) % 5))


@pytest.mark.parametrize("first", [0, 1])
def test_a_layer_that_is_fed_other_arrays(first: int) -> None:
    """Catches a right layer failed for what it is fed alone, or a wrong one passed for it."""
    rules = [
        ("places.weight", "places.embedding"),
        ("out.weight", "out.kernel", (1, 0)),
        ("out.bias", "out.bias"),
    ]
    report = check(Port(Places(), PortedPlaces(first), inputs=(2, 5, 4), weights=rules))
    assert report.ok == (first == 0)
