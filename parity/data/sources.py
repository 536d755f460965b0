"""The samples of a recipe, read from a folder in an official layout or from a packed file."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from parity.data import DATASETS, Segmentation, cifar10, segmentation
from parity.data.own import description, files, masks
from parity.data.own import packed as own_packed
from parity.data.own.description import SUFFIX as TOML
from parity.data.records import SUFFIX, Records
from parity.spec.augmentation import Resize
from parity.spec.datasets import BUILT_IN, DataSet
from parity.spec.errors import InputError, listed
from parity.spec.labels import outputs
from parity.spec.training import own_data
from parity.spec.training.recipe import Recipe

Label = np.ndarray | int


class Reader(Protocol):
    """Samples in a fixed order; `parity.data.records.Records` is another."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> tuple[np.ndarray, Label]:
        """Return an image (H, W, 3) uint8; its trainIds (H, W) uint8, void last, or its class."""

    def label(self, i: int) -> Label:
        """Return only the label, if possible without decoding the image."""

    def name(self, i: int) -> str:
        """Return the sample's name, for messages."""

    def identity(self) -> str:
        """Return a string that changes with the contents, as far as is visible unread."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Images and label maps in a folder."""

    data: Segmentation
    samples: tuple[segmentation.Sample, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[np.ndarray, Label]:
        return self.data.whole(self.samples[i])

    def label(self, i: int) -> Label:
        return self.data.label(self.samples[i].label, None, self.samples[i].image)

    def name(self, i: int) -> str:
        return str(self.samples[i].image)

    def identity(self) -> str:
        found = _of_files(path for s in self.samples for path in (s.image, s.label))
        return f"{found} {self.data.identity}".strip()


@dataclasses.dataclass(frozen=True)
class Folders:
    """Images of any size, each with one class, in a folder for each class."""

    samples: tuple[tuple[Path, int], ...]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[np.ndarray, Label]:
        path, label = self.samples[i]
        return np.asarray(segmentation.picture_of(path)), label

    def label(self, i: int) -> Label:
        return self.samples[i][1]

    def name(self, i: int) -> str:
        return str(self.samples[i][0])

    def identity(self) -> str:
        labels = bytes(label for _, label in self.samples)
        files = _of_files(path for path, _ in self.samples)
        return f"{files} {hashlib.sha256(labels).hexdigest()}"


class Batches:
    """CIFAR-10's official files; 150 MB, which each process reads for itself."""

    def __init__(self, root: Path, split: str) -> None:
        self.root, self.split = root, split
        self.images, self.labels = cifar10.load(root, split)

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "split": self.split}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # pickled without its arrays

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[np.ndarray, Label]:
        return self.images[i], int(self.labels[i])

    def label(self, i: int) -> Label:
        return int(self.labels[i])

    def name(self, i: int) -> str:
        return f"{self.root}: image {i} of {self.split}"

    def identity(self) -> str:
        place = cifar10.folder(self.root) or self.root
        return _of_files(place / name for name in cifar10.SPLITS[self.split])


@dataclasses.dataclass(frozen=True)
class Source:
    """The samples of a split, with labels as a recipe's network outputs them.

    Attributes:
        root: The folder or packed file.
        split: The data set's split.
        reader: Reads the samples.
        classes: Their names, without void, in the order of their trainIds.
        outputs: (classes + 1,) uint8, the label of each trainId, void's after the classes';
            (classes,) for whole images.
        pixels: Whether each pixel has a class, not the image.
    """

    root: Path
    split: str
    reader: Reader
    classes: tuple[str, ...]
    outputs: np.ndarray
    pixels: bool

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, i: int) -> tuple[np.ndarray, Label]:
        """Return an image (H, W, 3) uint8; its label map (H, W) uint8, or its class.

        Raises:
            InputError: It cannot be read.
        """
        image, label = self.reader[i]
        return image, self._label(label)

    def label(self, i: int) -> Label:
        """Return only the label, which may be faster."""
        return self._label(self.reader.label(i))

    def name(self, i: int) -> str:
        """Return the sample's name, for messages."""
        return self.reader.name(i)

    @property
    def void(self) -> int:
        """The label of pixels that have no class: without an output for it, one beyond the last.

        -1 where the image has a class, not its pixels.
        """
        return int(self.outputs[-1]) if self.pixels else -1

    def _label(self, label: Label) -> Label:
        return np.take(self.outputs, label) if isinstance(label, np.ndarray) else label


def open_source(recipe: Recipe, root: str | Path, split: str) -> Source:
    """Return the samples of one split of a recipe's data set.

    Args:
        recipe: Says which data set, and which output is void.
        root: The data set's folder, a file that `parity pack` wrote, or a folder with such files,
            `SPLIT.array_record`. Beside a file of another split that name is looked for, too.
        split: Such as `train`.

    Raises:
        InputError: There is none, its layout is another, or it was packed for another recipe.
    """
    source = open_data(recipe.dataset, root, split, recipe.labels)
    if isinstance(source.reader, Records):
        check_size(source.reader, recipe, split)
    return source


def for_data(recipe: Recipe, root: str | Path) -> Recipe:
    """Return a recipe for the data set of a folder: itself, unless that is the user's own.

    Args:
        recipe: The recipe; not modified.
        root: As for `open_source`.

    Raises:
        InputError: The data set's file cannot be used, or the data set does not fit the recipe.
    """
    if (found := described(root)) is None:
        if recipe.own is not None:
            raise InputError(
                f"{root}: the network is trained on data set {recipe.own.name}, expected a"
                f" {description.FILE} that describes it"
            )
        return recipe
    return own_data.applied(recipe, *found)


