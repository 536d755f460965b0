"""ICNet's table, with the names and shapes of liminn/ICNet-pytorch at da394fc."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from parity.spec.networks.checks import check_classes
from parity.spec.tensors import Entry, batch_norm, conv, linear

EXPANSION = 4  # of a bottleneck: outputs by inner channels
POOL_BINS = (1, 2, 3, 6)  # of the pyramid pooling, in both directions

# Depth of the published backbones -> blocks of each stage.
RESNET_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


@dataclasses.dataclass(frozen=True)
class Bottleneck:
    """One row of the dilated ResNet's table: 1x1, 3x3, 1x1, plus the identity or a 1x1.

    Attributes:
        in_channels: Number of input channels.
        channels: Number of channels inside; the output has `EXPANSION` times as many.
        stride: Stride of the 3x3 and of the skip connection's 1x1.
        dilation: Dilation of the 3x3.
        downsample: Whether the skip connection is a 1x1 instead of the identity.
    """

    in_channels: int
    channels: int
    stride: int = 1
    dilation: int = 1
    downsample: bool = False

    @property
    def out_channels(self) -> int:
        return EXPANSION * self.channels


@dataclasses.dataclass(frozen=True)
class ICNetConfig:
    """ICNet on a dilated ResNet with a deep stem, as liminn/ICNet-pytorch publishes it.

    Attributes:
        num_classes: Outputs of the network; pixels of no class are ignored, not one of them.
        blocks: Bottlenecks in each of the backbone's four stages; see `RESNET_BLOCKS`.
        width: Channels inside the first stage's bottlenecks, an even number; every other number
            of channels is a multiple or the half of it.
        classifier: Outputs of `pretrained.fc`, which the backbone brings along and nothing uses; 0
            where a checkpoint has none, as the Ascend port's.

    Raises:
        ValueError: No class, not four stages of a block or more, or an odd width.
    """

    family: ClassVar[str] = "icnet"
    idle: ClassVar[tuple[str, ...]] = ("pretrained.fc.",)  # held and not used
    ambiguous: ClassVar[tuple[str, ...]] = ("classifier",)  # a file may lack it
    check_size: ClassVar[tuple[int, int]] = (128, 256)

    num_classes: int = 19
    blocks: tuple[int, ...] = RESNET_BLOCKS[50]
    width: int = 64
    classifier: int = 1000

    def __post_init__(self) -> None:
        check_classes(self.num_classes)
        if len(self.blocks) != 4 or min(self.blocks) < 1:
            raise ValueError(f"blocks is {self.blocks}, expected four numbers of 1 or more")
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width is {self.width}, expected an even number of 2 or more")
        if self.classifier < 0:
            raise ValueError(f"classifier is {self.classifier}, expected 0 or more")

    def stages(self) -> tuple[tuple[Bottleneck, ...], ...]:
        """Return the backbone's four stages, at 1/4, 1/8, 1/8 and 1/8 of what it is fed."""
        w = self.width
        return (
            stage(2 * w, w, self.blocks[0]),
            stage(4 * w, 2 * w, self.blocks[1], stride=2),
            stage(8 * w, 4 * w, self.blocks[2], dilation=2),
            stage(16 * w, 8 * w, self.blocks[3], dilation=4),
        )

    def dropout_sites(self, height: int, width: int) -> dict[str, tuple[float, tuple[int, ...]]]:
        """Return no dropout sites; see `parity.spec.models.Config`."""
        del height, width
        return {}

    def check_input(self, height: int, width: int) -> None:
        """Refuse an image that the reference cannot process either.

        Raises:
            ValueError: A side is below 4 pixels: nothing would be left of a quarter of it.
        """
        if min(height, width) < 4:
            raise ValueError(f"input is {height}x{width}, but icnet needs at least 4x4")

    def output_sizes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Height and width of the four outputs, in pixels: whole, 1/4, 1/8 and 1/16.

        The first is the image's where that is a multiple of 8, else larger.
        """
        h, w = -(-height // 8), -(-width // 8)  # three convolutions of stride 2, which round up
        at16 = (-(-(height // 2) // 8), -(-(width // 2) // 8))  # the same of half the image
        return (8 * h, 8 * w), (2 * h, 2 * w), (h, w), at16

    def tensors(self) -> Iterator[Entry]:
        """Yield the tensors by published key; see `parity.spec.models.Config`."""
        return entries(self)

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> ICNetConfig:
        """Return the variant, all of which the shapes show; see `parity.spec.models.Config`."""

        def outputs(key: str, default: int) -> int:
            return (*shapes.get(f"{key}.weight", ()), default)[0]

        def blocks(layer: str) -> int:
            keys = (k.split(".") for k in shapes if k.startswith(f"pretrained.{layer}."))
            return max(len({k[2] for k in keys}), 1)

        width = outputs("pretrained.conv1.0", 64)
        return cls(
            num_classes=max(outputs("head.conv_cls", 19), 1),
            blocks=tuple(blocks(f"layer{i}") for i in (1, 2, 3, 4)),
            width=max(width - width % 2, 2),
            classifier=outputs("pretrained.fc", 0),
        )

    def describe(self) -> dict[str, Any]:
        """Return the fields of the variant; see `parity.spec.models.Config`."""
        return dataclasses.asdict(self) | {"blocks": list(self.blocks)}


def stage(
    in_channels: int, channels: int, blocks: int, stride: int = 1, dilation: int = 1
) -> tuple[Bottleneck, ...]:
    """Rows of one stage. The first dilates by half as much as those after it."""
    first = Bottleneck(in_channels, channels, stride, max(dilation // 2, 1), downsample=True)
    row = Bottleneck(first.out_channels, channels, dilation=dilation)
    return (first, *(row for _ in range(blocks - 1)))


def entries(config: ICNetConfig) -> Iterator[Entry]:
    w = config.width
    for i, inputs, outputs in ((0, 3, w), (3, w, w), (6, w, 2 * w)):
        yield from conv(f"pretrained.conv1.{i}", inputs, outputs, 3, 3)
        norm = f"pretrained.conv1.{i + 1}" if i < 6 else "pretrained.bn1"
        yield from batch_norm(norm, outputs)
    for i, rows in enumerate(config.stages(), 1):
        for j, row in enumerate(rows):
            yield from _bottleneck(f"pretrained.layer{i}.{j}", row)
    if config.classifier:
        yield from linear("pretrained.fc", 8 * EXPANSION * w, config.classifier)
    for i, inputs, outputs in ((0, 3, w // 2), (1, w // 2, w // 2), (2, w // 2, w)):
        yield from conv(f"conv_sub1.{i}.conv", inputs, outputs, 3, 3)
        yield from batch_norm(f"conv_sub1.{i}.bn", outputs)
    for name, low, high in (("cff_12", 2 * w, w), ("cff_24", 8 * EXPANSION * w, 8 * w)):
        yield from conv(f"head.{name}.conv_low.0", low, 2 * w, 3, 3)
        yield from batch_norm(f"head.{name}.conv_low.1", 2 * w)
        yield from conv(f"head.{name}.conv_high.0", high, 2 * w, 1, 1)
        yield from batch_norm(f"head.{name}.conv_high.1", 2 * w)
        yield from conv(f"head.{name}.conv_low_cls", 2 * w, config.num_classes, 1, 1)
    yield from conv("head.conv_cls", 2 * w, config.num_classes, 1, 1)


def _bottleneck(name: str, row: Bottleneck) -> Iterator[Entry]:
    c = row.channels
    sizes = ((row.in_channels, c, 1), (c, c, 3), (c, row.out_channels, 1))
    for i, (inputs, outputs, k) in enumerate(sizes, 1):
        yield from conv(f"{name}.conv{i}", inputs, outputs, k, k)
        yield from batch_norm(f"{name}.bn{i}", outputs)
    if row.downsample:
        yield from conv(f"{name}.downsample.0", row.in_channels, row.out_channels, 1, 1)
        yield from batch_norm(f"{name}.downsample.1", row.out_channels)
