"""The assumptions a command makes on a checkpoint's inputs and outputs, with reasons.

A network's weights do not show which output stands for which class, how an image becomes the input,
or for which image size it was trained. One rule holds for every command: it uses what the user asks
for, else what the checkpoint's manifest says, else what the command assumes (a recipe, or the
published network). Whatever is used is printed with its reason, and whatever contradicts it is a
warning of one line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from parity.spec.errors import InputError
from parity.spec.labels import ORDERS
from parity.spec.models import CLASSIFIERS, Config, image_size
from parity.spec.preprocessing import PUBLISHED as PUBLISHED_FAMILIES
from parity.spec.preprocessing import Preprocessing, published
from parity.spec.recipes import RECIPES
from weights_convert import Manifest

T = TypeVar("T")
Pair = tuple[int, int]

DEFAULT = "the default"
PUBLISHED = "as published"
SILENT = "the checkpoint does not say"
NO_VOID = "the network has no output for void"
WHOLE_IMAGES = "the outputs are classes of whole images"


@dataclasses.dataclass(frozen=True)
class Used(Generic[T]):
    """A value that a command uses.

    Attributes:
        value: The value.
        reason: Where it comes from.
        clash: What contradicts it and was not followed; None where nothing does.
        doubt: Who uses another value, where the checkpoint does not specify it.
    """

    value: T
    reason: str
    clash: str | None = None
    doubt: str | None = None


@dataclasses.dataclass(frozen=True)
class Assumed(Generic[T]):
    """The value used where neither the user nor the checkpoint specifies one.

    Attributes:
        value: The value.
        origin: Where it comes from.
        firm: Whether to warn if the checkpoint specifies another value; not for a mere default.
        doubt: Who uses another value.
    """

    value: T
    origin: str
    firm: bool = False
    doubt: str | None = None


def choose(
    asked: T | None, said: T | None, assumed: Assumed[T], show: Callable[[T], str] = str
) -> Used[T]:
    """Choose the value by the module's rule.

    Args:
        asked: What the user asks for.
        said: What the checkpoint's manifest says.
        assumed: The value used otherwise.
        show: Formats a value for messages.
    """
    if asked is not None:
        clash = None if said in (None, asked) else f"the checkpoint's manifest says {show(said)}"
        return Used(asked, "asked for" + (f"; {clash}" if clash else ""), clash)
    if said is not None:
        differs = assumed.firm and said != assumed.value
        clash = f"{assumed.origin} has {show(assumed.value)}" if differs else None
        return Used(said, "the checkpoint's manifest says so", clash)
    return Used(assumed.value, f"{assumed.origin}; {SILENT}", doubt=assumed.doubt)


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """The assumptions on one checkpoint's inputs and outputs.

    Attributes:
        labels: Which output is void, one of `parity.spec.labels.ORDERS`; None where the outputs are
            no classes of pixels, or it is unknown.
        pixels: How an image becomes the input; only `mean`, `std` and `channels` are used.
        size: Height and width of the images, in pixels.
    """

    labels: Used[str | None]
    pixels: Used[Preprocessing]
    size: Used[Pair]

    def lines(self) -> list[str]:
        """Return lines on the values used, with their reasons."""
        labels = f"{self.labels.value or 'unknown'} ({self.labels.reason})"
        lines = [f"labels: {NO_VOID if self.labels.reason == NO_VOID else labels}"]
        if self.labels.reason == WHOLE_IMAGES:
            lines = []
        if self.labels.doubt:
            lines.append(f"labels: {self.labels.doubt}")
        lines.append(f"images: {pixels_said(self.pixels.value)} ({self.pixels.reason})")
        lines.append(f"size: {size_said(self.size.value)} ({self.size.reason})")
        return lines

    def warnings(self, where: object) -> list[str]:
        """Return lines on contradictions to the values used.

        Args:
            where: The checkpoint.
        """
        shown = (
            ("labels", self.labels.value, self.labels),
            ("images", pixels_said(self.pixels.value), self.pixels),
            ("size", size_said(self.size.value), self.size),
        )
        return [
            f"{where}: {what} {value} ({used.reason.split(';')[0]}), but {used.clash}"
            for what, value, used in shown
            if used.clash
        ]

    def to_dict(self) -> dict[str, object]:
        """JSON values."""
        pixels = self.pixels.value
        return {
            "labels": self.labels.value,
            "labels_reason": self.labels.reason,
            "mean": list(pixels.mean),
            "std": list(pixels.std),
            "channels": pixels.channels,
            "pixels_reason": self.pixels.reason,
            "size": list(self.size.value),
            "size_reason": self.size.reason,
        }


def assume(
    config: Config,
    manifest: Manifest | None,
    where: str | Path,
    classes: tuple[str, ...] | None,
    *,
    labels: str | None = None,
    size: Pair | None = None,
    assumed_labels: Assumed[str | None] | None = None,
    assumed_pixels: Assumed[Preprocessing] | None = None,
    assumed_size: Assumed[Pair] | None = None,
) -> Assumptions:
    """Determine the assumptions on a checkpoint's inputs and outputs.

    Args:
        config: The network.
        manifest: The checkpoint's manifest.
        where: The checkpoint, for messages.
        classes: The data set's classes, without void, in the order of their trainIds; None where no
            data set is known.
        labels: The order that the user asks for.
        size: Height and width that the user asks for.
        assumed_labels: The default order; that of `usual_order` if not given.
        assumed_pixels: The default preprocessing; the published one if not given.
        assumed_size: The default size; the published one if not given.

    Raises:
        InputError: An unknown order, one that the network cannot have, or a manifest that
            contradicts itself or names other classes than the data set's.
    """
    if config.family in CLASSIFIERS:
        if labels is not None:
            raise InputError(f"{where}: labels {labels}, but {WHOLE_IMAGES}, and none is void")
        if classes is not None and config.num_classes == len(classes):
            check_names(manifest, where, classes, None)
        order = Used[str | None](None, WHOLE_IMAGES)
    else:
        usual_labels = assumed_labels or usual_order(config)
        order = label_order(config.num_classes, manifest, where, classes, labels, usual_labels)
    said = manifest.preprocessing if manifest else None
    usual = published(config, order.value)
    pixels = choose(
        None,
        None if said is None else only_pixels(said),
        _only_pixels(assumed_pixels) or Assumed(only_pixels(usual), origin_of(config)),
        pixels_said,
    )
    sizes = assumed_size or Assumed(usual.size or image_size(config), origin_of(config))
    return Assumptions(order, pixels, choose(size, said.size if said else None, sizes, size_said))


def origin_of(config: Config) -> str:
    """Return where a network's usual preprocessing comes from."""
    return PUBLISHED if config.family in PUBLISHED_FAMILIES else DEFAULT


