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

from jax_impl.layers import pooling as layers
from jax_impl.models import genet
from jax_impl.ops import activation, pooling, resize
from parity.export import build, from_jax, stablehlo, third_backend
from parity.export.reading import open_network
from parity.model_checks.small_networks import small
from parity.spec.draw import weights
from parity.spec.errors import InputError
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


def scattered(x: jax.Array, places: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
    """The unpooling, by writing to places; in a map of twice the size if none is given."""
    n, h, w, c = x.shape
    height, width = size or (2 * h, 2 * w)
    flat = jnp.zeros((n, height * width, c), x.dtype)
    at = jnp.arange(n)[:, None, None], places.reshape(n, h * w, c), jnp.arange(c)
    return flat.at[at].set(x.reshape(n, h * w, c)).reshape(n, height, width, c)


def scattered_flat(x: jax.Array, places: jax.Array) -> jax.Array:
    n, h, w, c = x.shape
    at = (jnp.arange(n)[:, None, None, None] * (4 * h * w) + places) * c + jnp.arange(c)
    flat = jnp.zeros(n * 4 * h * w * c, x.dtype)
    return flat.at[at.reshape(-1)].set(x.reshape(-1)).reshape(n, 2 * h, 2 * w, c)


def scattered_one_by_one(x: jax.Array, places: jax.Array) -> jax.Array:
    _, h, w, c = x.shape

    def channel(x: jax.Array, places: jax.Array) -> jax.Array:
        return jnp.zeros(4 * h * w, x.dtype).at[places].set(x)

    image = jax.vmap(channel, (1, 1), 1)
    found = jax.vmap(lambda x, i: image(x.reshape(h * w, c), i.reshape(h * w, c)))(x, places)
    return found.reshape(-1, 2 * h, 2 * w, c)


def counted(x: jax.Array, mode: str) -> jax.Array:
    """Ones at places, of which some lie outside on either side."""
    at = jnp.floor(20 * x).astype(jnp.int32).reshape(-1, 48, 3)
    found = jnp.zeros((x.shape[0], 10, 3)).at[
        jnp.arange(x.shape[0])[:, None, None], at, jnp.arange(3)
    ]
    return found.add(1.0, mode=mode).reshape(-1, 5, 2, 3)


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
    "unpooling as a scatter": (
        lambda x: unpooled(x, named("shrink", pool), named("grow", scattered)),
        "MaxUnpool",
    ),
    "scatter written in place": (lambda x: unpooled(x, pool, scattered), "ScatterND"),
    "scatter of everything in a row": (lambda x: unpooled(x, pool, scattered_flat), "ScatterND"),
    "scatter image by image": (lambda x: unpooled(x, pool, scattered_one_by_one), "ScatterND"),
    "scatter that drops": (lambda x: counted(x, "drop"), "ScatterND"),
    "scatter that clips": (lambda x: counted(x, "clip"), "ScatterND"),
    "rows set": (lambda x: x.at[:, jnp.array([4, 1])].set(x[:, :2]), "ScatterND"),
    "one channel set": (lambda x: x.at[..., 1].max(0.2), ""),
    "a map set in a larger one": (
        lambda x: jnp.zeros((x.shape[0], 8, 10, 3)).at[:, 1:7, 2:].set(x),
        "Pad",
    ),
    "a map added to a larger one": (
        lambda x: jnp.ones((x.shape[0], 8, 10, 3)).at[:, 1:7, 2:].add(x),
        "Pad",
    ),
    "updated at a number": (
        lambda x: lax.dynamic_update_slice_in_dim(jnp.ones((x.shape[0], 8, 8, 3)), x, 1, 1),
        "",
    ),
    "sliced at a number": (lambda x: lax.dynamic_slice_in_dim(x, 5, 4, 2), ""),
    "split": (lambda x: jnp.concatenate(jnp.split(x, [1, 4], 1)[::-1], 1), "Concat"),
    "reversed": (lambda x: jnp.flip(x.transpose(0, 3, 1, 2), (2, 3)).transpose(0, 2, 3, 1), ""),
    "the place of a maximum": (lambda x: x + jnp.argmax(x, 2, keepdims=True), "ArgMax"),
    "zeros beside channels": (
        lambda x: jnp.concatenate((x, jnp.zeros((x.shape[0], 6, 8, 2))), -1),
        "Concat",
    ),
    "ones between pixels": (
        lambda x: jnp.stack((x, jnp.ones_like(x)), 3).reshape(-1, 6, 16, 3),
        "",
    ),
    "zeros that are reshaped": (
        lambda x: x + jnp.zeros((x.shape[0], 48, 3)).reshape(x.shape[0], 6, 8, 3),
        "",
    ),
    "by the number of images": (lambda x: x * jnp.arange(x.shape[0])[:, None, None, None], "Range"),
    "convolution with channels first": (
        lambda x: lax.conv_general_dilated(
            x.transpose(0, 3, 1, 2),
            KERNEL.transpose(2, 3, 0, 1),
            (2, 1),
            ((1, 1), (0, 2)),
            rhs_dilation=(1, 2),
        ).transpose(0, 2, 3, 1),
        "Conv",
    ),
    "pooling with channels first": (
        lambda x: lax.reduce_window(
            x.transpose(0, 3, 1, 2),
            -jnp.inf,
            lax.max,
            (1, 1, 3, 2),
            (1, 1, 1, 2),
            ((0, 0), (0, 0), (1, 1), (0, 0)),
        ).transpose(0, 2, 3, 1),
        "MaxPool",
    ),
    "the first image": (lambda x: x - x[:1], ""),
    "edges repeated": (
        lambda x: jnp.pad(x, ((0, 0), (1, 1), (2, 0), (0, 0)), mode="edge"),
        "",
    ),
    "clipped": (lambda x: lax.clamp(0.2, x, 0.6), ""),
    "all places set": (lambda x: x * jnp.zeros_like(x).at[:].set(x), ""),
    "all places added to": (
        lambda x: x.transpose(0, 3, 1, 2).at[...].add(1.0).transpose(0, 2, 3, 1),
        "",
    ),
    "a mask of one image for all": (
        lambda x: x * jnp.zeros((x.shape[0], 6, 8, 3)).at[:, 1:3].set(2.0),
        "",
    ),
    "an axis before the batch": (lambda x: x.reshape(1, -1, 6, 8, 3)[0], ""),
    "twice the images, and halves": (
        lambda x: jnp.concatenate((x, 2 * x)).reshape(2, -1, 6, 8, 3).sum(0),
        "",
    ),
    "rows behind the images": (lambda x: jnp.tanh(x.reshape(-1, 3)).reshape(-1, 6, 8, 3), ""),
}

