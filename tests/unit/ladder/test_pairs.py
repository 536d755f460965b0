"""`parity pairs`, `Report.pairs`, and pairs that must not cross."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from parity import Port, check, cli
from parity.ladder.axes import permutation, rearranged
from parity.report.quantity import Kind

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
    report = check(Port(Norms(), PortedNorms(name), inputs=(3, 4)), levels=("L0", "L1"))
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


class Bias(nn.Module):
    """A table of positions for each head, (1, heads, T, T), as BEiT's."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.arange(12.0).reshape(6, 2).sin())

    def forward(self) -> torch.Tensor:
        index = (torch.arange(4)[:, None] + torch.arange(4) * 2) % 6
        return self.table[index].permute(2, 0, 1).unsqueeze(0)


class Biased(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = Bias()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.bias()).softmax(-1)


class PortBias(nnx.Module):
    """A table of biases without the batch's axis, (heads, T, T)."""

    def __init__(self) -> None:
        self.table = nnx.Param(jnp.zeros((6, 2)))

    def __call__(self) -> jax.Array:
        index = (jnp.arange(4)[:, None] + jnp.arange(4) * 2) % 6
        return self.table[...][index].transpose(2, 0, 1)


class PortBiased(nnx.Module):
    def __init__(self, factor: float) -> None:
        self.bias = PortBias()
        self.factor = factor

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.softmax(x + self.factor * self.bias(), axis=-1)


def biased(factor: float) -> Port:
    weights = [(r"bias\.table", "bias.table")]
    return Port(Biased(), PortBiased(factor), (3, 2, 4, 4), weights=weights, layout={})


@pytest.mark.parametrize("turned", [False, True])
def test_an_axis_of_length_one_that_one_side_lacks(turned: bool) -> None:
    """Catches a layer inside the network that is right up to a unit axis, and fails for it."""
    port = biased(1.0)
    if turned:  # the layout has channels last, but not here
        asis = {0: None}
        port = dataclasses.replace(
            port, layout={4: (0, 2, 3, 1)}, input_layouts=asis, output_layouts=asis
        )
    report = check(port)
    report.assert_faithful()
    rungs = {c.rung for c in report.checks if c.layer == "bias"}
    assert {"L1", "L2", "L3"} <= rungs
    assert check(biased(1.5), levels=("L1", "L2")).failures()


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((1, 5, 5, 4), (3, 1, 2), (4, 5, 5)),
        ((4, 5), (1, -1, 0), (5, 1, 4)),
        ((1, 1), (), ()),
        ((2, 3), (1, 0), (3, 2)),
    ],
)
def test_axes_of_length_one_are_left_out_or_added(
    shape: tuple, axes: tuple, expected: tuple
) -> None:
    """Catches elements that move to another place."""
    array = np.random.default_rng(0).normal(size=shape)
    found = rearranged(array, axes)
    assert found.shape == expected
    assert permutation(array, found) is not None
    assert permutation(array, found + 1e-6) is None
    kept = [axis for axis in axes if axis >= 0]
    left = [axis for axis in range(array.ndim) if axis not in kept]
    np.testing.assert_array_equal(np.ravel(found), np.ravel(array.transpose(left + kept)))


