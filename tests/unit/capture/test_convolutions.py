"""Convolutions in float64 that are computed as products."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from jax_impl.ops import float64_convolution
from parity.capture.interpreter import Interpreter

Shape = tuple[int, ...]
# The shapes of image and kernel, the order of their axes, and how the kernel moves.
CASES: dict[str, tuple[Shape, Shape, tuple[str, str, str], dict[str, Any]]] = {
    "plain": ((2, 7, 6, 3), (3, 3, 3, 5), ("NHWC", "HWIO", "NHWC"), {}),
    "channels first": ((2, 20, 7, 6), (5, 20, 3, 2), ("NCHW", "OIHW", "NCHW"), {}),
    "mixed axes": ((7, 2, 17, 6), (17, 3, 4, 2), ("HNCW", "IHOW", "CWNH"), {}),
    "strides": (
        (2, 9, 8, 3),
        (3, 2, 3, 4),
        ("NHWC", "HWIO", "NHWC"),
        {"window_strides": (2, 3), "padding": ((1, 0), (2, 1))},
    ),
    "dilated": (
        (1, 12, 11, 18),
        (3, 3, 18, 2),
        ("NHWC", "HWIO", "NHWC"),
        {"rhs_dilation": (2, 3), "padding": ((2, 2), (3, 3))},
    ),
    "transposed": (
        (2, 4, 5, 3),
        (3, 3, 3, 2),
        ("NHWC", "HWIO", "NHWC"),
        {"lhs_dilation": (2, 3), "padding": ((1, 2), (2, 0))},
    ),
    "cut off": (
        (1, 8, 8, 2),
        (2, 2, 2, 3),
        ("NHWC", "HWIO", "NHWC"),
        {"padding": ((-1, 0), (0, -2))},
    ),
    "stride and cut off": (
        (1, 9, 9, 2),
        (2, 2, 2, 3),
        ("NHWC", "HWIO", "NHWC"),
        {"window_strides": (2, 2), "padding": ((-2, 0), (1, -1))},
    ),
    "large window": ((1, 9, 9, 70), (5, 5, 70, 2), ("NHWC", "HWIO", "NHWC"), {}),
    "small result": (
        (4, 20, 19, 3),
        (9, 9, 3, 5),
        ("NHWC", "HWIO", "NHWC"),
        {"window_strides": (2, 1), "rhs_dilation": (2, 2), "padding": ((0, 1), (1, 0))},
    ),
    "small result, mixed axes": ((3, 2, 12, 11), (3, 4, 10, 9), ("CNHW", "IOHW", "CNHW"), {}),
    "one axis": ((3, 9, 17), (4, 17, 2), ("NWC", "WIO", "NWC"), {"padding": ((1, 2),)}),
    "three axes": ((1, 4, 5, 6, 2), (2, 3, 2, 2, 3), ("NDHWC", "DHWIO", "NDHWC"), {}),
    "nothing left": ((1, 2, 2, 3), (3, 3, 3, 2), ("NHWC", "HWIO", "NHWC"), {}),
}


def convolution(
    axes: tuple[str, str, str], moves: dict[str, Any], count: int
) -> Callable[..., jax.Array]:
    still = {"window_strides": (1,) * count, "padding": ((0, 0),) * count}
    return lambda x, w: lax.conv_general_dilated(x, w, **(still | moves), dimension_numbers=axes)


def by_interpreter(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    def run(*args: jax.Array) -> Any:
        return Interpreter(True).closed(jax.make_jaxpr(function)(*args), args)[0]

    return run


def with_gradients(function: Callable[..., Any], *args: np.ndarray) -> Any:
    """Return what a function gives, and gradients of a sum with weights that all differ."""

    def loss(*args: jax.Array) -> Any:
        found = function(*args)
        return (found * jnp.sin(jnp.arange(found.size)).reshape(found.shape)).sum(), found

    places = tuple(range(len(args)))
    (_, found), gradients = jax.value_and_grad(loss, places, has_aux=True)(*args)
    return [found, *gradients]


@pytest.mark.parametrize("case", CASES)
def test_products_are_the_convolution(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a wrong axis, stride, dilation or padding, forward or in either gradient."""
    monkeypatch.setattr(float64_convolution, "MIN_WORK", 0)
    shape, window, axes, moves = CASES[case]
    rng = np.random.default_rng(0)
    args = rng.normal(size=shape), rng.normal(size=window)
    with jax.enable_x64(True):
        function = convolution(axes, moves, len(shape) - 2)
        program = str(jax.make_jaxpr(by_interpreter(function))(*args))
        assert "conv_general_dilated" not in program
        for mine, theirs in zip(
            with_gradients(by_interpreter(function), *args),
            with_gradients(function, *args),
            strict=True,
        ):
            assert mine.dtype == np.float64
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "groups", "batches", "least"),
    [
        (np.float32, 1, 1, 0),
        (np.float64, 2, 1, 0),
        (np.float64, 1, 2, 0),
        (np.float64, 1, 1, 10**6),
    ],
)
def test_what_stays_a_convolution(
    dtype: Any, groups: int, batches: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches groups that are mixed, and working precision that is not computed as written."""
    monkeypatch.setattr(float64_convolution, "MIN_WORK", least)
    x, w = np.ones((2, 5, 5, 4), dtype), np.ones((3, 3, 4 // groups, 4), dtype)
    moves = {"feature_group_count": groups, "batch_group_count": batches}
    with jax.enable_x64(dtype == np.float64):
        function = convolution(("NHWC", "HWIO", "NHWC"), moves, 2)
        closed = jax.make_jaxpr(function)(x, w)
        evaluated = jax.make_jaxpr(Interpreter(dtype == np.float64).closed, static_argnums=0)
        assert "conv_general_dilated" in str(evaluated(closed, [x, w]))


@pytest.mark.parametrize("case", ["mixed axes", "strides", "transposed", "small result"])
def test_compiled_by_jax(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a float64 network of ours that XLA computes by loops, also in its gradients.

    A gradient of an image whose kernel is large stays: its window and its result are both large.
    """
    monkeypatch.setattr(float64_convolution, "MIN_WORK", 0)
    float64_convolution.use()
    shape, window, axes, moves = CASES[case]
    rng = np.random.default_rng(0)
    args = rng.normal(size=shape), rng.normal(size=window)
    function = convolution(axes, moves, len(shape) - 2)
    with jax.enable_x64(True):
        run = jax.jit(functools.partial(with_gradients, function))
        left = run.lower(*args).as_text().count("stablehlo.convolution(")
        assert left == (case == "small result")
        for mine, theirs in zip(
            run(*args), with_gradients(by_interpreter(function), *args), strict=True
        ):
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "groups", "left"),
    [(np.float32, 1, True), (np.float64, 2, True), (np.float64, 1, False)],
)
def test_other_convolutions_are_compiled_as_before(dtype: Any, groups: int, left: bool) -> None:
    """Catches float32, or groups, computed in another way than JAX's own."""
    float64_convolution.use()
    args = np.ones((2, 50, 50, 32), dtype), np.ones((3, 3, 32 // groups, 64), dtype)
    function = convolution(("NHWC", "HWIO", "NHWC"), {"feature_group_count": groups}, 2)
    with jax.enable_x64(dtype == np.float64):
        text = jax.jit(function).lower(*args).as_text()
    assert ("stablehlo.convolution(" in text) == left


def test_any_number_of_images_is_lowered_as_before() -> None:
    """Catches an export for any batch in float64 that raises once a network was built in it."""
    float64_convolution.use()
    function = convolution(("NHWC", "HWIO", "NHWC"), {}, 2)
    with jax.enable_x64(True):
        for size in (64, 8):
            image = jax.ShapeDtypeStruct(
                (export.symbolic_shape("n")[0], size, size, 16), jnp.float64
            )
            kernel = jax.ShapeDtypeStruct((3, 3, 16, 32), jnp.float64)
            made = export.export(jax.jit(function))(image, kernel)
            assert "stablehlo.convolution" in made.mlir_module()


def test_lowered_outside_of_float64() -> None:
    """Catches a program that raises where it is lowered after float64 was switched off again."""
    float64_convolution.use()
    function = convolution(("NHWC", "HWIO", "NHWC"), {}, 2)
    with jax.enable_x64(True):
        shapes = ((2, 64, 64, 16), (3, 3, 16, 32))
        traced = jax.jit(function).trace(*(jax.ShapeDtypeStruct(s, jnp.float64) for s in shapes))
    assert "stablehlo.dot_general" in traced.lower().as_text()


def in_jit(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return jax.jit(function)


def in_scan(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def run(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.scan(lambda c, _: (function(c, w), None), x, None, length=2)[0]

    return run


@pytest.mark.parametrize("around", [in_jit, jax.checkpoint, in_scan])
def test_inside_transformations(
    around: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a convolution that is slow since it stands inside another program."""
    monkeypatch.setattr(float64_convolution, "MIN_WORK", 0)
    rng = np.random.default_rng(0)
    args = rng.normal(size=(1, 6, 6, 3)), rng.normal(size=(3, 3, 3, 3))
    moves = {"padding": ((1, 1), (1, 1))}
    with jax.enable_x64(True):
        function = around(convolution(("NHWC", "HWIO", "NHWC"), moves, 2))
        run = by_interpreter(function)
        assert "conv_general_dilated" not in str(jax.make_jaxpr(run)(*args))
        for mine, theirs in zip(
            with_gradients(run, *args), with_gradients(function, *args), strict=True
        ):
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("taps", "channels", "pixels", "expected"),
    [(9, 3, 100, 21), (9, 64, 100, 1), (9, 32, 100, 2), (49, 64, 100, 3), (49, 3, 2**20, 10)],
)
def test_how_much_is_computed_at_once(taps: int, channels: int, pixels: int, expected: int) -> None:
    """Catches products too many to compile, too small to be fast, or too large for memory."""
    found = float64_convolution.taps_at_once(taps, channels, pixels)
    assert found == expected
    assert found == 1 or found * channels * pixels * 8 <= 2**28


def test_a_gradient_keeps_the_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the parts of an image kept for a gradient: nine times the image."""
    monkeypatch.setattr(float64_convolution, "MIN_WORK", 0)
    rng = np.random.default_rng(0)
    args = rng.normal(size=(1, 16, 16, 16)), rng.normal(size=(3, 3, 16, 16))
    with jax.enable_x64(True):
        run = by_interpreter(convolution(("NHWC", "HWIO", "NHWC"), {}, 2))
        _, pull_back = jax.vjp(run, *args)
        kept = sum(leaf.size for leaf in jax.tree.leaves(pull_back))
    assert kept <= sum(a.size for a in args)
