"""A checkpoint's manifest: a small JSON object that describes it and is stored with it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from parity.spec.errors import WIDEST, InputError, listed, shortened
from parity.spec.labels import ORDERS
from parity.spec.preprocessing import Preprocessing
from parity.spec.preprocessing import parse as parse_preprocessing
from weights_convert.formats import KEY, sidecar
from weights_convert.hashes import tensor_sha256s, whole_sha256
from weights_convert.optimizer import is_description

VERSION = 2  # of the manifest's form
# Of a manifest that says by which rules a checkpoint was made, not of which network it is; see
# `weights_convert.streaming.manifest`.
KIND, RULES = "kind", "rules"
OPTIONAL = ("layout", "assumed")  # written only where there is something to say
TEXTS = ("network", "naming_scheme", "source_sha256", "tensors_sha256", "tool_version")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A checkpoint's statement of what it is.

    Attributes:
        network: The family, such as `enet`.
        config: The result of `parity.spec.models.Config.describe`.
        naming_scheme: The naming scheme of the file.
        labels: Which output is void, one of `parity.spec.labels.ORDERS`, or None if unknown.
        preprocessing: The preprocessing that the network expects.
        optimizer: The result of `weights_convert.optimizer.Optimizer.describe`; None without one.
        source_sha256: Hash of the file that was converted.
        tensors: Published name -> hash, from `weights_convert.hashes.tensor_sha256s`.
        tensors_sha256: Hash of all tensors, from `weights_convert.hashes.whole_sha256`.
        tool_version: Version of the program that wrote it.
        layout: The published class whose order of parameters the weights have, if not the network's
            own; see `parity.spec.tensors.layouts`.
        assumed: Fields of `config` that were assumed, as neither tensors nor user specify them.
    """

    network: str
    config: dict[str, Any]
    naming_scheme: str
    labels: str | None
    preprocessing: Preprocessing
    optimizer: dict[str, Any] | None
    source_sha256: str
    tensors: dict[str, str]
    tensors_sha256: str
    tool_version: str = ""
    layout: str | None = None
    assumed: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the entries for the JSON of `parity inspect`, with the name before 1.0.0, too."""
        return {**dataclasses.asdict(self), "dialect": self.naming_scheme}

    def to_json(self) -> str:
        entries = {"tool": sidecar.TOOL, "version": VERSION, **dataclasses.asdict(self)}
        for name in OPTIONAL:
            if not entries[name]:
                del entries[name]
        return sidecar.seal(entries | {"preprocessing": self.preprocessing.to_dict()})


def tool_version() -> str:
    """Return the version of this program, as it was installed."""
    try:
        return version(sidecar.TOOL)
    except PackageNotFoundError:  # run from a checkout
        return "unknown"


def parse(metadata: Mapping[str, str], where: Path) -> Manifest | None:
    """Parse the manifest in a checkpoint's metadata, if there is one.

    Raises:
        InputError: It is damaged, or of an unknown version.
    """
    if KEY not in metadata:
        return None
    remedy = "save its tensors without metadata (load_file, save_file of safetensors)"
    entries = sidecar.unseal(metadata[KEY], f"the manifest of {where}", remedy)
    if entries.pop("tool", None) != sidecar.TOOL or entries.pop("version", None) != VERSION:
        raise InputError(
            f"the manifest of {where} is not of version {VERSION} of {sidecar.TOOL}'s: convert the"
            " checkpoint again, with this version, from what it was made of"
        )
    if "naming_scheme" not in entries and "dialect" in entries:  # its name before 1.0.0
        entries["naming_scheme"] = entries.pop("dialect")
    fields = [field.name for field in dataclasses.fields(Manifest)]
    if entries.get(KIND) == RULES:
        return None
    if set(entries) | set(OPTIONAL) != set(fields):
        needed = ", ".join(name for name in fields if name not in OPTIONAL)
        raise InputError(f"the manifest of {where}: expected exactly {needed}")
    if entries["labels"] not in (None, *ORDERS):
        raise InputError(
            f"the manifest of {where} says labels {entries['labels']!r},"
            f" expected one of {', '.join(ORDERS)} or null"
        )
    if not all(isinstance(entries[name], dict) for name in ("config", "tensors")):
        raise InputError(f"the manifest of {where}: expected objects as config and tensors")
    texts = [entries[name] for name in TEXTS]
    texts += [*entries["tensors"], *entries["tensors"].values()]
    if not all(isinstance(text, str) and text.isprintable() for text in texts):
        raise InputError(f"the manifest of {where}: expected texts as {', '.join(TEXTS)}, tensors")
    assumed = entries.pop("assumed", [])
    if not isinstance(assumed, list) or not all(isinstance(name, str) for name in assumed):
        raise InputError(f"the manifest of {where}: expected a list of fields as assumed")
    if not isinstance(entries.get("layout"), str | None):
        raise InputError(f"the manifest of {where}: expected the name of a class as layout")
    if not is_description(entries["optimizer"]):
        raise InputError(f"the manifest of {where}: its optimizer is none that we describe")
    where_in = f"the preprocessing in the manifest of {where}"
    entries["preprocessing"] = parse_preprocessing(entries["preprocessing"], where_in)
    return Manifest(**entries, assumed=tuple(assumed))


def renamed(manifest: Manifest, rename: Callable[[str], str]) -> Manifest:
    """Return a manifest with its tensors renamed; the same object where no name changes."""
    tensors = {rename(key): digest for key, digest in manifest.tensors.items()}
    changed = len(tensors) == len(manifest.tensors) and tensors != manifest.tensors
    if not changed or whole_sha256(manifest.tensors) != manifest.tensors_sha256:
        return manifest
    state = manifest.optimizer
    if state is not None:
        state = state | {"absent": [rename(key) for key in state["absent"]]}
    whole = whole_sha256(tensors)
    return dataclasses.replace(manifest, tensors=tensors, tensors_sha256=whole, optimizer=state)


def _differing(said: Any, found: Any) -> tuple[str, str]:
    """Format two values for a message: of two dicts only entries that differ, no long texts."""
    if isinstance(said, dict) and isinstance(found, dict):
        same = {k for k in said if k in found and repr(said[k]) == repr(found[k])}
        said, found = ({k: v for k, v in d.items() if k not in same} for d in (said, found))
    return shortened(str(said), WIDEST), shortened(str(found), WIDEST)


def verify(
    manifest: Manifest,
    found: Mapping[str, object],
    arrays: Mapping[str, np.ndarray],
    where: Path,
    ignored: tuple[str, ...] = (),
) -> None:
    """Refuse a checkpoint that contradicts its manifest.

    Args:
        manifest: The manifest found with it.
        found: The actual `network`, `config`, `naming_scheme` and so on.
        arrays: Published key -> array, in the published order.
        where: The file, for the message.
        ignored: Fields of `config` to ignore.

    Raises:
        InputError: One of them differs, or a tensor does.
    """

    def counted(value: Any) -> str:
        if isinstance(value, dict):
            value = {k: v for k, v in value.items() if k not in ignored}
            if isinstance(value.get("absent"), list):  # in no fixed order
                value["absent"] = sorted(value["absent"])
        return json.dumps(value, sort_keys=True)  # in which NaN is NaN

    for name, value in found.items():
        if counted(getattr(manifest, name)) != counted(value):
            said, there = _differing(getattr(manifest, name), value)
            raise InputError(
                f"the manifest of {where} says {name.replace('_', ' ')} {said}, found {there}"
            )
    tensors = tensor_sha256s(arrays)
    either = [*tensors, *(name for name in manifest.tensors if name not in tensors)]
    wrong = [name for name in either if tensors.get(name) != manifest.tensors.get(name)]
    if wrong or whole_sha256(manifest.tensors) != manifest.tensors_sha256:
        raise InputError(
            f"{where} does not hold the tensors its manifest was written for: damaged, or changed"
            f" since (then remove the manifest): {listed(wrong) or 'their order'}"
        )
