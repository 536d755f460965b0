"""The ladder of parity checks, L0 to L3, over any pair of modules.

Each rung compares structure in float64 and numerics in the working precision; `parity.compare`
says by how much they may differ.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from parity import compare
from parity.compare import STRUCTURE_FORWARD, STRUCTURE_GRADIENT, Measurement, difference
from parity.jax_side import JaxSide
from parity.port import Port
from parity.report import RUNGS, Check, Report
from parity.sides import Arrays, Call, Result
from parity.spec import draw
from parity.torch_side import TorchSide, one_thread

Progress = Callable[[str], None]

DISTURBANCES = 1  # how often a whole network is stirred; the largest response counts
NETWORK = "(network)"  # the layer that stands for the whole


class Key(NamedTuple):
    """What an array is, in the port's names."""

    layer: str
    quantity: str


Flat = dict[Key, np.ndarray]


def check(
    port: Port,
    levels: Sequence[str] = tuple(RUNGS),
    precision: str = "float32",
    progress: Progress = lambda _: None,
) -> Report:
    """Climb the ladder.

    Args:
        port: What to compare.
        levels: Which rungs, of `L0` to `L3`.
        precision: The working precision.
        progress: Called with the name of a rung when it begins.

    Returns:
        Everything that was compared; `report.ok` is the verdict.

    Raises:
        ValueError: An unknown rung or precision, or no rung.
    """
    if unknown := [level for level in levels if level not in RUNGS]:
        raise ValueError(f"unknown rung {unknown[0]!r}, expected one of {', '.join(RUNGS)}")
    if not levels:
        raise ValueError(f"no rung to climb, expected one of {', '.join(RUNGS)}")
    if precision != "float32":
        raise ValueError(f"unknown precision {precision!r}, expected float32")
    report = Report(port.name, precision)
    with ThreadPoolExecutor(2) as pool, one_thread():
        ladder = Ladder(port, sorted(set(levels)), precision, pool)
        for level in ladder.levels:
            start = time.perf_counter()
            progress(f"{level} {RUNGS[level]}")
            report.checks += getattr(ladder, level.lower())()
            report.seconds[level] = time.perf_counter() - start
        if "L1" in levels and {c.rung for c in report.failures()} & {"L2", "L3"}:
            progress("L1 blocks")
            report.checks += ladder.blocks(report)
    return report


