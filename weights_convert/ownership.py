"""Finding the network that an optimizer's state belongs to, in a file with several networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.spec.errors import listed
from parity.spec.models import Config
from weights_convert import naming
from weights_convert.formats.base import AVERAGED, Contents
from weights_convert.numbering import NotCarriedError
from weights_convert.optimizer import SLOTS
from weights_convert.optimizer_tensors import split
from weights_convert.wrapping import is_average, own_name, plain, whole_after


def check_owner(
    config: Config,
    naming_scheme: str,
    contents: Contents,
    prefix: str,
    state: Mapping[str, Any],
) -> None:
    """Refuse a state that may be that of another network in the file.

    Another network with the same tensors makes the owner ambiguous, unless it is an average, which
    is not trained, or has equal values. Names of parameters in the state may resolve this; numbers
    do not.

    Args:
        config: The network that is read.
        naming_scheme: Its naming scheme.
        contents: The whole contents of the file.
        prefix: The prefix of the network's names.
        state: The result of `torch.optim.Optimizer.state_dict()`, or the optimizer's named tensors.

    Raises:
        NotCarriedError: It belongs to another network, or its owner is ambiguous.
    """
    start = f"{contents.key}." if contents.key else ""
    here = plain(start + prefix)
    own = split(contents.everything)[0]
    every = {f"{start}{name}": array for name, array in own.items()} | contents.elsewhere
    every = {plain(name): array for name, array in every.items()}
    names = naming.names(config, naming_scheme)
    others = [
        place
        for place in whole_after(every, config, naming_scheme)
        if place != here
        and not (AVERAGED.search(place) or is_average(every, place))
        and not all(_same(every.get(here + n), every.get(place + n)) for n in names)
    ]
    if not others:
        return
    given = {plain(name) for name in _names_in(state, naming_scheme)}
    leads = {name.removesuffix(own_name(name, names)) for name in given}
    lead = leads.pop() if len(leads) == 1 else None
    owners = [place for place in (here, *others) if lead is not None and _is_of(lead, place)]
    if owners == [here]:
        return
    if len(owners) == 1:
        raise NotCarriedError(f"it is that of the network {_said(owners[0])}")
    raise NotCarriedError(
        f"nobody can know whose it is: the file holds such a network {_said(here)}, and"
        f" {listed(map(_said, others))}"
    )


def _names_in(state: Mapping[str, Any], naming_scheme: str) -> list[str]:
    """Return the names of parameters in an optimizer's state; empty where it numbers them."""
    if "param_groups" in state:
        groups = [group.get("param_names") for group in state["param_groups"]]
        named = all(isinstance(given, list) for given in groups)
        return [str(name) for given in groups for name in given] if named else []
    starts = [f"{slot[naming_scheme]}." for slot in SLOTS.values()]
    return [name.removeprefix(s) for name in state for s in starts if name.startswith(s)]


def _is_of(lead: str, place: str) -> bool:
    """Return whether the prefix of names in a state equals, or ends, a network's path."""
    return lead == place or bool(lead and f".{place}".endswith(f".{lead}"))


def _same(a: Any, b: Any) -> bool:
    """Return whether both are absent, or arrays of the same bits."""
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return a is None and b is None
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _said(place: str) -> str:
    return f"after {place!r}" if place else "with nothing before its names"
