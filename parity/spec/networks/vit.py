"""A Vision Transformer encoder (Dosovitskiy et al. 2021), with the names and shapes of timm's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from parity.spec.tensors import Entry, Tensor, conv, layer_norm, linear


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """A ViT with a class token, a learned position embedding and blocks that normalise first.

    The default is a small network, for checks; `of` finds any other from its checkpoint.

    Attributes:
        num_classes: Outputs.
        side: Height and width of the images, in pixels.
        patch: Height and width of a patch, in pixels.
        width: Channels of a token.
        depth: Number of blocks.
        mlp_width: Channels inside a block's MLP.
        head_dim: Channels of an attention head.
        eps: Added to the variance by the layer norms.

    Raises:
        ValueError: A number is too small, or does not divide another that it must divide.
    """

    family: ClassVar[str] = "vit"
    unstored: ClassVar[tuple[str, ...]] = ("head_dim", "eps")
    guessed: ClassVar[tuple[str, ...]] = ("head_dim",)  # by `of`, so that it divides the width
    unnamed: ClassVar[tuple[str, ...]] = (
        *("num_classes", "side", "patch", "width", "depth", "mlp_width"),
    )

    num_classes: int = 10
    side: int = 32
    patch: int = 8
    width: int = 128
    depth: int = 2
    mlp_width: int = 256
    head_dim: int = 64
    eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("num_classes", "side", "patch", "width", "depth", "mlp_width", "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if self.eps <= 0:
            raise ValueError(f"eps is {self.eps}, expected more than 0")
        for whole, part in (("side", "patch"), ("width", "head_dim")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"{whole} is {getattr(self, whole)}, expected a multiple of {part}"
                    f" {getattr(self, part)}"
                )

    @property
    def check_size(self) -> tuple[int, ...]:
        """Return the only height and width that the position embedding fits."""
        return (self.side, self.side)

    @property
    def heads(self) -> int:
        """Return the number of attention heads."""
        return self.width // self.head_dim

    @property
    def tokens(self) -> int:
        """Return the number of tokens of an image, the class token included."""
        return (self.side // self.patch) ** 2 + 1

    def tensors(self) -> Iterator[Entry]:
        """Yield the tensors by published key; see `parity.spec.models.Config`."""
        yield "cls_token", Tensor("bare", (1, 1, self.width))
        yield "pos_embed", Tensor("bare", (1, self.tokens, self.width))
        yield from conv("patch_embed.proj", 3, self.width, self.patch, self.patch, bias=True)
        for i in range(self.depth):
            block = f"blocks.{i}"
            yield from layer_norm(f"{block}.norm1", self.width)
            yield from linear(f"{block}.attn.qkv", self.width, 3 * self.width)
            yield from linear(f"{block}.attn.proj", self.width, self.width)
            yield from layer_norm(f"{block}.norm2", self.width)
            yield from linear(f"{block}.mlp.fc1", self.width, self.mlp_width)
            yield from linear(f"{block}.mlp.fc2", self.mlp_width, self.width)
        yield from layer_norm("norm", self.width)
        yield from linear("head", self.width, self.num_classes)

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> ViTConfig:
        """Return the variant that the shapes show; see `parity.spec.models.Config`.

        They show neither the channels of a head nor the eps: those of the default are assumed, of a
        head fewer where they would not divide a token's.
        """
        usual = cls()
        kernel = shapes.get("patch_embed.proj.weight", ())
        kernel = kernel if len(kernel) == 4 else (usual.width, 3, usual.patch, usual.patch)
        places = shapes.get("pos_embed", ())
        places = places if len(places) == 3 else (1, usual.tokens, usual.width)
        fc1 = shapes.get("blocks.0.mlp.fc1.weight", (usual.mlp_width,))
        head = shapes.get("head.weight", (usual.num_classes,))
        depth = len([k for k in shapes if k.startswith("blocks.") and k.endswith(".norm1.weight")])
        return cls(
            num_classes=head[0] if head else 0,
            side=round((places[1] - 1) ** 0.5) * kernel[2],
            patch=kernel[2],
            width=kernel[0],
            depth=max(depth, 1),
            mlp_width=fc1[0] if fc1 else 0,
            head_dim=math.gcd(usual.head_dim, kernel[0]),
        )

    @property
    def assumptions(self) -> dict[str, str]:
        """Return a remark on each field that no tensor shows, for when it is only assumed."""
        return {
            "head_dim": f"not shown by the weights; {self.head_dim} channels a head assumed",
            "eps": f"not shown by the weights; an eps of {self.eps:g} in the norms assumed",
        }

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
            ValueError: The image has another size than the one that the position embedding is for.
        """
        if (height, width) != self.check_size:
            raise ValueError(
                f"input is {height}x{width}, but this vit needs {self.side}x{self.side} pixels"
            )
