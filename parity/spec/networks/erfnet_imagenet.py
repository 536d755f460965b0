"""ERFNet's encoder as an ImageNet classifier, whose weights initialise the segmentation network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import ClassVar

from parity.spec.networks.erfnet import Block, ERFNetConfig, block_entries, named_blocks
from parity.spec.tensors import Entry, linear

WINDOW = 14  # pixels a side of the last average


@dataclasses.dataclass(frozen=True)
class ERFNetImageNetConfig(ERFNetConfig):
    """The network of Eromera's `erfnet_encoder_pretrained.pth.tar`; see `ERFNetConfig`."""

    family: ClassVar[str] = "erfnet-imagenet"
    check_size: ClassVar[tuple[int, int]] = (224, 224)
    unstored: ClassVar[tuple[str, ...]] = ()
    output_conv: ClassVar[bool] = False
    norms_last: ClassVar[bool] = True

    num_classes: int = 1000
    dropout: tuple[float, float] = (0.1, 0.1)
    decoder: tuple[Block, ...] = ()

    def check_input(self, height: int, width: int) -> None:
        """Refuse an image that the reference cannot process either.

        Raises:
            ValueError: A side is no multiple of the downsampling, or the last map, halved, is not
                of 14x14 pixels.
        """
        super().check_input(height, width)
        n = 2 * 2 ** sum(block.kind == "down" for block in self.encoder)
        if any(side // n != WINDOW for side in (height, width)):
            raise ValueError(
                f"input is {height}x{width}, but erfnet-imagenet needs {n * WINDOW} or"
                f" {n * WINDOW + n // 2} pixels a side"
            )

    def tensors(self) -> Iterator[Entry]:
        """Yield the tensors by published key; a block's norms come after its convolutions."""
        for name, block in named_blocks(self):
            yield from block_entries(f"features.{name}", block, self.norms_last)
        yield from linear("classifier.linear", self.encoder[-1].out_channels, self.num_classes)

    def layouts(self) -> dict[str, tuple[str, ...]]:
        """Return no other layouts; see `ERFNetConfig.layouts`."""
        return {}

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> ERFNetImageNetConfig:
        """Return the variant, of which the shapes show only the classes; see `Config`."""
        return cls(num_classes=shapes.get("classifier.linear.weight", (1000,))[0])
