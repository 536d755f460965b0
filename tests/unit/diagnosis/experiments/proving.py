"""What experiments prove of a module and a function of JAX that computes something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from parity.capture.records import NHWC
from parity.capture.torch_operations import CallValue, Tape
from parity.capture.torch_side import TorchSide
from parity.capture.torch_threads import one_thread
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
    tape = Tape(TorchSide(made, "float64"), (x,), False, CallValue(fed=False))
    with one_thread(), jax.enable_x64(True):
        target = np.asarray(port(jnp.asarray(x)))
        assert target.dtype == np.float64
        if limit:
            target = target * (1 + 1e-8 * np.cos(np.arange(target.size)).reshape(target.shape))
        fault = Check("L2", "structure", "a", "a", Quantity(Kind.OUTPUT), error, limit)
        return prove(tape, [target], NHWC, allowed(fault))


# Name, reference, port, input, fault, words of the proof.
Case = tuple[str, Any, Callable, np.ndarray, str, str]


def check_case(case: Case) -> None:
    """Check that the first proof is of the case's fault."""
    _, module, port, x, fault, words = case
    found = proved(module, port, x)
    assert found, "nothing is proved"
    assert found[0].fault == fault, [str(proof) for proof in found]
    assert words in str(found[0])
    assert str(found[0]).startswith("the port is the reference with ")
