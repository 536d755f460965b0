"""The networks and their named variants, as frozen configs that both sides read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Protocol

from parity.spec.errors import InputError
from parity.spec.networks.decoder import DecoderConfig
from parity.spec.networks.enet import ENetConfig
from parity.spec.networks.erfnet import ERFNetConfig
from parity.spec.networks.erfnet_imagenet import ERFNetImageNetConfig
from parity.spec.networks.genet import GENetConfig
from parity.spec.networks.icnet import RESNET_BLOCKS, ICNetConfig
from parity.spec.networks.vit import ViTConfig
from parity.spec.tensors import Entry


class Config(Protocol):
    """The interface of every network's configuration.

    Attributes:
        family: The network's name, such as `enet`; both sides' modules have the same name.
        check_size: A small input, at which a check exercises every layer: height and width of an
            image in pixels, or the number of tokens of a sequence.
        num_classes: Number of outputs of the network, void included.
    """

    family: ClassVar[str]

    @property
    def check_size(self) -> tuple[int, ...]: ...

    @property
    def num_classes(self) -> int: ...

    def tensors(self) -> Iterator[Entry]:
        """Yield every published key with its tensor, in the order of the published `state_dict`."""

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> Config:
        """Return the variant whose checkpoint has these keys: published key -> PyTorch shape.

        A best guess where they contradict each other: compare with `tensors()` of the result.
        """

    def describe(self) -> dict[str, Any]:
        """Return the fields that tensors show or that are not as published; JSON values."""

    @property
    def dropout_sites(self) -> Callable[..., dict[str, tuple[float, tuple[int, ...]]]]:
        """Return the sites of dropout for inputs of the size in the arguments, in call order.

        Returns:
            Site -> probability and the shape of one sample's mask: (C,) where channels are dropped,
            (H', W', C) where elements are.
        """

    @property
    def check_input(self) -> Callable[..., None]:
        """Refuse an input, of the size in the arguments, that the reference cannot process either.

        Raises:
            ValueError: Says the size and what is needed.
        """


FAMILIES: dict[str, type[Config]] = {
    "enet": ENetConfig,
    "erfnet": ERFNetConfig,
    "erfnet-imagenet": ERFNetImageNetConfig,
    "genet": GENetConfig,
    "icnet": ICNetConfig,
    "vit": ViTConfig,
    "decoder": DecoderConfig,
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
    "vit": ViTConfig(),
    "decoder": DecoderConfig(),
    "decoder-tied": DecoderConfig(tied=True),
}

# Family -> height and width of the images, or number of tokens, and how many at once, that it is
# shown, timed and exported with by default; those not named here have `USUAL`.
USUAL: tuple[tuple[int, ...], int] = ((512, 1024), 1)
USUAL_OF: dict[str, tuple[tuple[int, ...], int]] = {
    "genet": ((32, 32), 32),
    "erfnet-imagenet": ((224, 224), 8),
    "vit": ((32, 32), 32),
    "decoder": ((12,), 32),
}


# How a message calls one network of a family.
ONE_OF = {
    "enet": "an ENet",
    "erfnet": "an ERFNet",
    "erfnet-imagenet": "an ERFNet for ImageNet",
    "genet": "a GENet",
    "icnet": "an ICNet",
    "vit": "a ViT",
    "decoder": "a decoder",
}

# Families whose outputs are classes of whole images, not of pixels: none is void.
CLASSIFIERS = ("genet", "erfnet-imagenet", "vit", "decoder")

# Families whose inputs are sequences of token ids, not images.
LANGUAGE = ("decoder",)


def input_shape(config: Config, batch: int, size: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a batch of inputs: (N, H, W, 3) of images, (N, T) of token ids."""
    return (batch, *size) if config.family in LANGUAGE else (batch, *size, 3)


def check_input(config: Config, size: tuple[int, ...]) -> None:
    """Refuse an input that a network cannot process.

    Args:
        config: The network.
        size: Height and width of an image in pixels, or the number of tokens of a sequence.

    Raises:
        ValueError: Says the size and what is needed.
    """
    if len(size) != len(config.check_size):
        given = "x".join(map(str, size))
        what = "a number of tokens" if config.family in LANGUAGE else "a height and a width"
        raise ValueError(f"input is {given}, but {config.family} needs {what}")
    config.check_input(*size)


def check_takes_images(config: Config, purpose: str) -> None:
    """Refuse a network of token ids where images are needed.

    Args:
        config: The network.
        purpose: What needs them, such as `parity export`.

    Raises:
        InputError: It names the network and the purpose.
    """
    if config.family in LANGUAGE:
        raise InputError(f"{config.family} takes token ids, but {purpose} is for images")


def usual_size(config: Config) -> tuple[int, ...]:
    """Return the default size of a network's inputs; see `Config.check_size`.

    A ViT has one size only, the one that its position embedding is for.
    """
    if config.family == "vit":
        return config.check_size
    return USUAL_OF.get(config.family, USUAL)[0]


def image_size(config: Config) -> tuple[int, int]:
    """Return the default height and width of a network's images; it must take images."""
    height, width = usual_size(config)
    return height, width


def usual_batch(config: Config) -> int:
    """Return the default number of inputs to time a network with."""
    return USUAL_OF.get(config.family, USUAL)[1]


def name_of(config: Config) -> str:
    """Return the name of a variant: its own if it is one of `MODELS`, else its family's."""
    return next((name for name, known in MODELS.items() if known == config), config.family)


def config_of(family: str, shapes: Mapping[str, tuple[int, ...]]) -> Config:
    """Return the variant of a network whose checkpoint has these keys; see `Config.of`.

    Raises:
        ValueError: The family is unknown, or a shape has no classes.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown network {family!r}, expected one of {', '.join(FAMILIES)}")
    return FAMILIES[family].of(shapes)
