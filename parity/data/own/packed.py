"""Whether a packed file still holds what the description beside it says."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from parity.data.own import files, masks
from parity.data.own.description import SPLIT, Description
from parity.data.records import Contents
from parity.spec.datasets import DataSet
from parity.spec.errors import InputError


def read_as(of: Description) -> str:
    """Return a hash that differs where a mask would be read as something else."""
    return masks.segmentation(of).identity if of.data.pixels else ""


def samples_of(of: Description, split: str) -> tuple[int, str]:
    """Return the number of a split's samples, and a hash of their names and order.

    Names are those of the image and of its mask, below the data set's folder, or of the image and
    its class.

    Raises:
        InputError: As for `parity.data.own.files.samples` and `classified`.
    """
    if of.data.pixels:
        pairs = [(s.image, _below(of, s.label)) for s in files.samples(of, split)]
    else:
        pairs = [(image, str(label)) for image, label in files.classified(of, split)]
    digest = hashlib.sha256()
    for image, label in pairs:
        said = f"{_below(of, image)}\0{label}\n"
        digest.update(said.encode(errors="surrogateescape"))
    return len(pairs), digest.hexdigest()


def _below(of: Description, path: Path) -> str:
    return Path(os.path.relpath(path, of.root)).as_posix()


def check(path: Path, found: Contents, here: Description) -> None:
    """Refuse a packed file in a data set's folder that says something else by now.

    Images that are gone are no fault: the file was packed to stand in for them.

    Args:
        path: The packed file.
        found: Its last record. That of an older one has no hashes: the classes, their first ids or
            colours, and the number of images are compared then.
        here: What the folder's description says now.

    Raises:
        InputError: The description, or the images or their number, have changed since it was
            packed; or the images that are there do not fit the description.
    """
    anew = f"parity pack --split {found.split} writes it anew"
    same = found.own is not None and _shown(found.own) == _shown(here.data)
    if found.read_as is not None:
        same = same and found.read_as == read_as(here)
    if not same:
        raise InputError(f"{path} was packed when {here.file} said something else: {anew}")
    if found.split not in here.splits and SPLIT in here.images:
        return  # its folder is gone
    try:
        count, names = samples_of(here, found.split)
    except InputError:
        if found.split in here.splits and files.gone(here, found.split):
            return
        raise
    if count != found.count:
        raise InputError(f"{path} holds {found.count} images, {here.file} now says {count}: {anew}")
    if found.names not in (None, names):
        raise InputError(f"{path} holds other images or masks than {here.file} now says: {anew}")


def _shown(data: DataSet) -> tuple:
    return data.classes, data.ids or data.palette
