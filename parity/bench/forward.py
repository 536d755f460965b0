"""Timing of one float32 forward pass: both sides' networks, and their ONNX exports."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable

import numpy as np

from parity.spec import draw
from parity.spec.models import MODELS
from weights_convert import to_jax

Size = tuple[int, int]
NAMES = ("plain", "torch", "torch.compile", "jax")


def networks(
    names: tuple[str, ...], model: str, size: Size, batch: int, threads: int
) -> dict[str, Callable[[], object]]:
    """Return the functions to time; each runs the whole network once and waits for the result.

    Args:
        names: Some of `NAMES`.
        model: The network, a key of `parity.spec.models.MODELS`.
        size: Height and width, in pixels.
        batch: Number of images.
        threads: PyTorch's.
    """
    image = draw.generator(0, "bench").random((batch, *size, 3), np.float32)
    own = {name: _jax if name == "jax" else functools.partial(_torch, name) for name in names}
    return {name: build(model, image, threads) for name, build in own.items()}


def _torch(name: str, model: str, image: np.ndarray, threads: int) -> Callable[[], object]:
    import torch

    import torch_impl.state
    from torch_impl.ops import inference
    from torch_impl.ops.compilation import Compiled

    torch.set_num_threads(threads)
    config = MODELS[model]
    network = torch_impl.state.build(config, draw.weights(config, 0)).eval()
    x = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
    if name != "plain":
        x = x.to(memory_format=torch.channels_last)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # no such stub

    @functools.cache
    def program() -> Callable[[torch.Tensor], object]:
        if name == "torch.compile":
            return Compiled(inference.program(network, x))
        worth = name == "torch" and x[:, 0].numel() >= inference.LARGE
        return inference.program(network, x) if worth else network

    def run() -> object:
        with torch.inference_mode():
            return program()(x)

    return run


def _jax(model: str, image: np.ndarray, threads: int) -> Callable[[], object]:
    import jax
    from flax import nnx

    import jax_impl.state

    config = MODELS[model]
    port = jax_impl.state.build(config, to_jax(config, draw.weights(config, 0)))
    port.eval()
    graph, state = nnx.split(port)
    compiled = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    x = jax.device_put(image)
    return lambda: jax.block_until_ready(compiled(state, x))


def exported(model: str, size: Size, batch: int, threads: int) -> dict[str, Callable[[], object]]:
    """Return functions that run each side's ONNX export once in ONNX Runtime."""
    from parity.export import FRAMEWORKS, third_backend
    from parity.export.reading import open_network

    config = MODELS[model]
    images = draw.generator(0, "bench").random((batch, 3, *size), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        files = third_backend.made(folder, config, draw.weights(config, 0), size)
        opened = {
            f"{name}.onnx": open_network(f, threads)
            for name, f in zip(FRAMEWORKS, files, strict=True)
        }
    return {name: functools.partial(network, images) for name, network in opened.items()}
