"""CIFAR-10 in its official layout for Python: files of 10,000 images, pickled."""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from parity.spec import datasets
from parity.spec.errors import InputError

NAME = "cifar10"
CLASSES = datasets.CIFAR10
SIDE = 32  # pixels
FOLDER = "cifar-10-batches-py"
SPLITS = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
LAYOUT = f"{FOLDER}/ with data_batch_1 to data_batch_5 and test_batch"

# The official files have 31 MB and 60,000 opcodes.
MOST_BYTES, MOST_OPCODES = 1 << 26, 1 << 18
# What it takes to write a dict of strings, lists of numbers, and one array.
OPCODES = """
PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 BINSTRING SHORT_BINSTRING
BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES EMPTY_DICT SETITEM SETITEMS EMPTY_LIST APPEND
APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET
GLOBAL STACK_GLOBAL REDUCE BUILD
"""


def folder(root: Path) -> Path | None:
    """Return the folder of the batches: this one, or the official one in it; None if neither."""
    names = [name for files in SPLITS.values() for name in files]
    for place in (root, root / FOLDER):
        if any((place / name).is_file() for name in names):
            return place
    return None


def load(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read all images of a split.

    Args:
        root: The folder of the batches, or the one above it.
        split: `train` or `test`.

    Returns:
        Images (N, 32, 32, 3) uint8 RGB in the order of the files, and labels (N,) uint8.

    Raises:
        InputError: No such folder or split, a batch is missing, or is not what it should be.
    """
    place = folder(root)
    if place is None:
        raise InputError(f"{root}: not {NAME}, expected {LAYOUT}")
    if split not in SPLITS:
        raise InputError(f"{root}: no split {split!r}, found {', '.join(SPLITS)}")
    batches = [read_batch(place / name) for name in SPLITS[split]]
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one file: images (N, 32, 32, 3) uint8 and labels (N,) uint8.

    Raises:
        InputError: It cannot be read, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}, expected a batch of {NAME}") from error
    try:
        return _arrays(_unpickle(data))
    except (pickle.UnpicklingError, ValueError) as error:
        raise InputError(f"{path}: not a batch of {NAME}: {error}") from error
    except Exception as error:  # a stack that is empty, a key that is a list: pickle says it so
        raise InputError(f"{path}: not a batch of {NAME}, or a damaged one") from error


class _Dtype:
    """Replaces `numpy.dtype` while unpickling."""

    def __init__(self, code: Any = None, *flags: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None: ...


class _Array:
    """Replaces `numpy.ndarray` and its constructors while unpickling: it stores its arguments."""

    def __init__(self, *empty: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def rows(self) -> np.ndarray:
        """(N, 3072) uint8.

        Raises:
            ValueError: It is no such array.
        """
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise ValueError("its data has no values")
        _, shape, dtype, columns_first, values = self.state
        if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", b"u1") or columns_first:
            raise ValueError("its data is not of bytes in rows")
        rows = isinstance(shape, tuple) and len(shape) == 2 and isinstance(values, bytes)
        if not rows or shape[1] != 3 * SIDE * SIDE or shape[0] * shape[1] != len(values):
            raise ValueError(f"its data is {shape!r:.40}, expected rows of {3 * SIDE * SIDE}")
        return np.frombuffer(values, np.uint8).reshape(shape)


STANDS_FOR = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _Unpickler(pickle.Unpickler):
    """Calls nothing of what a pickle names, NumPy included: only the classes above."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in STANDS_FOR:
            raise pickle.UnpicklingError(f"it calls {module}.{name}"[:200])
        return STANDS_FOR[module, name]


def _unpickle(data: bytes) -> Any:
    """Unpickle data that uses only a few permitted opcodes.

    Raises:
        ValueError: It is too large, has another opcode, or a place in the memo beyond their number,
            for which memory would be taken.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES:,} bytes")
    allowed = frozenset(OPCODES.split())
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name not in allowed:
            raise ValueError(f"a pickle with {opcode.name}, which none needs")
        if count > MOST_OPCODES:
            raise ValueError(f"a pickle of more than {MOST_OPCODES:,} opcodes")
        if "PUT" in opcode.name and int(str(argument)) > MOST_OPCODES:
            raise ValueError(f"a pickle with place {argument} in its memo")
    return _Unpickler(io.BytesIO(data), encoding="bytes").load()


def _arrays(batch: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of what was unpickled.

    Raises:
        ValueError: It is not what a batch holds.
    """
    if not isinstance(batch, dict):
        raise ValueError("no dict")
    named = {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in batch.items()}
    data, labels = named.get("data"), named.get("labels")
    if not isinstance(data, _Array) or not isinstance(labels, list):
        raise ValueError("no data or no labels")
    rows = data.rows()
    if len(labels) != len(rows) or not len(rows):
        raise ValueError(f"{len(rows)} images and {len(labels)} labels")
    if strangers := [x for x in labels if type(x) is not int or not 0 <= x < len(CLASSES)]:
        raise ValueError(f"label {strangers[0]!r:.40}, expected 0 to {len(CLASSES) - 1}")
    images = rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(labels, np.uint8)
