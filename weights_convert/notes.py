"""Remarks on a checkpoint that was read, shared by all commands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from parity.spec.errors import listed, printable
from parity.spec.models import FAMILIES, Config, config_of
from weights_convert.naming import COUNTERS
from weights_convert.numbering import parameters

if TYPE_CHECKING:
    from weights_convert.checkpoint import Checkpoint
    from weights_convert.manifest import Manifest


def notes_of(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Return (title, line) pairs; see `Checkpoint.notes`."""
    made = [
        (name, getattr(checkpoint.config, "assumptions", {})[name]) for name in checkpoint.assumed
    ]
    if filled := checkpoint.filled:
        counters = [key for key in filled if re.fullmatch(COUNTERS, key)]
        every = sum(bool(re.fullmatch(COUNTERS, key)) for key in checkpoint.arrays)
        some = (
            f"; only {len(counters)} of {every} counters are" if 0 < len(counters) < every else ""
        )
        count = f"{len(filled)} tensor{'s' * (len(filled) != 1)}"
        made.append(("absent", f"set to 0: {count}, {named(filled)}{some}"))
    if floats := checkpoint.counters:
        dtypes = "floating-point numbers, all whole: taken as integers"
        made.append(("counters", f"{len(floats)} counters such as {floats[0]} are {dtypes}"))
    return made + [("note", remark) for remark in checkpoint.remarks]


def unsaid(skipped: Sequence[str], checkpoint: Checkpoint | None) -> list[str]:
    """Return the skipped names that no note of the checkpoint mentions."""
    said = set(checkpoint.beside) if checkpoint else set()
    return [name for name in skipped if name not in said]


def assumptions(manifest: Manifest) -> list[tuple[str, str]]:
    """Return (title, line) pairs on what a file's manifest marks as assumed."""
    if not manifest.assumed or manifest.network not in FAMILIES:
        return []
    texts = getattr(config_of(manifest.network, {}), "assumptions", {})
    return [(name, texts[name]) for name in manifest.assumed if name in texts]


def lines(checkpoint: Checkpoint) -> list[str]:
    """Return the notes as every command prints them."""
    return [printable(f"{title:<10}{text}") for title, text in checkpoint.notes]


def coverage(config: Config, absent: int) -> str:
    """Return how many parameters an optimizer's state covers; empty if it covers all."""
    every = len(parameters(config))
    return f", of {every - absent} of {every} parameters" if absent else ""


def named(keys: Sequence[str]) -> str:
    """List the first keys by name, with one counter standing for all counters."""
    others = [key for key in keys if not re.fullmatch(COUNTERS, key)]
    counters = [key for key in keys if re.fullmatch(COUNTERS, key)]
    return listed([*others, *(f"counters such as {key}" for key in counters[:1])])
