"""Description of a checkpoint file, whether or not it is one of our networks."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

from parity.spec.errors import InputError
from parity.spec.tensors import STATISTICS, tensors
from weights_convert import formats, naming, wrapping
from weights_convert import manifest as manifests
from weights_convert.checkpoint import Checkpoint, understand
from weights_convert.wrapping import ANY, Choice


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A file's facts.

    Attributes:
        path: The file or directory.
        bytes: Its size; of a directory, of all its files.
        sha256: Its hash, as in `weights_convert.formats.Contents`.
        format: A key of `weights_convert.formats.FORMATS`.
        naming_scheme: The naming scheme it uses: `torch`, `jax` or `mindspore`.
        prefix: The prefix of every name, such as `module.`.
        key: The entry of the file that holds the tensors; empty for the top level.
        tensors: Name -> dtype and shape, in the file's order.
        checkpoint: The checkpoint; None if it is not a whole checkpoint of our networks.
        reason: Why it is not.
        metadata: Text stored with the tensors, without our manifest.
        skipped: Names of other entries; see `weights_convert.Checkpoint`.
    """

    path: Path
    bytes: int
    sha256: str
    format: str
    naming_scheme: str
    prefix: str
    key: str
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    checkpoint: Checkpoint | None
    reason: str
    metadata: dict[str, str]
    skipped: tuple[str, ...]

    @property
    def dtypes(self) -> dict[str, int]:
        """Dtype -> how many tensors have it."""
        return dict(Counter(dtype for dtype, _ in self.tensors.values()))

    @property
    def parameters(self) -> int | None:
        """Return how many numbers in the file are trained; None if the network is unknown."""
        if self.checkpoint is None:
            return None
        kinds = tensors(self.checkpoint.config).items()
        found, absent = self.checkpoint.arrays, set(self.checkpoint.filled)
        trained = (k for k, t in kinds if t.kind not in STATISTICS and k not in absent)
        return sum(found[key].size for key in trained)

    @property
    def verified(self) -> bool:
        """Return whether it has one of our manifests, which was verified."""
        return self.checkpoint is not None and self.checkpoint.manifest is not None

    def to_dict(self) -> dict[str, Any]:
        """Return the values as a dict for JSON."""
        found = self.checkpoint
        manifest = found.manifest if found else None
        state = found.optimizer if found else None
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "sha256": self.sha256,
            "format": self.format,
            "naming_scheme": self.naming_scheme,
            "dialect": self.naming_scheme,  # its name before 1.0.0
            "prefix": self.prefix,
            "key": self.key or None,
            "network": found.network if found else None,
            "config": found.config.describe() if found else None,
            "reason": self.reason or None,
            "labels": found.labels if found else None,
            "parameters": self.parameters,
            "verified": self.verified,
            "preprocessing": manifest.preprocessing.to_dict() if manifest else None,
            "optimizer": state.describe(found.config) if found and state else None,
            "absent": list(found.filled) if found else [],
            "skipped": list(self.skipped),
            "notes": [text for _, text in found.notes] if found else [],
            "metadata": self.metadata,
            "tensors": {
                name: {"dtype": dtype, "shape": shape}
                for name, (dtype, shape) in self.tensors.items()
            },
        }


def inspect(path: str | Path, network: str | None = None, choice: Choice = ANY) -> Inspection:
    """Describe a checkpoint file.

    Args:
        path: The file or directory, as for `weights_convert.load`.
        network: The network, as for `weights_convert.load`.
        choice: Which of its tensors to read, as for `weights_convert.load`.

    Raises:
        InputError: The file is missing, damaged, of no known format, or contradicts its manifest.
    """
    path = Path(path)
    contents = formats.read(path, key=choice.key, foreign=True)
    checkpoint, reason = None, ""
    try:
        checkpoint = understand(contents, path, network, choice=choice)
    except InputError as error:
        asked = network is not None or choice.prefix is not None
        if asked or manifests.parse(contents.metadata, path):
            raise
        reason = str(error).removeprefix(f"{path}: ").removeprefix(f"{path} ")
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return Inspection(
        path=path,
        bytes=sum(file.stat().st_size for file in files),
        sha256=contents.sha256,
        format=contents.format,
        naming_scheme=checkpoint.naming_scheme
        if checkpoint
        else naming.detect(contents.everything),
        prefix=checkpoint.prefix if checkpoint else wrapping.common(contents.everything),
        key=contents.key,
        tensors={k: (str(a.dtype), tuple(a.shape)) for k, a in contents.everything.items()},
        checkpoint=checkpoint,
        reason=reason,
        metadata={k: v for k, v in contents.metadata.items() if k != formats.KEY},
        skipped=checkpoint.skipped if checkpoint else contents.skipped,
    )
