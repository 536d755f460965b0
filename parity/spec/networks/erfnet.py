"""ERFNet's table, with the names, shapes and rates of Eromera/erfnet_pytorch at d4a46fa."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import ClassVar

from parity.spec.networks.checks import check_classes, check_dropout
from parity.spec.tensors import Entry, batch_norm, conv, conv_transpose, differences


@dataclasses.dataclass(frozen=True)
class Block:
    """One row of ERFNet's table.

    Attributes:
        kind: `down`, `nb1d` (the non-bottleneck of 1-D convolutions) or `up`.
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        dilation: Dilation of the second pair of 1-D convolutions.
    """

    kind: str
    in_channels: int
    out_channels: int
    dilation: int = 1


ERFNET_ENCODER = (
    # 1/2 of the input's height and width: `initial_block`; the rows after it are `layers`.
    Block("down", 3, 16),
    # 1/4.
    Block("down", 16, 64),
    Block("nb1d", 64, 64),
    Block("nb1d", 64, 64),
    Block("nb1d", 64, 64),
    Block("nb1d", 64, 64),
    Block("nb1d", 64, 64),
    # 1/8.
    Block("down", 64, 128),
    Block("nb1d", 128, 128, dilation=2),
    Block("nb1d", 128, 128, dilation=4),
    Block("nb1d", 128, 128, dilation=8),
    Block("nb1d", 128, 128, dilation=16),
    Block("nb1d", 128, 128, dilation=2),
    Block("nb1d", 128, 128, dilation=4),
    Block("nb1d", 128, 128, dilation=8),
    Block("nb1d", 128, 128, dilation=16),
)

ERFNET_DECODER = (
    # 1/4.
    Block("up", 128, 64),
    Block("nb1d", 64, 64),
    Block("nb1d", 64, 64),
    # 1/2.
    Block("up", 64, 16),
    Block("nb1d", 16, 16),
    Block("nb1d", 16, 16),
)


@dataclasses.dataclass(frozen=True)
class ERFNetConfig:
    """ERFNet as Eromera/erfnet_pytorch publishes it.

    Attributes:
        num_classes: Outputs of the network, void included.
        encoder_only: Predict with `encoder.output_conv` at 1/8 of the input's size, as while the
            encoder is trained; the decoder rests. Else `encoder.output_conv` does.
        dropout: Probability of dropping in the encoder's blocks of 64 channels, and in its wider
            ones. The decoder drops nothing.
        channel_dropout: Whole channels are dropped; False drops elements, as MindSpore's port does.
        same_padding: The 3x3 transposed convolutions pad as MindSpore's `same`: their maps lie one
            pixel further down and to the right.
        encoder: The encoder's table; its first row is `encoder.initial_block`.
        decoder: The decoder's table.

    Raises:
        ValueError: No class, or dropout that is not two probabilities in [0, 1).
    """

    family: ClassVar[str] = "erfnet"
    check_size: ClassVar[tuple[int, int]] = (136, 136)  # the widest dilation meets an eighth of it

    unstored: ClassVar[tuple[str, ...]] = ("encoder_only", "channel_dropout", "same_padding")
    ambiguous: ClassVar[tuple[str, ...]] = ("encoder_only",)  # of the same tensors
    output_conv: ClassVar[bool] = True  # whether the encoder has one
    norms_last: ClassVar[bool] = False  # whether blocks register both norms after all convolutions

    num_classes: int = 20
    encoder_only: bool = False
    dropout: tuple[float, float] = (0.03, 0.3)
    channel_dropout: bool = True
    same_padding: bool = False
    encoder: tuple[Block, ...] = ERFNET_ENCODER
    decoder: tuple[Block, ...] = ERFNET_DECODER

    def __post_init__(self) -> None:
        check_classes(self.num_classes)
        check_dropout(self.dropout)

    @property
    def idle(self) -> tuple[str, ...]:
        """Return the name prefixes of parameters that are held but not used."""
        return ("decoder.",) if self.encoder_only else ("encoder.output_conv.",)

    def rate(self, block: Block) -> float:
        """Return the dropout probability of one of the encoder's blocks."""
        return self.dropout[0] if block.out_channels <= 64 else self.dropout[1]

    def dropout_sites(self, height: int, width: int) -> dict[str, tuple[float, tuple[int, ...]]]:
        """Return the dropout sites, keyed by a block's path such as `encoder.layers.1`."""
        sites: dict[str, tuple[float, tuple[int, ...]]] = {}
        for name, block in named_blocks(self):
            if block.kind == "down":
                height, width = height // 2, width // 2
            elif block.kind == "nb1d" and name.startswith("encoder"):
                size = () if self.channel_dropout else (height, width)
                sites[name] = (self.rate(block), (*size, block.out_channels))
        return sites

    def check_input(self, height: int, width: int) -> None:
        """Refuse an image that the reference cannot process either.

        Raises:
            ValueError: A side is not a multiple of the downsampling, 8: the convolution of a
                downsampling block rounds an odd size up, its pooling rounds it down.
        """
        n = 2 ** sum(block.kind == "down" for block in self.encoder)
        if min(height, width) < 1 or height % n or width % n:
            raise ValueError(
                f"input is {height}x{width}, but erfnet needs multiples of {n} in both directions"
            )

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the logits, in pixels."""
        n = 2 ** sum(block.kind == "down" for block in self.encoder) if self.encoder_only else 1
        return height // n, width // n

    def tensors(self) -> Iterator[Entry]:
        """Yield the tensors by published key; `encoder_only` does not change them; see `Config`."""
        return entries(self)

    def layouts(self) -> dict[str, tuple[str, ...]]:
        """Orders in which other published classes register these tensors; see `tensors.layouts`.

        `imagenet-encoder` is an ERFNet that was trained from the encoder of the classifier of
        ImageNet: it keeps the encoder's class, which has no `output_conv`.
        """
        keys = [
            key
            for name, block in named_blocks(self)
            for key, _ in block_entries(name, block, name.startswith("encoder."))
        ]
        last = [key for key, _ in entries(self) if key.startswith("decoder.output_conv.")]
        return {} if self.encoder_only else {"imagenet-encoder": (*keys, *last)}

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> ERFNetConfig:
        """Return the variant: the shapes show the classes, and whether there is a decoder."""
        whole = shapes.get("decoder.output_conv.weight")
        encoder = shapes.get("encoder.output_conv.weight")
        alone = whole is None and bool(encoder)
        last = (encoder or (20,))[:1] if alone else (whole or ())[1:2]
        return cls(num_classes=last[0] if last else 20, encoder_only=alone)

    def describe(self) -> dict[str, int | bool]:
        """Return the fields of the variant; see `parity.spec.models.Config`."""
        return {"num_classes": self.num_classes} | differences(self, self.unstored)


def named_blocks(config: ERFNetConfig) -> Iterator[tuple[str, Block]]:
    """Yield each block with its published path, in call order."""
    first, *rest = config.encoder
    yield "encoder.initial_block", first
    yield from ((f"encoder.layers.{i}", block) for i, block in enumerate(rest))
    yield from ((f"decoder.layers.{i}", block) for i, block in enumerate(config.decoder))


def entries(config: ERFNetConfig) -> Iterator[Entry]:
    blocks = list(named_blocks(config))
    for name, block in blocks[: len(config.encoder)]:
        yield from block_entries(name, block)
    width = config.encoder[-1].out_channels
    yield from conv("encoder.output_conv", width, config.num_classes, 1, 1, bias=True)
    for name, block in blocks[len(config.encoder) :]:
        yield from block_entries(name, block)
    width = config.decoder[-1].out_channels
    yield from conv_transpose("decoder.output_conv", width, config.num_classes, 2, 2, bias=True)


def block_entries(name: str, block: Block, norms_last: bool = False) -> Iterator[Entry]:
    """Yield the tensors of a block; `norms_last`: as the classifier of ImageNet registers them."""
    inputs, outputs = block.in_channels, block.out_channels
    if block.kind == "down":  # the pooled input makes up the rest
        yield from conv(f"{name}.conv", inputs, outputs - inputs, 3, 3, bias=True)
        yield from batch_norm(f"{name}.bn", outputs)
    elif block.kind == "up":
        yield from conv_transpose(f"{name}.conv", inputs, outputs, 3, 3, bias=True)
        yield from batch_norm(f"{name}.bn", outputs)
    else:
        for i in (1, 2):
            yield from conv(f"{name}.conv3x1_{i}", inputs, outputs, 3, 1, bias=True)
            yield from conv(f"{name}.conv1x3_{i}", inputs, outputs, 1, 3, bias=True)
            if not norms_last:
                yield from batch_norm(f"{name}.bn{i}", outputs)
        if norms_last:
            yield from batch_norm(f"{name}.bn1", outputs)
            yield from batch_norm(f"{name}.bn2", outputs)
