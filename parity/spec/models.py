"""The networks and their named variants, as frozen configs that both sides read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol

from parity.spec.networks.enet import ENetConfig
from parity.spec.networks.erfnet import ERFNetConfig
from parity.spec.networks.erfnet_imagenet import ERFNetImageNetConfig
from parity.spec.networks.genet import GENetConfig
from parity.spec.networks.icnet import RESNET_BLOCKS, ICNetConfig
from parity.spec.tensors import Entry


class Config(Protocol):
    """The interface of every network's configuration.

    Attributes:
        family: The network's name, such as `enet`; both sides' modules have the same name.
        check_size: A small height and width, in pixels, at which a check exercises every layer.
        num_classes: Number of outputs of the network, void included.
    """

    family: ClassVar[str]
    check_size: ClassVar[tuple[int, int]]

    @property
    def num_classes(self) -> int: ...

    def tensors(self) -> Iterator[Entry]:
        """Yield every published key with its tensor, in the order of the published `state_dict`."""

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> Config:
        """The variant whose checkpoint has these keys: published key -> PyTorch shape.

        A best guess where they contradict each other: compare with `tensors()` of the result.
        """

    def describe(self) -> dict[str, Any]:
        """Return the fields that tensors show or that are not as published; JSON values."""

    def dropout_sites(self, height: int, width: int) -> dict[str, tuple[float, tuple[int, ...]]]:
        """Return the sites of dropout for images of this size, in call order.

        Returns:
            Site -> probability and the shape of one sample's mask: (C,) where channels are dropped,
            (H', W', C) where elements are.
        """

    def without_dropout(self) -> Config:
        """Return this network with every dropout probability set to 0."""

    def check_input(self, height: int, width: int) -> None:
        """Refuse an image that the reference cannot process either.

        Raises:
            ValueError: Says the size and what is needed.
        """


FAMILIES: dict[str, type[Config]] = {
    "enet": ENetConfig,
    "erfnet": ERFNetConfig,
    "erfnet-imagenet": ERFNetImageNetConfig,
    "genet": GENetConfig,
    "icnet": ICNetConfig,
}

MODELS: dict[str, Config] = {
    "enet": ENetConfig(),
    "enet-camvid": ENetConfig(num_classes=12),
    "enet-mindspore": ENetConfig(
        channel_slopes=True,
        row_first=True,
        bilinear=True,
        same_padding=True,
        channel_dropout=False,
    ),
    "enet-mindspore-encoder": ENetConfig(
        channel_slopes=True,
        row_first=True,
        bilinear=True,
        same_padding=True,
        channel_dropout=False,
        encoder_only=True,
    ),
    "erfnet": ERFNetConfig(),
    "erfnet-encoder": ERFNetConfig(encoder_only=True),
    "erfnet-mindspore": ERFNetConfig(channel_dropout=False, same_padding=True),
    "erfnet-mindspore-encoder": ERFNetConfig(
        encoder_only=True, channel_dropout=False, same_padding=True
    ),
    "erfnet-imagenet": ERFNetImageNetConfig(),
    "genet": GENetConfig(),
    "genet-theta": GENetConfig(extra_params=True),
    "genet-theta-plus": GENetConfig(extra_params=True, mlp=True),
    "genet-extent2": GENetConfig(extent=2, extra_params=True),
    "genet-extent4": GENetConfig(extent=4, extra_params=True),
    "genet-extent8": GENetConfig(extent=8, extra_params=True),
    "genet-mean2": GENetConfig(extent=2),
    "genet-mean4": GENetConfig(extent=4),
    "genet-mean8": GENetConfig(extent=8),
    "icnet": ICNetConfig(),
    "icnet-resnet101": ICNetConfig(blocks=RESNET_BLOCKS[101]),
}

# Family -> height and width of the images, and how many at once, that it is shown, timed and
# exported with by default; those not named here have `USUAL`.
USUAL = ((512, 1024), 1)
USUAL_OF = {"genet": ((32, 32), 32), "erfnet-imagenet": ((224, 224), 8)}


# How a message calls one network of a family.
ONE_OF = {
    "enet": "an ENet",
    "erfnet": "an ERFNet",
    "erfnet-imagenet": "an ERFNet for ImageNet",
    "genet": "a GENet",
    "icnet": "an ICNet",
}

# Families whose outputs are classes of whole images, not of pixels: none is void.
CLASSIFIERS = ("genet", "erfnet-imagenet")


def usual_size(config: Config) -> tuple[int, int]:
    """Return the default height and width of a network's images."""
    return USUAL_OF.get(config.family, USUAL)[0]


def usual_batch(config: Config) -> int:
    """Return the default number of images to time a network with."""
    return USUAL_OF.get(config.family, USUAL)[1]


def config_of(family: str, shapes: Mapping[str, tuple[int, ...]]) -> Config:
    """Return the variant of a network whose checkpoint has these keys; see `Config.of`.

    Raises:
        ValueError: The family is unknown, or a shape has no classes.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown network {family!r}, expected one of {', '.join(FAMILIES)}")
    return FAMILIES[family].of(shapes)
