"""Pairs of image and label map: how a data set is described, found on disk and read."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from parity.spec.errors import InputError, listed

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")  # suffixes of images in any folder

# What Pillow's decoders raise on files that are not, or not quite, what they seem.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image and its label map."""

    name: str
    image: Path
    label: Path


@dataclasses.dataclass(frozen=True)
class Files:
    """The files of one split, before images and labels are paired.

    Attributes:
        images: Key -> file; an image and its label share the key.
        labels: Key -> file.
        strangers: Files whose names fit neither.
    """

    images: dict[str, Path]
    labels: dict[str, Path]
    strangers: tuple[Path, ...] = ()


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """A data set for semantic segmentation.

    Attributes:
        name: Its name on the command line.
        classes: Names of the classes that count, in the order of their trainIds.
        palette: RGB of each class, and of void after them.
        train_ids: id in the label files -> trainId; void's is the number of classes; -1 where no
            file holds the id.
        layout: What its folder looks like, for people.
        recognises: Whether a folder has that layout.
        find: (folder, split) -> its files; raises `InputError`.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    train_ids: tuple[int, ...]
    layout: str
    recognises: Callable[[Path], bool]
    find: Callable[[Path, str], Files]

    @property
    def void(self) -> int:
        """Return the trainId of ignored pixels."""
        return len(self.classes)

    @property
    def identity(self) -> str:
        """Return a string that differs where label files are read otherwise; empty if fixed."""
        return ""

    @property
    def outputs(self) -> int:
        """Return the number of outputs for this data set: the classes and void."""
        return len(self.classes) + 1

    def samples(self, root: Path, split: str) -> list[Sample]:
        """Return the pairs of one split, sorted by name.

        Args:
            root: The data set's folder.
            split: Such as `val`.

        Raises:
            InputError: Another layout, no such split, no images, or names that do not pair.
        """
        require_folder(root)
        if not self.recognises(root):
            raise InputError(f"{root}: not {self.name}, expected {self.layout}")
        files = self.find(root, split)
        faults = [f"{path} fits no pattern" for path in files.strangers]
        faults += [f"{p} has no label" for k, p in files.images.items() if k not in files.labels]
        faults += [f"{p} has no image" for k, p in files.labels.items() if k not in files.images]
        if faults:
            raise InputError(f"{root}: {len(faults)} files do not pair: {listed(faults)}")
        if not files.images:
            raise InputError(f"{root}: split {split} holds no images, expected {self.layout}")
        return [
            Sample(key.rsplit("/")[-1], files.images[key], files.labels[key])
            for key in sorted(files.images)
        ]

    def load(self, sample: Sample, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Read one pair and resize it.

        Args:
            sample: The pair to read.
            height: Height of the result in pixels.
            width: Width of the result in pixels.

        Returns:
            The image (H, W, 3), uint8, resized bilinearly (antialiased, as Pillow does); the
            trainIds (H, W), uint8, resized to the nearest pixel before ids were mapped.

        Raises:
            InputError: Not an image, not 8 bits a channel, a label map with several channels, of
                another size than its image or with an unknown id.
        """
        picture = picture_of(sample.image)
        label = self.label(sample.label, (height, width), sample.image, picture.size)
        return resized(picture, height, width), label

    def whole(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Read one pair at the size of the files."""
        picture = picture_of(sample.image)
        return np.asarray(picture), self.label(sample.label, None, sample.image, picture.size)

    def label(
        self,
        path: Path,
        size: tuple[int, int] | None,
        image: Path,
        expected: tuple[int, int] | None = None,
    ) -> np.ndarray:
        """Read a label map and resize it to the nearest pixel before ids are mapped.

        Args:
            path: The file.
            size: Height and width of the result; those of the file if not given.
            image: The image it belongs to.
            expected: Width and height of the image; read from its file if not given.

        Returns:
            The trainIds (H, W), uint8.

        Raises:
            InputError: See `load`.
        """
        label = read(path)
        if label.mode not in ("L", "P"):
            raise InputError(f"{path}: mode {label.mode}, expected one channel of 8 bits")
        check_size(label, path, image, expected)
        ids = np.flatnonzero(label.histogram())
        known = [i for i, train_id in enumerate(self.train_ids) if train_id >= 0]
        if (unknown := np.setdiff1d(ids, known)).size:
            raise InputError(
                f"{path}: unknown id {listed(unknown)}, expected 0 to {len(self.train_ids) - 1}"
            )
        if size is not None:
            label = label.resize((size[1], size[0]), Image.Resampling.NEAREST)
        return np.take(np.array(self.train_ids).astype(np.uint8), np.asarray(label))


def check_size(
    label: Image.Image, path: Path, image: Path, expected: tuple[int, int] | None
) -> None:
    """Refuse a label map of another size than its image.

    Args:
        label: The label map.
        path: Its file.
        image: The file of its image.
        expected: Width and height of the image; read from its file if not given.

    Raises:
        InputError: It has another size.
    """
    expected = expected or size_of(image)
    if label.size != expected:
        theirs = "x".join(map(str, expected[::-1]))
        raise InputError(f"{path}: {label.height}x{label.width}, but its image {image} is {theirs}")


def picture_of(path: Path) -> Image.Image:
    """Return an image of 8 bits a channel, in RGB.

    Raises:
        InputError: It is none.
    """
    picture = read(path)
    if picture.mode not in ("RGB", "RGBA", "L"):
        raise InputError(f"{path}: mode {picture.mode}, expected 8-bit RGB")
    return picture.convert("RGB")


def resized(picture: Image.Image, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8, resized bilinearly, antialiased, as Pillow does."""
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def read(path: Path) -> Image.Image:
    """Return a decoded image.

    Raises:
        InputError: Pillow cannot read it.
    """
    with opened(path) as image:
        image.load()
        return image


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image of which only the beginning is read so far.

    Raises:
        InputError: Pillow cannot read it.
    """
    try:
        with Image.open(path) as image:
            yield image
    except UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else None
        raise InputError(f"{path}: {reason or 'not an image, or a damaged one'}") from error


def require_folder(path: Path) -> None:
    """Refuse what is not a folder.

    Raises:
        InputError: It is missing, or a file.
    """
    if not os.path.isdir(path):  # which, unlike Path's, is false for names too long to exist
        fault = "not a folder" if os.path.exists(path) else "no such folder"
        raise InputError(f"{path}: {fault}, expected a data set")


def require_split(root: Path, split: str, splits: Iterable[str]) -> None:
    """Refuse a split that the data set does not have.

    Raises:
        InputError: It names those that there are.
    """
    known = sorted(splits)
    if split not in known:
        raise InputError(f"{root}: no split {split!r}, found {listed(known) or 'none'}")


def folders(path: Path) -> list[Path]:
    """Folders but for hidden ones, which programs leave behind; sorted."""
    inside = path.iterdir() if path.is_dir() else ()
    return sorted(p for p in inside if p.is_dir() and not p.name.startswith("."))


def visible(paths: Iterable[Path]) -> list[Path]:
    """Files but for hidden ones, which file managers leave behind; sorted."""
    return sorted(p for p in paths if p.is_file() and not p.name.startswith("."))


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of an image, of which only the beginning is read.

    Raises:
        InputError: It is none.
    """
    with opened(path) as image:
        return image.size
