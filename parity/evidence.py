"""What the ladder hands to whoever looks for the cause of a fault."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.report import Check

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """One layer alone on both sides, fed the same, in float64 and the port's names and layout.

    Attributes:
        inputs: What the layer was fed, arrays or plain values.
        reference: Quantity -> array that the reference gave: `output 0`, `gradient of input 0`,
            `gradient of kernel`, `mean after`, ...
        port: The same of the port; a quantity that it lacks is absent.
    """

    inputs: tuple[Any, ...]
    reference: Arrays
    port: Arrays


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
    """

    fault: Check
    failures: tuple[Check, ...]
    kind: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cases: Mapping[str, Case] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(default_factory=dict)
