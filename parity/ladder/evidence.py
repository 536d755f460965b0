"""Evidence on a fault of training, which the checks pass to the diagnosis."""

from __future__ import annotations

import dataclasses

import numpy as np

from parity.report.report import Check


@dataclasses.dataclass(frozen=True)
class Divergence:
    """How two trajectories diverge.

    Attributes:
        rates: The reference's learning rates up to the step after which they differ, and the next.
        momentum: The momentum of the reference's optimizer.
        reference: That step of the parameter that differs most, on the reference's side; empty for
            a statistic.
        port: The same step on the port's side.
        begins: Whether it is the first step of a stage after the first.
    """

    rates: tuple[float, ...]
    momentum: float
    reference: np.ndarray
    port: np.ndarray
    begins: bool = False


@dataclasses.dataclass(frozen=True)
class Draws:
    """The initial values of one tensor.

    Attributes:
        kind: The tensor's kind; see `parity.spec.tensors.Tensor`.
        shape: PyTorch's shape of the weight of its layer.
        values: Its values.
        law: The distribution it should be drawn from.
        samples: Shape and values of every tensor that should be drawn from it.
    """

    kind: str
    shape: tuple[int, ...]
    values: np.ndarray
    law: str
    samples: tuple[tuple[tuple[int, ...], np.ndarray], ...] = ()


@dataclasses.dataclass(frozen=True)
class DeviceEvidence:
    """A run on several devices that differs from what was predicted.

    Attributes:
        reference: The gradients of the first step as predicted, all of them in a row.
        port: The actual gradients.
        hypotheses: Tuples of a fault's name, the reason to suspect it, and the gradients it
            predicts.
        samples: Whether all devices together received the right samples.
        masks: Whether they received the right dropout masks.
    """

    reference: np.ndarray
    port: np.ndarray
    hypotheses: tuple[tuple[str, str, np.ndarray], ...]
    samples: bool = True
    masks: bool = True


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The evidence on a fault.

    Attributes:
        fault: The check to explain.
        divergence: How two trajectories diverge.
        draws: The tensor whose initial values are at fault.
        devices: Results of a run on several devices.
    """

    fault: Check
    divergence: Divergence | None = None
    draws: Draws | None = None
    devices: DeviceEvidence | None = None
