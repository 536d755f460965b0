"""Named arrays into a PyTorch network and out of it; `jax_impl/state.py` has the same names."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from parity.spec.models import Config
from parity.spec.tensors import check_names
from torch_impl.models import NETWORKS


def build(
    config: Config, arrays: Mapping[str, np.ndarray], dtype: str = "float32"
) -> torch.nn.Module:
    """Build the network with these weights, in train mode.

    Args:
        config: The network's configuration.
        arrays: Published key -> array (OIHW); every key of the network and no other.
        dtype: The dtype of parameters and statistics; counters keep theirs.

    Raises:
        InputError: A key is missing, left over, or of another shape.
    """
    with torch.device("meta"):
        model = NETWORKS[config.family](config).to(getattr(torch, dtype))
    target = model.state_dict()
    shapes = {k: tuple(v.shape) for k, v in target.items()}
    check_names(shapes, {k: v.shape for k, v in arrays.items()}, "arrays")
    state = {k: torch.tensor(arrays[k], dtype=v.dtype) for k, v in target.items()}
    model.load_state_dict(state, strict=True, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_()
    return model


def state(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Copy the network's arrays: published key -> array."""
    return {k: v.detach().cpu().numpy().copy() for k, v in model.state_dict().items()}