def test_layers_that_a_cut_note_does_not_name_are_listed() -> None:
    """Catches layers that were not compared and stand nowhere, for a note names others of them."""
    names = [f"r{i}" for i in range(8)]
    reference = nn.Sequential()
    for name in names:
        reference.add_module(name, nn.ReLU())
    reference.add_module("out", nn.Linear(4, 3))

    class Head(nnx.Module):
        def __init__(self) -> None:
            self.out = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.out(jax.nn.relu(x))

    rules = [("out.weight", "out.kernel", (1, 0)), ("out.bias", "out.bias")]
    report = check(Port(reference=reference, port=Head(), inputs=(5, 4), weights=rules))
    assert {o.layer for o in report.left_out} >= set(names)
    assert all(name in str(report) for name in names), str(report)


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(channels, 4, 3, padding=1), nn.PReLU(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(x))


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = Block(3), Block(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(nn.functional.max_pool2d(self.a(x), 2))


class OwnSlope(nnx.Module):
    """Holds the activation's slope by itself, beside a layer."""

    def __init__(self, channels: int) -> None:
        self.conv = nnx.Conv(channels, 4, (3, 3), rngs=nnx.Rngs(0))
        self.slope = nnx.Param(jnp.ones(4))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(x)
        return jnp.where(y > 0, y, y * self.slope[...])


class OwnSlopes(nnx.Module):
    def __init__(self, pool: Callable = nnx.max_pool, names: str = "ab") -> None:
        self.pool, self.names = pool, names
        for name, channels in zip(names, (3, 4), strict=True):
            setattr(self, name, OwnSlope(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        first, second = (getattr(self, name) for name in self.names)
        return second(self.pool(first(x), (2, 2), (2, 2)))


@pytest.mark.parametrize("names", ["ab", "xy"])
def test_a_block_that_holds_a_tensor_of_its_own_is_that_block(names: str) -> None:
    """Catches a block taken for its activation, and blamed for a wrong pool before it."""
    rules = [
        (rf"{ours}\.conv\.weight", f"{theirs}.conv.kernel", (2, 3, 1, 0))
        for ours, theirs in zip("ab", names, strict=True)
    ]
    for ours, theirs in zip("ab", names, strict=True):
        rules += [(rf"{ours}\.conv\.bias", f"{theirs}.conv.bias")]
        rules += [(rf"{ours}\.act\.weight", f"{theirs}.slope")]
    right, wrong = (
        check(Port(Blocks(), OwnSlopes(pool, names), inputs=(2, 8, 8, 3), weights=rules))
        for pool in (nnx.max_pool, nnx.avg_pool)
    )
    right.assert_faithful()
    assert {(p.reference, p.port) for p in right.pairs} >= {("a", names[0]), ("b", names[1])}
    fault = wrong.fault()
    assert fault is not None
    assert fault.layer == f"{names[1]}.conv"
    assert fault.quantity.kind is Kind.OUTPUT
    assert any("average" in str(cause) or "mean" in str(cause) for cause in wrong.causes)


class Pooled(Block):
    """Pools inside of the block."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.max_pool2d(super().forward(x), 2)


class PooledBlocks(Blocks):
    def __init__(self) -> None:
        super().__init__()
        self.a.__class__ = Pooled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


def test_a_block_that_ends_elsewhere_is_not_that_block() -> None:
    """Catches a right port failed, whose block of the same weights leaves the pool to others."""
    rules = [
        (r"(.)\.conv\.weight", r"\1.conv.kernel", (2, 3, 1, 0)),
        (r"(.)\.conv\.bias", r"\1.conv.bias"),
        (r"(.)\.act\.weight", r"\1.slope"),
    ]
    report = check(Port(PooledBlocks(), OwnSlopes(), inputs=(2, 8, 8, 3), weights=rules))
    report.assert_faithful()
    assert ("a", "a") not in {(p.reference, p.port) for p in report.pairs}


class Scaled(nn.Module):
    """Holds the scale of what it adds."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.fc = nn.Parameter(torch.rand(4) + 0.5), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.scale * self.fc(x))


def scaled_blocks() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Scaled(), Scaled(), nn.Linear(4, 3))


class OwnScale(nnx.Module):
    """As the reference's block, but for the activation if it `ends` before that."""

    def __init__(self, scaled: bool, ends: bool) -> None:
        self.scale, self.fc = nnx.Param(jnp.ones(4)), nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.scaled, self.ends = scaled, ends

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x + self.fc(x) * (self.scale[...] if self.scaled else 1 + 0 * self.scale[...])
        return y if self.ends else jax.nn.relu(y)


class OwnScales(nnx.Module):
    def __init__(self, scaled: bool = True, ends: bool = False) -> None:
        self.a, self.b = OwnScale(scaled, ends), OwnScale(True, ends)
        self.head = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in (self.a, self.b):
            x = jax.nn.relu(block(x))
        return self.head(x)


SCALES = {
    f"{theirs}.{tensor}": (f"{ours}.{key}", axes)
    for ours, theirs in zip("01", "ab", strict=True)
    for tensor, key, axes in (
        ("scale", "scale", None),
        ("fc.kernel", "fc.weight", (1, 0)),
        ("fc.bias", "fc.bias", None),
    )
} | {"head.kernel": ("2.weight", (1, 0)), "head.bias": ("2.bias", None)}


def test_a_wrong_block_with_a_tensor_of_its_own_is_named() -> None:
    """Catches the layer behind it blamed: its values are wrong, and names are not shared."""
    report = check(Port(scaled_blocks(), OwnScales(scaled=False), (5, 4), SCALES))
    fault = report.fault()
    assert fault is not None
    assert (fault.rung, fault.layer, fault.reference) == ("L1", "a", "0")
    assert report.causes


def test_a_block_with_a_tensor_of_its_own_may_end_elsewhere() -> None:
    """Catches a right port failed, whose blocks leave the activation to the network."""
    report = check(Port(scaled_blocks(), OwnScales(ends=True), (5, 4), SCALES))
    report.assert_faithful()
    assert ("0", "a") not in {(p.reference, p.port) for p in report.pairs}


class Mixer(nnx.Module):
    """Holds the projection of queries, keys and values by itself, and the other in a layer."""

    def __init__(self, scale: float) -> None:
        self.qkv, self.bias = nnx.Param(jnp.ones((8, 24))), nnx.Param(jnp.ones(24))
        self.out, self.scale = nnx.Linear(8, 8, rngs=nnx.Rngs(0)), scale

    def __call__(self, x: jax.Array) -> jax.Array:
        made = (x @ self.qkv[...] + self.bias[...]).reshape(*x.shape[:2], 3, 2, 4)
        q, k, v = (made[:, :, i].swapaxes(1, 2) for i in range(3))
        found = jax.nn.softmax(q @ k.mT * self.scale, -1) @ v
        return self.out(found.swapaxes(1, 2).reshape(x.shape))


class Mixes(nnx.Module):
    def __init__(self, scale: float) -> None:
        self.mixer = Mixer(scale)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.mixer(x)


def test_attention_in_one_layer_is_the_block_that_holds_its_projection() -> None:
    """Catches its output taken for that of the block's last layer, which is right."""
    rules = [
        ("attn.in_proj_weight", "mixer.qkv", (1, 0)),
        ("attn.in_proj_bias", "mixer.bias"),
        ("attn.out_proj.weight", "mixer.out.kernel", (1, 0)),
        ("attn.out_proj.bias", "mixer.out.bias"),
    ]
    right, wrong = (check(Port(Attention(), Mixes(s), (2, 5, 8), rules)) for s in (0.5, 1.0))
    right.assert_faithful()
    for report in (right, wrong):
        assert ("attn", "mixer") in {(p.reference, p.port) for p in report.pairs}
    fault = wrong.fault()
    assert fault is not None
    assert fault.layer == "mixer"
