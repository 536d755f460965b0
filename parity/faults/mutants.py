"""All mutants of a network: a clean port with one fault of the catalogue injected."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from flax import nnx

from parity.capture.jax_recording import join
from parity.diagnosis.catalogue import CATALOGUE, Fault
from parity.faults import updates
from parity.faults.blocks import CutShort
from parity.faults.injection import Injection
from parity.faults.injections import INJECTIONS, NORM
from parity.faults.layer_faults import AlwaysTrains, inject_class
from parity.faults.losses import injected
from parity.faults.transformers import TRANSFORMERS
from parity.ladder.port import Port
from parity.model_checks.small_networks import Subject, subject

PLACES = 3  # of each way to injection a fault, in each network
BLOCK_PLACES = 2  # the same of blocks, where the whole network is compiled for each


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A port with one fault.

    Attributes:
        fault: Its name in the catalogue.
        name: A description of the change.
        subject: The network that was changed.
        place: The layer or block that the ladder should name; empty where there is no single one.
        level: `layer`, `block`, `network`, `loss` or `training`.
        make: Returns the faulty port.
        equivalent: Why no input can reveal it; empty if one can.
    """

    fault: Fault
    name: str
    subject: Subject
    place: str
    level: str
    make: Callable[[], Port]
    equivalent: str = ""


def copied(port: Port) -> Port:
    """Return the port with a copy of its network, to inject a fault in."""
    return dataclasses.replace(port, port=nnx.clone(port.port))


def layers(network: nnx.Module) -> dict[str, Any]:
    """Path -> layer."""
    return {join(path): layer for path, layer in nnx.iter_modules(network) if path}


def mutants(model: str, least: bool = False, places: int = PLACES) -> list[Mutant]:
    """Return all mutants of a model's small network, in the order of the catalogue.

    Args:
        model: A key of `MODELS`.
        least: Whether to use its smallest network.
        places: Number of places per way of injecting a fault, spread over the depth.
    """
    found = [
        m
        for p in (*INJECTIONS, *TRANSFORMERS)
        for m in _of_injection(p, subject(model, p.condition, least), places)
    ]
    clean = subject(model, least=least)
    found += [*_of_network(clean), *_of_loss(clean), *_of_training(model)]
    return sorted(found, key=lambda m: CATALOGUE[m.fault].number)


def fast(model: str) -> list[Mutant]:
    """Return one mutant per fault, in the smallest network."""
    seen: dict[Fault, Mutant] = {}
    for mutant in mutants(model, least=True, places=1):
        if not mutant.equivalent:
            seen.setdefault(mutant.fault, mutant)
    return list(seen.values())


def _of_injection(injection: Injection, at: Subject, places: int) -> Iterator[Mutant]:
    known, fit = layers(at.port.port), []
    same: dict[str, str] = {}  # reason -> the first layer
    for name, call in at.calls.items():
        if name not in known or not injection.takes(known[name], list(call.args)):
            continue
        reason = injection.equivalent(known[name], list(call.args))
        if reason:
            same.setdefault(reason, name)
        else:
            fit.append(name)
    for name in spread(fit, min(places, BLOCK_PLACES) if injection.level == "block" else places):
        yield _mutant(injection, at, name)
    for reason, name in same.items():  # one for each reason
        yield dataclasses.replace(_mutant(injection, at, name), equivalent=reason)


def _mutant(injection: Injection, at: Subject, name: str) -> Mutant:
    def make() -> Port:
        port = copied(at.port)
        injection.act(layers(port.port)[name], list(at.calls[name].args))
        return port

    return Mutant(injection.fault, injection.name, at, name, injection.level, make)


def _of_network(at: Subject) -> Iterator[Mutant]:
    def all_train() -> Port:
        port = copied(at.port)
        for layer in layers(port.port).values():
            if type(layer).__name__ in NORM:
                inject_class(layer, AlwaysTrains)
        return port

    def cut_short() -> Port:
        port = copied(at.port)
        inject_class(port.port, CutShort)
        return port

    def tied() -> Port:
        port: Any = copied(at.port)
        kernel = np.asarray(port.port.model.embed_tokens.embedding[...]).T
        port.port.lm_head.kernel.set_value(np.ascontiguousarray(kernel))
        return port

    if hasattr(at.port.port, "lm_head"):
        yield Mutant(Fault.TIED_HEAD, "the embedding's", at, "lm_head", "layer", tied)
    if any(type(layer).__name__ in NORM for layer in layers(at.port.port).values()):
        yield Mutant(Fault.BATCH_NORM_MODE, "all train in eval mode", at, "", "network", all_train)
    if type(at.port.port).__name__ == "ICNet":
        yield Mutant(
            Fault.BACKBONE_CUT_SHORT, "half image stops at layer2", at, "", "network", cut_short
        )


def _of_loss(at: Subject) -> Iterator[Mutant]:
    for fault, name, make in injected(at.port):
        yield Mutant(fault, name, at, "", "loss", make)


def _of_training(model: str) -> Iterator[Mutant]:
    """Yield the optimizer's mutants, in the smallest network: a step treats all tensors alike."""
    at = subject(model, least=True)
    for fault, name, make in updates.injected(at):
        yield Mutant(fault, name, at, "", "training", make)


def spread(items: Sequence[str], count: int) -> list[str]:
    """So many of them, first and last included."""
    if count >= len(items):
        return list(items)
    if count == 1:
        return [items[0]]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
