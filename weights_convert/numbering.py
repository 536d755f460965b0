"""Finding the parameter for each number in a state of `torch.optim`.

The numbers follow the order in which a class registers its parameters, which is also the order of
the keys in its state dict; where there are groups, they go on from one group to the next.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from parity.spec.models import Config
from parity.spec.tensors import STATISTICS, layouts, tensors
from weights_convert import naming
from weights_convert.wrapping import own_name

MOST_PERMUTED = 5  # groups whose order is searched for

# How programs divide parameters into two groups, most often for weight decay.
DIVISIONS: tuple[Callable[[str, tuple[int, ...]], bool], ...] = (
    lambda key, shape: len(shape) > 1,
    lambda key, shape: not key.endswith(".bias"),
)


class NotCarriedError(Exception):
    """Why an optimizer's state stays behind."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters with separate hyperparameters.

    Attributes:
        keys: Published keys, in the order of their numbers.
        hyperparameters: Those that not all groups share.
        named: Whether the state contains the parameters' names.
    """

    keys: tuple[str, ...]
    hyperparameters: dict[str, Any]
    named: bool = False

    def describe(self) -> dict[str, Any]:
        """Return the values as a dict for JSON."""
        return {
            "params": list(self.keys),
            "hyperparameters": self.hyperparameters,
            "named": self.named,
        }


def parameters(config: Config, layout: str | None = None) -> list[str]:
    """Return the published keys of trained tensors, in the order of `parameters()`.

    Args:
        config: The network's configuration.
        layout: The published class, a key of `parity.spec.tensors.layouts`; the network's own if
            None.
    """
    found = tensors(config)
    keys = layouts(config)[layout] if layout is not None else found
    return [key for key in keys if found[key].kind not in STATISTICS]


def own_order(config: Config, names: Iterable[str], naming_scheme: str) -> list[str]:
    """Return the published keys of trained tensors, in the order of a file's names."""
    known, trained = naming.names(config, naming_scheme), set(parameters(config))
    keys = (known[name][0] for name in names if name in known)
    return [key for key in keys if key in trained]


def layout_in(config: Config, order: Sequence[str]) -> str | None:
    """Return the name of the other published class with this order, if any; see `layouts`."""
    return next((n for n in layouts(config) if parameters(config, n) == list(order)), None)


def numbered(
    config: Config, nested: Mapping[str, Any], order: Sequence[str], layout: str | None
) -> tuple[dict[int, str], tuple[tuple[str, ...], ...], bool]:
    """Find the parameter for each number in an optimizer's state.

    Args:
        config: The network's configuration.
        nested: The result of `torch.optim.Optimizer.state_dict()`.
        order: The published keys of trained tensors, in the order of the network's state dict.
        layout: The published class of the file.

    Returns:
        Number -> published key; the keys of each group; whether the state contains the names.

    Raises:
        NotCarriedError: It cannot be determined.
    """
    groups = nested["param_groups"]
    numbers = [list(group["params"]) for group in groups]
    flat = list(itertools.chain.from_iterable(numbers))
    if all(isinstance(group.get("param_names"), list) for group in groups):
        given = _given(config, groups, len(flat))
        return dict(zip(flat, given, strict=True)), tuple(_cut(given, map(len, numbers))), True
    whole = _fitting(config, nested["state"], flat, (order, parameters(config, layout)))
    if len(groups) == 1:
        return dict(zip(flat, whole, strict=True)), (tuple(parameters(config, layout)),), False
    divided = None
    if flat == list(range(len(flat))):
        divided = _divided(config, whole, list(map(len, numbers)), nested["state"])
    if divided is None:
        raise NotCarriedError(f"{len(groups)} groups, and it does not say which parameter is which")
    known = dict(zip(flat, itertools.chain.from_iterable(divided), strict=True))
    rank = {key: i for i, key in enumerate(parameters(config, layout))}
    return known, tuple(tuple(sorted(keys, key=rank.__getitem__)) for keys in divided), False


def _given(config: Config, groups: Sequence[Mapping[str, Any]], count: int) -> list[str]:
    """Return the groups' own names of their parameters."""
    trained = set(parameters(config))
    given = []
    for name in (str(name) for group in groups for name in group["param_names"]):
        given.append(naming.present_name(config, own_name(name, trained)))
    if not set(given) <= trained or len({*given}) != count or len(given) != count:
        raise NotCarriedError("its names of the parameters are not those of the network")
    return given


def _fitting(
    config: Config,
    state: Mapping[int, Mapping[str, Any]],
    flat: Sequence[int],
    orders: Sequence[Sequence[str]],
) -> Sequence[str]:
    """Return the order of parameters that numbers refer to: the file's or the published class's.

    The latter is meant where the file lacks parameters, or somebody has sorted it, which the shapes
    of the state show.
    """
    shapes = {key: spec.shape for key, spec in tensors(config).items()}
    long_enough = [order for order in orders if len(order) == len(flat)]
    for order in long_enough:
        known = dict(zip(flat, order, strict=True))
        if all(_fits(slots, shapes[known[i]]) for i, slots in state.items() if i in known):
            return order
    if long_enough:
        return long_enough[0]  # what does not fit is said where it is read
    raise NotCarriedError(
        f"it is of {len(flat)} parameters, the network has {len(orders[0])}, and it does not say"
        " which"
    )


def _divided(
    config: Config,
    order: Sequence[str],
    sizes: Sequence[int],
    state: Mapping[int, Mapping[str, Any]],
) -> tuple[tuple[str, ...], ...] | None:
    """Return the only division into groups that fits the state's shapes, or None.

    Tried are consecutive parts of the network, with the groups in any order, as ICNet's are
    (backbone, branch, head), and weights separate from biases.
    """
    shapes = {key: spec.shape for key, spec in tensors(config).items()}
    found = set()
    for candidate in _candidates(order, sizes, shapes):
        keys = list(itertools.chain.from_iterable(candidate))
        if all(_fits(slots, shapes[keys[i]]) for i, slots in state.items() if i < len(keys)):
            found.add(candidate)
    return found.pop() if len(found) == 1 else None


def _candidates(
    order: Sequence[str], sizes: Sequence[int], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[tuple[str, ...], ...]]:
    places = range(len(sizes))
    turns = itertools.permutations(places) if len(sizes) <= MOST_PERMUTED else [tuple(places)]
    for turn in turns:
        parts = dict(zip(turn, _cut(order, (sizes[i] for i in turn)), strict=True))
        yield tuple(parts[i] for i in places)
    for division in DIVISIONS if len(sizes) == 2 else ():
        first = tuple(key for key in order if division(key, shapes[key]))
        rest = tuple(key for key in order if not division(key, shapes[key]))
        for pair in ((first, rest), (rest, first)):
            if tuple(map(len, pair)) == tuple(sizes):
                yield pair


def _fits(slots: Mapping[str, Any], shape: tuple[int, ...]) -> bool:
    arrays = [v for k, v in slots.items() if k != "step" and isinstance(v, np.ndarray)]
    return all(array.shape == shape for array in arrays)


def _cut(keys: Sequence[str], sizes: Iterable[int]) -> Iterator[tuple[str, ...]]:
    rest = iter(keys)
    for size in sizes:
        yield tuple(itertools.islice(rest, size))
