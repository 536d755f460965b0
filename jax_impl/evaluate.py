"""Predictions of a JAX network. `torch_impl/evaluate.py` has the same names for PyTorch."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_impl.state import build
from parity.spec.models import Config
from parity.spec.preprocessing import PLAIN, Preprocessing


def predictor(
    config: Config,
    arrays: Mapping[str, np.ndarray],
    dtype: str = "float32",
    preprocessing: Preprocessing = PLAIN,
) -> Predictor:
    """Build a predictor for a network with the given weights.

    Args:
        config: The network's configuration.
        arrays: The weights, as `jax_impl.state.build` takes them.
        dtype: `float32` or `float64`, for weights and images; works without JAX's 64-bit mode.
        preprocessing: How an image is preprocessed.

    Raises:
        InputError: A tensor is missing, left over, or of another shape.
    """
    with precision(dtype):
        return Predictor(build(config, arrays, dtype), dtype, preprocessing)


class Predictor:
    """Images to classes, on JAX's default device, in eval mode; compiled once per shape.

    Args:
        model: The network; it is put into eval mode.
        dtype: The dtype of its weights.
        preprocessing: How an image is preprocessed.
    """

    def __init__(
        self, model: nnx.Module, dtype: str = "float32", preprocessing: Preprocessing = PLAIN
    ) -> None:
        model.eval()
        graph, self.state = nnx.split(model)
        self._forward, self._predict = compiled(graph)
        self.dtype = dtype
        self.preprocessing = preprocessing

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the class of each pixel: the first of equal maxima.

        Args:
            images: (N, H, W, 3) uint8.

        Returns:
            (N, H, W) int32.

        Raises:
            FloatingPointError: A logit is not finite.
        """
        with precision(self.dtype):
            x = self.preprocessing(images, self.dtype)
            classes, bad = jax.device_get(self._predict(self.state, x))
        if bad:
            raise FloatingPointError(f"{bad} logits are not finite")
        return classes

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits of (N, H, W, 3) uint8: (N, H, W, classes) of the predictor's dtype."""
        with precision(self.dtype):
            x = self.preprocessing(images, self.dtype)
            return np.asarray(self._forward(self.state, x))


@functools.lru_cache(maxsize=16)
def compiled(graph: nnx.GraphDef) -> tuple[Callable, Callable]:
    """Compile the functions of one network, shared by all its checkpoints: logits and classes.

    Weights are arguments: as constants they would be compiled in.
    """

    @jax.jit
    def forward(state: nnx.State, x: jax.Array) -> jax.Array:
        outputs = nnx.merge(graph, state)(x)
        # Of several, the first is of the image's size: (N, H, W, classes).
        return outputs[0] if isinstance(outputs, tuple) else outputs

    @jax.jit
    def predict(state: nnx.State, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = forward(state, x)
        return logits.argmax(axis=-1).astype(jnp.int32), (~jnp.isfinite(logits)).sum()

    return forward, predict


def precision(dtype: str) -> contextlib.AbstractContextManager:
    """Context in which JAX supports `dtype`; the previous setting is restored afterwards."""
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()
