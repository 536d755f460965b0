"""The ONNX export of the JAX side hangs on what is computed, not on how or where it is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jax_impl.models import genet
from jax_impl.ops import activation, pooling, resize
from parity.export import build, from_jax, stablehlo
from parity.export.reading import open_network
from parity.spec.draw import weights
from parity.spec.networks.genet import GENetConfig

SLOPE = jnp.array([0.1, 0.2, -0.3])
KERNEL = jnp.asarray(np.random.default_rng(1).standard_normal((3, 3, 4, 3)), jnp.float32)


def named(name: str, function: Callable) -> Callable:
    """The function compiled under another name."""
    function.__name__ = name
    return jax.jit(function)


def pooled(x: jax.Array) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def unpooled(x: jax.Array, pool: Callable, unpool: Callable) -> jax.Array:
    best, places = pool(x)
    return unpool(2 * best, places)


def pool(x: jax.Array) -> tuple:
    return pooling.max_pool.__wrapped__(x, 2, 2, 0, (x.shape[1] // 2, x.shape[2] // 2))


def unpool(x: jax.Array, places: jax.Array) -> jax.Array:
    return pooling.max_unpool.__wrapped__(x, places, 2, (2 * x.shape[1], 2 * x.shape[2]))


def up(x: jax.Array) -> jax.Array:
    return resize.interpolate(resize.interpolate(x, 1, 9, True), 2, 13, True)


# What is computed, and the operator that the file should have; none where any will do.
REFACTORED: dict[str, tuple[Callable[[jax.Array], jax.Array], str]] = {
    "PReLU under another name": (
        lambda x: named("bend", lambda x, s: jnp.where(x > 0, x, s * x))(x, SLOPE),
        "PRelu",
    ),
    "PReLU, arguments exchanged": (
        lambda x: named("prelu", lambda s, x: jnp.where(x > 0, x, s * x))(SLOPE, x),
        "PRelu",
    ),
    "PReLU by maximum and minimum": (
        lambda x: named("f", lambda x, s: jnp.maximum(x, 0) + s * jnp.minimum(x, 0))(x, SLOPE),
        "PRelu",
    ),
    "PReLU written in place": (lambda x: activation.prelu.__wrapped__(x, SLOPE), ""),
    "of that name, and something else": (
        lambda x: named("prelu", lambda x, s: jnp.where(x > 0.1, x, s * x))(x, SLOPE),
        "",
    ),
    "pooling by windows": (pooled, "MaxPool"),
    "pooling of that name and one output": (named("max_pool", pooled), "MaxPool"),
    "unpooling under other names": (
        lambda x: unpooled(x, named("shrink", pool), named("grow", unpool)),
        "MaxUnpool",
    ),
    "unpooling, arguments exchanged": (
        lambda x: unpooled(
            x, named("a", pool), lambda v, i: named("b", lambda i, v: unpool(v, i))(i, v)
        ),
        "MaxUnpool",
    ),
    "unpooling written in place": (lambda x: unpooled(x, pool, unpool), ""),
    "pooling that is differentiated as a whole": (jax.checkpoint(pooled), "MaxPool"),
    "interpolation moved into one function": (named("enlarge", up), ""),
    "transposed by a dilated input": (
        lambda x: lax.conv_general_dilated(
            x,
            KERNEL.transpose(0, 1, 3, 2),
            (1, 1),
            ((1, 2), (1, 2)),
            lhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ),
        "ConvTranspose",
    ),
    "batch norm by rsqrt and square": (
        lambda x: (x - 0.4) * lax.rsqrt(jnp.square(x).sum((1, 2), keepdims=True) + 1e-5),
        "",
    ),
    "means by windows": (
        lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4,
        "AveragePool",
    ),
    "clipped": (lambda x: lax.clamp(0.2, x, 0.6), ""),
}


@pytest.mark.parametrize("name", REFACTORED)
def test_refactored(name: str, tmp_path: Path) -> None:
    """Catches a file that computes otherwise, or none, after a function was only rewritten."""
    function, operator = REFACTORED[name]
    model = from_jax.graph_of(function, (6, 8), ["y"], None)
    path = tmp_path / "y.onnx"
    path.write_bytes(model.SerializeToString())
    images = np.random.default_rng(0).standard_normal((2, 3, 6, 8)).astype(np.float32)
    expected = np.asarray(function(jnp.asarray(images.transpose(0, 2, 3, 1))))
    (found,) = open_network(path)(images)
    np.testing.assert_allclose(found.transpose(0, 2, 3, 1), expected, rtol=1e-5, atol=1e-5)
    if operator:
        assert operator in {node.op_type for node in model.graph.node}


def test_layers_under_remat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a network whose blocks only save memory that cannot be exported any more."""
    config = GENetConfig(depth=10, width=1)
    arrays = weights(config, 0)

    def outputs() -> np.ndarray:
        path = tmp_path / "y.onnx"
        path.write_bytes(build.network(config, arrays, "jax", (32, 32), 2).SerializeToString())
        images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
        return open_network(path)(images)[0]

    plain = outputs()
    called = genet.GatedBlock.__call__
    monkeypatch.setattr(genet.GatedBlock, "__call__", nnx.remat(called))
    np.testing.assert_allclose(outputs(), plain, rtol=1e-5, atol=1e-5)
    assert stablehlo.serialized(config, arrays, (32, 32), None)


def test_scan_is_no_call() -> None:
    """Catches a loop whose body is exported once, as if it were only called."""

    def repeated(x: jax.Array) -> jax.Array:
        return lax.scan(lambda c, _: (c * 2, None), x, None, length=3)[0]

    with pytest.raises(Exception, match="primitive 'scan'"):
        from_jax.graph_of(repeated, (4, 4), ["y"], None)
