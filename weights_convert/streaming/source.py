"""A source of a conversion: tensors that are described at once, and read one at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from weights_convert.formats import sidecar
from weights_convert.hashes import file_sha256, text_sha256
from weights_convert.memory import each
from weights_convert.streaming.plan import Tensor


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint of any network.

    Attributes:
        path: The file or directory.
        format: What it is, for people.
        tensors: Name -> shape and dtype.
        load: Reads one tensor by name; the array may be a view of the file.
        files: Every file that is read, the index first; a directory of Orbax's as one.
        metadata: Text stored with the tensors.
        skipped: Other entries of the source.
    """

    path: Path
    format: str
    tensors: Mapping[str, Tensor]
    load: Callable[[str], np.ndarray]
    files: tuple[Path, ...]
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Return what changes when a file does: paths, sizes and times of change."""
        lines = [str(self.path.resolve())]
        for file in self.files:
            inside = sorted(file.rglob("*")) if file.is_dir() else [file]
            stats = [(p, p.stat()) for p in inside]
            lines += [f"{p.name} {s.st_size} {s.st_mtime_ns}" for p, s in stats]
        return text_sha256("\n".join(lines))

    def sha256(self) -> str:
        """Return the hash of the file or directory; of shards that of their names and hashes."""
        if len(self.files) == 1:
            return file_sha256(self.files[0], sidecar.INSIDE)
        return shards_sha256(self.files)


def shards_sha256(files: tuple[Path, ...]) -> str:
    """Return one hash of an index and its shards: of their names and hashes."""
    ordered = sorted(files)
    hashes = each(file_sha256, ordered)
    return text_sha256("".join(f"{f.name} {h}\n" for f, h in zip(ordered, hashes, strict=True)))
