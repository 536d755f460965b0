"""Which pixels count against a port: rounding is told from a fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_impl.evaluate
import torch_impl.evaluate
from jax_impl import layers
from parity.evaluation.rounding import Disturbed, Oracle
from parity.faults import layer_faults
from parity.spec.preprocessing import PLAIN, Preprocessing

CLASSES, WIDTH = 6, 8
SIZE = (48, 64)
TIED = (2, 4)  # classes whose weights differ by a rounding, so that it decides between them


def weights() -> dict[str, np.ndarray]:
    """Return the weights of both networks, in PyTorch's shapes."""
    rng = np.random.default_rng(0)
    head = rng.normal(size=(CLASSES, WIDTH, 1, 1)).astype(np.float32)
    noise = rng.choice([-1, 0, 1], head[0].shape) * 2.0**-23
    head[TIED[1]] = head[TIED[0]] * (1 + noise)
    return {
        "conv": rng.normal(size=(WIDTH, 3, 3, 3)).astype(np.float32) / 3,
        "scale": rng.uniform(0.5, 1.5, WIDTH).astype(np.float32),
        "bias": rng.normal(size=WIDTH).astype(np.float32),
        "mean": rng.normal(size=WIDTH).astype(np.float32) / 4,
        "var": rng.uniform(0.02, 0.2, WIDTH).astype(np.float32),
        "head": head,
    }