# What is not the same for all images, or not for any number of them; and what is said of it.
REFUSED: dict[str, tuple[Callable[[jax.Array], jax.Array], str]] = {
    "every second image": (lambda x: x.at[::2].set(1.0), r"a length of floordiv\(b \+ 1, 2\)"),
    "thirds": (lambda x: x * (x.shape[0] // 3), r"a length of floordiv\(b, 3\)"),
    "fourths": (lambda x: x * (x.shape[0] // 4), r"a length of floordiv\(b, 4\)"),
    "thirds, as a row": (lambda x: x * jnp.ones(x.shape[0] // 3 + 1).sum(), "image to image"),
    "all images but one": (lambda x: x + x[1:].sum(0), "lengths that depend on the batch"),
    "parts of the batch": (lambda x: jnp.concatenate(jnp.split(x, [1])), "depend on the batch"),
    "a mask of the first image": (
        lambda x: x * jnp.zeros(x.shape[0]).at[0].set(1.0)[:, None, None, None],
        "constants that may differ from image to image",
    ),
    "one image sliced": (
        lambda x: x - lax.dynamic_slice_in_dim(x, 0, 1, 0),
        "some of the images",
    ),
    "one image updated": (
        lambda x: lax.dynamic_update_slice_in_dim(x, jnp.ones((1, 6, 8, 3)), 0, 0),
        "some of the images",
    ),
    "rows of the first image": (lambda x: x.at[0, 1:3].set(1.0), "some of the images"),
    "a function of places": (lambda x: x.at[:, 1:3].apply(jnp.tanh), "a function of what stands"),
    "a place outside": (lambda x: x[:, jnp.array(10)], "places outside"),
}


@pytest.mark.parametrize("name", REFACTORED)
def test_refactored(name: str, tmp_path: Path) -> None:
    """Catches a file that computes otherwise, or none, after a function was only rewritten."""
    function, operator = REFACTORED[name]
    model = from_jax.graph_of(function, (6, 8), ["y"], None)
    path = tmp_path / "y.onnx"
    path.write_bytes(model.SerializeToString())
    network = open_network(path)
    for n in (1, 5):
        images = np.random.default_rng(0).standard_normal((n, 3, 6, 8)).astype(np.float32)
        expected = np.asarray(function(jnp.asarray(images.transpose(0, 2, 3, 1))))
        (found,) = network(images)
        np.testing.assert_allclose(found.transpose(0, 2, 3, 1), expected, rtol=1e-5, atol=1e-5)
    if operator:
        assert operator in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    """Catches a traceback, or a file that is right for the number of images it is tried with."""
    function, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        from_jax.graph_of(function, (6, 8), ["y"], None)


def test_an_unpooling_that_scatters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a network that cannot be exported, or is slow, after its unpooling was rewritten."""
    config, size = small("enet")
    arrays = weights(config, 3)

    def unpool(x: jax.Array, places: jax.Array, stride: int, size: tuple[int, int]) -> jax.Array:
        return scattered(x, places, size)

    monkeypatch.setattr(layers, "max_unpool", jax.jit(unpool, static_argnums=(2, 3)))
    model = build.network(config, arrays, "jax", size, None)
    assert [node.op_type for node in model.graph.node].count("MaxUnpool") == 2
    path = tmp_path / "y.onnx"
    path.write_bytes(model.SerializeToString())
    assert all(check.ok for check in third_backend.checks(path, config, arrays))


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


def test_a_network_that_counts_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback where a network needs to know how many images there are."""
    config = GENetConfig(depth=10, width=1)
    arrays = weights(config, 0)
    called = genet.GENet.__call__

    def counting(self: genet.GENet, images: jax.Array, *rest: object) -> jax.Array:
        return called(self, images, *rest) * (2 if images.shape[0] > 3 else 1)

    monkeypatch.setattr(genet.GENet, "__call__", counting)
    exports = (build.network, (config, arrays, "jax")), (stablehlo.serialized, (config, arrays))
    for export, given in exports:
        with pytest.raises(InputError, match="cannot be traced for any number of im") as error:
            export(*given, (32, 32), None)
        assert "\n" not in str(error.value)


def test_scan_is_no_call() -> None:
    """Catches a loop whose body is exported once, as if it were only called."""

    def repeated(x: jax.Array) -> jax.Array:
        return lax.scan(lambda c, _: (c * 2, None), x, None, length=3)[0]

    with pytest.raises(Exception, match="primitive 'scan'"):
        from_jax.graph_of(repeated, (4, 4), ["y"], None)
