"""Write a CIFAR-10 whose images are JPEGs in one .npz in its official layout for Python.

    python -m tests.unpack_cifar10 IN.npz DIR [--first N]

IN.npz holds, of `train` and of `test`, all JPEGs one after the other (train_jpeg, uint8), where
each begins and the last ends (train_offsets), and their classes (train_labels).
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from parity.data import cifar10
from parity.data.segmentation import UNREADABLE
from parity.report.console import working
from parity.spec.errors import InputError
from tests import program
from tests.batches import batch_bytes
from weights_convert.replacing import replacing

MOST_BYTES = 1 << 30  # of one array of the file, unpacked
KINDS = {"jpeg": "u1", "offsets": "i8", "labels": "u1"}


def unpack(
    source: str | Path,
    target: str | Path,
    progress: Callable[[str], None] = lambda stage: None,
    first: int | None = None,
) -> dict[str, int]:
    """Write `cifar-10-batches-py` into a new folder, whole or not at all.

    The file holds, of `train` and of `test`, all JPEGs one after the other (`train_jpeg`, uint8),
    where each begins and the last ends (`train_offsets`), and their classes (`train_labels`).

    Args:
        source: The `.npz`.
        target: The folder, which must not be there.
        progress: Is told what is being done.
        first: How many images of each of the six files to write; all if None.

    Returns:
        Images of each split.

    Raises:
        InputError: The file is not what it should be, or the folder is there.
    """
    source, target = Path(source), Path(target)
    if first is not None and first < 1:
        raise InputError(f"--first {first}: expected 1 or more")
    if os.path.lexists(target):
        raise InputError(f"{target}: is there already, expected the name of a new folder")
    if not target.absolute().parent.is_dir():
        raise InputError(f"{target}: no folder {target.absolute().parent} to make it in")
    counts = {}
    with replacing(target) as made:
        (made / cifar10.FOLDER).mkdir(parents=True)
        for split, files in cifar10.SPLITS.items():
            progress(f"decoding the images of {split}")
            images, labels = decoded(source, split, len(files))
            parts = [p[:first] for p in np.array_split(np.arange(len(images)), len(files))]
            counts[split] = sum(map(len, parts))
            for i, (name, part) in enumerate(zip(files, parts, strict=True)):
                title = f"{split} batch {i + 1} of {len(files)}"
                data = batch_bytes(images[part], labels[part], title)
                (made / cifar10.FOLDER / name).write_bytes(data)
    return counts


def decoded(source: Path, split: str, least: int) -> tuple[np.ndarray, np.ndarray]:
    """The images (N, 32, 32, 3) uint8 and labels (N,) uint8 of a split; there are `least` or more.

    Raises:
        InputError: They are not what they should be.
    """
    jpeg, offsets, labels = (_array(source, f"{split}_{kind}", kind) for kind in KINDS)
    bounds = offsets.tolist()
    if len(bounds) != len(labels) + 1 or bounds != sorted(bounds) or bounds[0] < 0:
        raise InputError(f"{source}: {split}_offsets do not fit {len(labels)} images")
    if bounds[-1] > len(jpeg) or len(labels) < least:
        raise InputError(
            f"{source}: {len(labels)} images of {split} in {len(jpeg)} bytes, expected {least}"
            f" images or more in {bounds[-1]} bytes"
        )
    if labels.max() >= len(cifar10.CLASSES):
        raise InputError(
            f"{source}: label {labels.max()} in {split}, expected 0 to {len(cifar10.CLASSES) - 1}"
        )
    images = np.empty((len(labels), cifar10.SIDE, cifar10.SIDE, 3), np.uint8)
    data = jpeg.tobytes()
    for i, image in enumerate(images):
        image[:] = _image(data[bounds[i] : bounds[i + 1]], f"{source}: image {i} of {split}")
    return images, labels


def _array(source: Path, name: str, kind: str) -> np.ndarray:
    """One array of the file; nothing is unpickled."""
    try:
        with zipfile.ZipFile(source) as archive:
            if archive.getinfo(f"{name}.npy").file_size > MOST_BYTES:
                raise InputError(f"{source}: {name} has more than {MOST_BYTES:,} bytes")
        with np.load(source, allow_pickle=False) as file:
            array = file[name]
    except KeyError:
        raise InputError(f"{source}: no {name}, expected a CIFAR-10 of JPEGs") from None
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{source}: no such file, expected a CIFAR-10 of JPEGs") from None
    except (*UNREADABLE, zipfile.BadZipFile, NotImplementedError, RuntimeError, MemoryError) as e:
        raise InputError(f"{source}: no .npz file, or a damaged one") from e
    if array.ndim != 1 or array.dtype.str[1:] != KINDS[kind]:
        raise InputError(f"{source}: {name} is {array.dtype} of {array.ndim} dimensions")
    return array


def _image(data: bytes, where: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            if picture.size != (cifar10.SIDE, cifar10.SIDE) or picture.mode != "RGB":
                raise InputError(f"{where}: {picture.mode} of {picture.size}, expected RGB 32x32")
            return np.asarray(picture)
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{where}: not a JPEG, or a damaged one") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN.npz", help="the file to read")
    parser.add_argument("target", metavar="DIR", help="the folder to write; it must not be there")
    parser.add_argument(
        "--first", type=int, metavar="N", help="of each of the six files, the first N images"
    )


def run(args: argparse.Namespace) -> int:
    with working() as progress:
        counts = unpack(args.source, args.target, progress, args.first)
    said = ", ".join(f"{n:,} of {split}" for split, n in counts.items())
    print(f"wrote {args.target}/{cifar10.FOLDER}: {said}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return program.start("tests.unpack_cifar10", add_arguments, run, argv)


if __name__ == "__main__":
    sys.exit(main())
