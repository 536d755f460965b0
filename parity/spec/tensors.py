"""Which tensors a checkpoint of each network holds: the contract between files and both sides.

Keys are the published PyTorch names, in the order of the published `state_dict`; shapes are
PyTorch's (OIHW). Nothing here needs a framework, so that a file can be judged without loading one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from parity.spec.errors import InputError
from parity.spec.models import Block, ENetConfig


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One entry of a checkpoint.

    Attributes:
        kind: What it is, which decides its name and layout in other frameworks: `conv` or
            `conv_transpose` kernel, `scale`, `bias`, `mean`, `var` or `count` of a batch norm,
            `slope` of a PReLU.
        shape: PyTorch's shape.
    """

    kind: str
    shape: tuple[int, ...]


# Buffers rather than parameters: nothing trains them.
STATISTICS = ("mean", "var", "count")

Entries = Iterable[tuple[str, Tensor]]


def tensors(config: ENetConfig) -> dict[str, Tensor]:
    """Every tensor of the network's checkpoint.

    Returns:
        Published key -> kind and shape, in the published order.
    """
    return dict(_enet(config))


def config_of(network: str, shapes: Mapping[str, tuple[int, ...]]) -> ENetConfig:
    """The variant of a network whose checkpoint has these keys.

    The number of classes and the kind of activations show in the keys and shapes. A best guess
    where they contradict each other: compare with `tensors` of the result.

    Args:
        network: `enet`.
        shapes: Published key -> PyTorch shape.
    """
    if network != "enet":
        raise ValueError(f"unknown network {network!r}, expected enet")
    last = shapes.get("transposed_conv.weight", (16, 20))
    return ENetConfig(
        num_classes=last[1] if len(last) > 1 else 20,
        encoder_relu="initial_block.out_activation.weight" not in shapes,
        decoder_relu="upsample4_0.out_activation.weight" not in shapes,
    )


def check_names(
    target: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Refuse a set of named tensors that is not exactly the expected one.

    Args:
        target: Name -> shape, of everything that must be there.
        found: Name -> shape, of what is there.
        where: What holds the found ones, for the message.

    Raises:
        InputError: One line that lists every name missing, left over, or of another shape.
    """
    faults = [f"{k} is missing" for k in target if k not in found]
    faults += [f"{k} is not expected" for k in found if k not in target]
    faults += [
        f"{k} is {_x(found[k])}, expected {_x(target[k])}"
        for k in target
        if k in found and tuple(found[k]) != tuple(target[k])
    ]
    if faults:
        raise InputError(f"{where}: {len(faults)} tensors do not match: {'; '.join(faults)}")


def _x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _enet(config: ENetConfig) -> Entries:
    yield from _conv("initial_block.main_branch", 3, 13, 3, 3)
    yield from _batch_norm("initial_block.batch_norm", 16)
    yield from _activation("initial_block.out_activation", config.encoder_relu)
    for block in config.blocks:
        relu = config.relu(block)
        yield from (_upsample if block.kind == "upsample" else _bottleneck)(block, relu)
    yield "transposed_conv.weight", Tensor("conv_transpose", (16, config.num_classes, 3, 3))


def _bottleneck(block: Block, relu: bool) -> Entries:
    n, c = block.name, block.in_channels // 4
    k = 2 if block.kind == "downsample" else 1
    yield from _conv_bn_act(f"{n}.ext_conv1", 0, block.in_channels, c, k, k, relu)
    if block.kind == "asymmetric":
        yield from _conv_bn_act(f"{n}.ext_conv2", 0, c, c, 5, 1, relu)
        yield from _conv_bn_act(f"{n}.ext_conv2", 3, c, c, 1, 5, relu)
    else:
        yield from _conv_bn_act(f"{n}.ext_conv2", 0, c, c, 3, 3, relu)
    yield from _conv_bn_act(f"{n}.ext_conv3", 0, c, block.out_channels, 1, 1, relu)
    yield from _activation(f"{n}.out_activation", relu)


def _upsample(block: Block, relu: bool) -> Entries:
    n, c, out = block.name, block.in_channels // 4, block.out_channels
    yield from _conv_bn_act(f"{n}.main_conv1", 0, block.in_channels, out, 1, 1, relu=True)
    yield from _conv_bn_act(f"{n}.ext_conv1", 0, block.in_channels, c, 1, 1, relu)
    yield f"{n}.ext_tconv1.weight", Tensor("conv_transpose", (c, c, 2, 2))
    yield from _batch_norm(f"{n}.ext_tconv1_bnorm", c)
    yield from _activation(f"{n}.ext_tconv1_activation", relu)
    yield from _conv_bn_act(f"{n}.ext_conv2", 0, c, out, 1, 1, relu=True)
    yield from _activation(f"{n}.out_activation", relu)


def _conv_bn_act(
    prefix: str, index: int, inputs: int, outputs: int, kh: int, kw: int, relu: bool
) -> Entries:
    yield from _conv(f"{prefix}.{index}", inputs, outputs, kh, kw)
    yield from _batch_norm(f"{prefix}.{index + 1}", outputs)
    yield from _activation(f"{prefix}.{index + 2}", relu)


def _conv(name: str, inputs: int, outputs: int, kh: int, kw: int) -> Entries:
    yield f"{name}.weight", Tensor("conv", (outputs, inputs, kh, kw))


def _batch_norm(name: str, channels: int) -> Entries:
    yield f"{name}.weight", Tensor("scale", (channels,))
    yield f"{name}.bias", Tensor("bias", (channels,))
    yield f"{name}.running_mean", Tensor("mean", (channels,))
    yield f"{name}.running_var", Tensor("var", (channels,))
    yield f"{name}.num_batches_tracked", Tensor("count", ())


def _activation(name: str, relu: bool) -> Entries:
    if not relu:
        yield f"{name}.weight", Tensor("slope", (1,))
