"""Names as paths through nested mappings, which Flax's formats hold. Loads no framework."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.spec.errors import InputError
from weights_convert.memory import contiguous

# Linen's collections, which come before every path of a network saved whole.
COLLECTIONS = frozenset(("params", "batch_stats"))
TRAINING = frozenset(("opt_state", "step"))  # what lies beside them in a `TrainState`
COUNTERS = frozenset(("step", "count"))  # a number in Python in a `TrainState`, uint32 in NNX


def nest(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Dotted name -> array, as nested dicts."""
    tree: dict[str, Any] = {}
    for name, array in contiguous(arrays).items():
        *path, leaf = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = array
    return tree


def flatten(tree: Any, path: Path) -> dict[str, np.ndarray]:
    """Nested mappings and sequences of arrays, by dotted name.

    An `nnx.State` that was saved as it is has one more step in every path, `value`, and Linen's
    variables have their collection before it; both are left out.

    Args:
        tree: What was read.
        path: From where, for the message.

    Raises:
        InputError: It holds nothing, something else than arrays, or two of one name.
    """
    leaves = [(parts, _counter(parts, leaf)) for parts, leaf in _leaves(tree, ())]
    if leaves and all(parts[-1:] == ("value",) for parts, _ in leaves):
        leaves = [(parts[:-1], leaf) for parts, leaf in leaves]
    if isinstance(tree, Mapping) and tree and tree.keys() - TRAINING <= COLLECTIONS:
        leaves = [(parts[parts[0] in COLLECTIONS :], leaf) for parts, leaf in leaves]
    names = [".".join(parts) for parts, _ in leaves]
    faults = [f"{name} occurs {n} times" for name, n in Counter(names).items() if n > 1]
    faults += [
        f"{name} is a {type(leaf).__name__}"
        for name, (_, leaf) in zip(names, leaves, strict=True)
        if not isinstance(leaf, np.ndarray)
    ]
    if faults or not leaves:
        raise InputError(f"{path} holds {'; '.join(faults) or 'nothing'}; expected named arrays")
    return {name: np.array(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}


def _counter(parts: tuple[str, ...], leaf: Any) -> Any:
    """A count of steps as int64, which holds whatever it was in; anything else as it is."""
    single = type(leaf) is int and abs(leaf) < 2**63
    single |= isinstance(leaf, np.ndarray) and leaf.shape == () and leaf.dtype == np.uint32
    return np.asarray(leaf, np.int64) if single and COUNTERS & set(parts[-2:]) else leaf


def _leaves(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, (*path, str(key)))
    elif isinstance(tree, Sequence) and not isinstance(tree, str | bytes):
        for i, value in enumerate(tree):
            yield from _leaves(value, (*path, str(i)))
    elif tree is not None:
        yield path, tree
