"""Changes of pooling and resizing that experiments prove."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torch import nn
from torch.nn import functional

from parity.diagnosis.catalogue import Fault
from tests.unit.diagnosis.experiments.proving import IMAGE, Case, check_case

CASES: tuple[Case, ...] = (
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
)


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_cause_is_proved(case: Case) -> None:
    """Catches a change that is not tried, and another one that is called proved instead."""
    check_case(case)
