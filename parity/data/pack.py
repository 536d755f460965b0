"""One split of a data set in one file, which trains as the folder does, and is read faster."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from parity.data import cifar10, dataset
from parity.data.own import description, packed
from parity.data.records import OPTIONS, Contents, Records, sample_bytes
from parity.data.sources import described, open_folder
from parity.io.files import check_writable
from parity.io.replacing import replacing
from parity.spec.augmentation import Example, resized
from parity.spec.datasets import BUILT_IN, DataSet
from parity.spec.errors import InputError


def pack(
    root: str | Path,
    target: str | Path,
    data: str | None = None,
    split: str = "train",
    size: tuple[int, int] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Contents:
    """Write a split into one file, whole or not at all, and read it back.

    Args:
        root: The data set's folder.
        target: The file to write; replaced if it is there.
        data: The data set's name; detected from the layout if not given.
        split: The data set's split, such as `train`.
        size: Height and width to resize to, as `Resize` does; only recipes that begin with that
            take the file then. The size of each image if not given.
        progress: Called with (samples done, samples, the next one's name).

    Raises:
        InputError: The data cannot be read, or the file cannot be written.
    """
    root, target = Path(root), Path(target)
    of = recognised(root, data)
    if size is not None and of.name == cifar10.NAME:
        raise InputError(f"{of.name} is not resized, expected no size")
    reader = open_folder(of, root, split)
    check_writable(target)
    contents = Contents(of.name, split, of.classes, size, len(reader), "")
    if of.name not in BUILT_IN and (said := description.find(root)) is not None:
        hashes = packed.read_as(said), packed.samples_of(said, split)[1]
        contents = dataclasses.replace(contents, own=of, read_as=hashes[0], names=hashes[1])
    with replacing(target) as made:
        writer, digest = _Writer(made), hashlib.sha256()
        for i in range(len(reader)):
            name = Path(reader.name(i)).name
            if progress:
                progress(i, len(reader), name)
            image, label = reader[i]
            if size is not None:
                pixels = label if isinstance(label, np.ndarray) else None
                done = resized(Example(image, pixels), size)
                image, label = done.image, label if done.label is None else done.label
            record = sample_bytes(name, image, label)
            digest.update(record)
            writer.write(record)
        contents = dataclasses.replace(contents, sha256=digest.hexdigest())
        writer.write(contents.to_bytes())
        writer.close()
        Records(made).verify()
    return contents


def recognised(root: Path, name: str | None = None) -> DataSet:
    """Return the data set of a name, or the one that a folder holds.

    Args:
        root: The folder; or the TOML file of a data set of the user's.
        name: Of a data set that is not the user's; detected from the folder if not given.

    Raises:
        InputError: It is of none.
    """
    if name is not None:
        if name not in BUILT_IN:
            raise InputError(f"unknown data set {name!r}, expected one of {', '.join(BUILT_IN)}")
        return BUILT_IN[name]
    if (found := described(root)) is not None:
        return found[0]
    return BUILT_IN[cifar10.NAME if cifar10.folder(root) is not None else dataset(root).name]


class _Writer:
    """An ArrayRecord file; what it cannot write is an `OSError`, as of any other file."""

    def __init__(self, path: Path) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        self.writer = ArrayRecordWriter(str(path), OPTIONS)

    def write(self, record: bytes) -> None:
        try:
            self.writer.write(record)
        except RuntimeError as error:
            raise OSError(str(error).split(";")[0]) from error

    def close(self) -> None:
        try:
            self.writer.close()
        except RuntimeError as error:
            raise OSError(str(error).split(";")[0]) from error
