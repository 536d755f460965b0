"""An optimizer's state as `torch.optim` nests it: parameters have numbers, and lie in groups."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.spec.errors import listed
from parity.spec.models import Config
from parity.spec.tensors import tensors
from weights_convert.numbering import Group, NotCarriedError, numbered, parameters
from weights_convert.optimizer import (
    SLOTS,
    Optimizer,
    check_slot,
    complete,
    is_simple,
    whole_step,
)


def from_torch(
    config: Config,
    nested: Mapping[str, Any],
    order: Sequence[str] | None = None,
    layout: str | None = None,
) -> Optimizer:
    """Convert the result of `torch.optim.Optimizer.state_dict()`.

    Args:
        config: The network's configuration.
        nested: The state.
        order: The published keys of trained tensors, in the order of the network's state dict; the
            network's own order if not given.
        layout: The published class of the file; see `parity.spec.tensors.layouts`.

    Raises:
        NotCarriedError: Its optimizer is not in `KINDS`, its parameters cannot be identified, or
            their steps differ.
    """
    keys, parts, named = numbered(config, nested, order or parameters(config, layout), layout)
    found: dict[str, dict[str, np.ndarray]] = {slot: {} for slot in SLOTS}
    steps, shapes = set(), tensors(config)
    for index, slots in nested["state"].items():
        if index not in keys:
            raise NotCarriedError(f"it has a state of parameter {index}, which is in no group")
        for slot, value in slots.items():
            if slot == "step":
                steps.add(whole_step(value))
            elif slot not in SLOTS:
                raise NotCarriedError(f"{slot} has no name elsewhere")
            elif value is not None:
                check_slot(f"{slot} of parameter {index}", value, shapes[keys[index]].shape)
                found[slot][keys[index]] = value
    if len(steps) > 1:
        raise NotCarriedError(f"its parameters are at different steps, [{listed(sorted(steps))}]")
    numbers, own, left = _numbers(nested["param_groups"])
    state = complete(config, found, next(iter(steps), None), numbers)
    groups = tuple(Group(k, given, named) for k, given in zip(parts, own, strict=True))
    usual = [tuple(parameters(config, layout))] == [group.keys for group in groups]
    return dataclasses.replace(state, left=left, groups=() if usual else groups)


def to_torch(config: Config, state: Optimizer, layout: str | None = None) -> dict[str, Any]:
    """Build the argument of `torch.optim.Optimizer.load_state_dict`, with NumPy arrays.

    Args:
        config: The network's configuration.
        state: The optimizer's state.
        layout: The published class it is for; see `parity.spec.tensors.layouts`.
    """
    groups = state.groups or (Group(tuple(parameters(config, layout)), {}),)
    keys = [key for group in groups for key in group.keys]
    step = {} if state.step is None else {"step": torch_step(state.step)}
    entries = {
        i: step | {slot: found[key] for slot, found in state.slots.items() if key in found}
        for i, key in enumerate(keys)
    }
    numbers = itertools.count()
    written = []
    for group in groups:
        given = (state.hyperparameters | group.hyperparameters).items()
        entry = {k: tuple(v) if isinstance(v, list) else v for k, v in given}  # betas
        entry["params"] = list(itertools.islice(numbers, len(group.keys)))
        written.append(entry | ({"param_names": list(group.keys)} if group.named else {}))
    return {
        "state": {i: slots for i, slots in entries.items() if slots.keys() - {"step"}},
        "param_groups": written,
    }


def _numbers(
    groups: list[Mapping[str, Any]],
) -> tuple[dict[str, Any], list[dict[str, Any]], tuple[str, ...]]:
    """Return shared hyperparameters as JSON values, each group's own, and names left out.

    Names left out come with the reason.
    """
    made: dict[str, Any] = {}
    own: list[dict[str, Any]] = [{} for _ in groups]
    left = []
    for name in dict.fromkeys(name for group in groups for name in group):
        if name in ("params", "param_names"):
            continue
        values = [_plain(group.get(name)) for group in groups]
        if not isinstance(name, str) or not all(map(is_simple, values)):
            left.append(f"{name} (a {type(groups[0].get(name)).__name__})")
        elif any(repr(value) != repr(values[0]) for value in values):
            for group, kept, value in zip(groups, own, values, strict=True):
                kept |= {name: value} if name in group else {}
        else:
            made[name] = values[0]
    return made, own, tuple(left)


def _plain(value: Any) -> Any:
    """Convert tuples to lists, and arrays of one number, such as a learning rate, to numbers."""

    def number(item: Any) -> Any:
        return item.item() if isinstance(item, np.ndarray) and item.ndim == 0 else item

    return [number(v) for v in value] if isinstance(value, tuple | list) else number(value)


def torch_step(step: int) -> np.floating:
    """Return the step as float32, as in PyTorch, or float64 where that would round it."""
    return np.float32(step) if int(np.float32(step)) == step else np.float64(step)
