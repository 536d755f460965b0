"""A port: a network in two frameworks, and all it takes to compare them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.capture.records import NHWC, Layout, Loss, is_array
from parity.capture.signature import Signature, arrays_in, signature
from parity.ladder.axes import Axes, refuse_axes
from parity.ladder.weights import Weights
from parity.spec import draw
from parity.spec.errors import InputError, listed
from parity.trace.reading import TraceFile

if TYPE_CHECKING:
    import optax
    import torch

MakeOptimizer = Callable[["torch.nn.Module"], "torch.optim.Optimizer"]

NAMES = "names"  # of `Port.layers`
UNNAMED = "port"  # what a port is called that nobody named


@dataclasses.dataclass(frozen=True)
class Port:
    """A reference, its port, and what to run them on.

    Attributes:
        reference: The PyTorch module, on the CPU; not changed. Or the path of a trace, a recording
            of it (docs/traces.md): then inputs and targets are the trace's, and in `losses`,
            `call`, `optimizers` and `schedules` the reference's part is None.
        port: A Flax NNX module, a Flax Linen module, or a function `f(params, *inputs)`; not
            changed.
        inputs: Inputs of the forward pass, in the port's layout, one item per argument: an array, a
            shape (drawn from a standard normal distribution by `seed`), or a nest of them. A single
            array or shape will do. Integers: give an array. `None`, numbers, bools and
            strings are handed over as they are; at least one argument must hold an array.
        keywords: Inputs by keyword, the same on both sides.
        call: How each side is called, where the port's arguments have another order or other names:
            two functions `call(network, *inputs, **keywords)`, the reference's and the port's, that
            return what the network returns. `network` is called like the network itself.
        outputs: The port's output -> the reference's, by the names that they have in a mapping, a
            dataclass or a named tuple (`hidden.0` in a nest of them; numbers in a tuple); None: it
            has none. By default outputs of equal names are compared, or those of equal places where
            there are no names. What only one side returns is listed.
        input_layouts: The number or keyword of an input -> the permutation from the reference's
            axes to the port's, or None if both have the same, where `layout` does not hold.
        output_layouts: The same of outputs, by number or name.
        weights: How the port's tensors come from the reference's: a mapping of the port's name to
            the reference's name or (name, axes or None); rules, of which the first that fits the
            reference's whole name counts, (pattern, name or names or None for nothing, axes): see
            docs/rules.md; the name of a TOML file of rules, beside the file that makes the port or
            in the working directory; or a function from the reference's arrays to the port's. They
            are loaded into a copy of the port. None: both hold the same values already, and are
            matched by them.
        params: The parameters of a function, or the variables of a Linen module.
        name: The name shown in tables. The command line calls a port that has none after its file.
        eval_inputs: Inputs of the forward pass in eval mode, where they differ.
        losses: Two functions from outputs and `targets` to a scalar, for the reference and for the
            port. If not given: the sum of all outputs, each element times a number drawn by `seed`.
        targets: The losses' other inputs, such as labels and class weights, in the port's layout.
        layers: The port's layer -> the reference's, for layers that neither their names, their
            weights nor their values pair; or `names`: every layer must answer the one of its name.
        layout: Number of axes -> permutation from the reference's axes to the port's. By default
            four axes are NCHW in PyTorch and NHWC in the port; `{}`: alike on both sides.
        modes: Keyword arguments of the port in eval mode and in train mode.
        filled: Whether the port already holds its weights, so that `weights` only describes them.
        seed: Seed of drawn inputs.
        optimizers: The optimizers of both sides: for the reference a function that makes a
            `torch.optim` optimizer of a module like it, for the port an optax transformation. None:
            the rungs L4 and L5 are left out.
        schedules: The learning-rate schedules, and at how many steps they are compared. For the
            reference a function of the step that gives its first group's rate, or one that makes a
            scheduler of an optimizer, whose `step()` is called after each of the optimizer's; for
            the port an optax schedule, which `optimizers` must hold too.
        batches: What a trajectory's steps are trained on, one after the other and over again:
            (inputs, targets) of each. If there is none: `inputs` and `targets` at every step.
        steps: Number of steps of a trajectory.
        train: Whether the port is to be trained. False asks for an inference check: is it the same
            function in eval mode? Nothing is run in train mode, and the rungs of gradients and
            training, L3 to L5, are left out.

    PyTorch's and Flax's own dropouts are switched off on both sides, since each draws its own
    numbers; dropout that takes a mask as an input stays on.
    """

    reference: Any  # a torch.nn.Module, or the path of a trace
    port: Any
    inputs: Any = None
    weights: Weights = None
    params: Any = None
    name: str = UNNAMED
    eval_inputs: Any = None
    losses: tuple[Loss | Any, Loss] | None = None
    targets: tuple[np.ndarray, ...] = ()
    layers: Mapping[str, str] | str | None = None
    layout: Layout = dataclasses.field(default_factory=lambda: dict(NHWC))
    modes: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {})
    filled: bool = False
    seed: int = 0
    optimizers: tuple[MakeOptimizer | Any, optax.GradientTransformation] | None = None
    schedules: tuple[Callable[[Any], Any] | Any, Callable[[Any], Any], int] | None = None
    batches: Sequence[tuple[Any, tuple[np.ndarray, ...]]] = ()
    steps: int = 10
    train: bool = True
    keywords: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    call: tuple[Callable[..., Any] | Any, Callable[..., Any]] | None = None
    outputs: Mapping[str, str | None] | None = None
    input_layouts: Mapping[str | int, Axes] = dataclasses.field(default_factory=dict)
    output_layouts: Mapping[str | int, Axes] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what is of the wrong sort.

        Raises:
            InputError: Says which field, and what was expected.
        """
        losses, layers = self.losses, self.layers
        pair = _is_tuple(losses, 2) and self._are_functions(losses)
        if losses is not None and not pair:
            raise InputError(f"losses are {losses!r}, expected two functions: torch's and jax's")
        if not isinstance(self.targets, Sequence):
            raise InputError("targets are expected to be a tuple of arrays, such as (labels,)")
        if not (layers is None or layers == NAMES or isinstance(layers, Mapping)):
            raise InputError(f"layers are {layers!r}, expected a mapping or {NAMES!r}")
        if not isinstance(self.layout, Mapping):
            raise InputError(f"layout is {self.layout!r}, expected a mapping: dimensions -> axes")
        if self.call is not None and not (
            _is_tuple(self.call, 2) and self._are_functions(self.call)
        ):
            raise InputError(f"call is {self.call!r}, expected two functions: torch's and jax's")
        for name in ("keywords", "outputs", "input_layouts", "output_layouts"):
            value = getattr(self, name)
            if not isinstance(value, Mapping) and not (name == "outputs" and value is None):
                raise InputError(f"{name} is {value!r}, expected a mapping")
        if not isinstance(self.train, bool):
            raise InputError(f"train is {self.train!r}, expected True or False")
        self._check_training()

    def _are_functions(self, functions: Any) -> bool:
        """Return whether all are functions; the first, of a recorded reference, may be None."""
        given = functions
        if isinstance(self.reference, str | Path | TraceFile) and functions[0] is None:
            given = functions[1:]
        return all(map(callable, given))

    def _check_training(self) -> None:
        made, rates = self.optimizers, self.schedules
        if made is not None and not (_is_tuple(made, 2) and self._are_functions(made[:1])):
            raise InputError(
                f"optimizers are {made!r}, expected a function of a module, and optax's"
            )
        if rates is not None and not (
            _is_tuple(rates, 3) and self._are_functions(rates[:2]) and _is_count(rates[2])
        ):
            raise InputError(
                f"schedules are {rates!r}, expected two functions, and at how many steps"
            )
        if rates is not None and made is None:
            raise InputError("schedules are given, expected optimizers too")
        if not _is_count(self.steps):
            raise InputError(f"steps is {self.steps!r}, expected 1 or more")
        if not isinstance(self.batches, Sequence) or not all(_is_tuple(b, 2) for b in self.batches):
            raise InputError("batches are expected to be a sequence of (inputs, targets)")

    def arguments(self, train: bool) -> tuple[Any, ...]:
        """Return the inputs of one mode as arrays.

        Raises:
            InputError: There is none, or one is neither an array nor a shape.
        """
        return self._arrays(self.inputs if train or self.eval_inputs is None else self.eval_inputs)

    def signatures(self, train: bool) -> tuple[Signature, Signature]:
        """Return how the reference and the port are called in a mode.

        Raises:
            InputError: The inputs are not what they must be, or hold no array.
        """
        return self._signatures(self.arguments(train))

    def arrays(self, train: bool) -> tuple[np.ndarray, ...]:
        """Return the arrays among the inputs of one mode, in the order of `Signature.names`."""
        return arrays_in(self.arguments(train), self._keywords())

    def drawn(self, train: bool) -> tuple[bool, ...]:
        """Return which of the arrays of `arrays` are positional, and drawn, not given."""
        inputs = self.inputs if train or self.eval_inputs is None else self.eval_inputs
        args = _marked(inputs)
        positional = arrays_in(args if isinstance(args, tuple) else (args,), {})
        others = len(self.arrays(train)) - len(positional)
        return (*map(bool, positional), *[False] * others)

    def _signatures(self, args: tuple[Any, ...]) -> tuple[Signature, Signature]:
        keywords = self._keywords()
        if not arrays_in(args, keywords):
            raise InputError(f"inputs are {self.inputs!r}, expected an array or a shape among them")
        ours, theirs = self.call or (None, None)
        return signature(args, keywords, ours), signature(args, keywords, theirs)

    def _keywords(self) -> dict[str, Any]:
        return {k: _array(value, self.seed, f"input {k}") for k, value in self.keywords.items()}

    def input_axes(self, train: bool) -> dict[int, Axes]:
        """Return the axes of inputs for which `layout` does not hold, by number among the arrays.

        Raises:
            InputError: There is no such input, or the axes are no permutation of its axes.
        """
        names, arrays = self.signatures(train)[0].names(), self.arrays(train)
        found: dict[int, Axes] = {}
        for key, axes in self.input_layouts.items():
            name = str(key)
            places = [i for i, n in enumerate(names) if n == name or n.startswith(f"{name}.")]
            if not places:
                raise InputError(f"input_layouts: there is no input {name}, but {listed(names)}")
            for place in places:
                refuse_axes(f"input_layouts: {name}", axes, arrays[place].ndim)
            found |= dict.fromkeys(places, axes)
        return found

    def batch(self, step: int) -> tuple[tuple[Any, ...], tuple[np.ndarray, ...]]:
        """Return arrays among the inputs, and targets, of a trajectory's step, counted from 0.

        Raises:
            InputError: The inputs are neither arrays nor shapes, or called unlike `inputs`.
        """
        if not self.batches:
            return self.arrays(train=True), self.targets
        number = step % len(self.batches)
        inputs, targets = self.batches[number]
        args = self._arrays(inputs)
        if self._signatures(args) != self.signatures(train=True):
            raise InputError(f"batches: the inputs of batch {number} are not nested as `inputs`")
        return arrays_in(args, self._keywords()), tuple(targets)

    def _arrays(self, inputs: Any) -> tuple[Any, ...]:
        if is_array(inputs) or isinstance(inputs, Mapping) or _is_shape(inputs):
            inputs = (inputs,)
        if (
            not isinstance(inputs, Sequence)
            or isinstance(inputs, str)
            or not (inputs or self.keywords)
        ):
            raise InputError(f"inputs are {inputs!r}, expected an array or a shape per argument")
        return tuple(_array(value, self.seed, f"input {i}") for i, value in enumerate(inputs))


