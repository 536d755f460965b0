"""Predictions of a PyTorch network. `jax_impl/evaluate.py` answers name by name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from parity.spec.data import scale
from parity.spec.models import ENetConfig
from torch_impl.state import build


def predictor(
    config: ENetConfig, arrays: Mapping[str, np.ndarray], dtype: str = "float32"
) -> Predictor:
    """A predictor for these weights.

    Args:
        config: Which network.
        arrays: As `torch_impl.state.build` takes them.
        dtype: `float32` or `float64`, of weights and images.

    Raises:
        InputError: A tensor is missing, left over, or of another shape.
    """
    return Predictor(build(config, arrays, dtype), dtype)


class Predictor:
    """Images to classes, on the CPU, in eval mode.

    Args:
        model: The network; it is put into eval mode and channels-last memory, in which its
            convolutions and the argmax take about half the time.
        dtype: Of its weights.
    """

    def __init__(self, model: torch.nn.Module, dtype: str = "float32") -> None:
        # Ignored: torch's stubs know no such argument.
        self.model = model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dtype = dtype

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The class of each pixel: the first of equal maxima.

        Args:
            images: (N, H, W, 3) uint8.

        Returns:
            (N, H, W) int32.

        Raises:
            FloatingPointError: A logit is not finite.
        """
        with torch.inference_mode():
            logits = self._forward(images)
            total = logits.sum()
            classes = logits.argmax(dim=1).int()
        if not torch.isfinite(total) and (bad := int((~torch.isfinite(logits)).sum())):
            raise FloatingPointError(f"{bad} logits are not finite")
        return classes.numpy()

    def logits(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 to (N, H, W, classes) of the predictor's dtype."""
        with torch.inference_mode():
            return self._forward(images).permute(0, 2, 3, 1).contiguous().numpy()

    def _forward(self, images: np.ndarray) -> torch.Tensor:
        # NHWC in memory is NCHW in channels-last memory: no copy.
        x = torch.from_numpy(scale(images, self.dtype)).permute(0, 3, 1, 2)
        return self.model(x)  # (N, classes, H, W)
