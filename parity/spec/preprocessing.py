"""The preprocessing that a network expects of an image, which is stored with its weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from parity.spec import datasets
from parity.spec.errors import InputError
from parity.spec.models import CLASSIFIERS, Config

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network's input: (pixel / 255 - mean) / std.

    Attributes:
        size: Height and width, in pixels, that the published recipe resizes to.
        mean: Per channel, of pixels in [0, 1].
        std: Per channel, of pixels in [0, 1].
        channels: Their order.
        classes: The outputs' names in their order, or None if unknown.
        void: The output that stands for no class, or None if there is none or it is unknown.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channels: str = "RGB"
    classes: tuple[str, ...] | None = None
    void: int | None = None

    def __call__(self, images: np.ndarray, dtype: str) -> np.ndarray:
        """Return a network's input, made here once for both sides, so that it is rounded alike.

        Args:
            images: (..., 3) uint8, RGB.
            dtype: `float32` or `float64`, in which it is computed.
        """
        x = scale(images if self.channels == "RGB" else images[..., ::-1], dtype)
        if (self.mean, self.std) == (PLAIN.mean, PLAIN.std):
            return x
        return (x - np.asarray(self.mean, dtype)) / np.asarray(self.std, dtype)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON stores them: lists for tuples."""
        fields = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


PLAIN = Preprocessing()  # pixels in [0, 1]

# Family -> what its published recipe does. A network of another number of classes has its own size.
PUBLISHED = {
    "enet": Preprocessing((512, 1024)),
    "erfnet": Preprocessing((512, 1024)),
    "erfnet-imagenet": Preprocessing((224, 224), *IMAGENET),
    "icnet": Preprocessing((1024, 2048), *IMAGENET),
    "genet": Preprocessing((32, 32), *CIFAR10, classes=datasets.CIFAR10),
}
CAMVID_SIZE = (360, 480)


def published(config: Config, labels: str | None) -> Preprocessing:
    """Return the preprocessing of a network's published recipe; `PLAIN` if it has none.

    Args:
        config: The network; the number of its outputs determines the data set.
        labels: Which output is void, one of `parity.spec.labels.ORDERS`, if it is known.
    """
    found = PUBLISHED.get(config.family, PLAIN)
    if config.family == "genet" and config.num_classes != len(datasets.CIFAR10):
        return dataclasses.replace(found, classes=None)
    if config.family in CLASSIFIERS:
        return found
    for rows, size in ((datasets.CITYSCAPES, found.size), (datasets.CAMVID, CAMVID_SIZE)):
        classes = tuple(str(row[0]) for row in rows)
        if config.num_classes == len(classes):
            return dataclasses.replace(found, size=size, classes=classes)
        if config.num_classes == len(classes) + 1:
            return dataclasses.replace(found, size=size, **_with_void(classes, labels))
    return dataclasses.replace(found, size=None)


def of_data(config: Config, labels: str | None, own: datasets.DataSet | None) -> Preprocessing:
    """Return the preprocessing of a network that is trained on a data set.

    Args:
        config: The network.
        labels: As for `published`.
        own: The user's data set; None for those of the published recipes.
    """
    found = published(config, labels)
    if own is None:
        return found
    mean, std = own.mean or found.mean, own.std or found.std
    return Preprocessing(None, mean, std, found.channels, own.classes)


def parse(entries: Any, where: str) -> Preprocessing:
    """Parse the result of `Preprocessing.to_dict`; absent fields have their defaults.

    Raises:
        InputError: An unknown key, or a value of another kind.
    """
    known = [field.name for field in dataclasses.fields(Preprocessing)]
    if not isinstance(entries, dict) or not set(entries) <= set(known):
        raise InputError(f"{where}: expected an object with only {', '.join(known)}")
    checks = {
        "size": (_all(int, 2, least=1), "two whole numbers, height and width, or null"),
        "mean": (_all(float, 3), "three numbers with a decimal point"),
        "std": (_all(float, 3, least=5e-324), "three numbers above 0 with a decimal point"),
        "channels": (lambda value: value in ("RGB", "BGR"), "RGB or BGR"),
        "classes": (_all(str), "a list of names or null"),
        "void": (lambda value: type(value) is int and value >= 0, "an output's number or null"),
    }
    for name, value in entries.items():
        fits, expected = checks[name]
        if not fits(value) and not (value is None and "null" in expected):
            raise InputError(f"{where}: {name} is {value!r}, expected {expected}")
    tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entries.items()}
    return Preprocessing(**tuples)


def check(said: Preprocessing, outputs: int, where: str) -> None:
    """Refuse what is not of a network with this number of outputs.

    Raises:
        InputError: Another number of classes, or void beyond them.
    """
    if said.classes is not None and len(said.classes) != outputs:
        raise InputError(f"{where}: {len(said.classes)} classes, the network has {outputs} outputs")
    if said.void is not None and said.void >= outputs:
        raise InputError(f"{where}: void is {said.void}, the network has {outputs} outputs")


def _all(kind: type, count: int | None = None, least: float = -math.inf) -> Callable[[Any], bool]:
    """Return a test for a list of one type, with a length and a least value of its numbers."""
    return lambda value: (
        isinstance(value, list)
        and all(type(item) is kind for item in value)
        and all(kind is str or (abs(item) < math.inf and item >= least) for item in value)
        and count in (None, len(value))
    )


def _with_void(classes: tuple[str, ...], labels: str | None) -> dict[str, Any]:
    if labels is None:
        return {}
    first = labels == "void-first"
    names = ("void", *classes) if first else (*classes, "void")
    return {"classes": names, "void": 0 if first else len(classes)}


def scale(images: np.ndarray, dtype: str) -> np.ndarray:
    """Pixels 0 to 255 as a network takes them: in [0, 1], nothing subtracted.

    Divided here once for both sides: a compiler may multiply by 1/255, which rounds otherwise.

    Args:
        images: uint8, any shape.
        dtype: `float32` or `float64`.
    """
    return images.astype(dtype) / np.dtype(dtype).type(255)
