"""Keys of compared arrays: a quantity of a layer, in the port's names."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from parity.capture.records import NETWORK, Arrays
from parity.report.quantity import Quantity


class Key(NamedTuple):
    """The layer and quantity that an array holds, in the port's names."""

    layer: str
    quantity: Quantity


Flat = dict[Key, np.ndarray]


def against(key: Key, oracle: Flat, run: Flat) -> np.ndarray | None:
    """Return the array to compare with; a gradient that the reference lacks is zero."""
    if key not in oracle and key.quantity.is_gradient and key in run:
        return np.zeros_like(run[key], np.float64)
    return oracle.get(key)


def by_layer(quantity: Quantity, arrays: Arrays) -> Flat:
    """Return arrays by name, as one quantity of each of these parameters or buffers."""
    return {key_of(name, quantity): array for name, array in arrays.items()}


def key_of(name: str, quantity: Quantity) -> Key:
    """Return the key for a quantity of the parameter or buffer of this name."""
    layer, _, leaf = name.rpartition(".")
    return Key(layer or NETWORK, dataclasses.replace(quantity, path=leaf))


def full_name(layer: str, path: str) -> str:
    """Return the name of a parameter or buffer in its network; the inverse of `key_of`."""
    return path if layer == NETWORK else f"{layer}.{path}"
