"""Orbax directories, read one array at a time by TensorStore, and written in parts by Orbax.

Orbax saves a part of a tree at a time (`partial.save`); each part is there whole or not at all, and
`partial.finalize` joins them without copying a number.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint.experimental.v1 as ocp  # type: ignore[import-untyped]  # it ships no types
import tensorstore

from parity.spec.errors import InputError, listed
from weights_convert.formats import orbax_guard
from weights_convert.formats.base import LimitError, first_line, unreadable
from weights_convert.formats.nested import names_of
from weights_convert.formats.sniffing import ORBAX_FILE
from weights_convert.hashes import tensor_sha256s
from weights_convert.streaming.plan import Tensor, describe

CHUNK = 1 << 24  # bytes of an array that are stored, and read by a device, together
FILE = 1 << 26  # bytes of a file of many chunks; Orbax keeps as much in memory while it writes
# What TensorStore may keep, and how many chunks it reads at once.
LIMITS = {"cache_pool": {"total_bytes_limit": 1 << 26}, "file_io_concurrency": {"limit": 4}}
ARRAYS = ("np.ndarray", "jax.Array", "scalar")  # types of entries that are arrays on the disk
PART, WHOLE = "parts", "parts.partial_save"  # the name to save under, and the one Orbax gives it
STATE = "state"  # what Orbax calls the one tree in each part
UNJOINED = "ocdbt.process_0"  # the folder with the arrays of a part
COMMITTED = "commit_success.txt"


class Arrays:
    """A directory whose arrays are read when they are asked for.

    Attributes:
        tensors: Name -> shape and dtype.
        skipped: Descriptions of entries that are no arrays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            orbax_guard.check(path)
            entries = json.loads((path / ORBAX_FILE).read_text(encoding="utf-8"))
            found = _entries(entries, path)
            others = [(n, kind) for n, (_, kind) in found.items() if kind not in ARRAYS]
            context = tensorstore.Context(LIMITS)
            self._stores = {
                name: tensorstore.open(_spec(path, stored, entries), open=True, context=context)
                for name, (stored, kind) in found.items()
                if kind in ARRAYS
            }
            stores = {name: store.result() for name, store in self._stores.items()}
        except InputError:
            raise
        except Exception as error:  # files at will: TensorStore may fail in any way
            if isinstance(error, LimitError):
                raise unreadable(path, "", error) from error
            raise _damaged(path, error) from error
        self._opened = stores
        self.skipped = tuple(f"{name} ({kind})" for name, kind in others)
        self.tensors = {
            name: describe(name, tuple(store.shape), store.dtype.name, path)
            for name, store in stores.items()
        }

    def load(self, name: str) -> np.ndarray:
        """Read an array.

        Raises:
            InputError: It is damaged.
        """
        try:
            return self._opened[name].read().result()
        except Exception as error:  # bytes at will
            raise _damaged(self._path, error) from error

    def sha256(self, name: str) -> str:
        """Return a tensor's hash, as `weights_convert.hashes.tensor_sha256s` does."""
        return tensor_sha256s({name: self.load(name)})[name]


def _damaged(path: Path, error: Exception) -> InputError:
    reason = first_line(error).partition(" [")[0]  # before TensorStore's whole request
    return InputError(f"{path} is not a readable Orbax checkpoint: {reason}")


def _entries(entries: Mapping[str, Any], path: Path) -> dict[str, tuple[str, str]]:
    """Return each entry's name -> the name under which it is stored, and its type."""
    tree: dict[str, Any] = {}
    kinds = {}
    for entry in entries["tree_metadata"].values():
        parts = [str(key["key"]) for key in entry["key_metadata"]]
        stored = ".".join(parts)
        kinds[stored] = str(entry["value_metadata"]["value_type"])
        node = tree
        for part in parts[:-1]:
            node = node.setdefault(part, {})
        node[parts[-1]] = stored
    return {name: (stored, kinds[stored]) for name, _, stored in names_of(tree, path)}


def _spec(path: Path, stored: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return TensorStore's description of an array."""
    kvstore: Any = f"file://{path.absolute()}/{stored}/"
    for base in (path, path / UNJOINED):
        if (base / "manifest.ocdbt").is_file():
            kvstore = {
                "driver": "ocdbt",
                "base": f"file://{base.absolute()}/",
                "path": f"{stored}/",
            }
            break
    return {"driver": "zarr3" if entries.get("use_zarr3") else "zarr", "kvstore": kvstore}


def check_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Refuse what Orbax cannot hold.

    Raises:
        InputError: A tensor is empty, or two names exclude each other.
    """
    if empty := [name for name, tensor in tensors.items() if not tensor.nbytes]:
        raise InputError(f"{listed(empty)}: empty, which Orbax does not save")
    nested(tensors)


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted name -> array as nested dicts.

    Raises:
        InputError: A name is the beginning of another's, or has an empty part.
    """
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *path, leaf = name.split(".")
        node: Any = tree
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or leaf in node or not all((*path, leaf)):
            raise InputError(f"{name} has no place in an Orbax directory beside the other names")
        node[leaf] = array
    return tree


def save_part(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Save some arrays of a checkpoint; they are there whole or not at all.

    Args:
        folder: Where the parts are kept until `join`.
        arrays: Dotted name -> array.

    Raises:
        OSError: The file system refuses.
    """
    with _orbax():
        ocp.partial.save((folder / PART).absolute(), nested(arrays))


def parts(folder: Path) -> dict[Path, Arrays]:
    """Return the parts that were saved before: folder -> what is in it.

    What a killed process left unfinished is removed; all of it, if it was killed while it joined
    the parts.
    """
    found = {}
    whole = folder / WHOLE
    if (whole / STATE).exists() or (folder / PART).exists():
        shutil.rmtree(whole, ignore_errors=True)
        shutil.rmtree(folder / PART, ignore_errors=True)
    for part in sorted(whole.iterdir()) if whole.is_dir() else ():
        try:
            if not (part / COMMITTED).is_file():
                raise InputError(f"{part} is unfinished")
            found[part] = Arrays(part / STATE)
        except InputError:
            drop(part)
    return found


def drop(part: Path) -> None:
    """Remove a part."""
    shutil.rmtree(part) if part.is_dir() else part.unlink()


def join(folder: Path, target: Path) -> None:
    """Make one checkpoint of all parts.

    Args:
        folder: Where the parts are kept.
        target: The directory to make.

    Raises:
        OSError: The file system refuses.
    """
    with _orbax():
        ocp.partial.finalize((folder / PART).absolute())
    (folder / PART / STATE).rename(target)
    shutil.rmtree(folder / PART)


@contextmanager
def _orbax() -> Iterator[None]:
    """Set Orbax's options, and make its errors those of the file system."""
    context = ocp.Context()
    saving = context.array.saving
    saving.use_compression = False  # weights hardly get smaller
    saving.storage_options.chunk_byte_size = CHUNK
    saving.ocdbt_target_data_file_size = FILE
    context.memory.deepcopy_host_arrays = False  # nobody changes them meanwhile
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with context:
            yield
    except (ValueError, RuntimeError) as error:  # what TensorStore makes of an OSError
        raise OSError(first_line(error)) from error
    finally:
        logger.setLevel(level)
