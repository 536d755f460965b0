"""Timing of one float32 forward pass: both sides' networks, and their ONNX exports."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable

import jax
import numpy as np
import torch
from flax import nnx

import jax_impl.state
import torch_impl.state
from parity.export import FRAMEWORKS, third_backend
from parity.export.reading import open_network
from parity.spec import draw
from parity.spec.models import MODELS
from torch_impl.ops import inference
from weights_convert import to_jax


def networks(
    model: str, size: tuple[int, int], batch: int, threads: int
) -> dict[str, Callable[[], object]]:
    """Return the functions to time; each runs the whole network once and waits for the result."""
    torch.set_num_threads(threads)
    config = MODELS[model]
    arrays = draw.weights(config, 0)
    image = draw.generator(0, "bench").random((batch, *size, 3), np.float32)
    nchw = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
    last = nchw.to(memory_format=torch.channels_last)
    plain = torch_impl.state.build(config, arrays).eval()
    fast = torch_impl.state.build(config, arrays).eval()
    fast = fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # no such stub

    port = jax_impl.state.build(config, to_jax(config, arrays))
    port.eval()
    graph, state = nnx.split(port)
    compiled = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    x = jax.device_put(image)

    def in_torch(network: Callable[[torch.Tensor], object], x: torch.Tensor) -> object:
        with torch.inference_mode():
            return network(x)

    large = batch * size[0] * size[1] >= inference.LARGE
    program = functools.cache(lambda: inference.program(fast, last) if large else fast)
    return {
        "plain": lambda: in_torch(plain, nchw),
        "torch": lambda: in_torch(program(), last),
        "jax": lambda: jax.block_until_ready(compiled(state, x)),
    }


def exported(
    model: str, size: tuple[int, int], batch: int, threads: int
) -> dict[str, Callable[[], object]]:
    """Return functions that run each side's ONNX export once in ONNX Runtime."""
    config = MODELS[model]
    images = draw.generator(0, "bench").random((batch, 3, *size), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        files = third_backend.made(folder, config, draw.weights(config, 0), size)
        opened = {
            f"{name}.onnx": open_network(f, threads)
            for name, f in zip(FRAMEWORKS, files, strict=True)
        }
    return {name: functools.partial(network, images) for name, network in opened.items()}
