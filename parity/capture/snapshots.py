"""Objects among a layer's arguments that a call may change, such as a cache of keys and values.

They are kept as they were before the call, and whoever calls the layer again gets a new one.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

# They stay what they are, whoever is called with them.
FIXED = (bool, int, float, complex, str, bytes, type, nn.Module, torch.dtype, torch.device)


class Snapshot:
    """An object as it was.

    Attributes:
        stored: The object, pickled, without its tensors.
        arrays: What its tensors held.
    """

    def __init__(self, value: Any, keep: Callable[[torch.Tensor], np.ndarray]) -> None:
        arrays: list[np.ndarray] = []

        class Pickler(pickle.Pickler):
            def persistent_id(self, part: Any) -> int | None:
                if not isinstance(part, torch.Tensor):
                    return None
                arrays.append(keep(part))
                return len(arrays) - 1

        file = io.BytesIO()
        Pickler(file).dump(value)
        self.stored, self.arrays = file.getvalue(), arrays

    def object(self, tensor: Callable[[np.ndarray], torch.Tensor]) -> Any:
        """Return a new object like it, with tensors that `tensor` makes."""
        tensors = [tensor(array) for array in self.arrays]

        class Unpickler(pickle.Unpickler):
            def persistent_load(self, number: Any) -> torch.Tensor:
                return tensors[number]

        return Unpickler(io.BytesIO(self.stored)).load()


def snapshot(value: Any, keep: Callable[[torch.Tensor], np.ndarray]) -> Any:
    """Return a `Snapshot` of an object that may change, and anything else as it is.

    Args:
        value: The object.
        keep: Stores one of its tensors.
    """
    if value is None or isinstance(value, FIXED) or callable(value):
        return value
    try:
        return Snapshot(value, keep)
    except Exception:  # it cannot be pickled, as what holds a file or a lock
        return value
