"""How much of a table of rules `parity suggest` gets right, per network.

The port holds other weights than the reference, so that values tell nothing. Each network is tried
with its own names, and with every layer of the port called by a number drawn at random, so that
only shapes and the order of use are left.

    python -m tests.benchmarks.suggested_rules [--models enet,vit]
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx

import jax_impl.state
from parity import Port
from parity.ladder.ruled import is_counter
from parity.model_checks.networks import port as pair_of
from parity.spec import draw
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.suggest.suggestion import Suggestion, suggest
from tests.torchvision_import import torchvision
from weights_convert import to_jax
from weights_convert.rules import Rules

NETWORKS = ("enet", "erfnet", "icnet", "genet", "vit", "decoder", "resnet18")


@dataclasses.dataclass(frozen=True)
class Score:
    """What a suggestion is worth.

    Attributes:
        tensors: Tensors of the port.
        right: Those that the table fills with the right values.
        unmarked: Those that it fills with wrong values, and no line says that they are in doubt.
        doubted: Those that a line says are in doubt, right or wrong.
        rules: Lines of the table.
    """

    tensors: int
    right: int
    unmarked: tuple[str, ...]
    doubted: int
    rules: int


def score(made: Suggestion, source: Mapping[str, Any], expected: Mapping[str, np.ndarray]) -> Score:
    """Apply a suggested table to the reference's weights, and count what comes out right."""
    right: set[str] = set()
    wrong: set[str] = set()
    doubted: set[str] = set()
    rules = made.rules()
    for given, rows in rules:
        doubted |= {name for row in rows if row.doubts for name in row.port}
        try:
            plan = Rules.of([given]).plan(source, expected, lambda name: True)
        except InputError:
            wrong |= {name for row in rows for name in row.port}
            continue
        for step in plan.steps:
            for name, array in step.apply(source).items():
                (right if np.array_equal(array, expected[name]) else wrong).add(name)
    unmarked = tuple(sorted(wrong - doubted))
    return Score(len(expected), len(right - wrong), unmarked, len(doubted), len(rules))


def case(model: str) -> tuple[Port, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return a pair with unlike weights, the reference's weights, and what the port's should be."""
    if model == "resnet18":
        return resnet()
    config = MODELS[model]
    arrays = draw.weights(config, 0)
    made = pair_of(model, config, config.check_size, batch=1, arrays=arrays)
    others = to_jax(config, draw.weights(config, 1))
    port = dataclasses.replace(
        made, port=jax_impl.state.build(config, others), weights=None, filled=False, layers=None
    )
    return port, dict(arrays), to_jax(config, arrays)


def resnet() -> tuple[Port, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Torchvision's ResNet-18, and one whose names and nesting owe nothing to it."""
    rules = importlib.import_module("tests.torchvision_resnets").rules(18)
    network = importlib.import_module("tests.resnet").ResNet
    torch.manual_seed(0)
    module = torchvision().models.resnet18()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.tensor(rng.uniform(0.5, 1, tuple(tensor.shape))))
    arrays = {k: v.numpy() for k, v in module.state_dict().items()}
    made = Rules.of(rules).plan(arrays, None, is_counter, strict=False)
    expected = {n: a for step in made.steps for n, a in step.apply(arrays).items()}
    port = Port(module, network(rngs=nnx.Rngs(0)), inputs=(1, 40, 48, 3))
    return port, arrays, expected


def renamed(port: Port) -> tuple[Port, dict[str, str]]:
    """Return the pair as a function of arrays, whose layers are called by numbers drawn at random.

    Returns:
        The pair, and the port's former name of each tensor -> its new one.
    """
    graph, state = nnx.split(port.port)
    flat = {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}
    paths = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}
    layers = sorted({name.rpartition(".")[0] for name in flat})
    numbers = np.random.default_rng(0).permutation(len(layers))
    new = {
        name: f"x{numbers[layers.index(name.rpartition('.')[0])]}.{name.rpartition('.')[2]}"
        for name in flat
    }

    def run(params: dict, *inputs: Any, **keywords: Any) -> Any:
        pairs = [(paths[n], flat[n].replace(params[new[n]])) for n in flat]
        module = nnx.merge(graph, nnx.from_flat_state(pairs))
        module.eval()
        return module(*inputs, **keywords)

    params = {new[n]: np.asarray(leaf[...]) for n, leaf in flat.items()}
    return dataclasses.replace(port, port=run, params=params, modes=({}, {})), new


def measure(model: str, hidden: bool) -> Score:
    """Suggest a table for one network, and score it."""
    port, source, expected = case(model)
    if hidden:
        port, new = renamed(port)
        expected = {new[name]: array for name, array in expected.items()}
    return score(suggest(port), source, expected)


def main() -> None:
    """Print a row per network."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", default=",".join(NETWORKS))
    chosen = parser.parse_args().models.split(",")
    print("| network | names | tensors | right | wrong and unmarked | in doubt | rules |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for model in chosen:
        for hidden in (False, True):
            found = measure(model, hidden)
            share = f"{found.right} ({100 * found.right / found.tensors:.1f} %)"
            names = "drawn" if hidden else "its own"
            cells = (model, names, found.tensors, share, len(found.unmarked), found.doubted)
            print(f"| {' | '.join(map(str, cells))} | {found.rules} |", flush=True)
            for name in found.unmarked[:10]:
                print(f"  wrong: {name}", flush=True)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
