"""File formats: converting between files and names, arrays and metadata.

When reading, the format is detected from the content, never from the suffix; when writing, the
suffix chooses it. No framework is imported before a file needs it.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from parity.spec.errors import InputError, listed
from weights_convert.formats import nested, sidecar
from weights_convert.formats.base import Contents, check_dtypes, unreadable
from weights_convert.formats.sidecar import KEY
from weights_convert.formats.sniffing import sniff
from weights_convert.hashes import file_sha256

# Format -> the module here that reads and writes it.
FORMATS = {
    "torch": "torch_file",
    "safetensors": "safetensors_file",
    "orbax": "orbax_directory",
    "msgpack": "msgpack_file",
    "npz": "npz_file",
    "mindspore": "mindspore_file",
}

# Suffix of an output -> its format.
SUFFIXES = {
    ".pth": "torch",
    ".pt": "torch",
    ".tar": "torch",
    ".safetensors": "safetensors",
    ".orbax": "orbax",
    ".msgpack": "msgpack",
    ".npz": "npz",
    ".ckpt": "mindspore",
    "": "orbax",
}

# Formats whose library is a framework, or loads one.
LOAD_FRAMEWORKS = ("torch", "orbax", "msgpack")

# Formats that cannot store text: their manifest is a separate file.
WITH_SIDECAR = ("torch", "orbax", "msgpack", "npz", "mindspore")

# Formats whose arrays can be looked at in the file.
MAPPED = ("torch", "safetensors")

# Formats whose readers go down to a key themselves; in the others it is the start of names.
NESTED = ("torch", "orbax", "msgpack")

# Formats in which some write a path with slashes.
FLAT = ("safetensors", "npz")


def read(
    path: Path, written: str | None = None, key: str | None = None, foreign: bool = False
) -> Contents:
    """Read a checkpoint of whichever format.

    Args:
        path: The file or directory.
        written: The result of `write`, for a file that nobody else can have changed since: it is
            not hashed again and, where its format allows, not copied into memory.
        key: Which entry of the file holds the tensors, a dotted path; detected if not given.
        foreign: Whether to accept tensors of dtypes other than `DTYPES`; they are only described.

    Raises:
        InputError: It is not there, damaged, of no known format, has no such key, or holds
            something other than named tensors.
    """
    try:
        format = sniff(path)
        if written is None:
            with ThreadPoolExecutor(1) as pool:  # importing PyTorch takes as long as hashing 1 GB
                hashing = pool.submit(file_sha256, path, sidecar.INSIDE)
                module = _module(format)
                sha256 = hashing.result()
        else:
            module, sha256 = _module(format), written
        # Before the file is used: is it the one that the manifest describes?
        beside = sidecar.read(path, sha256) if format in WITH_SIDECAR else {}
        in_place = {"mapped": True} if written is not None and format in MAPPED else {}
        below = {"key": key} if key and format in NESTED else {}
        contents = module.read(path, **in_place, **below)
        if format in FLAT:
            contents = nested.with_dots(contents, path)
        if key and format not in NESTED:
            contents = nested.below(contents, key, path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # bytes at will: what no reader thought of
        raise unreadable(path, "is damaged", error) from error
    if not contents.everything:
        raise InputError(f"{path} holds no tensors")
    if lost := [k for k, text in contents.metadata.items() if k != KEY and sidecar.is_ours(text)]:
        raise InputError(f"{path} is damaged: its manifest is named {lost[0]!r}, expected {KEY!r}")
    if unprintable := [repr(name) for name in contents.everything if not name.isprintable()]:
        raise InputError(f"{path} is damaged: it names tensors {listed(unprintable)}")
    others = {} if foreign else contents.foreign
    check_dtypes({k: v.dtype for k, v in {**contents.arrays, **others}.items()}, path)
    return dataclasses.replace(contents, metadata=contents.metadata | beside, sha256=sha256)


def write(
    path: Path,
    format: str,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    optimizer: Mapping[str, Any] | None = None,
) -> str:
    """Write a checkpoint to a path where nothing is yet.

    Args:
        path: The file, or the directory for `orbax`.
        format: A key of `FORMATS`.
        arrays: Name -> array.
        metadata: Text to store with the tensors.
        optimizer: Optimizer state, as in `Contents`; only a torch file can store it.

    Returns:
        The file's hash, where its manifest contains it; else an empty string.

    Raises:
        InputError: A dtype is not one of `DTYPES`.
        OSError: The file system refuses.
    """
    check_dtypes({k: v.dtype for k, v in arrays.items()}, path)
    module = _module(format)
    if format not in WITH_SIDECAR:
        module.write(path, arrays, metadata)
        return ""
    if optimizer is not None:
        module.write(path, arrays, optimizer)
    else:
        module.write(path, arrays)
    return sidecar.write(path, metadata)


@contextmanager
def prepared(format: str, source: Path) -> Iterator[None]:
    """Import the writer of a format while a source is read: PyTorch takes seconds.

    Not while another framework is imported for the source: two at once gain nothing.
    """

    def prepare() -> None:
        if sniff(source) not in LOAD_FRAMEWORKS:
            _module(format)

    with ThreadPoolExecutor(1) as pool:
        if format in LOAD_FRAMEWORKS:
            pool.submit(prepare)  # what it raises, it raises again where it is needed
        yield


def format_for(target: Path) -> str:
    """Return the format for a path's suffix.

    Raises:
        InputError: An unknown suffix; lists the known ones.
    """
    try:
        return SUFFIXES[target.suffix.lower()]
    except KeyError:
        known = ", ".join(filter(None, SUFFIXES))
        raise InputError(
            f"{target}: unknown suffix {target.suffix!r}, expected one of {known},"
            " or none for an Orbax directory"
        ) from None


def _module(format: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{FORMATS[format]}")
