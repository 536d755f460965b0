"""An optimizer's tensors in a file: found among the network's, and named for another framework."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from parity.spec.errors import InputError
from parity.spec.models import Config
from parity.spec.tensors import tensors
from weights_convert import mindspore_adam, naming
from weights_convert.numbering import NotCarriedError, parameters
from weights_convert.optimizer import SLOTS, STEP, Optimizer, check_slot, complete, whole_step
from weights_convert.wrapping import own_name

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
        check_slot(name, array, leaf.shape(target[key].shape))
        if key in found[slot]:
            raise NotCarriedError(f"it has {key} more than once, such as {name}")
        found[slot][key] = np.array(leaf.inverse().array(array), order="C")
    step = None if STEP[naming_scheme] not in arrays else whole_step(arrays[STEP[naming_scheme]])
    try:
        betas = mindspore_adam.betas_of(arrays, step)
    except ValueError as error:
        raise NotCarriedError(str(error)) from None
    return complete(config, found, step, {"betas": list(betas)} if betas else {})


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
