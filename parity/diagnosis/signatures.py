"""Signatures of faults in a layer's outputs, and PyTorch's results with other settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from parity.ladder.evidence import Case, Evidence
from parity.ladder.weights import SYNONYMS
from parity.report.quantity import Kind, Mode, Quantity, Scope

# A layer's first output, alone.
OUTPUT = Quantity(Kind.OUTPUT, index=0, mode=Mode.TRAIN, scope=Scope.LAYER)
EXACT = 1e-6  # of the difference may be left where something explains it


def case(e: Evidence, mode: str = "train") -> Case | None:
    """The layer alone in one mode, if its first input is an array."""
    found = e.cases.get(mode)
    return found if found and found.inputs and np.ndim(found.inputs[0]) == 4 else None


def failed(e: Evidence) -> set[Quantity]:
    """Quantities of the faulty layer that failed on its rung, in eval mode too."""
    same = (e.fault.rung, e.fault.layer)
    return {c.quantity for c in e.failures if (c.rung, c.layer) == same}


def difference(a: np.ndarray | None, b: np.ndarray | None) -> float:
    """|a - b| / |b|; infinite where they cannot be compared."""
    if a is None or b is None or a.shape != b.shape:
        return float("inf")
    norm = float(np.linalg.norm(np.ravel(b)))
    with np.errstate(invalid="ignore"):  # infinite on both sides
        distance = float(np.linalg.norm(np.ravel(np.asarray(a, np.float64) - b)))
    if not np.isfinite(distance):
        return float("inf")
    return distance / norm if norm else distance


def explained(port: np.ndarray | None, wrong: np.ndarray | None, reference: Any = None) -> float:
    """Return how much of a difference a hypothesis explains.

    Args:
        port: The port's result.
        wrong: The result that the hypothesis predicts.
        reference: The reference's result; if that is as close, the hypothesis explains nothing.

    Returns:
        A share from 0 (nothing explained) to 1 (everything).
    """
    rest = difference(port, wrong)
    if not np.isfinite(rest):
        return 0.0
    whole = difference(port, reference)
    whole = whole if np.isfinite(whole) else 1.0
    return 0.0 if whole == 0 else 1.0 if rest <= EXACT * whole else max(0.0, 1 - rest / whole)


def output(e: Evidence, wrong: np.ndarray | None, mode: str = "train") -> float:
    """Return `explained` for the layer's first output."""
    c = case(e, mode)
    first = dataclasses.replace(OUTPUT, mode=Mode(mode))
    if c is None or first not in c.port:
        return 0.0
    return explained(c.port[first], wrong, c.reference.get(first))


def ratio(port: np.ndarray, reference: np.ndarray) -> float | None:
    """The constant factor between two arrays, None if there is none."""
    if port.shape != reference.shape or not (reference != 0).any():
        return None
    at = reference != 0
    factors = port[at] / reference[at]
    middle = float(np.median(factors))
    same = np.allclose(factors, middle, rtol=1e-6, atol=0) and not port[~at].any()
    return middle if same else None


def tensor(e: Evidence, kind: str) -> np.ndarray | None:
    """The reference's tensor of this sort, in the port's layout."""
    for name, (reference, _) in e.weights.items():
        if name in SYNONYMS.get(kind, ()) or name == kind:
            return reference
    return None


def setting(e: Evidence, name: str, default: Any = 0) -> tuple[int, int]:
    """A setting of the reference's layer, in both directions."""
    value = e.settings.get(name, default)
    return tuple(value) if isinstance(value, Sequence) else (value, value)


def nchw(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.ascontiguousarray(np.moveaxis(np.asarray(array, np.float64), -1, 1)))


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    return np.moveaxis(tensor.numpy(), 1, -1)


def convolved(e: Evidence, kernel: np.ndarray, same: bool = False) -> np.ndarray | None:
    """Compute the layer's convolution with this kernel (HWIO), or with SAME padding."""
    c = case(e)
    if c is None or kernel.ndim != 4:
        return None
    x, stride, dilation = nchw(c.inputs[0]), setting(e, "stride", 1), setting(e, "dilation", 1)
    padding = (
        setting(e, "padding", 0)
        if isinstance(e.settings.get("padding", 0), tuple | int)
        else (0, 0)
    )
    if same:
        x = functional.pad(x, _same(x, kernel.shape[:2], stride, dilation))
        padding = (0, 0)
    weight = torch.tensor(np.asarray(kernel, np.float64).transpose(3, 2, 0, 1).copy())
    try:
        y = functional.conv2d(
            x, weight, None, stride, padding, dilation, e.settings.get("groups", 1)
        )
    except RuntimeError:
        return None
    return _biased(e, nhwc(y))


