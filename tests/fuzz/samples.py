"""Whole checkpoints of the smallest network that `load` knows, one per format."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from parity.spec.draw import weights
from parity.spec.models import MODELS
from weights_convert import convert, formats
from weights_convert.formats import sidecar

NETWORK = dataclasses.replace(MODELS["genet"], depth=10, width=1)  # type: ignore[type-var]  # a Config is a frozen dataclass

# Format -> the suffix that asks for it.
SUFFIXES = {format: suffix for suffix, format in reversed(formats.SUFFIXES.items()) if suffix}


def source(folder: Path, seed: int = 0) -> Path:
    """A file to convert from, without a manifest."""
    path = folder / f"source{seed}.safetensors"
    arrays = {k: np.asarray(v) for k, v in weights(NETWORK, seed).items()}
    formats.write(path, "safetensors", arrays, {})
    return path


def sample(folder: Path, format: str, seed: int = 0) -> Path:
    """A checkpoint with a manifest, in a folder of its own.

    Args:
        folder: In which the folder is made.
        format: A key of `formats.FORMATS`.
        seed: Of its numbers.
    """
    own = folder / f"{format}{seed}"
    own.mkdir()
    path = own / f"sample{SUFFIXES[format]}"
    convert(source(folder, seed), path, to="torch", labels="void-last")
    return path


def network(folder: Path) -> Path:
    """An ONNX file with a manifest."""
    import parity.export

    path = folder / "sample.onnx"
    parity.export.export("genet", source(folder), path)
    return path


def files_of(path: Path) -> list[Path]:
    """All that belongs to a checkpoint: the file and its manifest, or a directory's files."""
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    return [p for p in (path, sidecar.place(path)) if p.is_file()]
