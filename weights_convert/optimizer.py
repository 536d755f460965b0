"""An optimizer's state in a checkpoint: Adam's moments, SGD's momentum, the step.

PyTorch's slots with the published names are canonical; each naming scheme has its own:

    PyTorch     optimizer.exp_avg.NAME   optimizer.exp_avg_sq.NAME   optimizer.momentum_buffer.NAME
    optax       opt_state.mu.NAME        opt_state.nu.NAME           opt_state.trace.NAME
    MindSpore   moment1.NAME             moment2.NAME                moments.NAME

A torch file with torch names stores it as `torch.optim` does, so that `load_state_dict` accepts it;
elsewhere it is stored among the tensors. `optax.tree_utils.tree_set` takes `mu`, `nu` and `count`;
MindSpore's Adam also stores the powers of its betas, see `weights_convert.mindspore_adam`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.spec.models import Config
from weights_convert import naming
from weights_convert.numbering import Group, NotCarriedError, parameters

# Slot -> what stands before a parameter's name, by naming scheme.
SLOTS = {
    "exp_avg": {"torch": "optimizer.exp_avg", "jax": "opt_state.mu", "mindspore": "moment1"},
    "exp_avg_sq": {"torch": "optimizer.exp_avg_sq", "jax": "opt_state.nu", "mindspore": "moment2"},
    "momentum_buffer": {
        "torch": "optimizer.momentum_buffer",
        "jax": "opt_state.trace",
        "mindspore": "moments",
    },
}
STEP = {"torch": "optimizer.step", "jax": "opt_state.count", "mindspore": "global_step"}
KINDS = {"adam": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
LARGEST_STEP = 2**31 - 1  # JAX and MindSpore count in int32


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The state of Adam, or of SGD with momentum.

    Attributes:
        kind: A key of `KINDS`.
        step: Number of steps made; None if unknown.
        slots: Slot -> published key of a parameter -> array of its shape. A parameter that never
            had a gradient may be absent.
        hyperparameters: Named as in `torch.optim`; empty if unknown.
        left: Names of hyperparameters that are not converted, with the reason.
        groups: The parameter groups, unless there is one with all parameters in the network's
            order.
    """

    kind: str
    step: int | None
    slots: dict[str, dict[str, np.ndarray]]
    hyperparameters: dict[str, Any]
    left: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()

    def flat(self) -> dict[str, np.ndarray]:
        """Slot and published key, as PyTorch's naming scheme names it -> array."""
        return {
            f"{SLOTS[slot]['torch']}.{key}": array
            for slot, found in self.slots.items()
            for key, array in found.items()
        }

    def absent(self, config: Config) -> list[str]:
        """Return the parameters without state."""
        return [key for key in parameters(config) if key not in next(iter(self.slots.values()))]

    def describe(self, config: Config) -> dict[str, Any]:
        """JSON values: all but the arrays; `groups` only where there are some."""
        groups = {"groups": [group.describe() for group in self.groups]} if self.groups else {}
        return {
            "kind": self.kind,
            "step": self.step,
            "hyperparameters": self.hyperparameters,
            "absent": self.absent(config),
        } | groups


def complete(
    config: Config,
    found: dict[str, dict[str, np.ndarray]],
    step: int | None,
    hyperparameters: dict[str, Any],
) -> Optimizer:
    """Return the state that these slots make.

    Args:
        config: The network's configuration.
        found: Slot -> published key of a parameter -> array; slots may be empty.
        step: Number of steps made; None if unknown.
        hyperparameters: Named as in `torch.optim`.

    Raises:
        NotCarriedError: The slots are of no optimizer in `KINDS`.
    """
    there = {slot: arrays for slot, arrays in found.items() if arrays}
    kind = next((k for k, slots in KINDS.items() if set(slots) == set(there)), None)
    if kind is None:
        what = ", ".join(there) or "no slots"
        raise NotCarriedError(f"it has {what}, expected those of Adam or of SGD with momentum")
    if len({frozenset(arrays) for arrays in there.values()}) > 1:
        raise NotCarriedError("one of its slots lacks parameters that another has")
    order = parameters(config)
    slots = {slot: {k: there[slot][k] for k in order if k in there[slot]} for slot in KINDS[kind]}
    return Optimizer(kind, step, slots, hyperparameters)


def check_slot(name: str, value: object, shape: tuple[int, ...]) -> None:
    """Check that a slot's value is an array of its parameter's shape.

    Raises:
        NotCarriedError: It is not, or not of floating-point numbers.
    """
    if not isinstance(value, np.ndarray) or value.shape != shape:
        raise NotCarriedError(f"{name} is not of its shape")
    if value.dtype.name not in naming.FLOATS:
        raise NotCarriedError(f"{name} is {value.dtype}, expected {', '.join(naming.FLOATS)}")


def whole_step(value: Any) -> int:
    """Return the number of steps that a file states.

    Raises:
        NotCarriedError: It is not one whole number that JAX and MindSpore can count to.
    """
    try:
        (number,) = np.asarray(value).reshape(-1).tolist()
        if number == int(number) and 0 <= number <= LARGEST_STEP:
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise NotCarriedError(f"a step of it is no whole number from 0 to {LARGEST_STEP}")


def restored(state: Optimizer, said: Mapping[str, Any] | None) -> Optimizer:
    """Add hyperparameters, groups and stateless parameters from a manifest."""
    if said is None:
        return state
    absent = {
        k
        for k in said["absent"]
        if all(not s.get(k, np.ones(1)).any() for s in state.slots.values())
    }
    slots = {s: {k: a for k, a in f.items() if k not in absent} for s, f in state.slots.items()}
    known = state.hyperparameters
    if set(known) <= {"betas"}:  # as MindSpore's powers show them
        known = said["hyperparameters"]
    groups = state.groups or tuple(
        Group(tuple(group["params"]), group["hyperparameters"], group["named"])
        for group in said.get("groups", ())
    )
    return dataclasses.replace(state, slots=slots, hyperparameters=known, groups=groups)


def is_description(said: Any) -> bool:
    """Return whether a manifest's entry is a result of `Optimizer.describe`, or None."""
    if said is None:
        return True
    fields = {"kind", "step", "hyperparameters", "absent"}
    if not isinstance(said, dict) or set(said) - {"groups"} != fields:
        return False
    numbers, absent = said["hyperparameters"], said["absent"]
    groups = said.get("groups", [])
    return (
        said["kind"] in tuple(KINDS)
        and (said["step"] is None or type(said["step"]) is int)
        and isinstance(numbers, dict)
        and all(map(is_simple, numbers.values()))
        and _are_keys(absent)
        and isinstance(groups, list)
        and all(map(_is_group, groups))
    )


def _is_group(said: Any) -> bool:
    return (
        isinstance(said, dict)
        and set(said) == {"params", "hyperparameters", "named"}
        and _are_keys(said["params"])
        and isinstance(said["hyperparameters"], dict)
        and all(map(is_simple, said["hyperparameters"].values()))
        and isinstance(said["named"], bool)
    )


def _are_keys(said: Any) -> bool:
    return isinstance(said, list) and all(isinstance(key, str) for key in said)


def is_simple(value: Any) -> bool:
    """Return whether JSON can store the value, alone or as a list."""
    simple = (bool, int, float, str, type(None))
    return all(isinstance(v, simple) for v in (value if isinstance(value, list) else [value]))
