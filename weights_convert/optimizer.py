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
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.spec.errors import InputError, listed
from parity.spec.models import Config
from parity.spec.tensors import tensors
from weights_convert import mindspore_adam, naming
from weights_convert.numbering import Group, NotCarriedError, numbered, parameters
from weights_convert.wrapping import own_name

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

# A leaf of optax's state: chains and wrappers put numbers and names of their own in between.
OPTAX = re.compile(
    r"((?:optimizer\.)?opt_state(?:\.(?:\d+|inner_state|inner_opt_state))*)"
    r"\.(mu|nu|nu_max|trace|count)((?:\..+)?)"
)
# MindSpore's slots without a name elsewhere: of AMSGrad, AdamWeightDecay, SGD.
ELSEWHERE = ("vhat.", "adam_m.", "adam_v.", "accum.", "stat.")
# What else training leaves among the tensors, and no other framework's optimizer has a place for.
BESIDE = re.compile(
    r"(?:optimizer\.|opt_state\.).*|step|learning_rate\w*|momentum|beta[12]_power|epoch_num"
    r"|step_num|scale_sense|current_iterator_step|last_overflow_iterator_step"
)
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


def split(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Split a file's tensors into the network's, the optimizer's and the rest.

    Returns:
        The network's tensors; the optimizer's, chains of optax left out of their names; the rest,
        such as a learning rate.
    """
    network: dict[str, np.ndarray] = {}
    optimizer: dict[str, np.ndarray] = {}
    rest: dict[str, np.ndarray] = {}
    adam = any(name.startswith("moment1.") for name in arrays)  # MindSpore's
    own = {*STEP.values(), *(mindspore_adam.POWERS if adam else ())}
    prefixes = [f"{names[naming_scheme]}." for names in SLOTS.values() for naming_scheme in names]
    leaves = {name: leaf for name in arrays if (leaf := OPTAX.fullmatch(name))}
    adams = {leaf[1] for leaf in leaves.values() if leaf[2] == "mu"}
    # A schedule or a wrapper may count, too: that of the moments goes first.
    for name in sorted(arrays, key=lambda n: n in leaves and leaves[n][1] not in adams):
        array = arrays[name]
        if leaf := leaves.get(name):
            short = f"opt_state.{leaf[2]}{leaf[3]}"
            same = optimizer.get(short)
            known = same is None or (same.dtype == array.dtype and np.array_equal(same, array))
            (optimizer if known else rest)[short if known else name] = array
        elif name == STEP["torch"] and leaves:  # `nnx.Optimizer` counts for itself
            rest[name] = array
        elif name in own or name.startswith((*prefixes, *ELSEWHERE)):
            optimizer[name] = array
        elif BESIDE.fullmatch(name):
            rest[name] = array
        else:
            network[name] = array
    return network, optimizer, rest


def from_naming_scheme(
    config: Config, arrays: Mapping[str, np.ndarray], naming_scheme: str
) -> Optimizer:
    """Convert the optimizer's tensors from `split` to a state.

    Raises:
        NotCarriedError: It is no state of `KINDS`, or does not fit the network.
    """
    found: dict[str, dict[str, np.ndarray]] = {slot: {} for slot in SLOTS}
    names, target = naming.names(config, naming_scheme), tensors(config)
    for name, array in arrays.items():
        if name == STEP[naming_scheme] or (
            naming_scheme == "mindspore" and name in mindspore_adam.POWERS
        ):
            continue
        slot = next((s for s, n in SLOTS.items() if name.startswith(f"{n[naming_scheme]}.")), None)
        rest = name.removeprefix(f"{SLOTS[slot][naming_scheme]}.") if slot else name
        rest = own_name(rest, names)
        if slot is None:
            raise NotCarriedError(f"{name} has no name elsewhere")
        if rest not in names:
            raise NotCarriedError(f"{name} is no state of a parameter")
        key, leaf = names[rest]
        _check_slot(name, array, leaf.shape(target[key].shape))
        if key in found[slot]:
            raise NotCarriedError(f"it has {key} more than once, such as {name}")
        found[slot][key] = np.array(leaf.inverse().array(array), order="C")
    step = None if STEP[naming_scheme] not in arrays else _step(arrays[STEP[naming_scheme]])
    try:
        betas = mindspore_adam.betas_of(arrays, step)
    except ValueError as error:
        raise NotCarriedError(str(error)) from None
    return _whole(config, found, step, {"betas": list(betas)} if betas else {})


def to_naming_scheme(config: Config, state: Optimizer, naming_scheme: str) -> dict[str, np.ndarray]:
    """Name and lay it out for a framework; 0 for a parameter without state.

    Returns:
        The naming scheme's name -> array.
    """
    made: dict[str, np.ndarray] = {}
    trained, shapes = set(parameters(config)), tensors(config)
    for slot, found in state.slots.items():
        dtype = next(iter(found.values())).dtype
        for name, (key, leaf) in naming.names(config, naming_scheme).items():
            if key in trained:
                array = found[key] if key in found else np.zeros(shapes[key].shape, dtype)
                made[f"{SLOTS[slot][naming_scheme]}.{name}"] = leaf.array(array)
    if state.step is not None:
        shape = (1,) if naming_scheme == "mindspore" else ()
        made[STEP[naming_scheme]] = np.full(shape, state.step, np.int32)
        if naming_scheme == "mindspore" and state.kind == "adam":
            if any("betas" in group.hyperparameters for group in state.groups):
                raise InputError(
                    "the optimizer's groups have different betas, but MindSpore's Adam has two for"
                    " all parameters; --weights-only leaves its state behind"
                )
            betas = state.hyperparameters.get("betas", mindspore_adam.BETAS)
            made |= mindspore_adam.powers(state.step, betas)
    return made


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
                steps.add(_step(value))
            elif slot not in SLOTS:
                raise NotCarriedError(f"{slot} has no name elsewhere")
            elif value is not None:
                _check_slot(f"{slot} of parameter {index}", value, shapes[keys[index]].shape)
                found[slot][keys[index]] = value
    if len(steps) > 1:
        raise NotCarriedError(f"its parameters are at different steps, [{listed(sorted(steps))}]")
    numbers, own, left = _numbers(nested["param_groups"])
    state = _whole(config, found, next(iter(steps), None), numbers)
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
    step = {} if state.step is None else {"step": _float(state.step)}
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
        and all(map(_simple, numbers.values()))
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
        and all(map(_simple, said["hyperparameters"].values()))
        and isinstance(said["named"], bool)
    )


def _are_keys(said: Any) -> bool:
    return isinstance(said, list) and all(isinstance(key, str) for key in said)


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
        if not isinstance(name, str) or not all(map(_simple, values)):
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


def _simple(value: Any) -> bool:
    """Return whether JSON can store the value, alone or as a list."""
    simple = (bool, int, float, str, type(None))
    return all(isinstance(v, simple) for v in (value if isinstance(value, list) else [value]))


def _step(value: Any) -> int:
    try:
        (number,) = np.asarray(value).reshape(-1).tolist()
        if number == int(number) and 0 <= number <= LARGEST_STEP:
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise NotCarriedError(f"a step of it is no whole number from 0 to {LARGEST_STEP}")


def _float(step: int) -> np.floating:
    """Return the step as float32, as in PyTorch, or float64 where that would round it."""
    return np.float32(step) if int(np.float32(step)) == step else np.float64(step)


def _check_slot(name: str, value: object, shape: tuple[int, ...]) -> None:
    if not isinstance(value, np.ndarray) or value.shape != shape:
        raise NotCarriedError(f"{name} is not of its shape")
    if value.dtype.name not in naming.FLOATS:
        raise NotCarriedError(f"{name} is {value.dtype}, expected {', '.join(naming.FLOATS)}")


def _whole(
    config: Config,
    found: dict[str, dict[str, np.ndarray]],
    step: int | None,
    hyperparameters: dict[str, Any],
) -> Optimizer:
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
