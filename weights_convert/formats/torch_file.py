"""PyTorch's files, as `torch.save` writes them. No code in them is ever executed."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from parity.spec.errors import InputError
from weights_convert.formats.archives import checked
from weights_convert.formats.base import (
    DTYPES,
    Contents,
    Foreign,
    check_growth,
    first_line,
    numpy_dtype,
    unreadable,
)
from weights_convert.formats.pickles import check_pickle, check_stream
from weights_convert.formats.sniffing import LEGACY_TORCH
from weights_convert.formats.torch_states import NESTS, find
from weights_convert.memory import contiguous

OPTIMIZERS = ("optimizer", "optimizer_state_dict")
OPTIMIZER_LIST = "optimizer_states"  # Lightning's: of one or several


class Placeholder:
    """Replaces objects other than tensors that training scripts save.

    `weights_only` rightly refuses their constructors; this class stores nothing.
    """

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# What a message calls it -> its constructors: a best mIoU, a confusion matrix, a generator's state;
# the arguments of the command, and folders among them.
STOOD_FOR = {
    "NumPy": (
        *("numpy.dtype", "numpy.ndarray"),
        *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
        *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    ),
    "Namespace": ("argparse.Namespace",),
    "Path": ("pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath"),
}
PLACEHOLDERS: list[Callable | tuple[Callable, str]] = [
    (type(kind, (Placeholder,), {}), name) for kind, names in STOOD_FOR.items() for name in names
]


class Target:
    """A file to write to, which keeps the error that `torch.save` reports as it pleases."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def read(path: Path, mapped: bool = False, key: str | None = None) -> Contents:
    """Read a state dict, bare or nested in mappings.

    Args:
        path: The file.
        mapped: Whether to memory-map the tensors; only for a file that no other process can change.
        key: The entry to read, as for `weights_convert.formats.read`.

    Raises:
        InputError: The file is damaged, or holds no names with tensors.
        OSError: The file system refuses.
    """
    check_bytes(path)
    data = load(path, mapped)
    state = find(data, path, key)
    optimizer, why = _optimizer(data)
    named = (*OPTIMIZERS, OPTIMIZER_LIST)
    skipped = tuple(
        f"{n} ({why})" if n in named else n
        for n in state.beside
        if optimizer is None or n not in named
    )
    arrays, foreign = _parted(state.tensors, path)
    elsewhere = _parted(state.elsewhere, path) if optimizer is not None else ({}, {})
    return Contents(
        "torch",
        arrays,
        skipped=skipped,
        optimizer=optimizer,
        foreign=foreign,
        key=state.key,
        averaged=state.averaged,
        elsewhere=elsewhere[0] | elsewhere[1],
    )


def _parted(
    tensors: Mapping[str, torch.Tensor], path: Path
) -> tuple[dict[str, np.ndarray], dict[str, Foreign]]:
    """Split tensors into arrays of `DTYPES` and descriptions of the others."""
    dtypes = {k: dtype_of(v) for k, v in tensors.items()}
    strided = {k: v.detach() for k, v in tensors.items() if dtypes[k] in DTYPES}
    foreign = {k: Foreign(d, _shape(tensors[k])) for k, d in dtypes.items() if k not in strided}
    check_growth(sum(v.numel() * v.element_size() for v in strided.values()), path)
    return {k: _array(v) for k, v in strided.items()}, foreign


def write(
    path: Path, arrays: Mapping[str, np.ndarray], optimizer: Mapping[str, Any] | None = None
) -> None:
    """Write a state dict: bare, or nested together with an optimizer's.

    Raises:
        OSError: The file system refuses.
    """
    data: dict[str, Any] = {name: _tensor(array) for name, array in contiguous(arrays).items()}
    if optimizer is not None:
        data = {NESTS[0]: data, OPTIMIZERS[0]: _with_tensors(optimizer)}
    with path.open("wb") as file:
        target = Target(file)
        try:
            torch.save(data, target)  # type: ignore[arg-type]  # it writes, and that is all
        except Exception as error:
            raise target.error or error from None


def is_legacy(path: Path) -> bool:
    """Return whether a file is of before PyTorch 1.6, which cannot be memory-mapped."""
    with path.open("rb") as file:
        return LEGACY_TORCH in file.read(64)


def load(path: Path, mapped: bool) -> object:
    """Return what a file holds; run `check_bytes` first.

    Args:
        path: The file.
        mapped: As for `read`.

    Raises:
        InputError: PyTorch refuses it.
        OSError: The file system refuses.
    """
    try:
        with (
            path.open("rb") as file,  # given a path, PyTorch goes by its suffix
            warnings.catch_warnings(),
            torch.serialization.safe_globals(PLACEHOLDERS),
        ):
            warnings.simplefilter("ignore")  # of pickle protocols and of storages of old
            source = path if mapped else file
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError:
        raise
    except Exception as error:  # bytes at will: the unpickler may fail in any way
        raise InputError(f"{path} is not a readable torch file: {reason(error)}") from error


