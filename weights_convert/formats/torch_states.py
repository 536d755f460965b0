"""Finding the network's state dict among the mappings in a torch file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from parity.spec.errors import InputError, listed
from weights_convert.formats.base import AVERAGED
from weights_convert.formats.nested import at

# Where training scripts put the state dict among other things; others are found by their tensors.
NESTS = ("state_dict", "model_state_dict", "model")
DEEPEST = 6  # mappings within each other

# Entries whose tensors are no network's, by the start of their names.
NO_NETWORK = re.compile(
    r"(optim|scheduler|lr_sched|scaler|grad_scaler|amp|callbacks|loops|rng|random|hyper|hparams)",
    re.IGNORECASE,
)

State = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Found:
    """A network's tensors in a file.

    Attributes:
        tensors: Name -> tensor of any dtype.
        beside: Names of other entries of the file.
        key: The entry that holds them, a dotted path; empty for the top level, or for several
            entries, whose paths are then prefixes of the names.
        averaged: Keys of averaged weights among `beside`.
        elsewhere: Tensors under other keys, which are prefixes of their names.
    """

    tensors: State
    beside: tuple[str, ...]
    key: str = ""
    averaged: tuple[str, ...] = ()
    elsewhere: State = dataclasses.field(default_factory=dict)


def find(data: object, path: Path, key: str | None) -> Found:
    """Return the network's tensors in what a file holds.

    Without a key: those under the one of `NESTS`; else those that lie open; else the only ones that
    are no averaged weights; else all, with the paths to them before their names.

    Raises:
        InputError: There are none, or no such key.
    """
    if not isinstance(data, Mapping):
        raise InputError(
            f"{path} holds a {type(data).__name__}, expected a mapping of names to tensors"
        )
    states = _shallowest(dict(_states(data, "", 0, set())))
    if key is not None:
        node, beside = at(data, key, path)
        return _state(node, path, beside, key, states)
    known = [name for name in NESTS if isinstance(data.get(name), Mapping) and data[name]]
    deeper = (
        len(known) == 1 and known[0] not in states and any(_starts(s, known[0]) for s in states)
    )
    if len(known) == 1 and not deeper:
        beside = [str(k) for k in data if k != known[0]]
        return _state(data[known[0]], path, beside, known[0], states)
    if not states or "" in states:
        return _state(data, path, [], "", states)
    plain = [name for name in states if not AVERAGED.search(name)]
    if len(plain) == 1 or len(states) == 1:
        chosen = (plain or list(states))[0]
        return _state(states[chosen], path, at(data, chosen, path)[1], chosen, states)
    return _several(states, data, path)


def _several(states: dict[str, Mapping[Any, Any]], data: Mapping[Any, Any], path: Path) -> Found:
    """Join several state dicts; the names of tensors later decide which of them is a network."""
    tensors: State = {}
    beside = [str(k) for k in data if not any(_starts(s, str(k)) for s in states)]
    for name, node in states.items():
        found = _state(node, path, [], name, {})
        tensors |= {f"{name}.{k}": v for k, v in found.tensors.items()}
        beside += found.beside
    return Found(tensors, tuple(beside))


def _states(
    node: Mapping[Any, Any], at: str, depth: int, seen: set[int]
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield every mapping that contains tensors, by its dotted path; a shared one only once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if any(isinstance(v, torch.Tensor) for v in node.values()):
        yield at, node
    for name, child in node.items():
        inner = isinstance(name, str) and isinstance(child, Mapping) and depth < DEEPEST
        if inner and not NO_NETWORK.match(name):
            yield from _states(child, f"{at}.{name}" if at else name, depth + 1, seen)


def _shallowest(states: dict[str, Mapping[Any, Any]]) -> dict[str, Mapping[Any, Any]]:
    """Leave out state dicts inside others, and single numbers next to mappings of tensors."""
    real = {k: n for k, n in states.items() if any("." in str(name) for name in n)} or states
    return {k: n for k, n in real.items() if not k or not any(a in real for a in _above(k))}


def _above(path: str) -> Iterator[str]:
    """Yield the paths that a dotted path lies under, the whole file's first."""
    yield ""
    yield from (path[: dot.start()] for dot in re.finditer(r"\.", path))


def _starts(path: str, with_: str) -> bool:
    return not with_ or path == with_ or path.startswith(f"{with_}.")


def _state(node: Any, path: Path, beside: list[str], key: str, states: Mapping[str, Any]) -> Found:
    """Return the tensors of one mapping, and by name what else it holds.

    Raises:
        InputError: It holds no tensor under a name.
    """
    if not isinstance(node, Mapping):
        raise InputError(f"{path} holds a {type(node).__name__} under {key!r}, expected tensors")
    others = [f"the key {k!r}" for k in node if not isinstance(k, str)]
    others += [
        f"{k!r} ({type(v).__name__})" for k, v in node.items() if not isinstance(v, torch.Tensor)
    ]
    tensors = {k: v for k, v in node.items() if isinstance(v, torch.Tensor) and isinstance(k, str)}
    if not tensors:
        raise InputError(
            f"{path} holds {listed(others) or 'nothing'}{f' under {key!r}' if key else ''};"
            f" expected names with tensors, bare or under a key such as {', '.join(NESTS)}"
        )
    start = f"{key}." if key else ""
    beside = beside + [f"{start}{k}" for k in node if k not in tensors]
    averaged = tuple(k for k in states if AVERAGED.search(k) and not _starts(k, key) and key)
    elsewhere = {
        f"{other}.{k}": v
        for other, inner in states.items()
        if key and other and not _starts(other, key)
        for k, v in inner.items()
        if isinstance(k, str) and isinstance(v, torch.Tensor)
    }
    return Found(tensors, tuple(beside), key, averaged, elsewhere)
