"""Shared code of the formats: a file's contents, limits on them, and errors.

No framework is imported here.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.spec.errors import InputError, listed

DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "bool")

# Keys and prefixes of averaged weights: an exponential moving average, stochastic weight averaging.
AVERAGED = re.compile(r"(^|[._])(ema|swa|averag[a-z]*|shadow)\d*($|[._])", re.IGNORECASE)

# What a file may hold: more tensors are no network's, and cost memory that the file does not show.
MOST_TENSORS = 50_000

# What its arrays may take, in times its size and bytes beside: weights hardly compress, and few
# tensors are views of each other.
TIMES, BESIDE = 2, 2**27


class LimitError(ValueError):
    """A file exceeds the limits of what is read; it may be intact all the same."""


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A tensor of an unsupported dtype: described, not read.

    Attributes:
        dtype: Its name in the file, such as `float8_e4m3fn`, with other peculiarities.
        shape: Its shape; empty if unknown.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Contents:
    """The contents of a checkpoint file.

    Attributes:
        format: A key of `FORMATS`.
        arrays: Name -> array, as the file names and lays them out.
        metadata: Text stored with the tensors.
        skipped: Names of other entries of the file, such as `epoch`.
        optimizer: The result of `torch.optim.Optimizer.state_dict()`, with NumPy arrays, where a
            torch file holds it.
        foreign: Name -> description of tensors of dtypes other than `DTYPES`.
        key: The entry of the file that holds the tensors, a dotted path; empty for the top level.
        averaged: Keys of other entries that hold averaged weights.
        elsewhere: Name -> array, or `Foreign`, of tensors under other keys of a torch file, to
            which its optimizer's state may belong; each name begins with the key.
        sha256: Hash of the file, by `weights_convert.hashes.file_sha256`; of a directory, without
            its manifest.
    """

    format: str
    arrays: dict[str, np.ndarray]
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    optimizer: dict[str, Any] | None = None
    foreign: dict[str, Foreign] = dataclasses.field(default_factory=dict)
    key: str = ""
    averaged: tuple[str, ...] = ()
    elsewhere: dict[str, Any] = dataclasses.field(default_factory=dict)
    sha256: str = ""

    @property
    def everything(self) -> dict[str, Any]:
        """Name -> array, or `Foreign`."""
        return {**self.arrays, **self.foreign}


def check_dtypes(dtypes: Mapping[str, object], where: Path) -> None:
    """Refuse what some format could hold only after a cast.

    Args:
        dtypes: Name -> NumPy dtype, or the name of one.
        where: The file, for the message.

    Raises:
        InputError: One line that lists every tensor of another dtype.
    """
    wrong = [f"{k} is {dtype}" for k, dtype in dtypes.items() if str(dtype) not in DTYPES]
    if wrong:
        raise InputError(f"{where}: {listed(wrong, '; ')}; expected {', '.join(DTYPES)}")


def check_growth(total: int, path: Path) -> None:
    """Refuse a file whose arrays take far more than it has: a bomb.

    Args:
        total: Bytes of its arrays.
        path: The file.

    Raises:
        LimitError: They do.
    """
    if total > TIMES * path.stat().st_size + BESIDE:
        raise LimitError(f"it would grow to {total:,} bytes")


def check_count(count: int) -> None:
    """Refuse more tensors than networks have.

    Raises:
        LimitError: They are more than `MOST_TENSORS`.
    """
    if count > MOST_TENSORS:
        raise LimitError(f"it holds {count:,} tensors, expected at most {MOST_TENSORS:,}")


def numpy_dtype(name: str) -> np.dtype:
    """Return the NumPy dtype of one of `DTYPES`; bfloat16 is that of `ml_dtypes`."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def first_line(error: Exception) -> str:
    """Return the first line of a library's error message."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def unreadable(path: Path, what: str, error: Exception) -> InputError:
    """Return the error for a file that cannot be read; one over the limits is called "not read"."""
    if isinstance(error, LimitError):
        what = "is not read"
    return InputError(f"{path} {what}: {first_line(error)}")


def parted(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, Foreign]]:
    """Split arrays into those of `DTYPES` and descriptions of the others."""
    ours = {k: a for k, a in arrays.items() if str(a.dtype) in DTYPES}
    return ours, {k: Foreign(str(a.dtype), a.shape) for k, a in arrays.items() if k not in ours}