def check_bytes(path: Path) -> None:
    """Look at what `torch.load` does not: checksums, and how much there will be.

    Raises:
        InputError: A record is not what was written, or the file would grow beyond measure.
    """
    try:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            if data.find(LEGACY_TORCH, 0, 64) >= 0:
                check_stream(data)
                return
        if not zipfile.is_zipfile(path):
            raise ValueError("truncated or damaged")
        with zipfile.ZipFile(path) as archive:
            for record in checked(archive, path):
                _check_record(archive, record)
    except OSError:
        raise
    except Exception as error:  # bytes at will, as below
        raise unreadable(path, "is damaged", error) from error


def _check_record(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    if not record.CRC:  # PyTorch was set not to compute one
        record.CRC = None  # type: ignore[assignment]  # by which `zipfile` compares none
    with archive.open(record) as file:
        if record.filename.endswith("data.pkl"):
            check_pickle(io.BytesIO(file.read()))
        elif record.CRC:
            while file.read(1 << 20):
                pass


def reason(error: Exception) -> str:
    """Shorten PyTorch's error on a file to one line, without its advice to read it unsafely.

    Args:
        error: The exception from `torch.load`.
    """
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"it holds a {found[1]}, expected only tensors"
    if "TorchScript" in text:
        return "it is a TorchScript archive: save the state_dict() of what torch.jit.load gives"
    if "legacy .tar" in text:
        return "it is a tar archive of before PyTorch 0.2: save it again with a later PyTorch"
    if found := re.search(r"WeightsUnpickler error:\s*(.+)", text):
        text = found[1]
    elif "zip archive" in text or isinstance(error, EOFError):
        return "it is truncated or damaged"
    line = first_line(ValueError(text))
    if "weights_only" in line:
        return f"PyTorch refuses it as unsafe or damaged ({type(error).__name__})"
    return line


def _optimizer(data: object) -> tuple[dict[str, Any] | None, str]:
    """Return an optimizer's state dict with NumPy arrays; or none, and why there is none."""
    given = data if isinstance(data, Mapping) else {}
    found = [given[name] for name in OPTIMIZERS if name in given] + _listed(given)
    if len(found) != 1:
        return None, f"{len(found)} optimizers, expected one"
    (nested,) = found
    try:
        state = {
            int(index): {str(slot): _value(value) for slot, value in slots.items()}
            for index, slots in nested["state"].items()
        }
        groups = [
            {k: _values(v) for k, v in group.items()} | {"params": list(map(int, group["params"]))}
            for group in nested["param_groups"]
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None, "it is no state of an optimizer of PyTorch's"
    if not state or not groups:
        return None, "it holds nothing of any parameter, as before a step, or of plain SGD"
    return {"state": state, "param_groups": groups}, ""


def _listed(data: object) -> list[Any]:
    """Return the optimizers' states that Lightning keeps in a list."""
    found = data.get(OPTIMIZER_LIST) if isinstance(data, Mapping) else None
    return list(found) if isinstance(found, list | tuple) else []


def _values(value: object) -> object:
    """Return a hyperparameter: one value, or some, such as Adam's betas."""
    return list(map(_value, value)) if isinstance(value, tuple | list) else _value(value)


def _value(value: object) -> object:
    if not isinstance(value, torch.Tensor):
        return value
    if dtype_of(value) not in DTYPES:
        raise TypeError(f"{dtype_of(value)} is no dtype of ours")
    return _array(value.detach())


def _with_tensors(nested: Mapping[str, Any]) -> dict[str, Any]:
    state = {
        index: {slot: _tensor(np.asarray(value)) for slot, value in slots.items()}
        for index, slots in nested["state"].items()
    }
    return {"state": state, "param_groups": nested["param_groups"]}


def dtype_of(tensor: torch.Tensor) -> str:
    """Return the name of a tensor's dtype, or what else makes it one that is not read."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_nested or tensor.layout is not torch.strided:
        layout = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        return f"not dense ({layout} of {dtype})"
    if tensor.is_meta:
        return f"not dense (on meta, {dtype} without numbers)"
    return f"quantised ({dtype})" if tensor.is_quantized else dtype


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    return () if tensor.is_nested else tuple(tensor.shape)  # which has one for each of its parts


def _array(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype is torch.bfloat16:  # NumPy has no bfloat16: converted by its bits
        bits = tensor.contiguous().view(torch.int16).numpy()
        return bits.view(numpy_dtype("bfloat16"))
    return np.array(tensor.numpy(), order="C", copy=None)


def _tensor(array: np.ndarray) -> torch.Tensor:
    whole = np.require(array, requirements=["C", "W"])
    if whole.dtype.name == "bfloat16":
        return torch.from_numpy(whole.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(whole)
