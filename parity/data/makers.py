"""Makers of batches from a recipe's samples; they are pickled and sent to worker processes."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from parity.data.loading import copied
from parity.data.sources import Label, Source
from parity.spec import draw, icnet_labels
from parity.spec.augmentation import NEAREST, Crop, Example, Resize, augment, resample, resized
from parity.spec.errors import InputError
from parity.spec.models import Config
from parity.spec.preprocessing import Preprocessing
from parity.spec.training.parallel import fitted
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.trainer import Batch

Size = tuple[int, int]


def training_size(recipe: Recipe, stage: Stage) -> Size:
    """Height and width of the images that a stage trains on."""
    sizes = [x.size for x in stage.augmentation if isinstance(x, Resize | Crop)]
    return sizes[-1] if sizes else recipe.size


def order(recipe: Recipe, epoch: int, n: int) -> np.ndarray:
    """Return the order of n samples in an epoch: (n,) int64, a permutation.

    Args:
        recipe: Its seed determines the order.
        epoch: Counted from 0, over all stages.
        n: Number of samples.
    """
    return _order(recipe.seed, epoch, n)


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    found = draw.generator(seed, "shuffle", epoch).permutation(n)
    found.flags.writeable = False  # it is shared
    return found


def passes(recipe: Recipe, stage: Stage, epoch: int, n: int, parts: int) -> np.ndarray:
    """Return an epoch's sample indices: `stage.repeat` permutations of n samples, joined.

    Every pass but the last is padded or cut to equal parts per device; `Share.of` does that for the
    last.

    Args:
        recipe: Its seed, and its rule for samples that do not fill equal parts.
        stage: The stage, as adjusted for the devices.
        epoch: Counted from 0, over all stages.
        n: Number of samples.
        parts: Number of devices.
    """
    last = order(recipe, (epoch + 1) * stage.repeat - 1, n)
    if stage.repeat == 1:
        return last
    count, first = fitted(n, parts, recipe.parallel.last), epoch * stage.repeat
    others = (order(recipe, first + i, n) for i in range(stage.repeat - 1))
    return np.concatenate([*(np.resize(one, count) for one in others), last])


@dataclasses.dataclass(frozen=True)
class Share:
    """The share of a batch for process `rank` of `ranks`; `parts` devices divide the batch."""

    rank: int
    ranks: int
    parts: int

    def of(self, chosen: np.ndarray, whole: np.ndarray, last: str) -> np.ndarray:
        """Return this process's share of the chosen samples.

        Args:
            chosen: Indices of a step's samples.
            whole: Indices of the whole data set, in the epoch's last order.
            last: The rule for samples that do not fill equal parts: `pad` or `drop`.
        """
        over = len(chosen) % self.parts
        if over and last == "drop":
            chosen = chosen[:-over]
        elif over:
            chosen = np.concatenate([chosen, np.resize(whole, self.parts - over)])
        mine = len(chosen) // self.ranks
        return chosen[self.rank * mine : (self.rank + 1) * mine]


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes batches of a recipe's stage.

    Attributes:
        source: The samples.
        recipe: The run's recipe.
        stage: One of its stages.
        dtype: The images' dtype, `float32` or `float64`.
        images: The preprocessing; that of the network's published code if not given.
    """

    source: Source
    recipe: Recipe
    stage: Stage
    dtype: str
    images: Preprocessing | None = dataclasses.field(default=None, kw_only=True)

    @property
    def size(self) -> Size:
        raise NotImplementedError

    def check(self) -> None:
        """Refuse a network that does not fit the data.

        Raises:
            InputError: It cannot take images of the size, or has no output for a label.
        """
        config, name = self.stage.config, f"{self.recipe.name}: {self.stage.model}"
        try:
            config.check_input(*self.size)
        except ValueError as error:
            raise InputError(f"{name}: {error}") from None
        self.check_loss()
        ignored = self.source.pixels and self.stage.loss.ignore_index is not None
        needed = np.delete(self.source.outputs, -1) if ignored else self.source.outputs
        if int(needed.max()) >= config.num_classes:
            raise InputError(
                f"{name} has {config.num_classes} outputs, labels of {self.recipe.data} go to"
                f" {needed.max()}"
            )

    def check_loss(self) -> None:
        """Refuse a loss that is not for the data's classes.

        Raises:
            InputError: It weighs another number of them, or ignores one.
        """
        loss, classes = self.stage.loss, len(self.source.classes)
        rule, where = loss.class_weights, f"{self.recipe.name}: {self.stage.name}"
        if rule.rule == "fixed" and len(rule.values) != classes:
            raise InputError(
                f"{where}: {len(rule.values)} class weights, {self.recipe.data} has {classes}"
            )
        if loss.ignore_index in range(classes):
            raise InputError(f"{where}: ignore_index {loss.ignore_index} is a class")

    @functools.cached_property
    def preprocessing(self) -> Preprocessing:
        return self.images or self.recipe.preprocessing(self.stage.config)

    def own(self, batch: Batch) -> Batch:
        """Copy a batch out of shared memory, with its masks in the network's order."""
        sites = [s for s in self.stage.config.dropout_sites(*self.size) if s in batch.masks]
        return Batch(
            copied(batch.images),
            tuple(copied(target) for target in batch.targets),
            {site: copied(batch.masks[site]) for site in sites},
            copied(batch.samples),
            copied(batch.truth),
        )

    def batch_of(self, samples: np.ndarray, examples: list[tuple[np.ndarray, Label]]) -> Batch:
        """Stack and preprocess images, and make targets; the batch has no masks yet."""
        pixels = np.empty((len(examples), *self.size, 3), np.uint8)
        labels = np.empty((len(examples), *(self.size if self.source.pixels else ())), np.uint8)
        for i, (image, label) in enumerate(examples):
            if image.shape != pixels.shape[1:]:
                found, wanted = ("x".join(map(str, s[:2])) for s in (image.shape, pixels.shape[1:]))
                raise InputError(
                    f"{self.source.name(int(samples[i]))} comes to {found}, but"
                    f" {self.recipe.name} trains on {wanted}"
                )
            pixels[i], labels[i] = image, label
        images = self.preprocessing(pixels, self.dtype)
        return Batch(images, self.targets(labels), {}, samples)

    def targets(self, labels: np.ndarray) -> tuple[np.ndarray, ...]:
        """Convert labels (N, H, W) or (N,) uint8 to the loss's targets."""
        loss, config = self.stage.loss, self.stage.config
        if not self.source.pixels:
            return (labels.astype(np.int32),)
        if loss.kind == "icnet":
            resize = getattr(icnet_labels, loss.labels)
            whole = self.ignoring(labels)
            sizes = icnet_sizes(config, labels.shape[1:3])
            return tuple(resize(whole, size).astype(np.int32) for size in sizes)
        return (self.ignoring(self.predicted(labels)),)

    def ignoring(self, labels: np.ndarray) -> np.ndarray:
        """Convert labels to int32, with void as the loss's ignored label."""
        found, ignored = labels.astype(np.int32), self.stage.loss.ignore_index
        if ignored is not None:
            found[labels == self.source.void] = ignored
        return found

    def predicted(self, labels: np.ndarray) -> np.ndarray:
        """Resize labels to the network's output size, to the nearest pixel."""
        return nearest(labels, predicted_size(self.stage.config, labels.shape[1:3]))


