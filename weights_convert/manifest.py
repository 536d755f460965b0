"""What a checkpoint says about itself: a small JSON object that travels with it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.spec.data.labels import ORDERS
from parity.spec.errors import InputError
from weights_convert.formats import KEY

TOOL = "parity-suite"
VERSION = 1  # of the manifest's form


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A checkpoint's statement of what it is.

    Attributes:
        network: The family, such as `enet`.
        config: What `parity.spec.models.Config.describe` says.
        dialect: Whose names the file carries.
        labels: One of `parity.spec.data.labels.ORDERS`, or none where nobody said.
        source_sha256: Of the file that was converted.
        tensors_sha256: See `tensors_sha256`.
    """

    network: str
    config: dict[str, Any]
    dialect: str
    labels: str | None
    source_sha256: str
    tensors_sha256: str

    def to_json(self) -> str:
        entries = {"tool": TOOL, "version": VERSION, **dataclasses.asdict(self)}
        return json.dumps(entries, indent=1)


def parse(metadata: Mapping[str, str], where: Path) -> Manifest | None:
    """The manifest among a checkpoint's metadata, if there is one of ours.

    Raises:
        InputError: It is damaged, or of a version that this one does not know.
    """
    if KEY not in metadata:
        return None
    try:
        entries = json.loads(metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise InputError(f"the manifest of {where} is not JSON: {error}") from error
    if not isinstance(entries, dict) or entries.get("tool") != TOOL:
        return None  # somebody else's
    if entries.get("version") != VERSION:
        raise InputError(
            f"the manifest of {where} is of version {entries.get('version')}, expected {VERSION}"
        )
    return _manifest(entries, where)


def verify(
    manifest: Manifest,
    found: Mapping[str, object],
    arrays: Mapping[str, np.ndarray],
    where: Path,
    loose: tuple[str, ...] = (),
) -> None:
    """Refuse a checkpoint that is not what its manifest says.

    Args:
        manifest: What was found with it.
        found: `network`, `config` and `dialect`, as they were found.
        arrays: Published key -> array, in the published order.
        where: The file, for the message.
        loose: Fields of `config` that do not count.

    Raises:
        InputError: One of them differs, or the tensors do.
    """

    def counted(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: v for k, v in value.items() if k not in loose}

    for name, value in found.items():
        if counted(getattr(manifest, name)) != counted(value):
            raise InputError(
                f"the manifest of {where} says {name} {getattr(manifest, name)}, found {value}"
            )
    if tensors_sha256(arrays) != manifest.tensors_sha256:
        raise InputError(
            f"{where} does not hold the tensors its manifest was written for: damaged, or changed"
            " since (then remove the manifest)"
        )


def tensors_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """One hash of names, dtypes, shapes and values, alike in every format and dialect.

    Args:
        arrays: Published key -> array of PyTorch's shape, in the published order.
    """
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.tobytes())  # in C order, however it lies in memory
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """The hash of a file; of a directory: of its files' names and hashes, in sorted order."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        lines = [f"{p.relative_to(path).as_posix()} {file_sha256(p)}\n" for p in files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest(entries: dict[str, Any], where: Path) -> Manifest:
    fields = [field.name for field in dataclasses.fields(Manifest)]
    missing = [name for name in fields if name not in entries]
    if missing:
        raise InputError(f"the manifest of {where} lacks {', '.join(missing)}")
    if entries["labels"] not in (None, *ORDERS):
        raise InputError(
            f"the manifest of {where} says labels {entries['labels']!r},"
            f" expected one of {', '.join(ORDERS)} or null"
        )
    return Manifest(**{name: entries[name] for name in fields})
