"""Reading traces, array by array, as they are needed; see docs/traces.md."""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import json
import math
import os
import struct
import threading
import weakref
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from parity.capture.run import FLOAT64
from parity.capture.spill import SpilledArray, read_into
from parity.spec.errors import InputError, shortened
from parity.trace.recorder import INDEX
from parity.trace.schema import checked

LOCAL = 30  # bytes of a member's header in a zip file, before its name and what follows that
END = 22  # bytes of the record at a zip file's end, before its comment
HEADER = 10  # bytes of a .npy file before its description, whose length is in the last two
# Python 3.11 raises SystemError where two threads parse at the same time.
PARSING = threading.Lock()
# Types of a .npy file: little-endian, or of one byte.
DESCRIPTIONS = {"|b1", "|i1", "|u1", "<f2", "<f4", "<f8"}
DESCRIPTIONS |= {f"<{sign}{size}" for sign in "iu" for size in (2, 4, 8)}

Key = tuple[str, str, int | None]  # mode or kind, precision, disturbance


class TraceFile:
    """A trace that is open for reading; arrays are read when they are wanted.

    Args:
        path: The file.

    Attributes:
        index: Its index; see docs/traces.md. Every key is there.
        sha256: The hash of the index, which identifies the content.
        runs: Runs of the whole network by mode, precision and disturbance.
        alone: Runs of layers alone, by the same.
        training: Steps, by kind, precision and disturbance.
        narrow: Whether nothing was recorded in float64, and runs that were disturbed say how far
            the reference's rounding goes. Then all that has a disturbed twin in the working
            precision is listed as float64, too.

    Raises:
        InputError: It is no trace, or was cut off or altered.
    """

    _wide_of: TraceFile | None = None

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        try:
            self.file = open(path, "rb")  # noqa: SIM115 - it is read from until the end
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        # Not by `__del__`: in a cycle the file may be finalized before the trace, and warn.
        weakref.finalize(self, self.file.close)
        self.size = os.fstat(self.file.fileno()).st_size
        try:
            self.zip = zipfile.ZipFile(self.file)
            self.members = {info.filename: info for info in self.zip.infolist()}
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError(f"{path}: cut off, or no trace: {error}") from error
        if len(self.members) < len(self.zip.infolist()):
            raise InputError(f"{path}: two members have one name")
        if not self._is_whole():
            raise InputError(f"{path} was altered: something stands before its zip file, or behind")
        self.index = checked(self._index(), self.path)
        self.verified: set[str] = set()
        self.places: dict[str, tuple[int, np.dtype, tuple[int, ...]]] = {}
        self._refuse_other_members()
        self.runs = self._keyed("runs", "mode")
        self.alone = self._keyed("alone", "mode")
        self.training = self._keyed("training", "kind")
        each = (self.runs, self.alone, self.training)
        exact = FLOAT64 in {key[1] for found in each for key in found}
        self.narrow = not exact and 0 in {key[2] for key in self.runs}
        for found in each if self.narrow else ():
            for (first, precision, disturbance), run in list(found.items()):
                if (first, precision, 0) in found:  # else nothing says how exact it is
                    found[first, FLOAT64, disturbance] = run

    def widened(self) -> TraceFile:
        """Return the same file, whose floating-point arrays are given as float64."""
        made = copy.copy(self)
        made._wide_of = self  # which closes the file when nothing needs it any more
        return made

    def _is_whole(self) -> bool:
        """Return whether the file begins and ends with the zip file, which `zipfile` looks for."""
        self.file.seek(self.size - END - len(self.zip.comment))
        end = self.file.read(4)
        self.file.seek(0)
        begins = self.file.read(4) == b"PK\3\4"
        # Behind another zip file `zipfile` moves the places of all members.
        begins = begins and min((i.header_offset for i in self.zip.infolist()), default=0) == 0
        return begins and end == b"PK\5\6"

    def _index(self) -> Any:
        """Return the index; the zip file's own checksum has been compared."""
        if INDEX not in self.members:
            raise InputError(f"{self.path}: no member {INDEX}, expected a trace")
        self._refuse_unstored(INDEX)
        try:
            with self.zip.open(INDEX) as member:
                data = member.read()
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise InputError(f"{self.path}: {INDEX} was altered: {error}") from error
        try:
            length = HEADER + int.from_bytes(data[8:HEADER], "little")
            size, shape, dtype = read_header(data[:length])
            if len(shape) != 1 or dtype != np.uint8:
                raise ValueError(f"{dtype} {shape}, expected bytes")
            self.sha256 = hashlib.sha256(data[size:]).hexdigest()
            return json.loads(data[size:])
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.path}: {INDEX} is not JSON: {error}") from error

    def _keyed(self, kind: str, first: str) -> dict[Key, dict[str, Any]]:
        found: dict[Key, dict[str, Any]] = {}
        for run in self.index[kind]:
            key = (run[first], run["precision"], run.get("disturbance"))
            if key in found:
                shown = " ".join(str(part) for part in key if part is not None)
                raise InputError(f"{self.path}: two {kind} are {shown}, expected one")
            found[key] = run
        return found

    def _refuse_other_members(self) -> None:
        """Refuse other members than the index names, and those compressed or outside the file."""
        named = {f"{name}.npy" for name in self.index["arrays"]}
        for member in sorted(named - self.members.keys()):
            raise InputError(f"{self.path}: no member {member}, which the index names")
        for member in sorted(self.members.keys() - named - {INDEX}):
            raise InputError(f"{self.path}: a member {shortened(member, 60)!r} that no index names")
        for member in sorted(named):
            self._refuse_unstored(member)

    def _refuse_unstored(self, member: str) -> None:
        info = self.members[member]
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise InputError(f"{self.path}: {member} is compressed, expected it stored")
        if info.header_offset + LOCAL + info.file_size > self.size:
            raise InputError(f"{self.path}: {member} lies beyond the end of the file")

    @property
    def precision(self) -> str:
        """The working precision."""
        return str(self.index["precision"])

    @property
    def base(self) -> str:
        """The precision of the most exact runs: float64, or the working one if there are none."""
        exact = any(precision == FLOAT64 for _, precision, _ in self.runs)
        return FLOAT64 if exact else self.precision

    def read(self, offset: int, size: int) -> bytes:
        """Return so many bytes from a place in the file.

        Raises:
            InputError: The file ends before.
        """
        data = np.empty(size, np.uint8)
        self.read_into(data, offset)
        return data.tobytes()

    def read_into(self, data: np.ndarray, offset: int) -> None:
        """Fill an array of bytes from a place in the file.

        Raises:
            InputError: The file ends before.
        """
        try:
            read_into(self.file.fileno(), data, offset)
        except OSError as error:
            raise InputError(f"{self.path}: {error}") from error

    def lazy(self, name: str) -> Any:
        """Return an array that is read, and verified, when NumPy computes with it."""
        offset, dtype, shape = self._place(name)
        if self.index["arrays"][name]["dtype"] == "bfloat16" or self._wide_of:
            return self.array(name)
        return StoredArray(Verified(self, name), offset, shape, dtype)

    def array(self, name: str) -> np.ndarray:
        """Return an array.

        Raises:
            InputError: It is not the one that was recorded.
        """
        offset, dtype, shape = self._place(name)
        array = np.asarray(StoredArray(Verified(self, name), offset, shape, dtype))
        if self._wide_of and array.dtype.kind == "f":
            return array.astype(FLOAT64)
        if self.index["arrays"][name]["dtype"] == "bfloat16":
            return array.astype(ml_dtypes.bfloat16)
        return array

    def verify(self) -> None:
        """Read what was not read yet, and compare its hash.

        Raises:
            InputError: It is not what was recorded.
        """
        for name in self.index["arrays"].keys() - self.verified:
            self.array(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return an array's shape without reading it."""
        return tuple(self.index["arrays"][name]["shape"])

    def _place(self, name: str) -> tuple[int, np.dtype, tuple[int, ...]]:
        """Return where an array's numbers begin in the file, their type, and their shape."""
        if name not in self.places:
            info, entry = self.members[f"{name}.npy"], self.index["arrays"][name]
            local = self.read(info.header_offset, LOCAL)
            begin = info.header_offset + LOCAL + sum(struct.unpack("<HH", local[26:30]))
            head = self.read(begin, min(info.file_size, HEADER))
            length = HEADER + int.from_bytes(head[8:], "little")
            try:
                size, shape, dtype = read_header(self.read(begin, min(info.file_size, length)))
            except ValueError as error:
                raise InputError(f"{self.path}: {name}.npy was altered: {error}") from error
            wanted = "float32" if entry["dtype"] == "bfloat16" else entry["dtype"]
            if (dtype.name, shape) != (wanted, self.shape(name)):
                raise InputError(
                    f"{self.path}: {name}.npy is {dtype.name} {shape}, the index says {wanted}"
                    f" {self.shape(name)}"
                )
            if size + math.prod(shape) * dtype.itemsize != info.file_size:
                raise InputError(
                    f"{self.path}: {name}.npy has {info.file_size:,} bytes, too few or too many"
                    f" for its shape {shape}"
                )
            self.places[name] = (begin + size, dtype, shape)
        return self.places[name]

    def arrays(self, names: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Return arrays by key."""
        return {key: self.array(name) for key, name in names.items()}

    def tree(self, value: Any, make: Callable[[str], Any]) -> Any:
        """Return a nest of what the index holds as a tree.

        Args:
            value: The tree.
            make: Returns the array of a name.
        """
        if not isinstance(value, dict):
            return value
        kind, inner = next(iter(value.items()))
        if kind == "list":
            return tuple(self.tree(item, make) for item in inner)
        if kind == "dict":
            return {key: self.tree(item, make) for key, item in inner.items()}
        if kind == "array":
            return make(inner)
        return float(inner) if kind == "number" else Unrecorded(inner)


class StoredArray(SpilledArray):
    """An array in a trace; what NumPy reads lies in the order of its axes, as a live one's does."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read it."""
        del copy  # what is read is the caller's own
        turned = self.axes != tuple(range(self.ndim))
        size = self.size * self.dtype.itemsize
        # Memory that is fetched anew for each array takes as long as reading does.
        data = scratch(size) if turned else np.empty(size, np.uint8)
        self.spilled.read_into(data, self.offset)
        array = data.view(self.dtype).reshape(self.stored_shape).transpose(self.axes)
        array = array.copy() if turned else array
        return array if dtype is None else array.astype(dtype)


LOCAL_MEMORY = threading.local()


def scratch(size: int) -> np.ndarray:
    """Return so many bytes of memory that the thread's next call returns again."""
    memory: np.ndarray | None = getattr(LOCAL_MEMORY, "bytes", None)
    if memory is None or len(memory) < size:
        memory = LOCAL_MEMORY.bytes = np.empty(size, np.uint8)
    return memory[:size]


class Stored:
    """Stands for an array, by its name."""

    def __init__(self, name: str) -> None:
        self.name = name


class Unrecorded:
    """Stands for an argument that a trace does not hold.

    Attributes:
        kind: The name of its class.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind}, not recorded>"


class Verified:
    """One array's bytes, whose hash is compared when they are read first.

    Args:
        trace: The file.
        name: The array's name.
    """

    def __init__(self, trace: TraceFile, name: str) -> None:
        self.trace, self.name = trace, name

    def read_into(self, data: np.ndarray, offset: int) -> None:
        """Fill an array of bytes from a place in the file.

        Raises:
            InputError: They are not those that were recorded.
        """
        self.trace.read_into(data, offset)
        if self.name not in self.trace.verified:
            recorded = self.trace.index["arrays"][self.name]["sha256"]
            if hashlib.sha256(data.data).hexdigest() != recorded:
                raise InputError(
                    f"{self.trace.path}: {self.name}.npy was altered: its SHA-256"
                    " is not the one that the index names"
                )
            self.trace.verified.add(self.name)


@functools.lru_cache(4096)  # most arrays of a network have the shape of many others
def read_header(data: bytes) -> tuple[int, tuple[int, ...], np.dtype]:
    """Return the size of the head of a .npy file of version 1.0, the array's shape, and its type.

    NumPy's own reader warns of some heads, and raises anything of others.

    Raises:
        ValueError: It is none, or of an array that is not little-endian numbers in C order.
    """
    if data[:8] != b"\x93NUMPY\x01\x00":
        raise ValueError("not version 1.0 of .npy")
    size = HEADER + int.from_bytes(data[8:HEADER], "little")
    try:
        with PARSING:
            head = ast.literal_eval(data[HEADER:size].decode("ascii").strip())
        descr, shape, fortran = head["descr"], head["shape"], head["fortran_order"]
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise ValueError("its head cannot be read") from error
    if not isinstance(descr, str) or descr not in DESCRIPTIONS or not isinstance(shape, tuple):
        raise ValueError(f"an array of {descr!r} {shape!r}, expected little-endian numbers")
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"shape {shape!r}, expected whole numbers from 0")
    if fortran and len(shape) > 1:
        raise ValueError("in Fortran order, expected C order")
    return size, shape, np.dtype(descr)
