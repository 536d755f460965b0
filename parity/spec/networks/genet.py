"""GENet for CIFAR-10: its table, with the names and shapes of Ascend's GENet_for_Pytorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from parity.spec.networks.checks import check_classes
from parity.spec.tensors import Entry, Tensor, batch_norm, conv, linear

STEM = 16  # channels of the first convolution
SIDE = 32  # pixels of an image's side, for which global kernels are made
REDUCTION = 16  # of channels inside a gate's MLP
EXTENTS = (0, 2, 4, 8)


@dataclasses.dataclass(frozen=True)
class Block:
    """One row of the table: two gated 3x3 convolutions, with a skip connection (identity or 1x1).

    Attributes:
        name: The published name.
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        stride: Stride of the first convolution and of the 1x1.
        side: Height and width of the output, for images of `SIDE` pixels.
    """

    name: str
    in_channels: int
    out_channels: int
    stride: int
    side: int

    @property
    def shortcut(self) -> bool:
        """Return whether the skip connection is a 1x1 convolution, not the identity."""
        return self.in_channels != self.out_channels


@dataclasses.dataclass(frozen=True)
class GENetConfig:
    """A wide ResNet whose blocks are gated by what they gather (Hu et al. 2018).

    Attributes:
        num_classes: Outputs.
        depth: Layers with weights along the main path: 6 n + 4 for n blocks in each of 3 groups.
        width: Times 16, 32 and 64 channels in the three groups.
        extent: Over how many pixels a side a gate gathers; 0 is all of them.
        extra_params: Gather by depthwise convolutions with batch norms, else by means (theta).
        mlp: Two 1x1 convolutions on what was gathered (theta plus).

    Raises:
        ValueError: A number that is none of these.
    """

    family: ClassVar[str] = "genet"
    check_size: ClassVar[tuple[int, int]] = (SIDE, SIDE)

    @property
    def unstored(self) -> tuple[str, ...]:
        """Return the fields that no tensor shows: the extent of means."""
        return () if self.extra_params else ("extent",)

    num_classes: int = 10
    depth: int = 16
    width: int = 8
    extent: int = 0
    extra_params: bool = False
    mlp: bool = False

    def __post_init__(self) -> None:
        check_classes(self.num_classes)
        if self.depth < 10 or self.depth % 6 != 4:
            raise ValueError(f"depth is {self.depth}, expected 10, 16, 22, ...")
        if self.width < 1:
            raise ValueError(f"width is {self.width}, expected 1 or more")
        if self.extent not in EXTENTS:
            raise ValueError(f"extent is {self.extent}, expected one of {EXTENTS}")

    def groups(self) -> tuple[tuple[Block, ...], ...]:
        """Return the table: three groups of blocks, at 1, 1/2 and 1/4 of the image's side."""
        inputs, found = STEM, []
        for g in range(3):
            channels, side = 16 * 2**g * self.width, SIDE // 2**g
            rows = []
            for i in range((self.depth - 4) // 6):
                stride = 2 if g > 0 and i == 0 else 1
                rows.append(Block(f"block{g + 1}.layer.{i}", inputs, channels, stride, side))
                inputs = channels
            found.append(tuple(rows))
        return tuple(found)

    def halvings(self) -> int:
        """Return how often a gate with an extent and parameters halves its map."""
        return {2: 1, 4: 2, 8: 3}[self.extent]

    def tensors(self) -> Iterator[Entry]:
        """Yield the tensors by published key; see `parity.spec.models.Config`."""
        yield from conv("conv1", 3, STEM, 3, 3)
        for block in (b for group in self.groups() for b in group):
            yield from entries(self, block)
        channels = 64 * self.width
        yield from batch_norm("bn1", channels)
        yield from linear("fc", channels, self.num_classes)

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> GENetConfig:
        """Return the variant that the shapes show; see `parity.spec.models.Config`.

        Means over an extent have no weights, so the shapes do not show extents without parameters:
        0 is assumed unless a named variant or a manifest says otherwise.
        """
        blocks = [k for k in shapes if k.startswith("block1.") and k.endswith(".conv1.weight")]
        first = shapes.get("block1.layer.0.conv1.weight", (128,))
        last = shapes.get("fc.weight", (10,))
        gathers = [k for k in shapes if k.startswith("block1.layer.0.downop.")]
        halvings = sum(k.endswith("dwconv.weight") for k in gathers)
        single = shapes.get("block1.layer.0.downop.dwconv.weight")
        whole = single is not None and single[2:] != (3, 3)
        return cls(
            num_classes=last[0] if last else 0,
            depth=6 * max(len(blocks), 1) + 4,
            width=max(first[0] // 16, 1) if first else 1,
            extent=0 if whole or not gathers else {1: 2, 2: 4}.get(halvings, 8),
            extra_params=bool(gathers),
            mlp="block1.layer.0.mlp.0.weight" in shapes,
        )

    @property
    def unnamed(self) -> tuple[str, ...]:
        """Return the fields in which weights may differ from a named variant."""
        return () if self.extra_params else ("num_classes", "depth", "width", "mlp")

    @property
    def assumptions(self) -> dict[str, str]:
        """Return a remark on each field that no tensor shows, for when it is only assumed."""
        if self.extra_params:
            return {}
        return {
            "extent": f"not shown by the weights; {self.extent} (means over the whole map) assumed;"
            " --model genet-mean2, genet-mean4 or genet-mean8 says that they are over 2, 4 or 8"
            " pixels a side"
        }

    @property
    def former_names(self) -> tuple[tuple[str, str], ...]:
        """Patterns of names that earlier versions of this program wrote, and what they are now.

        They held a single gathering convolution in a sequence, which the published class does not.
        """
        single = self.extra_params and self.extent == 2
        return ((r"(.+\.downop)\.0\.(.+)", r"\1.\2"),) if single else ()

    def describe(self) -> dict[str, Any]:
        """Return the fields of the variant; see `parity.spec.models.Config`."""
        return dataclasses.asdict(self)

    def dropout_sites(self, height: int, width: int) -> dict[str, tuple[float, tuple[int, ...]]]:
        """Return no dropout sites; see `parity.spec.models.Config`."""
        del height, width
        return {}

    def check_input(self, height: int, width: int) -> None:
        """Refuse an image that the reference cannot process either.

        Raises:
            ValueError: The last map, a quarter of the image, is not 8 to 15 pixels a side, of which
                the last pooling takes 8; or a global kernel finds no place.
        """
        least = SIDE if self.extra_params and self.extent == 0 else 29
        if not (least <= height <= 60 and least <= width <= 60):
            raise ValueError(
                f"input is {height}x{width}, but genet needs {least} to 60 pixels a side"
            )


def entries(config: GENetConfig, block: Block) -> Iterator[Entry]:
    n, i, o = block.name, block.in_channels, block.out_channels
    yield from batch_norm(f"{n}.bn1", i)
    yield from conv(f"{n}.conv1", i, o, 3, 3)
    yield from batch_norm(f"{n}.bn2", o)
    yield from conv(f"{n}.conv2", o, o, 3, 3)
    if block.shortcut:
        yield from conv(f"{n}.convShortcut", i, o, 1, 1)
    if config.extra_params and config.extent == 0:
        yield from _gather(f"{n}.downop", o, block.side)
    elif config.extra_params and config.extent == 2:
        yield from _gather(f"{n}.downop", o, 3)
    elif config.extra_params:
        for j in range(config.halvings()):
            yield from _gather(f"{n}.downop.{j}", o, 3)
    if config.mlp:
        yield from conv(f"{n}.mlp.0", o, o // REDUCTION, 1, 1)
        yield from conv(f"{n}.mlp.2", o // REDUCTION, o, 1, 1)


def _gather(name: str, channels: int, kernel: int) -> Iterator[Entry]:
    yield f"{name}.dwconv.weight", Tensor("conv", (channels, 1, kernel, kernel))
    yield from batch_norm(f"{name}.bn", channels)
