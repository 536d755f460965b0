"""A network's layers on both sides: names, shapes, parameters; nothing is run.

PyTorch computes shapes on its `meta` device and JAX traces abstractly: any size takes seconds.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from rich.table import Table

import jax_impl.models
import torch_impl.models
from parity.capture.jax_models import NnxModel
from parity.capture.jax_recording import join
from parity.capture.jax_runs import Way, run_network
from parity.capture.records import NHWC, count_name
from parity.capture.torch_arrays import tensors_of
from parity.capture.traced import Traced
from parity.spec.models import LANGUAGE, Config, check_input, input_shape
from weights_convert import naming

Shape = tuple[int, ...]
Parameters = Mapping[str, Mapping[str, Shape]]  # layer -> tensor -> shape


@dataclasses.dataclass(frozen=True)
class Layer:
    """One call of an innermost layer, on one side.

    Attributes:
        name: Dotted name, followed by `#2` and so on from its second call on.
        kind: Its class.
        shape: Shape of its first output, in the port's layout; None where it is never called.
        parameters: Trained tensor -> shape; counted at the first call.
    """

    name: str
    kind: str
    shape: Shape | None
    parameters: Mapping[str, Shape]

    @property
    def count(self) -> int:
        """Return how many numbers are trained."""
        return sum(math.prod(shape) for shape in self.parameters.values())


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """A layer of the reference with its counterpart in the port.

    Attributes:
        torch: The reference's layer, None where only the port has it.
        jax: The port's layer, None where it has none.
    """

    torch: Layer | None
    jax: Layer | None

    @property
    def agrees(self) -> bool:
        """Return whether both sides have it, with one shape and one number of parameters."""
        a, b = self.torch, self.jax
        return a is not None and b is not None and (a.shape, a.count) == (b.shape, b.count)


@dataclasses.dataclass(frozen=True)
class Summary:
    """Both sides of one network, layer by layer.

    Attributes:
        name: The name shown in the title.
        size: Height and width of the image in pixels, or the number of tokens.
        rows: The layers, in the order in which the reference's return; then those never called.
        totals: Number of parameters of the reference and of the port.
    """

    name: str
    size: tuple[int, ...]
    rows: tuple[LayerRow, ...]
    totals: tuple[int, int]

    @property
    def ok(self) -> bool:
        """Return whether both sides agree in every layer, and the rows include every parameter."""
        counted = [
            sum(layer.count for layer in side if layer)
            for side in zip(*((row.torch, row.jax) for row in self.rows), strict=True)
        ]
        complete = counted == list(self.totals) and len(set(counted)) == 1
        return complete and all(row.agrees for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the values as a dict for JSON."""
        entries = [dataclasses.asdict(row) | {"agrees": row.agrees} for row in self.rows]
        parameters = dict(zip(("torch", "jax"), self.totals, strict=True))
        return {
            "model": self.name,
            "size": self.size,
            "ok": self.ok,
            "parameters": parameters,
            "layers": entries,
        }


def summary(name: str, config: Config, size: tuple[int, ...]) -> Summary:
    """List the layers of both sides of a network, side by side.

    Args:
        name: The name shown in the title.
        config: The network's configuration.
        size: Height and width of the image in pixels, or the number of tokens.

    Raises:
        ValueError: The network cannot process inputs of this size.
    """
    check_input(config, size)
    ours, total = of_torch(config, size)
    theirs, their_total = of_jax(config, size)
    to_port = partners(config)
    rows, left = [], dict(theirs)
    for call, layer in ours.items():
        path, _, count = call.partition("#")
        answer = to_port.get(path, path) + (f"#{count}" if count else "")
        rows.append(LayerRow(layer, left.pop(answer, None)))
    rows += [LayerRow(None, layer) for layer in left.values()]
    return Summary(name, size, tuple(rows), (total, their_total))


def of_torch(config: Config, size: tuple[int, ...]) -> tuple[dict[str, Layer], int]:
    """Return the reference's layers by call, and the number of parameters."""
    with torch.device("meta"):
        model = torch_impl.models.NETWORKS[config.family](config).eval()
        language = config.family in LANGUAGE
        given = torch.zeros(1, *size, dtype=torch.long) if language else torch.empty(1, 3, *size)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    held = by_layer(shapes)
    found: dict[str, Layer] = {}

    def keep(name: str, layer: torch.nn.Module, outputs: Any) -> None:
        first, *_ = tensors_of(outputs)
        call = count_name(name, found)
        axes = NHWC.get(first.ndim, range(first.ndim))
        shape = tuple(first.shape[i] for i in axes)
        found[call] = Layer(call, type(layer).__name__, shape, held.get(call, {}))

    kinds = {}
    for name, layer in model.named_modules():
        if name and not any(True for _ in layer.children()):
            kinds[name] = type(layer).__name__
            layer.register_forward_hook(
                lambda layer, _, outputs, name=name: keep(name, layer, outputs)
            )
    with torch.no_grad():
        model(given)
    found |= never_called(held, found, kinds)
    return found, sum(map(math.prod, shapes.values()))


