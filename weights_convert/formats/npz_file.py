"""NumPy's .npz: a zip archive with one .npy per name. Imports no framework.

NumPy has no bfloat16.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from parity.spec.errors import InputError, listed
from weights_convert.formats.archives import checked
from weights_convert.formats.base import Contents, parted, unreadable
from weights_convert.memory import contiguous

SUFFIX = ".npy"

HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read(path: Path) -> Contents:
    """Read a file, compressed or not.

    Raises:
        InputError: It is damaged, holds something else than arrays, or grows beyond all measure.
        OSError: The file system refuses.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {
                entry.filename.removesuffix(SUFFIX): _array(archive, entry)
                for entry in checked(archive, path)
            }
    except OSError:
        raise
    except Exception as error:  # bytes at will
        raise unreadable(path, "is not a readable .npz file", error) from error
    ours, foreign = parted(arrays)
    return Contents("npz", ours, foreign=foreign)


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file, not compressed.

    Raises:
        InputError: A tensor is bfloat16.
        OSError: The file system refuses.
    """
    if wrong := [name for name, array in arrays.items() if array.dtype.name == "bfloat16"]:
        raise InputError(f"{path}: {listed(wrong)} is bfloat16, which NumPy's files cannot hold")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in contiguous(arrays).items():
            # A fixed date, so that equal arrays give equal files.
            entry = zipfile.ZipInfo(name + SUFFIX, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """Read one .npy file of the archive.

    Raises:
        ValueError: It is not a .npy file, holds objects, or its size contradicts its header.
    """
    if not entry.filename.endswith(SUFFIX) or entry.filename == SUFFIX:
        raise ValueError(f"it holds {entry.filename!r}, expected only arrays (NAME{SUFFIX})")
    with archive.open(entry) as packed:
        data = packed.read(entry.file_size + 1)  # not more, whatever it unpacks to
    if len(data) != entry.file_size:
        raise ValueError(f"{entry.filename} is not of {entry.file_size} bytes, as it says")
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"{entry.filename} is of version {version}")
    shape, by_columns, dtype = HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError(f"{entry.filename} holds objects, expected numbers")
    body = data[file.tell() :]
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(body):
        raise ValueError(f"{entry.filename} holds {len(body)} bytes, but claims {shape} {dtype}")
    array = np.frombuffer(body, dtype).reshape(shape, order="F" if by_columns else "C")
    return np.array(array, order="C")
