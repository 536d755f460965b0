"""ENet's table, with the names, shapes and rates of davidtvs/PyTorch-ENet at e17d404."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import ClassVar

from parity.spec.networks.checks import check_classes, check_dropout
from parity.spec.tensors import Entry, Tensor, batch_norm, conv, differences, prelu


@dataclasses.dataclass(frozen=True)
class Block:
    """One row of ENet's table.

    Attributes:
        name: The published name, used by parameters and dropout masks.
        kind: `downsample`, `regular`, `asymmetric` or `upsample`.
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        dilation: Dilation of the 3x3 convolution.
    """

    name: str
    kind: str
    in_channels: int
    out_channels: int
    dilation: int = 1


ENET_BLOCKS = (
    # Stage 1: 1/4 of the input's height and width.
    Block("downsample1_0", "downsample", 16, 64),
    Block("regular1_1", "regular", 64, 64),
    Block("regular1_2", "regular", 64, 64),
    Block("regular1_3", "regular", 64, 64),
    Block("regular1_4", "regular", 64, 64),
    # Stages 2 and 3: 1/8.
    Block("downsample2_0", "downsample", 64, 128),
    Block("regular2_1", "regular", 128, 128),
    Block("dilated2_2", "regular", 128, 128, dilation=2),
    Block("asymmetric2_3", "asymmetric", 128, 128),
    Block("dilated2_4", "regular", 128, 128, dilation=4),
    Block("regular2_5", "regular", 128, 128),
    Block("dilated2_6", "regular", 128, 128, dilation=8),
    Block("asymmetric2_7", "asymmetric", 128, 128),
    Block("dilated2_8", "regular", 128, 128, dilation=16),
    Block("regular3_0", "regular", 128, 128),
    Block("dilated3_1", "regular", 128, 128, dilation=2),
    Block("asymmetric3_2", "asymmetric", 128, 128),
    Block("dilated3_3", "regular", 128, 128, dilation=4),
    Block("regular3_4", "regular", 128, 128),
    Block("dilated3_5", "regular", 128, 128, dilation=8),
    Block("asymmetric3_6", "asymmetric", 128, 128),
    Block("dilated3_7", "regular", 128, 128, dilation=16),
    # Stage 4: 1/4. Decoder from here on.
    Block("upsample4_0", "upsample", 128, 64),
    Block("regular4_1", "regular", 64, 64),
    Block("regular4_2", "regular", 64, 64),
    # Stage 5: 1/2.
    Block("upsample5_0", "upsample", 64, 16),
    Block("regular5_1", "regular", 16, 16),
)


@dataclasses.dataclass(frozen=True)
class ENetConfig:
    """ENet as davidtvs/PyTorch-ENet publishes it.

    Attributes:
        num_classes: Outputs of the network, void included.
        encoder_relu: ReLU in the encoder, where the published network has PReLUs of one slope.
        decoder_relu: ReLU in the decoder, as published; False puts PReLUs there.
        channel_slopes: A PReLU has a slope for every channel.
        row_first: An asymmetric block's 1x5 comes before its 5x1.
        bilinear: Maps are doubled by interpolation instead of unpooling: pixel i lies at i / 2.
        same_padding: The first pooling and the last convolution pad as MindSpore's `same`: of an
            even side the pooling pads the end alone, and the logits lie one pixel further down and
            to the right. Sides are then multiples of 8.
        channel_dropout: Whole channels are dropped; False drops elements.
        encoder_only: Stages 1 to 3, and logits at 1/8 of the input's size from a convolution of its
            own, as while MindSpore's port trains its encoder; there is no decoder.
        dropout: Probability of dropping, in stage 1 and in all later stages.
        blocks: The network's table between the initial block and the last transposed convolution.

    Raises:
        ValueError: No class, or dropout that is not two probabilities in [0, 1).
    """

    family: ClassVar[str] = "enet"
    check_size: ClassVar[tuple[int, int]] = (72, 136)  # the widest dilation meets an eighth of it
    unstored: ClassVar[tuple[str, ...]] = ("bilinear", "same_padding", "channel_dropout")

    num_classes: int = 20
    encoder_relu: bool = False
    decoder_relu: bool = True
    channel_slopes: bool = False
    row_first: bool = False
    bilinear: bool = False
    same_padding: bool = False
    channel_dropout: bool = True
    encoder_only: bool = False
    dropout: tuple[float, float] = (0.01, 0.1)
    blocks: tuple[Block, ...] = ENET_BLOCKS

    def __post_init__(self) -> None:
        check_classes(self.num_classes)
        check_dropout(self.dropout)

    def rows(self) -> tuple[Block, ...]:
        """Return the blocks of the table that the network has."""
        last = 3 if self.encoder_only else 5
        return tuple(block for block in self.blocks if self._stage(block) <= last)

    def relu(self, block: Block) -> bool:
        """Return whether the block's activations are ReLUs; otherwise they are PReLUs."""
        return self.decoder_relu if self._stage(block) > 3 else self.encoder_relu

    def slopes(self, block: Block | None, channels: int) -> int:
        """Return the number of slopes of an activation; 0 for a ReLU.

        Args:
            block: The block it is in; None for the initial block.
            channels: Number of channels of its input.
        """
        if self.encoder_relu if block is None else self.relu(block):
            return 0
        return channels if self.channel_slopes else 1

    def rate(self, block: Block) -> float:
        """Return the block's dropout probability."""
        return self.dropout[0] if self._stage(block) == 1 else self.dropout[1]

    def dropout_sites(self, height: int, width: int) -> dict[str, tuple[float, tuple[int, ...]]]:
        """Return the dropout sites, keyed by block name; see `parity.spec.models.Config`."""
        height, width = (height + 1) // 2, (width + 1) // 2
        sites, before = {}, []
        for b in self.rows():
            if b.kind == "downsample":
                before.append((height, width))
                height, width = height // 2, width // 2
            elif b.kind == "upsample":
                height, width = before.pop()
            size = () if self.channel_dropout else (height, width)
            sites[b.name] = (self.rate(b), (*size, b.out_channels))
        return sites

    def check_input(self, height: int, width: int) -> None:
        """Refuse an image that the reference cannot process either.

        Raises:
            ValueError: A side is shorter than 7 pixels: halved once upwards and twice downwards,
                nothing of it is left; or it is no multiple of 8 and only ever doubled after.
        """
        if (self.bilinear or self.same_padding) and (height % 8 or width % 8):
            raise ValueError(
                f"input is {height}x{width}, but enet-mindspore needs multiples of 8 in both"
                " directions"
            )
        if min(height, width) < 7:
            raise ValueError(f"input is {height}x{width}, but enet needs at least 7x7 pixels")

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the logits, in pixels."""
        if not self.encoder_only:
            return height, width
        n = 2 ** sum(block.kind == "downsample" for block in self.rows())
        return (height + 1) // 2 // n, (width + 1) // 2 // n

    def tensors(self) -> Iterator[Entry]:
        """Yield the tensors by published key; see `parity.spec.models.Config`."""
        return entries(self)

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> ENetConfig:
        """Return the variant, whose classes and activations the shapes show; see `Config`."""
        whole, encoder = shapes.get("transposed_conv.weight"), shapes.get("output_conv.weight")
        alone = whole is None and bool(encoder)
        last = (encoder or (20,))[:1] if alone else (whole or ())[1:2]
        line = shapes.get("asymmetric2_3.ext_conv2.0.weight", ())
        return cls(
            num_classes=last[0] if last else 20,
            encoder_only=alone,
            channel_slopes=shapes.get("initial_block.out_activation.weight", (1,)) != (1,),
            row_first=line[2:] == (1, 5),
            encoder_relu="initial_block.out_activation.weight" not in shapes,
            decoder_relu="upsample4_0.out_activation.weight" not in shapes,
        )

    def describe(self) -> dict[str, int | bool]:
        """Return the fields of the variant; see `parity.spec.models.Config`."""
        shown = {
            "num_classes": self.num_classes,
            "encoder_relu": self.encoder_relu,
            "decoder_relu": self.decoder_relu,
        }
        return shown | differences(
            self, ("channel_slopes", "row_first", "encoder_only", *self.unstored)
        )

    @staticmethod
    def _stage(block: Block) -> int:
        return int(block.name.split("_")[0][-1])


def entries(config: ENetConfig) -> Iterator[Entry]:
    yield from conv("initial_block.main_branch", 3, 13, 3, 3)
    yield from batch_norm("initial_block.batch_norm", 16)
    yield from _activation("initial_block.out_activation", config.slopes(None, 16))
    for block in config.rows():
        yield from (_upsample if block.kind == "upsample" else _bottleneck)(block, config)
    if config.encoder_only:
        width = config.rows()[-1].out_channels
        yield from conv("output_conv", width, config.num_classes, 1, 1, bias=True)
    else:
        yield "transposed_conv.weight", Tensor("conv_transpose", (16, config.num_classes, 3, 3))


def _bottleneck(block: Block, config: ENetConfig) -> Iterator[Entry]:
    n, c, out = block.name, block.in_channels // 4, block.out_channels
    inner, outer = config.slopes(block, c), config.slopes(block, out)
    k = 2 if block.kind == "downsample" else 1
    yield from _conv_bn_act(f"{n}.ext_conv1", 0, block.in_channels, c, k, k, inner)
    if block.kind == "asymmetric":
        kh, kw = (1, 5) if config.row_first else (5, 1)
        yield from _conv_bn_act(f"{n}.ext_conv2", 0, c, c, kh, kw, inner)
        yield from _conv_bn_act(f"{n}.ext_conv2", 3, c, c, kw, kh, inner)
    else:
        yield from _conv_bn_act(f"{n}.ext_conv2", 0, c, c, 3, 3, inner)
    yield from _conv_bn_act(f"{n}.ext_conv3", 0, c, out, 1, 1, outer)
    yield from _activation(f"{n}.out_activation", outer)


def _upsample(block: Block, config: ENetConfig) -> Iterator[Entry]:
    n, c, out = block.name, block.in_channels // 4, block.out_channels
    inner, outer = config.slopes(block, c), config.slopes(block, out)
    yield from _conv_bn_act(f"{n}.main_conv1", 0, block.in_channels, out, 1, 1, slopes=0)
    yield from _conv_bn_act(f"{n}.ext_conv1", 0, block.in_channels, c, 1, 1, inner)
    yield f"{n}.ext_tconv1.weight", Tensor("conv_transpose", (c, c, 2, 2))
    yield from batch_norm(f"{n}.ext_tconv1_bnorm", c)
    yield from _activation(f"{n}.ext_tconv1_activation", inner)
    yield from _conv_bn_act(f"{n}.ext_conv2", 0, c, out, 1, 1, slopes=0)
    yield from _activation(f"{n}.out_activation", outer)


def _conv_bn_act(
    prefix: str, index: int, inputs: int, outputs: int, kh: int, kw: int, slopes: int
) -> Iterator[Entry]:
    yield from conv(f"{prefix}.{index}", inputs, outputs, kh, kw)
    yield from batch_norm(f"{prefix}.{index + 1}", outputs)
    yield from _activation(f"{prefix}.{index + 2}", slopes)


def _activation(name: str, slopes: int) -> Iterator[Entry]:
    if slopes:
        yield from prelu(name, slopes)