def transposed(e: Evidence, kernel: np.ndarray) -> np.ndarray | None:
    """Compute the layer's transposed convolution with this kernel (kh, kw, out, in)."""
    c = case(e)
    if c is None or kernel.ndim != 4:
        return None
    stride, padding = setting(e, "stride", 1), setting(e, "padding", 0)
    weight = torch.tensor(np.asarray(kernel, np.float64).transpose(3, 2, 0, 1).copy())
    size = c.reference[OUTPUT].shape[1:3]
    x = nchw(c.inputs[0])
    edges = zip(size, x.shape[2:], stride, padding, weight.shape[2:], strict=True)
    extra = [int(o - ((n - 1) * s - 2 * p + k)) for o, n, s, p, k in edges]
    try:
        y = functional.conv_transpose2d(x, weight, None, stride, padding, extra)
    except RuntimeError:
        return None
    return _biased(e, nhwc(y))


def pooled(e: Evidence, same: bool = False, ceil: bool = False) -> np.ndarray | None:
    """Compute the layer's max-pool with SAME padding, or rounding its size up."""
    c = case(e)
    if c is None:
        return None
    x, k = nchw(c.inputs[0]), setting(e, "kernel_size", 1)
    stride, padding = setting(e, "stride", k), setting(e, "padding", 0)
    if same:
        x = functional.pad(x, _same(x, k, stride, (1, 1)), value=-torch.inf)
        padding = (0, 0)
    return nhwc(functional.max_pool2d(x, k, stride, padding, ceil_mode=ceil))


def averaged(e: Evidence, counts: bool) -> np.ndarray | None:
    """Compute the layer's average pooling with padding counted, or not."""
    c = case(e)
    if c is None:
        return None
    k, ceil = setting(e, "kernel_size", 1), bool(e.settings.get("ceil_mode", False))
    sizes = (k, setting(e, "stride", k), setting(e, "padding", 0))
    return nhwc(functional.avg_pool2d(nchw(c.inputs[0]), *sizes, ceil, counts))


def normalized(e: Evidence, eps: float, mode: str, batch: bool) -> np.ndarray | None:
    """Compute the layer's batch norm with another eps, from batch or running statistics."""
    c, scale, bias = case(e, mode), tensor(e, "weight"), tensor(e, "bias")
    mean, var = tensor(e, "running_mean"), tensor(e, "running_var")
    if c is None or scale is None or bias is None or mean is None or var is None:
        return None
    x = np.asarray(c.inputs[0], np.float64)
    if batch:
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(var + eps) * scale + bias


def resized(c: Case, e: Evidence, **how: Any) -> np.ndarray | None:
    """Compute another resize of the layer's input."""
    size = tuple(c.reference[OUTPUT].shape[1:3])
    return nhwc(functional.interpolate(nchw(c.inputs[0]), size, **how))


def shifted(port: np.ndarray, reference: np.ndarray) -> tuple[int, int] | None:
    """Return the rows and columns by which the port's map is shifted; None if it is not."""
    if port.shape != reference.shape or port.ndim != 4 or min(port.shape[1:3]) < 4:
        return None
    h, w = port.shape[1:3]
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if (dy, dx) == (0, 0):
                continue
            rows, columns = slice(max(dy, 0), h + min(dy, 0)), slice(max(dx, 0), w + min(dx, 0))
            back = slice(max(-dy, 0), h + min(-dy, 0)), slice(max(-dx, 0), w + min(-dx, 0))
            if difference(port[:, rows, columns], reference[:, back[0], back[1]]) < EXACT:
                return dy, dx
    return None


def border_only(port: np.ndarray, reference: np.ndarray) -> bool:
    """Return whether only the outermost rows and columns differ."""
    if port.shape != reference.shape or port.ndim != 4 or min(port.shape[1:3]) < 4:
        return False
    inner = (slice(None), slice(1, -1), slice(1, -1))
    return difference(port[inner], reference[inner]) < EXACT < difference(port, reference)


def _same(x: torch.Tensor, k: Any, stride: Any, dilation: Any) -> list[int]:
    """SAME's padding, last axis first, as `functional.pad` takes it."""
    found: list[int] = []
    for n, w, s, d in reversed(list(zip(x.shape[2:], k, stride, dilation, strict=True))):
        total = max((-(-n // s) - 1) * s + d * (w - 1) + 1 - n, 0)
        found += [total // 2, total - total // 2]
    return found


def _biased(e: Evidence, y: np.ndarray) -> np.ndarray:
    bias: Mapping | np.ndarray | None = tensor(e, "bias")
    return y if bias is None else y + np.asarray(bias, np.float64)