def label_order(
    outputs: int,
    manifest: Manifest | None,
    where: str | Path,
    classes: tuple[str, ...] | None,
    asked: str | None = None,
    assumed: Assumed[str | None] | None = None,
) -> Used[str | None]:
    """Determine which output is void; see `assume`.

    Args:
        outputs: Number of the network's outputs.
        manifest: The checkpoint's manifest.
        where: The checkpoint, for messages.
        classes: As for `assume`.
        asked: The order that the user asks for.
        assumed: The default order; `void-last` if not given.

    Raises:
        InputError: As for `assume`.
    """
    if asked not in (None, *ORDERS):
        raise InputError(f"label order {asked!r}, expected {' or '.join(ORDERS)}")
    if classes is not None and outputs == len(classes):
        if asked == "void-first":
            raise InputError(f"{where}: labels void-first, but {NO_VOID}")
        if asked is None:
            check_names(manifest, where, classes, None)
        return Used("void-last", NO_VOID)
    said = None if manifest is None else said_order(manifest, where, outputs, asked is None)
    usual: Assumed[str | None] = assumed or Assumed("void-last", DEFAULT)
    found: Used[str | None] = choose(asked, said, usual)
    if classes is not None and found.value is not None and asked is None:
        check_names(manifest, where, classes, found.value)
    return found


