"""Changes of convolutions and linear layers that experiments prove."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from jax import lax
from torch import nn

from parity.diagnosis.catalogue import Fault
from tests.unit.diagnosis.experiments.proving import IMAGE, ROWS, Case, check_case


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

# Three filters for each channel.
DEPTHWISE = nn.Conv2d(4, 12, 3, padding=1, groups=4)


def depthwise(x: jax.Array) -> jax.Array:
    """Reads filters as TensorFlow keeps them, (channel, filter), in the order (filter, channel)."""
    k = kernel(DEPTHWISE)
    k = k.reshape(3, 3, 1, 4, 3).swapaxes(3, 4).reshape(k.shape)
    return convolved(x, k, DEPTHWISE, feature_group_count=4)


TRANSPOSED = nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1, bias=False)


CASES: tuple[Case, ...] = (
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
        "filters of groups",
        DEPTHWISE,
        depthwise,
        IMAGE,
        "group-order",
        "the kernel's filters stored group after group, taken for the other order",
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
)


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_cause_is_proved(case: Case) -> None:
    """Catches a change that is not tried, and another one that is called proved instead."""
    check_case(case)
