"""What the ladder hands to whoever looks for the cause of a fault."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.report.quantity import Quantity
from parity.report.report import Check

Arrays = Mapping[Quantity, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """One layer alone on both sides, fed the same, in float64 and the port's names and layout.

    Attributes:
        inputs: What the layer was fed, arrays or plain values.
        reference: Quantity -> array that the reference gave: outputs, gradients of inputs and
            parameters, statistics.
        port: The same of the port; a quantity that it lacks is absent.
    """

    inputs: tuple[Any, ...]
    reference: Arrays
    port: Arrays


@dataclasses.dataclass(frozen=True)
class Steps:
    """What both optimizers made of one parameter, in float64 and the port's layout.

    Attributes:
        leaf: The last part of the parameter's name in the port.
        weight: What it was before.
        gradients: Of each step; empty where the reference has none.
        settings: Of the reference's optimizer at each step: its class, and the settings of the
            parameter's group.
        decay: The largest weight decay of any group.
        reference: The reference's steps.
        port: The port's.
        without: Both sides' step with a gradient of 0.
    """

    leaf: str
    weight: np.ndarray
    gradients: tuple[np.ndarray, ...]
    settings: tuple[Mapping[str, Any], ...]
    decay: float
    reference: tuple[np.ndarray, ...]
    port: tuple[np.ndarray, ...]
    without: tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Divergence:
    """How two trajectories diverge.

    Attributes:
        rates: The reference's learning rates up to the step after which they differ, and the next.
        momentum: Of the reference's optimizer.
        reference: That step of the parameter that differs most, on the reference's side; empty for
            a statistic.
        port: On the port's.
        begins: It is the first step of a stage, and not of the first one.
    """

    rates: tuple[float, ...]
    momentum: float
    reference: np.ndarray
    port: np.ndarray
    begins: bool = False


@dataclasses.dataclass(frozen=True)
class Draws:
    """What one tensor begins with.

    Attributes:
        kind: Of the tensor; see `parity.spec.tensors.Tensor`.
        shape: PyTorch's, of the weight of its layer.
        values: What it holds.
        law: What it should be drawn from.
    """

    kind: str
    shape: tuple[int, ...]
    values: np.ndarray
    law: str


@dataclasses.dataclass(frozen=True)
class DeviceEvidence:
    """A run on several devices that differs from what was predicted.

    Attributes:
        reference: The gradients of the first step as predicted, all of them in a row.
        port: As they were.
        hypotheses: Name of a fault, why it may be that, and what it is predicted to give.
        samples: Whether all devices together were handed the samples that they should.
        masks: The same of dropout masks.
    """

    reference: np.ndarray
    port: np.ndarray
    hypotheses: tuple[tuple[str, str, np.ndarray], ...]
    samples: bool = True
    masks: bool = True


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All that is known of a fault.

    Attributes:
        fault: The check to explain, `report.fault()`.
        failures: Every check that failed, of any layer.
        kind: Class of the reference's layer, such as `BatchNorm2d`; empty for the whole network.
        settings: The reference layer's plain attributes, such as `{"eps": 1e-05}`.
        cases: `train` and `eval` -> the layer alone; empty where it could not be isolated.
        weights: Tensor of the layer -> (the reference's in the port's layout, the port's).
        rates: Both sides' learning rates, where these were compared.
        steps: Of the parameter that L4 names.
        divergence: What L5 saw.
        draws: Of the tensor that L4 names, where what it begins with is at fault.
        devices: What several devices gave.
    """

    fault: Check
    failures: tuple[Check, ...]
    kind: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cases: Mapping[str, Case] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(default_factory=dict)
    rates: tuple[np.ndarray, np.ndarray] | None = None
    steps: Steps | None = None
    divergence: Divergence | None = None
    draws: Draws | None = None
    devices: DeviceEvidence | None = None
