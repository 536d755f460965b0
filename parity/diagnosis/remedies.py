"""What each cause that can be proved looks like, why it happens, and how to mend it."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import tomllib
from collections.abc import Mapping

from parity.diagnosis.catalogue import PROVED_AS, Fault


@dataclasses.dataclass(frozen=True)
class Remedy:
    """Texts about one cause, in full sentences; `size` is a phrase.

    Attributes:
        symptom: What a check shows.
        why: How the mistake comes about.
        fix: What to change in the port.
        size: The relative L2 change of what the fault touches.
        title: A description of the mistake; empty for the catalogue's faults, which have it there.
    """

    symptom: str
    why: str
    fix: str
    size: str
    title: str = ""


@functools.cache
def remedies() -> Mapping[str, Remedy]:
    """Return the remedies of `remedies.toml`: of every fault, and of other changes, by name."""
    file = importlib.resources.files("parity.diagnosis") / "remedies.toml"
    found = tomllib.loads(file.read_text(encoding="utf-8"))
    return {name: Remedy(**texts) for name, texts in found.items()}


def remedy(name: str) -> Remedy | None:
    """Return the remedy of a proved cause.

    Args:
        name: The name of a fault, or that of a change of the reference; see `Proof.fault`.

    Returns:
        None where the change is none of the catalogue's faults, or may be several of them.
    """
    if name in remedies():
        return remedies()[name]
    faults = [fault for fault in Fault if name in PROVED_AS.get(fault, ())]
    return remedies()[faults[0]] if len(faults) == 1 else None