def _is_tuple(value: Any, length: int) -> bool:
    return isinstance(value, tuple | list) and len(value) == length


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value > 0)


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, tuple | list)
        and bool(value)
        and all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in value)
    )


def _array(value: Any, seed: int, name: str) -> Any:
    if _is_shape(value):
        if min(value) < 1:
            raise InputError(f"{name} is the shape {value!r}, expected sides of 1 or more")
        return draw.generator(seed, f"inputs/{name}").standard_normal(value).astype(np.float32)
    if isinstance(value, Mapping):
        return {key: _array(item, seed, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_array(item, seed, f"{name}.{i}") for i, item in enumerate(value))
    if is_array(value):
        return _numbers(value, name)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"{name} is {value!r}, expected an array, a shape or a nest of them")


def _marked(value: Any) -> Any:
    """Return the nest of inputs with an array of one boolean for each array: is it drawn?"""
    if _is_shape(value):
        return np.array(True)
    if isinstance(value, Mapping):
        return {key: _marked(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(map(_marked, value))
    return np.array(False) if is_array(value) else value


def _numbers(value: Any, name: str) -> np.ndarray:
    if hasattr(value, "detach"):  # a PyTorch tensor
        if value.device.type != "cpu":
            raise InputError(f"{name} is on {value.device}, expected the cpu")
        value = value.detach()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise InputError(f"{name} is an array of {array.dtype}, expected numbers")
    return array
