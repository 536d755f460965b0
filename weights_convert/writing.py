"""Drafting a checkpoint, writing it, and verifying it by reading it back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.spec.errors import InputError, listed
from parity.spec.models import Config
from parity.spec.preprocessing import Preprocessing, published
from parity.spec.tensors import layouts
from weights_convert import formats, naming, optimizer_tensors, torch_optimizer
from weights_convert import manifest as manifests
from weights_convert.checkpoint import Checkpoint, identify
from weights_convert.formats import KEY
from weights_convert.hashes import tensor_sha256s, whole_sha256
from weights_convert.manifest import Manifest
from weights_convert.memory import different
from weights_convert.numbering import own_order
from weights_convert.optimizer import Optimizer
from weights_convert.replacing import replacing


@dataclasses.dataclass(frozen=True)
class Draft:
    """The contents of a checkpoint to write.

    Attributes:
        named: The naming scheme's name -> array.
        nested: An optimizer's state in the form of `torch.optim`, for a torch file with torch
            names.
        optimizer: The same state in canonical form.
        manifest: The file's manifest.
    """

    named: dict[str, np.ndarray]
    nested: dict[str, Any] | None
    optimizer: Optimizer | None
    manifest: Manifest


def draft_of(
    config: Config,
    format: str,
    arrays: Mapping[str, np.ndarray],
    optimizer: Optimizer | None,
    manifest: Manifest,
) -> Draft:
    named, nested = naming.to_naming_scheme(config, arrays, manifest.naming_scheme), None
    as_torch = (format, manifest.naming_scheme) == ("torch", "torch")
    if as_torch and manifest.layout is not None:
        named = {key: named[key] for key in layouts(config)[manifest.layout]}
    if optimizer and as_torch:
        nested = torch_optimizer.to_torch(config, optimizer, manifest.layout)
    elif optimizer:
        named |= optimizer_tensors.to_naming_scheme(config, optimizer, manifest.naming_scheme)
    return Draft(named, nested, optimizer, manifest)


def manifest_of(
    checkpoint: Checkpoint,
    naming_scheme: str,
    arrays: Mapping[str, np.ndarray],
    optimizer: Optimizer | None,
    labels: str | None,
    preprocessing: Preprocessing | None,
) -> Manifest:
    """Make the manifest of the target."""
    config, said = checkpoint.config, checkpoint.manifest
    labels = labels or checkpoint.labels
    if preprocessing is None and said is not None:
        preprocessing = _relabeled(config, said, labels)
    hashes = tensor_sha256s({**arrays, **(optimizer.flat() if optimizer else {})})
    return Manifest(
        network=checkpoint.network,
        config=config.describe(),
        naming_scheme=naming_scheme,
        labels=labels,
        preprocessing=preprocessing or published(config, labels),
        optimizer=optimizer.describe(config) if optimizer else None,
        source_sha256=checkpoint.sha256,
        tensors=hashes,
        tensors_sha256=whole_sha256(hashes),
        tool_version=manifests.tool_version(),
        layout=_layout(checkpoint, arrays),
        assumed=checkpoint.assumed,
    )


def _layout(checkpoint: Checkpoint, arrays: Mapping[str, np.ndarray]) -> str | None:
    """Return `Checkpoint.layout`, or None where such a class lacks some nonzero weights."""
    if checkpoint.layout is None:
        return None
    kept = set(layouts(checkpoint.config)[checkpoint.layout])
    more = any(array.any() for key, array in arrays.items() if key not in kept)
    return None if more else checkpoint.layout


def _relabeled(config: Config, said: Manifest, labels: str | None) -> Preprocessing:
    """Return a manifest's preprocessing, with classes and void adapted to other labels."""
    old, new = published(config, said.labels), published(config, labels)
    fields = ("classes", "void")
    theirs = [f for f in fields if getattr(said.preprocessing, f) == getattr(old, f)]
    return dataclasses.replace(said.preprocessing, **{f: getattr(new, f) for f in theirs})


def write_verified(
    target: Path,
    format: str,
    config: Config,
    draft: Draft,
    network: str | None = None,
    *,
    identifiable: bool = True,
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> int:
    """Write a checkpoint, and read it back before it replaces the target.

    Args:
        target: What to write; what is there is replaced in one step.
        format: A key of `formats.FORMATS`.
        config: The network.
        draft: What to write.
        network: As for `load`.
        identifiable: As for `verify_written`.
        metadata: Other texts to store with the manifest.
        progress: Called with a description of the next action.

    Returns:
        Size in bytes of the file or directory, without a separate manifest.

    Raises:
        InputError: The file system refuses, or what was written holds something else. Then nothing
            has changed.
    """
    with replacing(target) as path:
        try:
            progress(f"writing {target}")
            texts = {KEY: draft.manifest.to_json()} | dict(metadata or {})
            written = formats.write(path, format, draft.named, texts, draft.nested)
            progress("reading it back")
            verify_written(path, written, network, config, draft, identifiable)
        except InputError as error:  # names the place where it is made
            raise InputError(str(error).replace(str(path), str(target))) from error
        files = path.rglob("*") if path.is_dir() else [path]
        return sum(p.stat().st_size for p in files if p.is_file())


def verify_written(
    path: Path,
    written: str,
    network: str | None,
    config: Config,
    draft: Draft,
    identifiable: bool = True,
) -> None:
    """Compare a file's contents with the draft, bit by bit.

    Args:
        path: The file.
        written: The result of `formats.write`.
        network: As for `load`.
        config: The configuration of the variant it should hold.
        draft: The contents that were written.
        identifiable: Whether the variant must be identifiable from the file alone.

    Raises:
        InputError: Its contents differ.
    """
    contents = formats.read(path, written)
    wrong = different(draft.named, contents.arrays)
    if draft.nested is not None and draft.optimizer is not None:
        layout = draft.manifest.layout
        order = own_order(config, contents.arrays, draft.manifest.naming_scheme)
        found = torch_optimizer.from_torch(config, contents.optimizer or {}, order, layout)
        wrong += different(draft.optimizer.flat(), found.flat())
        wrong += [] if found.groups == draft.optimizer.groups else ["the optimizer's groups"]
    if wrong:
        raise InputError(f"cannot write {path}: read back, {listed(wrong)} differ")
    naming_scheme = draft.manifest.naming_scheme
    known = identify(contents, path, network, naming_scheme, None if identifiable else config)
    said = known.manifest.to_json() if known.manifest else None  # in which NaN is NaN
    if known.config != config or said != draft.manifest.to_json():
        raise InputError(f"cannot write {path}: read back, its manifest differs")
