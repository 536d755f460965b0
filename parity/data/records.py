"""Packed files, written by `parity pack`: one split of a data set in one file.

An ArrayRecord file. Each record but the last is a sample: its name, its pixels as they are, and its
trainIds or its class. The last describes the others. The format checks itself: a damaged chunk is
refused by its reader.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from parity.spec.datasets import BUILT_IN, DataSet
from parity.spec.errors import InputError
from parity.spec.training.written import KeyPath, dataset_of, plain

SUFFIX = ".array_record"
FORMAT, VERSION = "parity-records", 1
OPTIONS = "group_size:1,uncompressed"  # pixels are read faster than they are decompressed
HEADER = struct.Struct("<III")  # height, width, bytes of the name
HASHES = ("read_as", "names")  # only of a data set of the user's; files of 1.0 have none
MOST_BYTES = 1 << 20  # of the last record


@dataclasses.dataclass(frozen=True)
class Contents:
    """The description in the last record.

    Attributes:
        data: The data set.
        split: The data set's split.
        classes: Its classes, in the order of their trainIds.
        size: Height and width that all were resized to; None where each keeps its own.
        count: Number of samples.
        sha256: Hash of all samples' records, one after the other.
        own: The data set, where it is the user's.
        read_as: Hash of how its masks were read; None of a file that does not say.
        names: Hash of the names of its samples, likewise.
    """

    data: str
    split: str
    classes: tuple[str, ...]
    size: tuple[int, int] | None
    count: int
    sha256: str
    own: DataSet | None = None
    read_as: str | None = None
    names: str | None = None

    @property
    def pixels(self) -> bool:
        """Return whether each pixel has a class, not the image."""
        return (self.own or BUILT_IN[self.data]).pixels

    @property
    def size_said(self) -> str:
        """The size, for people."""
        return f"{self.size[0]}x{self.size[1]}" if self.size else "as they are"

    def to_bytes(self) -> bytes:
        entries = {"format": FORMAT, "version": VERSION, **plain(self)}
        for name in ("own", *HASHES):
            if entries[name] is None:
                del entries[name]
        return json.dumps(entries).encode()


def sample_bytes(name: str, image: np.ndarray, label: np.ndarray | int) -> bytes:
    """Encode one sample as a record.

    Args:
        name: For messages.
        image: (H, W, 3) uint8.
        label: Its trainIds (H, W) uint8, or its class.
    """
    said = name.encode(errors="replace")
    header = HEADER.pack(*image.shape[:2], len(said))
    values = label.tobytes() if isinstance(label, np.ndarray) else bytes([label])
    return header + said + image.tobytes() + values


class Records:
    """The samples of such a file.

    Raises:
        InputError: It cannot be read, or is another kind of file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.contents = self._contents()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "contents": self.contents}  # each process opens its own

    def __len__(self) -> int:
        return self.contents.count

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray | int]:
        """Return an image (H, W, 3) uint8; its trainIds (H, W) uint8, or its class."""
        _, image, label = self._sample(i)
        return image, label

    def label(self, i: int) -> np.ndarray | int:
        return self._sample(i)[2]

    def name(self, i: int) -> str:
        return f"{self.path}: {self._sample(i)[0]}"

    def identity(self) -> str:
        """Return a string that differs for other contents."""
        return self.contents.sha256

    def verify(self) -> None:
        """Read all of it.

        Raises:
            InputError: A record is damaged, or not what was written.
        """
        digest = hashlib.sha256()
        for i in range(len(self)):
            self._sample(i)
            digest.update(self._record(i))
        if digest.hexdigest() != self.contents.sha256:
            raise InputError(f"{self.path}: its records are not those that it was written with")

    def _sample(self, i: int) -> tuple[str, np.ndarray, np.ndarray | int]:
        record, where = self._record(i), f"{self.path}: record {i}"
        if len(record) < HEADER.size:
            raise InputError(f"{where} has {len(record)} bytes, expected a sample")
        height, width, named = HEADER.unpack_from(record)
        start, pixels, found = HEADER.size + named, height * width, self.contents
        labels = pixels if found.pixels else 1
        if not pixels or len(record) != start + 3 * pixels + labels:
            raise InputError(f"{where} has {len(record)} bytes, expected another number")
        if found.size not in (None, (height, width)):
            raise InputError(f"{where} is {height}x{width}, expected {found.size_said}")
        values = np.frombuffer(record, np.uint8, offset=start)
        image, label = np.split(values, [3 * pixels])
        most = len(found.classes) if found.pixels else len(found.classes) - 1  # of pixels, void too
        if label.max() > most:
            raise InputError(f"{where} has label {label.max()}, expected 0 to {most}")
        name = record[HEADER.size : start].decode(errors="replace")
        image = image.reshape(height, width, 3)
        return name, image, label.reshape(height, width) if found.pixels else int(label[0])

    def _record(self, i: int) -> bytes:
        if not hasattr(self, "_reader"):
            self._reader = _open(self.path)
        try:
            (record,) = self._reader.read([i])
        except (RuntimeError, ValueError, IndexError, OverflowError) as error:
            raise InputError(f"{self.path}: record {i} is damaged") from error
        return record

    def _contents(self) -> Contents:
        self._reader = _open(self.path)
        count = self._reader.num_records() - 1
        if count < 1:  # so many has a file of another kind, too
            raise InputError(f"{self.path}: no file of `parity pack`, or a damaged one")
        return parse(self._record(count), count, self.path)


def parse(record: bytes, count: int, path: Path) -> Contents:
    """Parse the last record of a file of `count` samples.

    Raises:
        InputError: It was not written by `parity pack`, or describes other samples.
    """
    refused = InputError(f"{path}: an ArrayRecord file, but not one of `parity pack`")
    try:
        entries = json.loads(record) if len(record) <= MOST_BYTES else None
    except (ValueError, RecursionError):
        raise refused from None
    if not isinstance(entries, dict) or entries.pop("format", None) != FORMAT:
        raise refused
    if (version := entries.pop("version", None)) != VERSION:
        raise InputError(f"{path}: version {version!r:.20} of its format, expected {VERSION}")
    kinds = {"data": str, "split": str, "classes": list, "count": int, "sha256": str}
    size, own = entries.get("size"), entries.pop("own", None)
    kinds |= dict.fromkeys((name for name in HASHES if name in entries), str)
    right = set(entries) == {*kinds, "size"} and all(
        type(entries[name]) is kind for name, kind in kinds.items()
    )
    right = right and all(type(name) is str for name in entries["classes"])
    right = right and (size is None or _is_size(size))
    if not right or entries["count"] != count or not 0 < len(entries["classes"]) < 256:
        raise InputError(f"{path}: its last record does not speak of its {count} samples")
    entries["classes"] = tuple(entries["classes"])
    if own is not None:
        entries["own"] = dataset_of(own, KeyPath(str(path), "own"))
        if (entries["own"].name, entries["own"].classes) != (entries["data"], entries["classes"]):
            raise InputError(f"{path}: its last record describes two data sets")
    elif entries["data"] not in BUILT_IN:
        raise InputError(f"{path} is of data set {entries['data']!r}, which it does not describe")
    return Contents(**{**entries, "size": None if size is None else (size[0], size[1])})


def _is_size(size: Any) -> bool:
    return isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)


def _open(path: Path) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        # Of whole images there is nothing to be gained by reading ahead of what is asked for.
        return ArrayRecordReader(str(path), "readahead_buffer_size:0")
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path}: no file of `parity pack`, or a damaged one") from error
