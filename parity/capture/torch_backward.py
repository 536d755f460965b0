"""Backward passes in the contexts in which the forward pass was recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch

from parity.capture.torch_draws import Quiet
from parity.capture.torch_lifting import Lifted


def pull_back(
    outputs: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor] | None,
    dtype: torch.dtype,
    quiet: bool = True,
) -> None:
    """Run backward in the contexts of the forward pass, parts of which may run once more.

    `torch.utils.checkpoint` computes again what it did not keep. Of tensors, `backward` is a
    function that the contexts see, and within which they are not active; of edges it is none.

    Args:
        outputs: What is differentiated.
        gradients: The gradients of each; None: 1.
        dtype: The precision of the forward pass: in float64 casts to a narrower type are left out.
        quiet: Whether functions of dropout do nothing.
    """
    edges = [torch.autograd.graph.get_gradient_edge(output) for output in outputs]
    wide = Lifted([]) if dtype == torch.float64 else contextlib.nullcontext()
    with wide, Quiet([], {}) if quiet else contextlib.nullcontext():
        torch.autograd.backward(edges, gradients)
