"""File formats: file <-> names, arrays and metadata. What the names mean is `dialects`' business.

A file is told by its content, never by its suffix; what is written is chosen by the suffix. No
framework is loaded before a file needs it.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from parity.spec.errors import InputError, listed
from weights_convert.formats import nested, sidecar
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

DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "bool")

# Formats whose library is a framework, or loads one.
LOAD_FRAMEWORKS = ("torch", "orbax", "msgpack")

# Formats without room for text: their manifest lies beside them.
WITH_SIDECAR = ("torch", "orbax", "msgpack", "npz", "mindspore")

# Formats whose arrays can be looked at in the file.
MAPPED = ("torch", "safetensors")

# Keys and prefixes of averaged weights: an exponential moving average, stochastic weight averaging.
AVERAGED = re.compile(r"(^|[._])(ema|swa|averag[a-z]*|shadow)\d*($|[._])", re.IGNORECASE)

# What a file may hold: more tensors are no network's, and cost memory that the file does not show.
MOST_TENSORS = 50_000

# What its arrays may take, in times its size and bytes beside: weights hardly compress, and few
# tensors are views of each other.
TIMES, BESIDE = 2, 2**27


# Formats whose readers go down to a key themselves; in the others it is the start of names.
NESTED = ("torch", "orbax", "msgpack")

# Formats in which some write a path with slashes.
FLAT = ("safetensors", "npz")


class LimitError(ValueError):
    """A file asks for more than is read of any; it may be whole all the same."""


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A tensor of a kind that no network here has: described, not read.

    Attributes:
        dtype: What the file calls it, such as `float8_e4m3fn`, with what else is special.
        shape: Of it; empty where nobody says.
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
    """What a checkpoint file holds.

    Attributes:
        format: A key of `FORMATS`.
        arrays: Name -> array, as the file names and lays them out.
        metadata: Text kept beside the tensors.
        skipped: Names of what else the file holds, such as `epoch`.
        optimizer: What `torch.optim.Optimizer.state_dict()` gave, with NumPy arrays, where a torch
            file holds it beside the tensors.
        foreign: Name -> what it is, of tensors that are no `DTYPES`.
        key: Under which entry of the file they lie, a dotted path; empty where they lie open.
        averaged: Keys of the file under which averaged weights lie beside them.
        elsewhere: Name -> array, or `Foreign`, of tensors under other keys of a torch file, which
            its optimizer's state may be of; each name begins with the key.
        sha256: Of the file; of a directory see `weights_convert.hashes.file_sha256`, without the
            manifest in it.
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


def read(
    path: Path, written: str | None = None, key: str | None = None, foreign: bool = False
) -> Contents:
    """Read a checkpoint of whichever format.

    Args:
        path: The file or directory.
        written: What `write` returned, of a file that nobody else can have changed since: it is
            not hashed again, and where its format allows looked at in place, not copied.
        key: Which entry of the file holds the tensors, a dotted path; told by the file if not
            given.
        foreign: Whether tensors of other kinds than `DTYPES` may be there; they are described.

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
        # Before the file is trusted with anything: is it the one that the manifest speaks of?
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
        metadata: Text to keep beside the tensors.
        optimizer: See `Contents`; only a torch file has a place for it.

    Returns:
        The hash of the file, where its manifest has it; else nothing.

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
    """Import what writes a format while a source is read: PyTorch takes seconds.

    Not beside another framework, which the source may need: two at once gain nothing.
    """

    def prepare() -> None:
        if sniff(source) not in LOAD_FRAMEWORKS:
            _module(format)

    with ThreadPoolExecutor(1) as pool:
        if format in LOAD_FRAMEWORKS:
            pool.submit(prepare)  # what it raises, it raises again where it is needed
        yield


def format_for(target: Path) -> str:
    """The format that a suffix asks for.

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
    """The NumPy dtype of one of `DTYPES`; bfloat16 is that of `ml_dtypes`."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def first_line(error: Exception) -> str:
    """What a library said, cut to one line."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def unreadable(path: Path, what: str, error: Exception) -> InputError:
    """What to raise where a file cannot be read: what it is, unless it is only too much."""
    if isinstance(error, LimitError):
        what = "is not read"
    return InputError(f"{path} {what}: {first_line(error)}")


def parted(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, Foreign]]:
    """Arrays of `DTYPES`, and what the others are."""
    ours = {k: a for k, a in arrays.items() if str(a.dtype) in DTYPES}
    return ours, {k: Foreign(str(a.dtype), a.shape) for k, a in arrays.items() if k not in ours}


def _module(format: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{FORMATS[format]}")
