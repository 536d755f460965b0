"""The manifest of a checkpoint that was made by rules, of a network that is not one of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.spec.errors import InputError, listed
from weights_convert.formats import KEY, sidecar
from weights_convert.hashes import whole_sha256
from weights_convert.manifest import KIND, RULES, VERSION, tool_version

UNKNOWN = "0" * 64  # in the place of a hash that is not known yet


@dataclasses.dataclass(frozen=True)
class RulesManifest:
    """A checkpoint's statement of how it was made.

    Attributes:
        rules: The rules, as text.
        reverse: Whether they were applied backwards.
        source_sha256: Hash of what was converted; of shards, of their names and hashes.
        tensors: Name in this checkpoint -> hash of dtype, shape and values.
        tool_version: Version of the program that wrote it.
    """

    rules: str
    reverse: bool
    source_sha256: str
    tensors: Mapping[str, str]
    tool_version: str = dataclasses.field(default_factory=tool_version)

    def to_json(self) -> str:
        head = {"tool": sidecar.TOOL, "version": VERSION, KIND: RULES}
        whole = {"tensors_sha256": whole_sha256(self.tensors)}
        return sidecar.seal(head | dataclasses.asdict(self) | whole)


def parse(metadata: Mapping[str, str], where: Path) -> RulesManifest | None:
    """Parse the manifest of a source, if it is one of these.

    Raises:
        InputError: It is damaged.
    """
    if KEY not in metadata:
        return None
    entries = sidecar.unseal(metadata[KEY], f"the manifest of {where}")
    if entries.get(KIND) != RULES:
        return None
    said: dict[str, Any] = {f.name: entries.get(f.name) for f in dataclasses.fields(RulesManifest)}
    if not isinstance(said["tensors"], dict) or entries.get("version") != VERSION:
        raise InputError(f"the manifest of {where} is not of version {VERSION} of {sidecar.TOOL}'s")
    return RulesManifest(**said)


def verify(said: RulesManifest, found: Mapping[str, str], where: Path) -> None:
    """Refuse a checkpoint whose tensors are not those of its manifest.

    Args:
        said: The manifest.
        found: Name -> hash of its tensors.
        where: The checkpoint, for the message.

    Raises:
        InputError: Lists what differs.
    """
    names = [*found, *(name for name in said.tensors if name not in found)]
    if wrong := [name for name in names if found.get(name) != said.tensors.get(name)]:
        raise InputError(
            f"{where} does not hold the tensors its manifest was written for: damaged, or changed"
            f" since (then remove the manifest): {listed(wrong)}"
        )