def usual_order(config: Config) -> Assumed[str | None]:
    """Return the default order of outputs of a checkpoint without manifest or recipe.

    Void is last, as in the public checkpoints; a recipe of the network with void first is named as
    a doubt, for users who trained with it.
    """
    orders = {
        name: recipe.labels
        for name, recipe in RECIPES.items()
        if recipe.labels and any(stage.config == config for stage in recipe.stages)
    }
    for name, order in orders.items():
        if order != "void-last":
            doubt = f"of one trained by recipe {name} they are {order}: --labels {order}"
            return Assumed("void-last", DEFAULT, doubt=doubt)
    return Assumed("void-last", f"recipe {next(iter(orders))}" if orders else DEFAULT)


def said_order(
    manifest: Manifest, where: str | Path, outputs: int, strict: bool = True
) -> str | None:
    """Return which output is void, by all entries of a manifest.

    Args:
        manifest: Specifies it in `labels`, or as an output's number in `preprocessing.void`.
        where: The checkpoint.
        outputs: Number of the network's outputs.
        strict: Whether to refuse invalid entries; else they are ignored.

    Raises:
        InputError: Both contradict each other, or void is neither the first nor the last output.
    """
    void, order = manifest.preprocessing.void, manifest.labels
    by_number = None if void is None else {0: ORDERS[1], outputs - 1: ORDERS[0]}.get(void)
    if strict and void is not None and by_number is None:
        raise InputError(
            f"the manifest of {where} says that output {void} of {outputs} is void, expected the"
            " first or the last; --labels ORDER decides"
        )
    if strict and order is not None and by_number not in (None, order):
        raise InputError(
            f"the manifest of {where} contradicts itself: {order}, but void is output {void} of"
            f" {outputs}; --labels ORDER decides"
        )
    return order or by_number


def check_names(
    manifest: Manifest | None, where: str | Path, classes: tuple[str, ...], order: str | None
) -> None:
    """Refuse outputs whose names in the manifest differ from the data set's classes.

    Args:
        manifest: May name the outputs, in their order.
        where: The checkpoint.
        classes: The data set's classes, without void.
        order: Which output is void; None where none is.

    Raises:
        InputError: A name differs; the message names the first such output.
    """
    names = manifest.preprocessing.classes if manifest else None
    if names is None:
        return
    first = order == "void-first"
    named = names if order is None else names[1:] if first else names[:-1]
    for i, (theirs, ours) in enumerate(zip(named, classes, strict=False)):
        if _plain(theirs) != _plain(ours):
            raise InputError(
                f"the manifest of {where} says that output {i + first} is {theirs!r}, but the data"
                f" set has {ours!r} there; --labels ORDER takes the data set's names"
            )


def only_pixels(images: Preprocessing) -> Preprocessing:
    """Return only the settings that apply to each pixel."""
    return Preprocessing(mean=images.mean, std=images.std, channels=images.channels)


def pixels_said(images: Preprocessing) -> str:
    """Describe the preprocessing of pixels: `RGB in [0, 1]`, with mean and std if not 0 and 1."""
    said = f"{images.channels} in [0, 1]"
    if images.mean != (0.0, 0.0, 0.0):
        said += f", minus {' '.join(f'{x:g}' for x in images.mean)}"
    if images.std != (1.0, 1.0, 1.0):
        said += f", by {' '.join(f'{x:g}' for x in images.std)}"
    return said


def size_said(size: Pair) -> str:
    """`512x1024`, height and width."""
    return f"{size[0]}x{size[1]}"


def _only_pixels(assumed: Assumed[Preprocessing] | None) -> Assumed[Preprocessing] | None:
    if assumed is None:
        return None
    return dataclasses.replace(assumed, value=only_pixels(assumed.value))


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ")
