"""Finding a network among a file's tensors, despite prefixes of wrappers and other tensors.

A network may be only part of a file: with the prefix `model.`, say, and a loss's own weights. It is
found by its names; a prefix is accepted only if the whole network follows it.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from parity.spec.errors import InputError, listed
from parity.spec.models import Config
from parity.spec.tensors import tensors
from weights_convert import naming
from weights_convert.formats.base import AVERAGED

# Parts of a path that wrappers add: torch.compile, FSDP, activation checkpointing, DataParallel.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")
WRAPPED = re.compile(rf"(?:(?<=\.)|^)(?:{'|'.join(WRAPPERS)})\.")

# The counter stored with the weights of torch.optim.swa_utils.AveragedModel.
COUNTER = "n_averaged"

DEEPEST = 12  # parts of a prefix
TRIED = 6  # prefixes that are looked at in full


@dataclasses.dataclass(frozen=True)
class Choice:
    """The user's choice among a file's tensors.

    Attributes:
        key: The entry of the file that holds them, a dotted path; detected if not given.
        prefix: The prefix of their names, possibly empty; detected from the names if not given.

    Raises:
        InputError: The key is empty.
    """

    key: str | None = None
    prefix: str | None = None

    def __post_init__(self) -> None:
        if self.key == "":
            raise InputError("the key is empty, expected the name of an entry such as state_dict")


ANY = Choice()


@dataclasses.dataclass(frozen=True)
class Unwrapped:
    """A network's tensors in a file.

    Attributes:
        named: Name -> array, without prefix and wrappers.
        prefix: The prefix of every name.
        beside: Names of the file's other tensors.
        averaged: Prefixes of averaged weights in the file.
    """

    named: dict[str, Any]
    prefix: str = ""
    beside: tuple[str, ...] = ()
    averaged: tuple[str, ...] = ()

    def said(self) -> str:
        """Return the prefix for a message, after the file's path."""
        return f", after {self.prefix!r}," if self.prefix else ""


def plain(name: str) -> str:
    """Return a name without wrappers."""
    return WRAPPED.sub("", name)


def own_name(name: str, known: Container[str]) -> str:
    """Return the end of a name that is a known name; else all of it, without wrappers."""
    rest = whole = plain(name)
    for _ in range(DEEPEST):
        if rest in known:
            return rest
        _, dot, rest = rest.partition(".")
        if not dot:
            break
    return whole


def unwrapped(
    arrays: Mapping[str, Any],
    path: Path,
    family: str | None = None,
    naming_scheme: str | None = None,
    config: Config | None = None,
    prefix: str | None = None,
) -> Unwrapped:
    """Find a network among named tensors.

    Args:
        arrays: Name -> array, or another object with a shape.
        path: The file, for the message.
        family: The network; any if not given.
        naming_scheme: Their naming scheme; detected from them if not given.
        config: The variant's configuration, where it is known.
        prefix: The prefix of the network's names; detected if not given. If empty, other whole
            networks under prefixes are left out.

    Raises:
        InputError: Nothing has the prefix, or several whole networks are there.
    """
    if prefix:
        return _after(arrays, prefix, path)
    short = _unique({name: plain(name) for name in arrays})
    named = {short[name]: array for name, array in arrays.items()}
    naming_scheme = naming_scheme or naming.detect(named, config.family if config else family)
    families = naming.known_names(naming_scheme)
    if config is not None:
        families = {config.family: set(naming.names(config, naming_scheme))}
    elif family is not None and family in families:
        families = {family: families[family]}
    votes = _votes(named, families)
    if not votes or (len(votes) == 1 and next(iter(votes))[1] == ""):
        return Unwrapped(named, _shown(short, "", families))
    whole = [
        (found, start)
        for found, start in _likely(votes)
        if _is_whole(_below(named, start), found, naming_scheme, config)
    ]
    best = _best(whole, votes, path) if prefix is None else prefix
    # Another whole network inside of it is no part of it.
    inner = tuple(start for _, start in whole if start != best and start.startswith(best))
    names = [
        name
        for name, given in short.items()
        if given.startswith(best) and not (inner and given.startswith(inner))
    ]
    if not names:
        raise InputError(f"{path}: every name has a prefix; they start with {starts(arrays)}")
    kept = {short[name].removeprefix(best): arrays[name] for name in names}
    taken = set(names)
    beside = tuple(name for name in arrays if name not in taken)
    averaged = tuple(start for _, start in whole if AVERAGED.search(start) and start != best)
    return Unwrapped(kept, _shown({n: short[n] for n in names}, best, families), beside, averaged)


def whole_after(named: Mapping[str, Any], config: Config, naming_scheme: str) -> list[str]:
    """Return the prefixes under which one network is complete.

    Args:
        named: Name -> array, or another object with a shape; names without wrappers.
        config: The network.
        naming_scheme: Their naming scheme.
    """
    votes = _votes(named, {config.family: set(naming.names(config, naming_scheme))})
    return [
        start
        for _, start in _likely(votes)
        if _is_whole(_below(named, start), config.family, naming_scheme, config)
    ]


