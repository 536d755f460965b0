"""Evidence on a fault, which the ladder passes to the diagnosis."""

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
    """One layer alone on both sides, with equal inputs, in float64, the port's names and layout.

    Attributes:
        inputs: The layer's inputs, arrays or plain values.
        reference: Quantity -> the reference's array: outputs, gradients of inputs and parameters,
            statistics.
        port: Quantity -> the port's array; a quantity that it lacks is absent.
    """

    inputs: tuple[Any, ...]
    reference: Arrays
    port: Arrays


@dataclasses.dataclass(frozen=True)
class Steps:
    """Both optimizers' steps of one parameter, in float64 and the port's layout.

    Attributes:
        leaf: The last part of the parameter's name in the port.
        weight: Its value before.
        gradients: The gradient of each step; empty where the reference has none.
        settings: The reference's optimizer at each step: its class, and the settings of the
            parameter's group.
        decay: The largest weight decay of any group.
        reference: The reference's steps.
        port: The port's steps.
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
        fault: The check to explain, `report.fault()`.
        failures: Every check that failed, of any layer.
        kind: The class of the reference's layer, such as `BatchNorm2d`; empty for the whole
            network.
        settings: The reference layer's plain attributes, such as `{"eps": 1e-05}`.
        cases: `train` and `eval` -> the layer alone; empty where it could not be isolated.
        weights: Tensor of the layer -> (the reference's in the port's layout, the port's).
        rates: Both sides' learning rates, where these were compared.
        steps: Steps of the parameter that L4 names.
        divergence: How the trajectories of L5 diverge.
        draws: The tensor that L4 names, where its initial values are at fault.
        devices: Results of a run on several devices.
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