class Reference(torch.nn.Module):
    """Convolution at half the size, batch norm, bilinear up, a class for every pixel."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, WIDTH, 3, 2, 1, bias=False)
        self.norm = torch.nn.BatchNorm2d(WIDTH)
        self.head = torch.nn.Conv2d(WIDTH, CLASSES, 1, bias=False)
        state = {k: torch.from_numpy(v) for k, v in arrays.items()}
        self.conv.weight.data, self.head.weight.data = state["conv"], state["head"]
        self.norm.weight.data, self.norm.bias.data = state["scale"], state["bias"]
        self.norm.running_mean, self.norm.running_var = state["mean"], state["var"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x)).relu()
        y = torch.nn.functional.interpolate(y, scale_factor=2, mode="bilinear")
        return self.head(y)


class Port(nnx.Module):
    """The network in JAX."""

    def __init__(self, arrays: dict[str, np.ndarray], dtype: str) -> None:
        rngs = nnx.Rngs(0)
        self.conv = layers.Conv2d(3, WIDTH, 3, 2, 1, bias=False, rngs=rngs)
        self.norm = layers.BatchNorm2d(WIDTH, rngs=rngs)
        self.resize = layers.Resize(rngs=rngs)
        self.head = layers.Conv2d(WIDTH, CLASSES, 1, bias=False, rngs=rngs)
        given = {k: jnp.asarray(v, dtype) for k, v in arrays.items()}
        self.conv.kernel[...] = given["conv"].transpose(2, 3, 1, 0)
        self.head.kernel[...] = given["head"].transpose(2, 3, 1, 0)
        self.norm.scale[...], self.norm.bias[...] = given["scale"], given["bias"]
        self.norm.mean[...], self.norm.var[...] = given["mean"], given["var"]

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.norm(self.conv(x)))
        return self.head(self.resize(y, (2 * y.shape[1], 2 * y.shape[2])))


Fault = Callable[[Port], object]


def predictors(fault: Fault) -> Callable[[str, str, Preprocessing], Any]:
    """Makes predictors of either side; the port has the fault."""

    def predictor(framework: str, dtype: str, pixels: Preprocessing) -> Any:
        if framework == "torch":
            reference = Reference(weights()).to(getattr(torch, dtype))
            return torch_impl.evaluate.Predictor(reference, dtype, pixels)
        with jax_impl.evaluate.precision(dtype):
            port = Port(weights(), dtype)
            fault(port)
            return jax_impl.evaluate.Predictor(port, dtype, pixels)

    return predictor


def change(port: Port, permuted: bool = False) -> None:
    """The weights of one class off by 1e-3; or two classes exchanged."""
    kernel = np.array(port.head.kernel[...])
    if permuted:
        kernel = kernel[..., [1, 0, 2, 3, 4, 5]]
    else:
        kernel[..., TIED[0]] *= 1 + 1e-3
    port.head.kernel[...] = jnp.asarray(kernel)


FAULTS: dict[str, Fault] = {
    "eps 1e-3 for 1e-5": lambda port: setattr(port.norm, "eps", 1e-3),
    "padding at the end": lambda port: layer_faults.inject_class(port.conv, layer_faults.SameConv),
    "corners aligned": lambda port: setattr(port.resize, "align_corners", True),
    "weights off by 1e-3": change,
    "two classes exchanged": lambda port: change(port, permuted=True),
}


def in_half_precision(port: Port) -> None:
    """Convolves in bfloat16, but only where float32 is asked for: float64 shows nothing."""
    if port.conv.kernel.dtype == jnp.float32:
        port.conv.compute_dtype = "bfloat16"
        port.head.compute_dtype = "float32"  # a convolution takes one dtype


FAULTS["bfloat16 in float32"] = in_half_precision


def judged(fault: Fault) -> list:
    """A judgement of each of four images, none where the sides agree."""
    make = predictors(fault)
    oracle, sides = Oracle(make, PLAIN), [make(f, "float32", PLAIN) for f in ("torch", "jax")]
    images = np.random.default_rng(1).integers(0, 256, (4, *SIZE, 3), np.uint8)
    found = []
    for image in images:
        one, other = (side(image[None])[0] for side in sides)
        if (one != other).any():
            found.append(oracle.judge(image, one, other))
    return found


def test_rounding_is_no_fault() -> None:
    """Catches a faithful port condemned where rounding decides between two equal classes."""
    found = judged(lambda port: None)
    assert sum(one.disagreeing for one in found) > 20  # else nothing was to be judged
    assert sum(one.counting for one in found) == 0
    assert all(one.explained == one.disagreeing for one in found)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name: str) -> None:
    """Catches a fault excused as rounding, beside pixels that are."""
    found = judged(FAULTS[name])
    counting = sum(one.counting for one in found)
    assert 0 < counting <= sum(one.disagreeing for one in found)


class Fake:
    """Logits that are given."""

    def __init__(self, logits: np.ndarray) -> None:
        self.given = logits

    def logits(self, images: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self.given, (len(images), *self.given.shape))


@pytest.mark.parametrize(
    ("gap", "error", "counting"), [(0.9, 2.0, 0), (1.1, 2.0, 1), (1.1, 0.5, 0)]
)
def test_the_limit(gap: float, error: float, counting: int) -> None:
    """Catches a limit that is looser than stated: here both sides agree in float64.

    A pixel counts where its classes are apart by more than twice the limit, and the port in float32
    is off by more than the limit.
    """
    exact = np.zeros((4, 8, 3))
    exact[..., 0] = 1.0
    exact[2, 5] = 1.0 - 1e-3 * gap, 1.0, -9.0  # the reference's classes, apart by the gap
    noise = np.where(np.arange(3) % 2, 1, -1) * 1e-3 / 2  # the limit, but for the floor
    of = {
        ("torch", "float64"): exact,
        ("torch", "float32"): exact + noise / 16,
        ("jax", "float64"): exact,
        ("jax", "float32"): exact + error * noise,
    }
    oracle = Oracle(lambda framework, dtype, _: Fake(of[framework, dtype]), PLAIN)
    one = exact.argmax(axis=-1)
    other = one.copy()
    other[2, 5] = 0
    found = oracle.judge(np.zeros((4, 8, 3), np.uint8), one, other)
    assert (found.disagreeing, found.counting, found.in_float64) == (1, counting, 0)
    assert found.gap == pytest.approx(1e-3 * gap)
    assert found.limit == pytest.approx(5e-4, rel=2e-2)


def test_equal_pixels_stay_equal() -> None:
    """Catches a disturbance that parts equal pixels: max-pooling would choose among them anew."""
    images = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    for channels in ("RGB", "BGR"):
        plain = Preprocessing(mean=(0.1, 0.2, 0.3), channels=channels)
        before = plain(images, "float64")
        after = Disturbed(mean=plain.mean, channels=channels)(images, "float64")
        most = 2.0**-15 * np.abs(before)
        assert (np.abs(after - before) <= most * (1 + 1e-9)).all()
        assert (np.abs(after - before) > most / 2).any()
        for channel in range(3):
            pairs = np.stack([before[..., channel].ravel(), after[..., channel].ravel()], axis=1)
            assert len(np.unique(pairs, axis=0)) == len(np.unique(pairs[:, 0]))


def test_float64_decides() -> None:
    """Catches a difference that stays in float64 and is excused for being small."""
    exact = np.zeros((1, 2, 2))
    exact[..., 0] = 1e-12
    port = exact[..., ::-1]
    of = {("torch", "float64"): exact, ("torch", "float32"): exact + 1}
    of |= {("jax", dtype): port for dtype in ("float32", "float64")}
    oracle = Oracle(lambda framework, dtype, _: Fake(of[framework, dtype]), PLAIN)
    zeros = np.zeros((1, 2), int)
    found = oracle.judge(np.zeros((1, 2, 3), np.uint8), zeros, zeros + 1)
    assert (found.disagreeing, found.counting, found.in_float64) == (2, 2, 2)
    assert found.limit > 1