@dataclasses.dataclass(frozen=True)
class Training(Maker):
    """Makes the batch of a step, counted over all epochs.

    Attributes:
        share: The part of the batch to make.
        steps: Steps of an epoch.
    """

    share: Share
    steps: int

    @property
    def size(self) -> Size:
        return training_size(self.recipe, self.stage)

    def __call__(self, number: int) -> Batch:
        (epoch, step), n, seed = divmod(number, self.steps), self.stage.batch, self.recipe.seed
        count = len(self.source)
        through = passes(self.recipe, self.stage, epoch, count, self.share.parts)
        chosen, whole = through[step * n : (step + 1) * n], through[-count:]
        samples = self.share.of(chosen, whole, self.recipe.parallel.last)
        examples = [self.example(i, (seed, epoch, step, i)) for i in samples.tolist()]
        masks = draw.dropout_masks(
            self.stage.config, self.size, seed, epoch, step, samples.tolist()
        )
        return self.batch_of(samples, examples)._replace(masks=masks)

    def example(self, i: int, key: tuple[int, int, int, int]) -> tuple[np.ndarray, Label]:
        """Read one sample and augment it."""
        image, label = self.source[i]
        pixels = label if isinstance(label, np.ndarray) else None
        done = augment(self.stage.augmentation, Example(image, pixels), self.source.void, key)
        return done.image, label if done.label is None else done.label


@dataclasses.dataclass(frozen=True)
class Validation(Maker):
    """Makes validation batches.

    Attributes:
        mine: Indices of this process's samples.
        batch: Samples per batch.
        count_size: Height and width of the true label map, resized from the file's; the size of the
            network's predictions if not given.
    """

    mine: np.ndarray
    batch: int
    count_size: Size | None = dataclasses.field(default=None, kw_only=True)

    @property
    def size(self) -> Size:
        return self.recipe.size

    def __call__(self, number: int) -> Batch:
        samples = self.mine[number * self.batch : (number + 1) * self.batch]
        whole = [self.source[i] for i in samples.tolist()]
        examples = [self.example(image, label) for image, label in whole]
        if self.source.pixels and self.count_size:
            labels = (np.asarray(label) for _, label in whole)
            truth = np.stack([resample(label, self.count_size, NEAREST) for label in labels])
        else:
            truth = np.stack([label for _, label in examples])
            truth = self.predicted(truth) if self.source.pixels else truth
        return self.batch_of(samples, examples)._replace(truth=truth.astype(np.int32))

    def example(self, image: np.ndarray, label: Label) -> tuple[np.ndarray, Label]:
        """Read one sample and resize it."""
        pixels = label if isinstance(label, np.ndarray) else None
        done = resized(Example(image, pixels), self.size)
        return done.image, label if done.label is None else done.label


def nearest(maps: np.ndarray, size: Size) -> np.ndarray:
    """Resize class maps (N, H, W) to the nearest pixel, as Pillow does.

    At twice the height and width every pixel becomes four.
    """
    if maps.shape[1:] == size:
        return maps
    return np.stack([resample(one, size, NEAREST) for one in maps])


def predicted_size(config: Config, size: tuple[int, ...]) -> Size:
    """Height and width of a network's first output, for images of a size."""
    sizes = getattr(config, "output_size", None)
    return sizes(*size) if sizes else (size[0], size[1])


def icnet_sizes(config: Config, size: tuple[int, ...]) -> tuple[Size, ...]:
    """Heights and widths of the outputs that ICNet's loss counts."""
    return config.output_sizes(*size)[1:]  # type: ignore[attr-defined]  # an ICNetConfig
