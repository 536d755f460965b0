"""Predictions of a PyTorch network. `jax_impl/evaluate.py` has the same names for JAX."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from parity.spec.errors import InputError
from parity.spec.models import Config
from parity.spec.preprocessing import PLAIN, Preprocessing
from torch_impl.ops import compilation, inference
from torch_impl.state import build


def predictor(
    config: Config,
    arrays: Mapping[str, np.ndarray],
    dtype: str = "float32",
    preprocessing: Preprocessing = PLAIN,
) -> Predictor:
    """Build a predictor for a network with the given weights.

    Args:
        config: The network's configuration.
        arrays: The weights, as `torch_impl.state.build` takes them.
        dtype: `float32` or `float64`, for weights and images.
        preprocessing: How an image is preprocessed.

    Raises:
        InputError: A tensor is missing, left over, or of another shape.
    """
    return Predictor(build(config, arrays, dtype), dtype, preprocessing)


class Predictor:
    """Images to classes, on the CPU, in eval mode.

    Large images in float32 are predicted by a program that `torch_impl.ops.inference` records at
    the first of each shape, unless `records` is set to false: equal but for rounding. After
    `compile` so are small ones, by that program compiled. Programs are those of the first two
    shapes (`inference.MOST_PROGRAMS`); images of others go through the network itself.

    Args:
        model: The network; it is put into eval mode and, for float32, channels-last memory, in
            which it takes about half the time. In float64 that is no faster, and more pixels that
            should be equal come out unequal by a rounding, so that max-pooling picks another one.
        dtype: The dtype of its weights.
        preprocessing: How an image is preprocessed.
    """

    def __init__(
        self, model: torch.nn.Module, dtype: str = "float32", preprocessing: Preprocessing = PLAIN
    ) -> None:
        self.dtype = dtype
        self.preprocessing = preprocessing
        self.layout = torch.channels_last if dtype == "float32" else torch.contiguous_format
        self.model = model.eval().to(memory_format=self.layout)  # type: ignore[call-overload]  # no such stub
        self.records = True  # false: every image by the network itself
        self.programs: dict[tuple[int, ...], inference.Network] = {}
        self.finish: Callable[[inference.Network], inference.Network] | None = None

    def compile(self, say: compilation.Say = lambda line: None) -> None:
        """Have `torch.compile` compile the programs; JAX always compiles.

        Args:
            say: Told how long each took.

        Raises:
            InputError: There is no compiler, or images are in float64, which say what is exact.
        """
        if self.dtype != "float32":
            raise InputError(f"torch.compile: dtype {self.dtype}, expected float32")
        compilation.check_compiler()
        self.finish = lambda program: compilation.Compiled(program, say)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the class of each pixel: the first of equal maxima.

        Args:
            images: (N, H, W, 3) uint8.

        Returns:
            (N, H, W) int32.

        Raises:
            FloatingPointError: A logit is not finite.
        """
        with torch.inference_mode():
            logits = self._forward(images, self.records)
            total = logits.sum()
            classes = logits.argmax(dim=1).int()
        if not torch.isfinite(total) and (bad := int((~torch.isfinite(logits)).sum())):
            raise FloatingPointError(f"{bad} logits are not finite")
        return classes.numpy()

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits of (N, H, W, 3) uint8: (N, H, W, classes) of the predictor's dtype.

        By the network itself, never by a recorded program: they say what rounding explains.
        """
        with torch.inference_mode():
            return self._forward(images, recorded=False).permute(0, 2, 3, 1).contiguous().numpy()

    def _forward(self, images: np.ndarray, recorded: bool) -> torch.Tensor:
        x = torch.from_numpy(self.preprocessing(images, self.dtype)).permute(0, 3, 1, 2)
        # Channels last this copies nothing: so NHWC lies in memory.
        x = x.contiguous(memory_format=self.layout)
        if recorded and (network := self._program(x)) is not None:
            return network(x)
        outputs = self.model(x)
        # Of several, the first is of the image's size: (N, classes, H, W).
        return outputs[0] if isinstance(outputs, tuple) else outputs

    def _program(self, x: torch.Tensor) -> inference.Network | None:
        """Return the program for images of this shape, if there is or should be one."""
        shape = tuple(x.shape)
        large = x[:, 0].numel() >= inference.LARGE
        worth = x.dtype == torch.float32 and (large or self.finish is not None)
        if worth and shape not in self.programs and len(self.programs) < inference.MOST_PROGRAMS:
            program = inference.program(self.model, x)
            self.programs[shape] = program if self.finish is None else self.finish(program)
        return self.programs.get(shape)