def described(root: str | Path) -> tuple[DataSet, tuple[str, ...]] | None:
    """Return the user's data set in a folder, and its splits; None if there is none.

    Args:
        root: As for `open_source`.

    Raises:
        InputError: It cannot be read.
    """
    root = Path(root)
    if (found := description.find(root)) is not None:
        return found.data, tuple(found.splits)
    single = root.suffix == SUFFIX and os.path.isfile(root)
    folder = root.parent if single else root
    packed = sorted(folder.glob(f"*{SUFFIX}")) if os.path.isdir(folder) else []
    contents = Records(root if single else packed[0]).contents if packed else None
    if contents is None or contents.own is None:
        return None
    return contents.own, (contents.split, *(path.stem for path in packed))


def open_data(data: str | DataSet, root: str | Path, split: str, labels: str | None) -> Source:
    """Open the samples of one split of a data set.

    Args:
        data: One of `parity.spec.training.recipe.DATA`, or the user's data set.
        root: The folder or packed file; see `open_source`.
        split: Such as `train`.
        labels: Which output is void, one of `parity.spec.labels.ORDERS`; last if not given.

    Raises:
        InputError: There is no such data set, or it has another layout.
    """
    root, data = Path(root), BUILT_IN[data] if isinstance(data, str) else data
    beside = root.with_name(f"{split}{SUFFIX}") if root.is_file() else root / f"{split}{SUFFIX}"
    packed = next((p for p in (root, beside) if p.is_file() and p.suffix != TOML), None)
    if packed == root and beside.is_file() and Records(root).contents.split != split:
        packed = beside
    reader: Reader
    if packed is not None:
        reader = open_packed(data, packed, split)
        by_name = packed == root  # then nothing beside it matters
        if not by_name and (here := description.find(root)) is not None:
            own_packed.check(packed, reader.contents, here)
    else:
        others = sorted(path.name for path in root.glob(f"*{SUFFIX}")) if root.is_dir() else []
        try:
            reader = open_folder(data, root, split)
        except InputError as error:
            if not others:
                raise
            found = f"{root} holds {listed(others)}, expected {beside.name}, too"
            raise InputError(f"{found}: {_missing(beside, split)}") from error
    by_train_id = np.arange(len(data.classes), dtype=np.uint8)
    if data.pixels:
        by_train_id = outputs(labels or "void-last", len(data.classes))
    return Source(packed or root, split, reader, data.classes, by_train_id, data.pixels)


def _missing(path: Path, split: str) -> str:
    return f"{path} is missing, parity pack --split {split} writes it"


def open_packed(data: DataSet, path: Path, split: str) -> Records:
    """Return the samples of a file that `parity pack` wrote.

    Raises:
        InputError: It is none, or of another data set or split.
    """
    records = Records(path)
    found = records.contents
    for what, has, wanted in (("data set", found.data, data.name), ("split", found.split, split)):
        if has != wanted:
            beside, also = path.with_name(f"{split}{SUFFIX}"), ""
            if what == "split" and not beside.exists():
                also = f", or {beside.name} beside it: {_missing(beside, split)}"
            raise InputError(f"{path} holds {what} {has!r}, expected {wanted!r}{also}")
    if found.classes != data.classes:
        raise InputError(f"{path} holds other classes than {data.name} has")
    return records


def open_folder(data: DataSet, root: Path, split: str) -> Reader:
    """Return the samples of a folder in a data set's layout.

    Raises:
        InputError: It is no such folder, or has no such split.
    """
    if data.name not in BUILT_IN:
        return _open_own(data, root, split)
    segmentation.require_folder(root)
    if data.name not in DATASETS:
        return Batches(root, split)
    return Pairs(DATASETS[data.name], tuple(DATASETS[data.name].samples(root, split)))


def _open_own(data: DataSet, root: Path, split: str) -> Reader:
    found = description.find(root)
    if found is None:
        segmentation.require_folder(root)
        raise InputError(f"{root}: not {data.name}, expected a {description.FILE}")
    if not data.same(found.data):
        raise InputError(f"{found.file} has other classes than {data.name} has")
    if not found.data.pixels:
        return Folders(tuple(files.classified(found, split)))
    return Pairs(masks.segmentation(found), tuple(files.samples(found, split)))


def check_size(records: Records, recipe: Recipe, split: str) -> None:
    """Refuse a packed file with which a recipe would compute anything else than without.

    Raises:
        InputError: It was resized to another size, or where something else comes first.
    """
    found, path = records.contents, records.path
    if found.size is None:
        return
    size = found.size_said
    if split == recipe.val_split and found.size != recipe.size:
        theirs = "x".join(map(str, recipe.size))
        raise InputError(f"{path} was resized to {size}, but {recipe.name} validates at {theirs}")
    for stage in recipe.stages if split == recipe.train_split else ():
        if stage.augmentation[:1] != (Resize(found.size),):
            raise InputError(
                f"{path} was resized to {size}, but stage {stage.name} of {recipe.name} does"
                " something else first; pack it without --size"
            )


def check_count_size(source: Source, size: tuple[int, int]) -> None:
    """Refuse samples that have no truth of another size.

    Args:
        source: The samples.
        size: Height and width at which predictions are to be counted.

    Raises:
        InputError: They are whole images, or were packed at another size.
    """
    if not source.pixels:
        raise InputError(f"{source.root}: images have one class each, nothing to count at a size")
    reader = source.reader
    if isinstance(reader, Records) and reader.contents.size not in (None, size):
        wanted = "x".join(map(str, size))
        raise InputError(
            f"{reader.path} was resized to {reader.contents.size_said}: its labels do not tell what"
            f" is right at {wanted}; pack it without --size"
        )


def _of_files(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            found = os.stat(path)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        digest.update(f"{path.name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()