def without_numbers(found: Unwrapped, names: Container[str]) -> Unwrapped:
    """Remove single numbers at the top level, such as an epoch: they belong to no layer.

    Args:
        found: The tensors found.
        names: The network's names.
    """
    beside = tuple(
        k for k, a in found.named.items() if k not in names and "." not in k and a.size <= 1
    )
    if not beside:
        return found
    numbers = set(beside)
    kept = {k: a for k, a in found.named.items() if k not in numbers}
    return dataclasses.replace(found, named=kept, beside=(*found.beside, *beside))


def _after(arrays: Mapping[str, Any], prefix: str, path: Path) -> Unwrapped:
    """Return the tensors under a prefix chosen by the user."""
    start = prefix if prefix.endswith(".") else f"{prefix}."
    kept = {k.removeprefix(start): a for k, a in arrays.items() if k.startswith(start)}
    if not kept:
        raise InputError(f"{path}: no name starts with {start!r}; they start with {starts(arrays)}")
    short = _unique({name: plain(name) for name in kept})
    beside = tuple(name for name in arrays if not name.startswith(start))
    return Unwrapped({short[k]: a for k, a in kept.items()}, start, beside)


def common(names: Iterable[str]) -> str:
    """Return the common leading parts of dotted names."""
    first, *others = names
    parts = first.split(".")[:-1]
    while parts and not all(name.startswith(".".join(parts) + ".") for name in others):
        parts.pop()
    return ".".join(parts) + "." if parts else ""


def starts(names: Iterable[str]) -> str:
    """Return the first parts of names, with their counts, for a message."""
    counts = Counter(name.partition(".")[0] for name in names)
    return listed(f"{first} ({n:,})" for first, n in counts.most_common())


def _unique(names: dict[str, str]) -> dict[str, str]:
    """Return shortened names, unless two of them became equal; then none is shortened."""
    return names if len(set(names.values())) == len(names) else {name: name for name in names}


def _votes(
    named: Iterable[str], families: Mapping[str, Container[str]]
) -> dict[tuple[str, str], int]:
    """Return (family, prefix) -> number of the family's names that follow the prefix."""
    votes: Counter[tuple[str, str]] = Counter()
    for name in named:
        start = 0
        for _ in range(DEEPEST):
            rest = name[start:]
            votes.update((f, name[:start]) for f, known in families.items() if rest in known)
            dot = name.find(".", start)
            if dot < 0:
                break
            start = dot + 1
    return dict(votes)


def _likely(votes: Mapping[tuple[str, str], int]) -> list[tuple[str, str]]:
    """Return the best family of each prefix, by falling number of names, then by length."""
    best: dict[str, tuple[str, str]] = {}
    for pair in sorted(votes, key=lambda pair: -votes[pair]):
        best.setdefault(pair[1], pair)
    return sorted(best.values(), key=lambda pair: (-votes[pair], len(pair[1])))[:TRIED]


def _below(named: Mapping[str, Any], start: str) -> dict[str, Any]:
    return {k.removeprefix(start): a for k, a in named.items() if k.startswith(start)}


def _is_whole(
    named: Mapping[str, Any], family: str, naming_scheme: str, config: Config | None
) -> bool:
    """Return whether every tensor of a network is there, in its shape."""
    try:
        known = config or naming.config_in(family, named, naming_scheme)
        named = naming.present_names(known, named)
        lost = naming.absent(known, named, naming_scheme)
        target = tensors(known)
        return all(
            name in named and tuple(named[name].shape) == leaf.shape(target[key].shape)
            for name, (key, leaf) in naming.names(known, naming_scheme).items()
            if key not in lost
        )
    except ValueError:  # a last layer without outputs
        return False


def _best(whole: list[tuple[str, str]], votes: Mapping[tuple[str, str], int], path: Path) -> str:
    """Choose the prefix to read.

    Raises:
        InputError: Several whole networks are there, and none is more likely.
    """
    choices = [pair for pair in whole if not AVERAGED.search(pair[1])] or whole
    if not choices:
        return _likely(votes)[0][1]
    if len(choices) > 1:
        kinds = [f"{family} after {start!r}" for family, start in choices]
        raise InputError(
            f"{path} holds {len(choices)} whole networks: {listed(kinds)}; --prefix chooses one"
        )
    return choices[0][1]


def _shown(short: Mapping[str, str], start: str, families: Mapping[str, Container[str]]) -> str:
    """Return the prefix of the network's names in the file, including those of wrappers."""
    ends = {name: given.removeprefix(start) for name, given in short.items()}
    found = {
        name.removesuffix(end)
        for name, end in ends.items()
        if name.endswith(end) and any(end in known for known in families.values())
    }
    return found.pop() if len(found) == 1 else start


def is_average(beside: Iterable[str], prefix: str) -> bool:
    """Return whether a counter in the file, AveragedModel's, marks a network as an average.

    Args:
        beside: Names of other tensors in the file.
        prefix: The prefix of the network's names; an average elsewhere has another.
    """
    return any(
        name.rpartition(".")[2] == COUNTER and prefix.startswith(name.removesuffix(COUNTER))
        for name in beside
    )
