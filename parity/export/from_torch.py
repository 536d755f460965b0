"""Translation of a PyTorch network to an ONNX graph, by PyTorch's own exporter.

Its translation of ENet's unpooling scatters values one by one, after it has turned ONNX's places of
maxima into PyTorch's. ONNX has both operators, and its places are what its unpooling takes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx
import torch
from onnxscript import opset20

from parity.export.graph import BATCH, OPSET

op: Any = opset20  # whose stubs know too little of what an operator gives


def graph_of(
    network: torch.nn.Module, size: tuple[int, int], names: Sequence[str], batch: int | None
) -> onnx.ModelProto:
    """Translate a network in eval mode to an ONNX graph.

    Args:
        network: Maps images (N, 3, H, W) to an array or several.
        size: Height and width of the images.
        names: Names of the outputs.
        batch: Number of images; None leaves it open.

    Returns:
        A model from `input` to the outputs.
    """
    example = torch.zeros(batch or 2, 3, *size)
    with quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["input"],
            output_names=list(names),
            dynamic_shapes=None if batch else ({0: torch.export.Dim(BATCH)},),
            custom_translation_table=TRANSLATIONS,
        )
    assert program is not None  # of dynamo's there is always one
    model = program.model_proto
    model.graph.name = "network"
    return model


# Loggers to silence: the exporter logs its defaults, and that torchvision is not installed.
TALKATIVE = ("onnx_ir", "torch.onnx._internal.exporter._registration")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter's deprecation warnings and its log of default settings."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def max_pool(
    x: Any,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Any:
    """Maxima of windows, and their places as ONNX counts them, for `max_unpool` alone."""
    return op.MaxPool(
        x,
        kernel_shape=pair(kernel_size),
        strides=pair(stride or kernel_size),
        pads=[*pair(padding), *pair(padding)],
        dilations=pair(dilation),
        ceil_mode=int(ceil_mode),
    )


def max_unpool(x: Any, indices: Any, output_size: Sequence[int]) -> Any:
    """Values back to their places in a map of this height and width."""
    sides = op.Constant(value_ints=[int(n) for n in output_size])
    shape = op.Concat(op.Shape(x, start=0, end=2), sides, axis=0)
    return op.MaxUnpool(x, indices, shape, kernel_shape=[2, 2], strides=[2, 2])


def pair(value: Sequence[int]) -> list[int]:
    """Return PyTorch's setting, one number or two, as two."""
    return [int(value[0]), int(value[-1])]


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.max_pool2d_with_indices.default: max_pool,
    torch.ops.aten.max_unpool2d.default: max_unpool,
}
