"""Names as paths through nested mappings, as in Flax's formats. Imports no framework."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.spec.errors import InputError, listed
from weights_convert.memory import contiguous

if TYPE_CHECKING:
    from weights_convert.formats.base import Contents

# Linen's collections, which come before every path of a network saved whole.
COLLECTIONS = frozenset(("params", "batch_stats"))
TRAINING = frozenset(("opt_state", "step"))  # other entries of a `TrainState`
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


def flatten(
    tree: Any, path: Path, key: str | None = None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Flatten nested mappings and sequences of arrays to dotted names.

    An `nnx.State` that was saved as it is has one more step in every path, `value`, and Linen's
    variables have their collection before it; both are left out.

    Args:
        tree: What was read.
        path: The file, for the message.
        key: The entry to flatten, a dotted path; all if not given.

    Returns:
        Name -> array, of any dtype; and descriptions of other entries, such as `x (str)`.

    Raises:
        InputError: It holds no array, two of one name, or no such key.
    """
    node, beside = (tree, []) if key is None else at(tree, key, path)
    named = [(name, _counter(parts, leaf)) for name, parts, leaf in names_of(node, path)]
    arrays = {name: np.array(leaf) for name, leaf in named if isinstance(leaf, np.ndarray)}
    others = [(name, type(leaf).__name__) for name, leaf in named if name not in arrays]
    if not arrays:
        shown = listed((f"{name} is a {kind}" for name, kind in others), "; ")
        raise InputError(f"{path} holds {shown or 'nothing'}; expected named arrays")
    return arrays, (*beside, *(f"{name} ({kind})" for name, kind in others))


def names_of(tree: Any, path: Path) -> list[tuple[str, tuple[str, ...], Any]]:
    """Return each leaf of a tree, with its dotted name and the path that this stands for.

    Raises:
        InputError: Two have one name.
    """
    leaves = list(_leaves(tree, ()))
    if leaves and all(parts[-1:] == ("value",) for parts, _ in leaves):
        leaves = [(parts[:-1], leaf) for parts, leaf in leaves]
    named = [(".".join(parts), parts, leaf) for parts, leaf in leaves]
    counts = Counter(name for name, *_ in named)
    if twice := [f"{k} occurs {n} times" for k, n in counts.items() if n > 1]:
        raise InputError(f"{path} holds {listed(twice, '; ')}; expected named arrays")
    return named


def with_dots(contents: Contents, path: Path) -> Contents:
    """Rename a flat file's tensors to dotted names: `params/conv/kernel` becomes `conv.kernel`.

    Raises:
        InputError: Two names become one.
    """
    names = list(contents.everything)
    found = {name: tuple(name.replace("/", ".").split(".")) for name in names}
    children: dict[tuple[str, ...], set[str]] = {}
    for parts in found.values():
        for i, part in enumerate(parts):
            children.setdefault(parts[:i], set()).add(part)
    whole = {at for at, parts in children.items() if _is_whole(parts)}
    given = {
        name: ".".join(
            part
            for i, part in enumerate(parts)
            if part not in COLLECTIONS or parts[:i] not in whole
        )
        for name, parts in found.items()
    }
    if twice := [f"{k} occurs {n} times" for k, n in Counter(given.values()).items() if n > 1]:
        raise InputError(f"{path} holds {listed(twice, '; ')}; expected named arrays")
    if all(name == other for name, other in given.items()):
        return contents
    arrays = {given[name]: array for name, array in contents.arrays.items()}
    foreign = {given[name]: what for name, what in contents.foreign.items()}
    return dataclasses.replace(contents, arrays=arrays, foreign=foreign)


def below(contents: Contents, key: str, path: Path) -> Contents:
    """Return only a flat file's tensors under a key, with the key removed from their names.

    Raises:
        InputError: There is nothing under the key.
    """
    start = f"{key}."
    arrays = {k.removeprefix(start): a for k, a in contents.arrays.items() if k.startswith(start)}
    foreign = {k.removeprefix(start): a for k, a in contents.foreign.items() if k.startswith(start)}
    if not arrays and not foreign:
        tops = Counter(name.partition(".")[0] for name in contents.everything)
        raise InputError(f"{path} has no key {key!r}; it has {listed(tops)}")
    beside = tuple(k for k in contents.everything if not k.startswith(start))
    skipped = (*contents.skipped, *beside)
    return dataclasses.replace(contents, arrays=arrays, foreign=foreign, skipped=skipped, key=key)


def at(tree: Any, key: str, path: Path) -> tuple[Any, list[str]]:
    """Return the entry of a dotted key, and the names of all other entries."""
    beside, node, left = list[str](), tree, key
    while left:
        children = dict(enumerate(node)) if isinstance(node, list | tuple) else node
        entries = {str(k): v for k, v in children.items()} if isinstance(children, Mapping) else {}
        fits = [k for k in entries if left == k or left.startswith(f"{k}.")]
        if not fits:
            raise InputError(f"{path} has no key {key!r}; it has {listed(entries) or 'no entries'}")
        found = max(fits, key=len)
        start = key[: len(key) - len(left)]
        beside += [start + name for name in entries if name != found]
        node, left = entries[found], left.removeprefix(found).removeprefix(".")
    return node, beside


def _counter(parts: tuple[str, ...], leaf: Any) -> Any:
    """Return a step counter as int64, whatever its dtype; anything else unchanged."""
    single = type(leaf) is int and abs(leaf) < 2**63
    single |= isinstance(leaf, np.ndarray) and leaf.shape == () and leaf.dtype == np.uint32
    return np.asarray(leaf, np.int64) if single and COUNTERS & set(parts[-2:]) else leaf


def _is_whole(names: Set[str]) -> bool:
    """Return whether these entries are those of a whole saved Linen network."""
    return bool(names & COLLECTIONS) and names - TRAINING <= COLLECTIONS


def _leaves(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(tree, Mapping):
        whole = _is_whole(tree.keys())
        for key, value in tree.items():
            inner = path if whole and key in COLLECTIONS else (*path, str(key))
            yield from _leaves(value, inner)
    elif isinstance(tree, Sequence) and not isinstance(tree, str | bytes):
        for i, value in enumerate(tree):
            yield from _leaves(value, (*path, str(i)))
    elif tree is not None:
        yield path, tree
