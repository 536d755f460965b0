"""Masks of a data set of the user's: ids in one channel, or colours, become trainIds."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from parity.data.own import files
from parity.data.own.description import Description, hexadecimal, is_described
from parity.data.segmentation import Files, Sample, Segmentation, check_size, read
from parity.spec.augmentation import NEAREST, resample
from parity.spec.errors import InputError, listed

COLOURED = ("RGB", "RGBA", "L", "1")


@dataclasses.dataclass(frozen=True)
class OwnSegmentation(Segmentation):
    """A data set of images and masks that a file describes.

    Attributes:
        described: The description.
    """

    described: Description

    @property
    def identity(self) -> str:
        """Return a string that differs where a mask would be read as something else."""
        ids = self.described.ids  # with which colours are only for pictures
        said = (ids, self.described.ignored, () if ids else self.described.data.palette)
        return hashlib.sha256(repr(said).encode()).hexdigest()

    def samples(self, root: Path, split: str) -> list[Sample]:
        """Return the pairs of one split, sorted by name.

        Args:
            root: Not used: the description has its own.
            split: Such as `val`.

        Raises:
            InputError: As for `parity.data.own.files.samples`.
        """
        return files.samples(self.described, split)

    def label(
        self,
        path: Path,
        size: tuple[int, int] | None,
        image: Path,
        expected: tuple[int, int] | None = None,
    ) -> np.ndarray:
        """Read a mask whole, and resize its trainIds to the nearest pixel.

        Args:
            path: The file.
            size: Height and width of the result; those of the file if not given.
            image: The image it belongs to.
            expected: Width and height of the image; read from its file if not given.

        Returns:
            The trainIds (H, W), uint8.

        Raises:
            InputError: It has another size than its image, or an id or colour of no class; the
                message names the first such pixel.
        """
        mask = read(path)
        check_size(mask, path, image, expected)
        by_id = self.described.ids
        found = self._of_ids(mask, path) if by_id else self._of_colours(mask, path)
        return found if size is None else resample(found, size, NEAREST)

    def _of_ids(self, mask: Image.Image, path: Path) -> np.ndarray:
        if mask.mode not in ("L", "P", "1"):
            raise InputError(
                f"{path}: mode {mask.mode}, but classes have ids in {self.described.file}:"
                " expected one channel of 8 bits"
            )
        ids = np.asarray(mask).astype(np.uint8)
        table = self._by_id
        if not (known := table[ids] >= 0).all():
            row, column = np.argwhere(~known)[0].tolist()
            raise InputError(
                f"{path}: pixel x {column}, y {row} has id {ids[row, column]}, which is no class's"
                f" and not ignored; expected {listed(np.flatnonzero(table >= 0), shown=20)}"
            )
        return table[ids].astype(np.uint8)

    def _of_colours(self, mask: Image.Image, path: Path) -> np.ndarray:
        if mask.mode != "P" and mask.mode not in COLOURED:
            raise InputError(f"{path}: mode {mask.mode}, expected RGB or a palette, 8 bits each")
        pixels = np.asarray(mask.convert("RGB")).astype(np.int32)
        colours = pixels @ np.array([1 << 16, 1 << 8, 1], np.int32)
        known, train_ids = self._by_colour
        at = np.minimum(np.searchsorted(known, colours), len(known) - 1)
        if not (there := known[at] == colours).all():
            row, column = np.argwhere(~there)[0].tolist()
            red, green, blue = pixels[row, column].tolist()
            raise InputError(
                f"{path}: pixel x {column}, y {row} has color {hexadecimal((red, green, blue))}"
                f" ({red}, {green}, {blue}), which is no class's and not ignored in"
                f" {self.described.file}"
            )
        return train_ids[at]

    @functools.cached_property
    def _by_id(self) -> np.ndarray:
        """(256,) int16: the trainId of each id, -1 where there is none."""
        table = np.full(256, -1, np.int16)
        for train_id, ids in enumerate(self.described.ids):
            table[list(ids)] = train_id
        table[[i for i in self.described.ignored if isinstance(i, int)]] = self.void
        return table

    @functools.cached_property
    def _by_colour(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the known colours as numbers, sorted, and the trainId of each."""
        ignored = [c for c in self.described.ignored if isinstance(c, tuple)]
        colours = [*self.palette[: self.void], *ignored]
        train_ids = [*range(self.void), *[self.void] * len(ignored)]
        numbers = np.array([r << 16 | g << 8 | b for r, g, b in colours], np.int32)
        order = np.argsort(numbers)
        return numbers[order], np.array(train_ids, np.uint8)[order]


def segmentation(of: Description) -> OwnSegmentation:
    """Return the data set of a description.

    Raises:
        InputError: It has a class for each image, not for each pixel.
    """
    if not of.data.pixels:
        raise InputError(f"{of.file}: its images have one class each, expected a class per pixel")
    return OwnSegmentation(
        name=of.data.name,
        classes=of.data.classes,
        palette=of.data.palette,
        train_ids=(),  # ids or colours, which are decoded here
        layout=f"{of.images} and {of.masks}",
        recognises=is_described,
        find=functools.partial(_find, of),
        described=of,
    )


def _find(of: Description, root: Path, split: str) -> Files:
    found = files.samples(of, split)
    return Files({s.name: s.image for s in found}, {s.name: s.label for s in found})
