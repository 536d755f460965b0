"""Converting a checkpoint to another format and naming scheme."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from parity.spec.errors import InputError, listed
from parity.spec.labels import ORDERS
from parity.spec.models import MODELS, check_takes_images
from parity.spec.preprocessing import Preprocessing
from parity.spec.preprocessing import check as check_preprocessing
from weights_convert import formats, naming
from weights_convert.checkpoint import Checkpoint, family_of, load
from weights_convert.formats import sidecar
from weights_convert.formats.base import numpy_dtype
from weights_convert.formats.sniffing import is_orbax
from weights_convert.manifest import Manifest
from weights_convert.memory import rounded
from weights_convert.numbering import parameters
from weights_convert.optimizer import Optimizer
from weights_convert.wrapping import ANY, Choice
from weights_convert.writing import draft_of, manifest_of, write_verified


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        source: The checkpoint that was read.
        path: The path that was written.
        format: Its format, a key of `weights_convert.formats.FORMATS`.
        manifest: Its manifest.
        lost: Published keys of nonzero tensors that have no name in the target's naming scheme;
            optimizer state as named by `Optimizer.flat`.
        tensors: Number of tensors.
        parameters: Number of trained numbers in them.
        bytes: Size of the file, without a separate manifest; of everything in an Orbax directory.
    """

    source: Checkpoint
    path: Path
    format: str
    manifest: Manifest
    lost: tuple[str, ...]
    tensors: int
    parameters: int
    bytes: int

    @property
    def naming_scheme(self) -> str:
        """Return its naming scheme: `torch`, `jax` or `mindspore`."""
        return self.manifest.naming_scheme

    @property
    def skipped(self) -> tuple[str, ...]:
        """Return the names of entries of the source that the target lacks."""
        return (*self.source.skipped, *(f"metadata {name}" for name in self.source.metadata))


