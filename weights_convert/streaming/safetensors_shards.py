"""Safetensors files, read and written one tensor at a time. Imports no framework."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from parity.spec.errors import InputError
from weights_convert.formats.safetensors_file import DTYPES, read_header, tied_names
from weights_convert.hashes import begun
from weights_convert.memory import as_bytes
from weights_convert.streaming.plan import Tensor, describe, numpy_dtype

# The format's name of a dtype -> ours, also of those that no network of ours has.
ALL = DTYPES | {
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}
THEIRS = {ours: theirs for theirs, ours in ALL.items()}
BLOCK = 1 << 23  # bytes that are laid out, hashed and written at a time


class Shard:
    """A file whose tensors are memory-mapped when they are asked for.

    Attributes:
        tensors: Name -> shape and dtype.
        metadata: Text in the header.
        beside: Names of what is no tensor: none, since such a file holds nothing else.
    """

    beside: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        entries, metadata, self._start = read_header(path)
        self._path = path
        self.tensors: dict[str, Tensor] = {}
        self._offsets: dict[str, int] = {}
        for name, entry in entries.items():
            dtype = ALL.get(entry["dtype"], entry["dtype"])
            self.tensors[name] = describe(name, tuple(entry["shape"]), dtype, path)
            self._offsets[name] = entry["data_offsets"][0]
        tied = tied_names(self.tensors.keys(), (), metadata)
        self.tensors |= {name: self.tensors[kept] for name, kept in tied.items()}
        self._offsets |= {name: self._offsets[kept] for name, kept in tied.items()}
        self.metadata = {k: text for k, text in metadata.items() if k not in tied}

    def load(self, name: str) -> np.ndarray:
        """Return a tensor as a view of the file, which is mapped as long as the view lives."""
        tensor = self.tensors[name]
        dtype = numpy_dtype(tensor.dtype)
        if not tensor.nbytes:
            return np.zeros(tensor.shape, dtype)
        at = self._start + self._offsets[name]
        mapped = np.memmap(self._path, np.uint8, "r", at, (tensor.nbytes,))
        return np.asarray(mapped).view(dtype).reshape(tensor.shape)

    def sha256(self, name: str) -> str:
        """Return a tensor's hash, as `weights_convert.hashes.tensor_sha256s` does."""
        tensor = self.tensors[name]
        digest = begun(tensor.dtype, tensor.shape)
        with self._path.open("rb") as file:
            file.seek(self._start + self._offsets[name])
            left = tensor.nbytes
            while left:
                block = file.read(min(BLOCK, left))
                if not block:
                    raise InputError(f"{self._path} is truncated: {name} ends before its size")
                digest.update(block)
                left -= len(block)
        return digest.hexdigest()


def layout(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """Return a file's header, with its length before it, and the order of its tensors.

    Raises:
        InputError: The format has no such dtype.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    names = sorted(tensors, key=lambda n: -numpy_dtype(tensors[n].dtype).itemsize)  # aligned
    end = 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in THEIRS:
            raise InputError(f"{name} is {tensor.dtype}, which safetensors cannot hold")
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": THEIRS[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, names


def blocks(array: np.ndarray) -> Iterator[memoryview]:
    """Yield an array's bytes in C order, a block at a time, so that no view is copied whole."""
    if array.flags.c_contiguous:
        flat = as_bytes(array)
        for start in range(0, flat.size, BLOCK):
            yield flat[start : start + BLOCK].data
    elif array.nbytes <= BLOCK:
        yield as_bytes(array).data
    elif len(array) == 1:
        yield from blocks(array[0])
    else:
        rows = max(1, len(array) * BLOCK // array.nbytes)
        for start in range(0, len(array), rows):
            part = array[start : start + rows]
            yield from blocks(part[0] if len(part) == 1 else part)
