"""Experiments prove the cause, from numbers that JAX or NumPy made, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax import lax
from torch import nn
from torch.nn import functional

from parity.capture.records import NHWC
from parity.capture.torch_operations import Place, Tape
from parity.capture.torch_side import TorchSide, one_thread
from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments import weights
from parity.diagnosis.experiments.engine import Proof, allowed, prove
from parity.report.quantity import Kind, Quantity
from parity.report.report import Check

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(1, 2, (2, 8, 10, 4))
ROWS = RNG.normal(1, 2, (2, 6, 8))


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., torch.Tensor], **tensors: torch.Tensor) -> None:
        super().__init__()
        self.function = function
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, **dict(self.named_parameters()))


def proved(
    module: nn.Module | Callable[..., torch.Tensor],
    port: Callable,
    x: np.ndarray,
    error: float = 0.0,
    limit: float = 0.0,
) -> list[Proof]:
    """What is proved where `port` computes what the module does not, with JAX in float64.

    Args:
        module: The reference.
        port: The function.
        x: The input of both.
        error: Of the fault.
        limit: Of the fault, whose constants are rounded to float32 if it is not zero.
    """
    made = module if isinstance(module, nn.Module) else Function(module)
    tape = Tape(TorchSide(made, "float64"), (x,), False, Place(fed=False))
    with one_thread(), jax.enable_x64(True):
        target = np.asarray(port(jnp.asarray(x)))
        assert target.dtype == np.float64
        if limit:
            target = target * (1 + 1e-8 * np.cos(np.arange(target.size)).reshape(target.shape))
        fault = Check("L2", "structure", "a", "a", Quantity(Kind.OUTPUT), error, limit)
        return prove(tape, [target], NHWC, allowed(fault))


@pytest.mark.parametrize("approximate", [True, False])
def test_of_neighbours_the_nearest_is_proved(approximate: bool) -> None:
    """Catches another function proved, where only float32 says what the constants are."""
    found = proved(
        functional.relu, lambda x: jax.nn.gelu(x, approximate=approximate), ROWS, math.inf, 2.0
    )
    assert found
    whats = {proof.what for proof in found}
    assert all(("tanh" in what) == approximate and "GELU" in what.upper() for what in whats), whats


def test_a_wide_limit_proves_no_other_epsilon() -> None:
    """Catches an epsilon proved beside the port's own, since a fault's limit is wide."""

    def port(x: jax.Array) -> jax.Array:
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-7)

    layer = nn.LayerNorm(8, eps=1e-2, elementwise_affine=False)
    found = proved(layer, port, 0.2 * ROWS, math.inf, 2.0)
    assert [proof.what for proof in found] == ["eps 1e-07 instead of 0.01"]


@pytest.mark.parametrize("shape", [(5,), (4, 1)])
def test_a_loss_of_unbatched_logits_or_of_one_class(shape: tuple[int, ...]) -> None:
    """Catches causes that are not looked for, since a change of the loss cannot be made."""
    target = torch.zeros(shape[:-1], dtype=torch.long)

    def reference(x: torch.Tensor) -> torch.Tensor:
        return 3 + functional.cross_entropy(x, target, label_smoothing=0.1)

    def port(x: jax.Array) -> jax.Array:
        return 4 - jax.nn.log_softmax(x)[..., 0].mean()

    assert not proved(reference, port, RNG.normal(size=shape))
    if shape == (5,):
        found = proved(reference, lambda x: port(x) - 1, RNG.normal(size=shape))
        assert any(proof.what == "label smoothing 0.0" for proof in found)


def conv(**settings: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(4, 4, 3, **settings)


def kernel(module: nn.Module) -> jax.Array:
    """A convolution's kernel, HWIO."""
    return jnp.asarray(module.weight.detach().double().numpy().transpose(2, 3, 1, 0))


def convolved(x: jax.Array, k: jax.Array, module: nn.Module, **settings: Any) -> jax.Array:
    how = {"window_strides": (1, 1), "padding": ((1, 1), (1, 1))} | settings
    y = lax.conv_general_dilated(x, k, dimension_numbers=("NHWC", "HWIO", "NHWC"), **how)
    return y + jnp.asarray(module.bias.detach().double().numpy())


