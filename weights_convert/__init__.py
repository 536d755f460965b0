"""Reading checkpoints, naming their tensors for either framework, and converting them.

    checkpoint = load("enet.pth")
    network = torch_impl.state.build(checkpoint.config, checkpoint.arrays)
    network = jax_impl.state.build(checkpoint.config, to_jax(checkpoint.config, checkpoint.arrays))
    convert("enet.pth", "enet.safetensors")

A framework is imported only if a file needs it: PyTorch for torch files, JAX for Orbax.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parity.spec.models import Config
from weights_convert import naming
from weights_convert.checkpoint import Checkpoint, load
from weights_convert.conversion import Conversion, convert
from weights_convert.manifest import Manifest
from weights_convert.saving import save

__all__ = [
    "Checkpoint",
    "Conversion",
    "Manifest",
    "convert",
    "load",
    "save",
    "to_jax",
    "to_torch",
]


def to_jax(config: Config, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert published key -> array (OIHW) to dotted NNX path -> array (HWIO).

    Raises:
        InputError: A key is missing, left over, or of another shape.
    """
    return naming.to_naming_scheme(config, arrays, "jax")


def to_torch(config: Config, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert back from `to_jax`; copies, in the published order, counters int64.

    Raises:
        InputError: A path is missing, left over, of another shape, or of the wrong sort of number.
    """
    made = naming.to_canonical(config, arrays, "jax")
    return {key: np.array(array, order="C") for key, array in made.items()}
