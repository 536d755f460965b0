"""Writing a network from memory as a checkpoint with a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from parity.spec.errors import InputError
from parity.spec.models import Config
from parity.spec.preprocessing import Preprocessing
from weights_convert import formats, naming
from weights_convert.checkpoint import Checkpoint
from weights_convert.formats import KEY
from weights_convert.optimizer import Optimizer
from weights_convert.writing import draft_of, manifest_of, write_verified


def save(
    target: str | Path,
    config: Config,
    arrays: Mapping[str, np.ndarray],
    naming_scheme: str = "torch",
    *,
    optimizer: Optimizer | None = None,
    labels: str | None = None,
    preprocessing: Preprocessing | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint, and read it back before it replaces the target.

    Args:
        target: What to write; its suffix chooses the format, as for `convert`. What is there is
            replaced in one step.
        config: The network's configuration.
        arrays: Published key -> array of PyTorch's shape, every key of the network and no other.
        naming_scheme: The naming scheme to write, a key of `weights_convert.naming.NAMING_SCHEMES`.
        optimizer: The optimizer's state to store with it.
        labels: Which output is void, for the manifest.
        preprocessing: What the network expects of an image, for the manifest; what the published
            recipe does if not given.
        metadata: Other texts to store with the manifest, by name.

    Raises:
        InputError: A key is missing, left over, or of another shape; the format cannot store
            metadata; the file system refuses. Then nothing has changed.
    """
    target, extra = Path(target), dict(metadata or {})
    format = formats.format_for(target)
    if extra and format in formats.WITH_SIDECAR:
        raise InputError(f"{target}: {format} has no room for metadata")
    if KEY in extra:
        raise InputError(f"{target}: metadata {KEY!r} is the manifest's name")
    named = naming.to_naming_scheme(
        config, arrays, naming_scheme
    )  # refuses what is not the network
    whole = naming.to_canonical(config, named, naming_scheme)
    source = Checkpoint(whole, config.family, config, format, naming_scheme, None, "", ())
    manifest = manifest_of(source, naming_scheme, whole, optimizer, labels, preprocessing)
    draft = draft_of(config, format, whole, optimizer, manifest)
    write_verified(target, format, config, draft, identifiable=False, metadata=extra)