CONV, STRIDED = conv(padding=1), conv(stride=2, padding=1)
SQUARE = nn.Linear(8, 8)
TRANSPOSED = nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1, bias=False)


def heads(x: jax.Array) -> jax.Array:
    return x.reshape(2, 6, 2, 4).transpose(0, 2, 1, 3)


def torch_heads(x: torch.Tensor) -> torch.Tensor:
    return x.view(2, 6, 2, 4).transpose(1, 2)


def attended(x: jax.Array, scale: float, mask: jax.Array | None = None) -> jax.Array:
    q = heads(x)
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, q) * scale
    scores = scores if mask is None else jnp.where(mask, scores, -jnp.inf)
    return jax.nn.softmax(scores, -1) @ q


def sdpa(**settings: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def attention(x: torch.Tensor) -> torch.Tensor:
        q = torch_heads(x)
        return functional.scaled_dot_product_attention(q, q, q, **settings)

    return attention


def rotated(x: torch.Tensor) -> torch.Tensor:
    angles = torch.outer(torch.arange(6.0), torch.tensor([1.0, 0.1, 0.01, 0.001]))
    table = torch.cat((angles, angles), -1)
    first, second = x.chunk(2, -1)
    return x * table.cos() + torch.cat((-second, first), -1) * table.sin()


def rotated_pairs(x: jax.Array) -> jax.Array:
    angles = jnp.outer(jnp.arange(6.0), jnp.asarray([1.0, 0.1, 0.01, 0.001], float))
    angles = jnp.repeat(angles, 2, -1)
    turned = jnp.stack((-x[..., 1::2], x[..., ::2]), -1).reshape(x.shape)
    return x * jnp.cos(angles) + turned * jnp.sin(angles)


def normed(x: jax.Array) -> jax.Array:
    return nnx.LayerNorm(8, epsilon=1e-5, param_dtype=float, rngs=nnx.Rngs(0))(x)


def shortcut(x: torch.Tensor) -> torch.Tensor:
    return x + torch.sin(functional.layer_norm(x, (8,)))


class Shortcut(nn.Module):
    """A branch with a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.sin(self.norm(x))


def normed_shortcut(x: jax.Array) -> jax.Array:
    return normed(x) + jnp.sin(normed(x))


def split_heads(x: torch.Tensor, heads: int = 2) -> torch.Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def interleaved(x: jax.Array, heads: int = 2) -> jax.Array:
    return x.reshape(2, 6, -1, heads).transpose(0, 3, 1, 2)


def tril(shift: int) -> jax.Array:
    return jnp.tril(jnp.ones((6, 6), bool), shift)


CASES: tuple[tuple[str, Any, Callable, np.ndarray, str, str], ...] = (
    (
        "layer norm's eps",
        nn.LayerNorm(8),
        lambda x: nnx.LayerNorm(8, epsilon=1e-6, param_dtype=float, rngs=nnx.Rngs(0))(x),
        ROWS,
        "norm-eps",
        "eps 1e-06 instead of 1e-05",
    ),
    (
        "unbiased layer norm",
        nn.LayerNorm(8),
        lambda x: (
            (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True, ddof=1) + 1e-5)
        ),
        ROWS,
        "unbiased-variance",
        "unbiased",
    ),
    (
        "groups of a norm",
        nn.GroupNorm(2, 4),
        lambda x: nnx.GroupNorm(4, 4, epsilon=1e-5, param_dtype=float, rngs=nnx.Rngs(0))(x),
        IMAGE,
        "norm-groups",
        "4 groups instead of 2",
    ),
    ("tanh GELU", nn.GELU(), lambda x: jax.nn.gelu(x, True), ROWS, "gelu-approximation", "tanh"),
    (
        "exact GELU",
        nn.GELU("tanh"),
        lambda x: jax.nn.gelu(x, False),
        ROWS,
        "gelu-approximation",
        "exact",
    ),
    ("quick GELU", nn.GELU(), lambda x: x * jax.nn.sigmoid(1.702 * x), ROWS, "activation", "quick"),
    (
        "slope",
        nn.LeakyReLU(0.01),
        lambda x: jax.nn.leaky_relu(x, 0.2),
        ROWS,
        "negative-slope",
        "slope 0.2 instead of 0.01",
    ),
    ("softplus", nn.Softplus(2), jax.nn.softplus, ROWS, "softplus-beta", "beta 1 instead of 2"),
    ("ReLU6", nn.ReLU(), lambda x: jnp.clip(x, 0, 6), 4 * ROWS, "activation", "ReLU6"),
    ("SiLU", nn.ReLU(), jax.nn.silu, ROWS, "activation", "SiLU"),
    (
        "softmax axis",
        nn.Softmax(-1),
        lambda x: jax.nn.softmax(x, 1),
        ROWS,
        Fault.SOFTMAX,
        "axis 1 instead of 2",
    ),
    (
        "SAME",
        STRIDED,
        lambda x: convolved(x, kernel(STRIDED), STRIDED, padding="SAME", window_strides=(2, 2)),
        IMAGE,
        Fault.SAME_PADDING,
        "SAME",
    ),
    (
        "kernel in and out",
        CONV,
        lambda x: convolved(x, kernel(CONV).swapaxes(2, 3), CONV),
        IMAGE,
        Fault.KERNEL_AXES,
        "in and out",
    ),
    (
        "kernel flipped",
        CONV,
        lambda x: convolved(x, kernel(CONV)[::-1, ::-1], CONV),
        IMAGE,
        Fault.KERNEL_NOT_FLIPPED,
        "flipped",
    ),
    (
        "kernel's height and width",
        CONV,
        lambda x: convolved(x, kernel(CONV).swapaxes(0, 1), CONV),
        IMAGE,
        Fault.KERNEL_AXES,
        "height and width",
    ),
    (
        "dilation",
        conv(padding=2, dilation=2),
        lambda x: convolved(x, kernel(CONV), CONV),
        IMAGE,
        "dilation",
        "dilation 1 instead of 2",
    ),
    (
        "transposed kernel not flipped",
        TRANSPOSED,
        lambda x: lax.conv_general_dilated(
            x,
            jnp.asarray(TRANSPOSED.weight.detach().double().numpy().transpose(2, 3, 0, 1)),
            (1, 1),
            ((1, 2), (1, 2)),
            lhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ),
        IMAGE,
        Fault.KERNEL_NOT_FLIPPED,
        "flipped",
    ),
    (
        "square weight",
        SQUARE,
        lambda x: (
            x @ SQUARE.weight.detach().double().numpy() + SQUARE.bias.detach().double().numpy()
        ),
        ROWS,
        Fault.KERNEL_AXES,
        "transposed",
    ),
    (
        "SAME pooling",
        nn.MaxPool2d(3, 2, 1),
        lambda x: nnx.max_pool(x, (3, 3), (2, 2), "SAME"),
        IMAGE,
        Fault.SAME_PADDING,
        "SAME",
    ),
    (
        "ceil mode",
        nn.MaxPool2d(3, 2, 1),
        lambda x: nnx.max_pool(x, (3, 3), (2, 2), ((1, 2), (1, 2))),
        IMAGE,
        Fault.POOL_CEIL_MODE,
        "ceil mode",
    ),
    (
        "padding of zeros",
        nn.MaxPool2d(3, 2, 1),
        lambda x: nnx.max_pool(
            jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2), "VALID"
        ),
        -np.abs(IMAGE),
        "pool-pads-zeros",
        "padding of 0",
    ),
    (
        "counted padding",
        nn.AvgPool2d(3, 2, 1),
        lambda x: nnx.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)), count_include_pad=False),
        IMAGE,
        Fault.POOL_COUNTS_PADDING,
        "left out of the average",
    ),
    (
        "antialiasing",
        lambda x: functional.interpolate(x, (4, 5), mode="bilinear"),
        lambda x: jax.image.resize(x, (2, 4, 5, 4), "bilinear"),
        IMAGE,
        Fault.ANTIALIASED_RESIZE,
        "antialiasing",
    ),
    (
        "half-pixel centres",
        lambda x: functional.interpolate(x, (16, 20), mode="bilinear", align_corners=True),
        lambda x: jax.image.resize(x, (2, 16, 20, 4), "bilinear"),
        IMAGE,
        Fault.ALIGN_CORNERS_UP,
        "align_corners=False",
    ),
    (
        "nearest",
        lambda x: functional.interpolate(x, (11, 13), mode="nearest"),
        lambda x: jax.image.resize(x, (2, 11, 13, 4), "nearest"),
        IMAGE,
        Fault.NEAREST_UPSAMPLING,
        "nearest-exact",
    ),
    (
        "bicubic",
        lambda x: functional.interpolate(x, (16, 20), mode="bicubic"),
        lambda x: jax.image.resize(x, (2, 16, 20, 4), "bicubic"),
        IMAGE,
        "bicubic-a",
        "a = -0.5",
    ),
    (
        "flattening",
        nn.Flatten(),
        lambda x: x.reshape(2, -1),
        IMAGE,
        "flatten-order",
        "(N, H, W, C)",
    ),
    ("ddof", lambda x: x.var(-1), lambda x: x.var(-1), ROWS, "ddof", "ddof 0"),
    (
        "scale of attention",
        sdpa(),
        lambda x: attended(x, 1.0),
        ROWS,
        "attention-scale",
        "not scaled",
    ),
    (
        "no causal mask",
        sdpa(is_causal=True),
        lambda x: attended(x, 0.5),
        ROWS,
        "attention-mask",
        "no mask",
    ),
    (
        "causal offset",
        sdpa(is_causal=True),
        lambda x: attended(x, 0.5, tril(1)),
        ROWS,
        "causal-offset",
        "moved by 1",
    ),
    (
        "shared heads",
        lambda x: x.repeat_interleave(2, 1),
        lambda x: jnp.tile(x, (1, 2, 1)),
        ROWS,
        "gqa-order",
        "in turn",
    ),
    ("rotary pairs", rotated, rotated_pairs, ROWS, "rope-pairs", "neighbours, not of halves"),
    (
        "gate and up",
        lambda x: functional.silu(x[..., :4]) * x[..., 4:],
        lambda x: x[..., :4] * jax.nn.silu(x[..., 4:]),
        ROWS,
        "gate-order",
        "`silu` on the second factor",
    ),
    (
        "shortcut",
        lambda x: functional.relu(x[..., :4] + x[..., 4:]),
        lambda x: x[..., :4] + jax.nn.relu(x[..., 4:]),
        ROWS,
        Fault.SHORTCUT_ORDER,
        "before the sum",
    ),
    (
        "GELU written out",
        lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3)))),
        lambda x: jax.nn.gelu(x, False),
        ROWS,
        "activation",
        "the exact GELU instead of the activation that is written out",
    ),
    (
        "post-norm",
        lambda x: x + torch.sin(functional.layer_norm(x, (8,))),
        lambda x: normed(x + jnp.sin(x)),
        ROWS,
        "norm-place",
        "after the sum (post-norm)",
    ),
    (
        "residual from the norm",
        lambda x: x + torch.sin(functional.layer_norm(x, (8,))),
        lambda x: normed(x) + jnp.sin(normed(x)),
        ROWS,
        "residual",
        "`layer_norm` in place of the first operand",
    ),
    (
        "shortcuts from behind the norms",
        nn.Sequential(Shortcut(), Shortcut()),
        lambda x: normed_shortcut(normed_shortcut(x)),
        ROWS,
        "residual",
        "from behind its norm, not from before it, at each of 2 places",
    ),
    (
        "branches in parallel",
        lambda x: shortcut(shortcut(x)),
        lambda x: x + 2 * jnp.sin(normed(x)),
        ROWS,
        "residual",
        "(branches in parallel)",
    ),
    (
        "interleaved heads",
        lambda x: split_heads(x) * split_heads(x[..., 4:], 1),
        lambda x: interleaved(x) * interleaved(x[..., 4:], 1),
        ROWS,
        "heads-order",
        "split in the opposite order (interleaved)",
    ),
    (
        "class token without its position",
        lambda x: torch.cat((x[:, :1] * 2, x), 1) + torch.arange(1, 8)[:, None],
        lambda x: jnp.concatenate((x[:, :1] * 2, x + jnp.arange(2, 8)[:, None]), 1),
        ROWS,
        "part-not-added",
        "not added to part 1 of the 2 joined",
    ),
    (
        "activation before its norm",
        nn.Sequential(nn.LayerNorm(8), nn.ReLU()),
        lambda x: normed(jax.nn.relu(x)),
        ROWS,
        "order",
        "`relu` before `layer_norm`",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_cause_is_proved(case: tuple) -> None:
    """Catches a change that is not tried, and another one that is called proved instead."""
    _, module, port, x, fault, words = case
    found = proved(module, port, x)
    assert found, "nothing is proved"
    assert found[0].fault == fault, [str(proof) for proof in found]
    assert words in str(found[0])
    assert str(found[0]).startswith("the port is the reference with ")


def test_no_known_cause_is_none() -> None:
    """Catches a cause that is called proved though the numbers do not come out."""
    assert not proved(nn.LayerNorm(8), lambda x: jnp.sin(x) + x, ROWS)
    # Two faults at once, neither of which explains everything.
    made = nn.Sequential(nn.LayerNorm(8), nn.GELU())

    def both(x: jax.Array) -> jax.Array:
        norm = nnx.LayerNorm(8, epsilon=1e-3, param_dtype=float, rngs=nnx.Rngs(0))
        return jax.nn.gelu(norm(x), True)

    assert not proved(made, both, ROWS)


def test_nothing_is_proved_of_a_right_pair() -> None:
    """Catches changes that change nothing, called the cause of rounding."""
    assert not proved(nn.GELU(), lambda x: jax.nn.gelu(x, False), ROWS)
    assert not proved(CONV, lambda x: convolved(x, kernel(CONV), CONV), IMAGE)


def test_a_difference_just_above_rounding_is_not_explained_by_a_near_change() -> None:
    """Catches an experiment that accepts numbers that are near but not the port's."""
    found = proved(
        nn.LayerNorm(8),
        lambda x: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1.01e-6),
        ROWS,
    )
    assert not found


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda w: w.transpose(2, 3, 0, 1), Fault.KERNEL_AXES),
        (lambda w: w.transpose(2, 3, 1, 0)[::-1, ::-1], Fault.KERNEL_NOT_FLIPPED),
        (lambda w: w.reshape(3, 3, 4, 4), Fault.KERNEL_AXES),
        (lambda w: w.transpose(2, 3, 1, 0).astype(np.float16).astype(w.dtype), "weights-rounded"),
    ],
)
def test_stored_weights(change: Callable[[np.ndarray], np.ndarray], fault: str) -> None:
    """Catches a stored kernel whose order or rounding is not recognised."""
    w = RNG.normal(size=(4, 4, 3, 3))
    found = weights.proofs("c.kernel", "c.weight", (2, 3, 1, 0), {"c.weight": w}, change(w))
    assert fault in [proof.fault for proof in found]
    sound = w.transpose(2, 3, 1, 0)
    assert not weights.proofs("c.kernel", "c.weight", (2, 3, 1, 0), {"c.weight": w}, sound + 1e-9)


def test_fused_queries_keys_and_values() -> None:
    """Catches a fused projection split for each head, taken for one split by kind."""
    w = RNG.normal(size=(24, 8))
    stored = w.reshape(3, 2, 4, 8).transpose(1, 0, 2, 3).reshape(24, 8).T
    found = weights.proofs("qkv.kernel", "qkv.weight", (1, 0), {"qkv.weight": w}, stored)
    assert {proof.fault for proof in found} == {"qkv-per-head"}
    assert any("3 for each head (2 heads)" in str(proof) for proof in found)


def test_eps_of_zero_is_finite() -> None:
    """Catches an experiment that fails instead of being no proof."""
    zeros = np.zeros((2, 8))
    assert math.isfinite(float(np.abs(zeros).sum()))
    assert not proved(nn.LayerNorm(8), lambda x: x + 1.0, zeros)