def of_jax(config: Config, size: tuple[int, ...]) -> tuple[dict[str, Layer], int]:
    """Return the port's layers by call, and the number of parameters."""
    network = jax_impl.models.NETWORKS[config.family]
    model = nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0)))
    model.eval()
    program, trained, rest = NnxModel(model).split("", train=False)
    dtype = jnp.int32 if config.family in LANGUAGE else jnp.float32
    given = jax.ShapeDtypeStruct(input_shape(config, 1, size), dtype)
    trees = (trained, rest, (given,))
    traced = Traced(program, {}, trees, lift=False)
    run = functools.partial(run_network, Way(traced), None)
    calls = traced.calls(jax.eval_shape(run, *trees, ())["calls"])
    shapes = {join(path): leaf.shape for path, leaf in nnx.to_flat_state(trained)}
    held = by_layer(shapes)
    modules = {join(path): m for path, m in nnx.iter_modules(model) if path}
    parts = {name.rpartition(".")[0] for name in modules}
    kinds = {name: type(m).__name__ for name, m in modules.items() if name not in parts}
    found = {}
    for call, made in calls.items():
        if kind := kinds.get(made.module):
            shape = tuple(made.outputs[0].shape)
            found[call] = Layer(call, kind, shape, held.get(call, {}))
    return found | never_called(held, found, kinds), sum(map(math.prod, shapes.values()))


def by_layer(shapes: Mapping[str, Shape]) -> Parameters:
    """Layer -> tensor -> shape, from dotted names; a parameter of no layer stands for one."""
    held: dict[str, dict[str, Shape]] = defaultdict(dict)
    for name, shape in shapes.items():
        layer, _, tensor = name.rpartition(".")
        held[layer or tensor][tensor] = tuple(shape)
    return dict(held)


def never_called(
    held: Parameters, found: Iterable[str], kinds: Mapping[str, str]
) -> dict[str, Layer]:
    """Return the layers that have parameters and are never called."""
    idle = [name for name in held if name not in set(found)]
    return {name: Layer(name, kinds.get(name, ""), None, held[name]) for name in idle}


def partners(config: Config) -> dict[str, str]:
    """Return the reference's layer -> the port's, as weights are converted, if names differ."""
    names = naming.names(config, "jax")
    pairs = ((key.rpartition(".")[0], name.rpartition(".")[0]) for name, (key, _) in names.items())
    return {key: name for key, name in pairs if key}


def table(found: Summary) -> Table:
    """Return a printable table."""
    of = "x".join(map(str, found.size))
    given = f"image {of}" if len(found.size) > 1 else f"{of} tokens"
    shown = Table(title=f"{found.name}, {given}")
    for column in ("torch", "jax", "layer"):
        shown.add_column(column, overflow="fold")
    for column in ("output, NHWC", "parameters"):
        shown.add_column(column, justify="right")
    for row in found.rows:
        cells = (_name(row.torch), _name(row.jax), (row.torch or row.jax).kind)  # type: ignore[union-attr] # one is there
        output, count = (_both(row, part) for part in (_shape, lambda layer: f"{layer.count:,}"))
        style = None if row.agrees else "bold red"
        shown.add_row(*cells, output, count, style=style)
    shown.add_section()
    totals = dict.fromkeys(f"{total:,}" for total in found.totals)
    shown.add_row("total", "", "", "", " / ".join(totals))
    return shown


def _name(layer: Layer | None) -> str:
    return layer.name if layer else "(missing)"


def _shape(layer: Layer) -> str:
    if not layer.kind:
        return "parameter of no layer"
    return "x".join(map(str, layer.shape)) if layer.shape else "never called"


def _both(row: LayerRow, part: Any) -> str:
    """Return the text once if both sides have the same."""
    return " / ".join(dict.fromkeys(part(side) if side else "-" for side in (row.torch, row.jax)))