class Ladder:
    """One climb. Whole networks are run once and serve every rung.

    XLA compiles outside Python's lock, so what can be compiled beside something else is.
    """

    def __init__(
        self, port: Port, levels: Sequence[str], precision: str, pool: ThreadPoolExecutor
    ) -> None:
        self.port = port
        self.levels = levels
        self.precision = precision
        self.r64, self.p64 = TorchSide(port.reference, "float64"), JaxSide(port.port, "float64")
        self.r32, self.p32 = TorchSide(port.reference, precision), JaxSide(port.port, precision)
        self.pool = pool
        self.results: dict[tuple[TorchSide | JaxSide, bool], Result] = {}
        self.jobs: dict[tuple[TorchSide | JaxSide, bool], Future[Result]] = {}
        if {"L2", "L3"} & set(levels):
            for train in (True, False) if "L2" in levels else (True,):
                for side in (self.p64, self.p32):
                    self.jobs[side, train] = pool.submit(self._run, side, train)

    def l0(self) -> list[Check]:
        """Every source tensor used once, every target filled once, bit for bit."""
        source, target = self.r32.state(), self.p32.state()
        taken: dict[str, str] = {}
        checks = []
        for name in sorted(target.keys() | self.port.weights.keys()):
            key, axes = self.port.weights.get(name, ("(none)", None))
            expected = transpose(source[key], axes) if key in source else None
            note = _unlike(target.get(name), expected)
            if key in taken:
                note = f"{key} fills {taken[key]} already"
            taken[key] = name
            checks.append(_exact(name, key, note))
        unused = sorted(source.keys() - taken.keys())
        return checks + [_exact(key, key, "no tensor of the port uses it") for key in unused]

    def l1(self) -> list[Check]:
        """Each layer that has no parts alone, fed the reference's input and upstream gradient."""
        disturbed = self.r64.disturbed(compare.ROUNDING, draw.generator(0, "rounding"))
        evaluated = self._result(self.r64, False).calls
        cases: list[tuple[Call, bool]] = []
        for call in self._result(self.r64, True).calls.values():
            layer = call.layer.partition("#")[0]
            if self.r64.has_parts(layer):
                continue
            cases.append((call, True))
            if self.p64.has(layer) and self.p64.has_modes(layer) and call.layer in evaluated:
                cases.append((evaluated[call.layer], False))
        found = self.pool.map(lambda case: self._layer(case[0], case[1], disturbed), cases)
        return compare.judge("L1", [m for layer in found for m in layer])

    def blocks(self, report: Report) -> list[Check]:
        """Blocks alone, in float64, where the network is wrong although every layer is right.

        Then the fault lies in what a block does between its layers.
        """
        if any(c.rung == "L1" and c.kind == "structure" for c in report.failures()):
            return []
        calls = self._result(self.r64, True).calls.values()
        found = [
            m
            for call in calls
            if self.r64.has_parts(call.layer.partition("#")[0])
            for m in self._layer(call, True, None)
        ]
        return compare.judge("L1", found)

    def l2(self) -> list[Check]:
        """Every layer's output inside the whole network, and the statistics after a step."""
        found: list[Measurement] = []
        for train in (False, True):
            mode = "train" if train else "eval"
            runs = [
                {
                    Key(call.layer, f"output {i} in {mode} mode"): output
                    for call in (*result.calls.values(), Call(NETWORK, (), result.outputs))
                    for i, output in enumerate(call.outputs)
                }
                for result in self._networks(train)
            ]
            found += self._measure(runs)
        found += self._measure(self._named("{} after a step", "statistics"))
        return compare.judge("L2", found)

    def l3(self) -> list[Check]:
        """The loss, and its gradient for every parameter and input."""
        runs = self._named("gradient of {}", "parameter_gradients")
        for flat, result in zip(runs, self._networks(True), strict=True):
            flat[Key(NETWORK, "loss")] = np.asarray(result.loss)
            for i, gradient in enumerate(result.input_gradients):
                flat[Key(NETWORK, f"gradient of input {i}")] = gradient
        return compare.judge("L3", self._measure(runs))

    def _layer(self, call: Call, train: bool, disturbed: TorchSide | None) -> list[Measurement]:
        """Measure one call of one layer; in float64 only where nothing is `disturbed`."""
        layer = call.layer.partition("#")[0]
        if not self.p64.has(layer):
            key = Key(call.layer, "output 0")
            return [self._one(key, [call.outputs[0], None])]
        inputs = tuple(compare.round_to(v, self.precision) for v in call.inputs)
        pull = [compare.round_to(c, self.precision) for c in call.cotangents] if train else None
        sides = (self.r64, self.p64, self.r32, self.p32) if disturbed else (self.r64, self.p64)
        results = [side.run_layer(layer, inputs, pull, train) for side in sides]
        if disturbed:
            rng = draw.generator(0, f"rounding/{call.layer}")
            inputs, pull = compare.disturb((inputs, pull), compare.ROUNDING, rng)
            results.append(disturbed.run_layer(layer, inputs, pull, train))
        runs = []
        for result, ported in zip(results, _PORTED[: len(results)], strict=True):
            flat = {Key(call.layer, f"output {i}"): o for i, o in enumerate(result.outputs)}
            for i, gradient in enumerate(result.input_gradients):
                flat[Key(call.layer, f"gradient of input {i}")] = gradient
            for name, a in self._in_port_names(result.parameter_gradients, layer, ported).items():
                flat[Key(call.layer, f"gradient of {name}")] = a
            if train:
                for name, a in self._in_port_names(result.statistics, layer, ported).items():
                    flat[Key(call.layer, f"{name} after")] = a
            runs.append(flat)
        return self._measure(runs, "" if train else " in eval mode")

    def _named(self, quantity: str, attribute: str) -> list[Flat]:
        """Named arrays of each run of the whole network in train mode."""
        runs = []
        for result, ported in zip(self._networks(True), _PORTED, strict=True):
            arrays = self._in_port_names(getattr(result, attribute), "", ported)
            flat = {}
            for name, array in arrays.items():
                layer, _, leaf = name.rpartition(".")
                flat[Key(layer, quantity.format(leaf))] = array
            runs.append(flat)
        return runs

    def _in_port_names(self, arrays: Arrays, layer: str, ported: bool) -> Arrays:
        """A layer's tensors under the port's names and in its layout."""
        if ported:
            return arrays
        return {
            name: transpose(arrays[key], axes)
            for name, key, axes in self._tensors_of(layer)
            if key in arrays
        }

    @functools.cache  # noqa: B019 - lives as long as the climb
    def _tensors_of(self, layer: str) -> list[tuple[str, str, tuple[int, ...] | None]]:
        """Of a layer's tensors: the port's name, the reference's, both within it, and the axes."""
        prefix = f"{layer}." if layer else ""
        return [
            (name.removeprefix(prefix), key.removeprefix(prefix), axes)
            for name, (key, axes) in self.port.weights.items()
            if name.startswith(prefix)
        ]

    def _measure(self, runs: Sequence[Flat], suffix: str = "") -> list[Measurement]:
        """Compare, key by key, the runs of r64, p64, r32, p32 and of r64 disturbed."""
        keys = dict.fromkeys([*runs[0], *runs[1]])
        return [self._one(key, [run.get(key) for run in runs], suffix) for key in keys]

    def _one(self, key: Key, arrays: Sequence[np.ndarray | None], suffix: str = "") -> Measurement:
        r64, p64, *rest = arrays
        layer = key.layer.partition("#")[0]
        kind = "" if layer == NETWORK else self.r64.kind(layer)
        gradient = key.quantity.startswith("gradient")
        measured = Measurement(
            layer=key.layer,
            reference=key.layer,
            quantity=key.quantity + suffix,
            sort=f"{kind}: {key.quantity}{suffix}",
            limit=STRUCTURE_GRADIENT if gradient else STRUCTURE_FORWARD,
            elements=0 if r64 is None else r64.size,
            size=0.0 if r64 is None else compare.size(r64),
            structure=difference(p64, r64),
        )
        if not rest or r64 is None or r64.dtype.kind != "f":
            return measured
        r32, p32, *stirred = rest
        return measured.with_numerics(
            difference(p32, r64, self.precision),
            difference(r32, r64, self.precision).distance,
            max(difference(s, r64).distance for s in stirred),
        )

    def _networks(self, train: bool) -> list[Result]:
        """Whole networks: r64, p64, r32, p32, and r64 with its input stirred."""
        sides = (self.r64, self.p64, self.r32, self.p32)
        results = [self._result(side, train) for side in sides]
        return results + [self._stirred(train, i) for i in range(DISTURBANCES)]

    def _result(self, side: TorchSide | JaxSide, train: bool) -> Result:
        """One run of a whole network, from the background if it was sent there."""
        if (side, train) not in self.results:
            job = self.jobs.pop((side, train), None)
            self.results[side, train] = job.result() if job else self._run(side, train)
        return self.results[side, train]

    def _run(self, side: TorchSide | JaxSide, train: bool, inputs: tuple | None = None) -> Result:
        if inputs is None:
            inputs = self.port.inputs if train else self.port.eval_inputs
        loss = self.port.losses[isinstance(side, JaxSide)] if train else None
        return side.run(inputs, train, loss, self.port.targets if train else ())

    @functools.cache  # noqa: B019 - lives as long as the climb
    def _stirred(self, train: bool, i: int) -> Result:
        inputs = self.port.inputs if train else self.port.eval_inputs
        rng = draw.generator(0, "stir", i)
        return self._run(self.r64, train, compare.disturb(inputs, compare.STIR, rng))


# Whether a run's names and layouts are the port's: r64, p64, r32, p32, r64 disturbed.
_PORTED = (False, True, False, True, *[False] * DISTURBANCES)


def transpose(array: np.ndarray, axes: tuple[int, ...] | None) -> np.ndarray:
    return array if axes is None else array.transpose(axes)


def _unlike(port: np.ndarray | None, reference: np.ndarray | None) -> str:
    """Why two arrays are not the same, bit for bit; empty if they are."""
    if port is None or reference is None:
        return f"missing in the {'port' if port is None else 'reference'}"
    if port.shape != reference.shape:
        return f"shape {port.shape}, reference {reference.shape}"
    if port.dtype.kind != reference.dtype.kind:  # counters: JAX's are narrower
        return f"dtype {port.dtype}, reference {reference.dtype}"
    same = np.array_equal(port, reference)
    return "" if same else f"{int((port != reference).sum())} of {port.size} values differ"


def _exact(name: str, key: str, note: str) -> Check:
    return Check("L0", "structure", name, key, "values", math.inf if note else 0.0, 0.0, note=note)
