"""Orbax directories, as `StandardCheckpointer` writes `nnx.to_pure_dict(nnx.state(model))`.

A name is the path through the nested dicts, joined by dots.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp  # type: ignore[import-untyped]  # it ships no types

from parity.spec.errors import InputError
from weights_convert.formats import orbax_guard
from weights_convert.formats.base import Contents, LimitError, first_line, parted, unreadable
from weights_convert.formats.nested import flatten, nest


class Patient:
    """Reads everything, also where one read fails; to be put before a handler of Orbax's.

    Orbax closes its event loop at the first error, and a read of TensorStore's that ends later, be
    it another handler's, prints a traceback of the loop that is closed.
    """

    async def deserialize(
        self,
        infos: Sequence[ocp.type_handlers.ParamInfo],
        args: Sequence[ocp.RestoreArgs] | None = None,
    ) -> Sequence[Any]:
        """Read arrays; an array that cannot be read is replaced by its error, see `read`."""
        whole: Any = super()
        reads = [whole.deserialize([info]) for info in infos]
        results = await asyncio.gather(*reads, return_exceptions=True)
        return [r if isinstance(r, BaseException) else r[0] for r in results]


class AsNumpy(Patient, ocp.type_handlers.NumpyHandler):
    """Restores as NumPy what was saved as something else.

    Not as `jax.Array`: that would halve int64, and ask for the devices of the writer.
    """

    _array_metadata_store = None  # Orbax warns of a handler without one, which only writing needs

    def __init__(self, saved: type) -> None:
        super().__init__()
        self._typestr = ocp.type_handlers.get_type_handler(saved).typestr()

    def typestr(self) -> str:
        return self._typestr


class Strings(Patient, ocp.type_handlers.StringHandler):
    """Restores what was saved as a string."""


def read(path: Path, key: str | None = None) -> Contents:
    """Read a directory; every array is read as a NumPy array, in the dtype in which it was saved.

    Args:
        path: The directory.
        key: The entry to read, as for `weights_convert.formats.read`.

    Raises:
        InputError: The directory is damaged, or holds something else than nested arrays.
    """
    registry = ocp.type_handlers.create_type_handler_registry(
        *((saved, AsNumpy(saved)) for saved in (np.ndarray, jax.Array, int)),
        (str, Strings()),
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    try:
        orbax_guard.check(path)
        with ocp.Checkpointer(handler) as checkpointer:
            restored = checkpointer.restore(path.absolute())
        for leaf in jax.tree.leaves(restored):
            if isinstance(leaf, BaseException):
                raise leaf
    except Exception as error:  # files at will: Orbax and TensorStore may fail in any way
        if isinstance(error, LimitError):
            raise unreadable(path, "", error) from error
        raise InputError(f"{path} is not a readable Orbax checkpoint: {_reason(error)}") from error
    found, others = flatten(restored, path, key)
    arrays, foreign = parted(found)
    return Contents("orbax", arrays, skipped=others, foreign=foreign, key=key or "")


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a directory.

    Raises:
        OSError: The file system refuses.
    """
    # Asked before, as Orbax's threads print pages when a disk is full; merging may take it twice.
    needed = 2 * sum(array.nbytes for array in arrays.values()) + (1 << 20)
    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path.absolute(), nest(arrays))
    except (ValueError, RuntimeError) as error:  # what TensorStore makes of an OSError
        raise OSError(_reason(error)) from error


def _reason(error: Exception) -> str:
    return first_line(error).partition(" [")[0]  # before TensorStore's whole request
