"""An experiment on a dropout that drops elements for channels, or channels for elements."""

from __future__ import annotations

import numpy as np

from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments.engine import EXACT, Proof, close
from parity.diagnosis.experiments.layer import Alone
from parity.report.quantity import Kind


def proofs(alone: Alone) -> list[Proof]:
    """Read the mask that the port applied from its output, and try it.

    With it, the reference must give all of the port's numbers, and it must be one value per channel
    on one side alone.
    """
    operations = alone.operations.get("train", ())
    if "train" not in alone.port or not any(o.name == "mul" for o in operations):
        return []
    if not any(v.dtype == "bool" for o in operations for v in o.values()):
        return []
    (args, _), pull = alone.fed["train"]
    x = args[0]
    reference, port = alone.reference("train"), alone.port["train"]
    outputs = [key for key in reference if key.quantity.kind is Kind.OUTPUT]
    if len(outputs) != 1 or not isinstance(x, np.ndarray) or x.ndim < 3:
        return []
    y, target = port.get(outputs[0]), reference[outputs[0]]
    if y is None or not y.shape == target.shape == x.shape:
        return []
    live = (x != 0) & (target != 0)
    if not live.any():
        return []
    scale = float(np.median(target[live] / x[live]))
    kept, should = y != 0, target != 0
    if np.array_equal(kept, should) or not close(y, x * kept * scale, EXACT):
        return []
    for key, array in reference.items():
        expected = array
        if key.quantity.kind is Kind.INPUT_GRADIENT and key.quantity.index == 0 and pull:
            mask = np.where(x != 0, kept, port[key] != 0)
            expected = np.asarray(pull[0]) * mask * scale
        if key != outputs[0] and not close(port[key], expected, EXACT):
            return []
    whole = [_per_channel(mask, x) for mask in (should, kept)]
    if whole[0] == whole[1]:
        return []
    text = "elements dropped instead of channels" if whole[0] else "channels dropped, not elements"
    return [Proof(Fault.DROPOUT_CHANNELS, text)]


def _per_channel(kept: np.ndarray, x: np.ndarray) -> bool:
    """Return whether a mask is the same at every place of a channel, in NHWC."""
    space = tuple(range(1, x.ndim - 1))
    dropped = ~kept & (x != 0)
    return not ((kept & (x != 0)).any(space) & dropped.any(space)).any()
