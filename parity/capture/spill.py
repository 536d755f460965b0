"""Arrays kept in a file until they are used, for activations too large for memory."""

from __future__ import annotations

import ctypes
import gc
import os
import tempfile
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


def release() -> None:
    """Free unused memory: graphs with reference cycles, and gaps in the heap."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


class Keeper(Protocol):
    """Takes an array that will be wanted later."""

    def __call__(self, array: np.ndarray) -> Any: ...


def in_memory(array: np.ndarray) -> np.ndarray:
    """Return a copy that owns its memory."""
    return array.copy()


def nowhere(array: np.ndarray) -> np.ndarray:
    """Return an empty array, where nobody wants the values."""
    return np.empty(0, array.dtype)


class SpillFile:
    """A temporary file of arrays; it vanishes with the last of them."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(prefix="parity-")  # noqa: SIM115 - closed with the last
        self.size = 0

    def __del__(self) -> None:
        self.file.close()

    def __call__(self, array: np.ndarray) -> SpilledArray:
        """Keep an array."""
        stored = SpilledArray(self, self.size, array.shape, array.dtype)
        self.file.write(np.ascontiguousarray(array).view(np.uint8).data)  # of any type: bfloat16
        self.file.flush()
        self.size += array.nbytes
        return stored

    def read_into(self, data: np.ndarray, offset: int) -> None:
        """Fill an array of bytes from a place in the file.

        Raises:
            OSError: The file ends before.
        """
        read_into(self.file.fileno(), data, offset)


def read_into(descriptor: int, data: np.ndarray, offset: int) -> None:
    """Fill an array of bytes from a place in a file, whoever else reads it.

    Raises:
        OSError: The file ends before.
    """
    rest = data.data
    while rest:
        count = os.preadv(descriptor, [rest], offset)
        if not count:
            raise OSError(f"cut off at byte {offset:,}")
        rest, offset = rest[count:], offset + count


class Store(Protocol):
    """A file that holds arrays."""

    def read_into(self, data: np.ndarray, offset: int) -> None: ...


class SpilledArray:
    """An array in a file; NumPy reads it when it computes with it.

    Args:
        spilled: The file that it is in.
        offset: Its place in the file, in bytes.
        shape: Its shape in the file.
        dtype: Its NumPy dtype.
        axes: The permutation of its axes when it is read.
    """

    def __init__(
        self,
        spilled: Store,
        offset: int,
        shape: tuple[int, ...],
        dtype: np.dtype,
        axes: tuple[int, ...] | None = None,
    ) -> None:
        self.spilled = spilled
        self.offset = offset
        self.stored_shape = shape
        self.dtype = dtype
        self.axes = tuple(range(len(shape))) if axes is None else axes

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.stored_shape[i] for i in self.axes)

    @property
    def ndim(self) -> int:
        return len(self.axes)

    @property
    def size(self) -> int:
        return int(np.prod(self.stored_shape))

    def transpose(self, axes: Sequence[int]) -> SpilledArray:
        """Return the same stored array, read with its axes permuted."""
        turned = tuple(self.axes[i] for i in axes)
        return type(self)(self.spilled, self.offset, self.stored_shape, self.dtype, turned)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read it."""
        del copy  # what is read is the caller's own
        data = np.empty(self.size * self.dtype.itemsize, np.uint8)
        self.spilled.read_into(data, self.offset)
        array = data.view(self.dtype).reshape(self.stored_shape).transpose(self.axes)
        return array if dtype is None else array.astype(dtype)