def convert(
    source: str | Path,
    target: str | Path,
    network: str | None = None,
    to: str | None = None,
    labels: str | None = None,
    *,
    naming_scheme: str | None = None,
    choice: Choice = ANY,
    dtype: str | None = None,
    preprocessing: Preprocessing | None = None,
    weights_only: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> Conversion:
    """Convert a checkpoint to another format and naming scheme, and verify the result.

    Args:
        source: A checkpoint, in any format that `load` reads.
        target: What to write. Its suffix chooses the format: .pth, .pt and .tar a torch file,
            .safetensors safetensors, .msgpack Flax's msgpack, .npz NumPy's, .ckpt a MindSpore file,
            .orbax or none an Orbax directory. What is there is replaced.
        network: As for `load`.
        to: The naming scheme to write, `torch`, `jax` or `mindspore`. If not given: torch names in
            torch files, MindSpore's in its own, JAX names in Orbax directories and msgpack, and in
            safetensors and .npz JAX names of a torch source, else torch names.
        labels: Which output is void, `void-last` or `void-first`, for the manifest; that of the
            source's manifest if not given.
        naming_scheme: The naming scheme of the source; see `load`.
        choice: Which of its tensors to read; see `load`.
        dtype: The dtype to which the network's floating-point numbers are cast, one of
            `weights_convert.naming.FLOATS`; counters and an optimizer's state are not. Not cast if
            not given.
        preprocessing: What the network expects of an image, for the manifest. If not given: what
            the source's manifest says, else what the published recipe does.
        weights_only: Whether to leave out an optimizer's state.
        progress: Called with a description of the next action.

    Raises:
        InputError: The source cannot be read, or the target cannot be written. Then nothing has
            changed.
    """
    source, target = Path(source), Path(target)
    _check_choice("to", to, naming.NAMING_SCHEMES)
    _check_choice("labels", labels, ORDERS)
    _check_choice("dtype", dtype, naming.FLOATS)
    if network is not None:
        family_of(network)
    format = formats.format_for(target)
    try:
        _check_target(source, target, format)
    except OSError as error:  # such as a name that is too long
        raise InputError(f"{error.filename}: {error.strerror}") from error
    progress(f"reading {source}")
    with formats.prepared(format, source):
        checkpoint = load(source, network, naming_scheme, choice=choice)
    to = to or _default_naming_scheme(format, checkpoint.naming_scheme)
    _check_variant(checkpoint, to, source)
    if preprocessing is not None:
        check_takes_images(checkpoint.config, "preprocessing")
        check_preprocessing(preprocessing, checkpoint.config.num_classes, "preprocessing")
    kept = naming.carried(checkpoint.config, checkpoint.arrays, to)
    there = {key for key, _ in naming.names(checkpoint.config, to).values()}
    arrays = cast(kept, dtype, source)
    optimizer = None if weights_only else _carried_optimizer(checkpoint, to)
    progress("hashing its tensors")
    manifest = manifest_of(checkpoint, to, arrays, optimizer, labels, preprocessing)
    draft = draft_of(checkpoint.config, format, arrays, optimizer, manifest)
    size = write_verified(target, format, checkpoint.config, draft, network, progress=progress)
    return Conversion(
        source=checkpoint,
        path=target,
        format=format,
        manifest=manifest,
        lost=_lost(checkpoint, kept, optimizer),
        tensors=len(draft.named),
        parameters=sum(kept[k].size for k in parameters(checkpoint.config) if k in there),
        bytes=size,
    )


def cast(arrays: Mapping[str, np.ndarray], dtype: str | None, where: Path) -> dict[str, np.ndarray]:
    """Cast floating-point arrays to another precision, rounded to nearest.

    Args:
        arrays: Name -> array.
        dtype: One of `weights_convert.naming.FLOATS`; None changes nothing.
        where: What holds them, for the message.

    Raises:
        InputError: A number is too large for it; lists the tensors.
    """
    if dtype is None:
        return dict(arrays)
    with np.errstate(over="ignore"):
        done = {
            k: rounded(a, numpy_dtype(dtype)) if a.dtype.name in naming.FLOATS else a
            for k, a in arrays.items()
        }
    wrong = [k for k, a in arrays.items() if (np.isfinite(a) & ~np.isfinite(done[k])).any()]
    if wrong:
        raise InputError(f"{where}: {listed(wrong)}: too large for {dtype}")
    return done


def _lost(
    checkpoint: Checkpoint, kept: Mapping[str, np.ndarray], optimizer: Optimizer | None
) -> tuple[str, ...]:
    """Return the nonzero tensors that have no name in the target; see `Conversion.lost`."""
    lost = [k for k, a in checkpoint.arrays.items() if a.any() and not kept[k].any()]
    if optimizer and checkpoint.optimizer:
        there = optimizer.flat()
        state = checkpoint.optimizer.flat().items()
        lost += [k for k, a in state if k not in there and a.any()]
    return tuple(lost)


def _carried_optimizer(checkpoint: Checkpoint, naming_scheme: str) -> Optimizer | None:
    """Return the optimizer state of the parameters that a naming scheme has names for."""
    if checkpoint.optimizer is None:
        return None
    named = {key for key, _ in naming.names(checkpoint.config, naming_scheme).values()}
    slots = {
        slot: {key: array for key, array in found.items() if key in named}
        for slot, found in checkpoint.optimizer.slots.items()
    }
    return dataclasses.replace(checkpoint.optimizer, slots=slots)


def _check_choice(name: str, value: str | None, choices: Mapping | tuple) -> None:
    if value is not None and value not in choices:
        raise InputError(f"{name} is {value!r}, expected one of {', '.join(choices)}")


def _check_target(source: Path, target: Path, format: str) -> None:
    """Refuse a target that must not or cannot be replaced, before any work is done.

    Raises:
        InputError: There is no source; source and target contain each other; the target's folder is
            missing; the target is not a checkpoint of this format, or its manifest's path holds no
            manifest of ours.
    """
    if not source.exists():
        raise InputError(f"{source} does not exist")
    here, there = Path(os.path.realpath(source)), Path(os.path.realpath(target))
    if here == there or (target.exists() and source.samefile(target)):
        raise InputError(f"{source} and {target} are the same")
    if there in here.parents or here in there.parents:
        raise InputError(f"{source} and {target}: one lies in the other")
    if not there.parent.is_dir():
        raise InputError(f"cannot write {target}: {there.parent} is not a folder")
    if format != "orbax" and target.is_dir():
        raise InputError(f"{target} is a directory, expected a file")
    if format == "orbax" and target.is_dir() and not is_orbax(target):
        raise InputError(f"{target} is a directory, but not an Orbax checkpoint: not replaced")
    if target.exists() and not target.is_dir() and (format == "orbax" or not target.is_file()):
        expected = "an Orbax checkpoint" if format == "orbax" else "a regular file"
        raise InputError(f"{target} exists and is not {expected}: not replaced")
    if format in formats.WITH_SIDECAR and format != "orbax":
        sidecar.check_replaceable(sidecar.beside(there))


def _check_variant(checkpoint: Checkpoint, naming_scheme: str, source: Path) -> None:
    """Refuse MindSpore's names for a network that its port does not compute."""
    config, port = checkpoint.config, f"{checkpoint.network}-mindspore"
    if naming_scheme != "mindspore" or port not in MODELS:
        return
    wrong = [k for k in ("same_padding", "channel_dropout") if differs(config, MODELS[port], k)]
    if wrong:
        raise InputError(
            f"{source} holds {checkpoint.network} as published, but MindSpore's names belong to"
            f" {port}, another network; --model {port} says that these are its weights"
        )


def differs(a: object, b: object, field: str) -> bool:
    return getattr(a, field) != getattr(b, field)


def _default_naming_scheme(format: str, source: str) -> str:
    if format in ("safetensors", "npz"):
        return "jax" if source == "torch" else "torch"
    return {"orbax": "jax", "msgpack": "jax", "mindspore": "mindspore"}.get(format, "torch")
