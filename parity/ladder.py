"""The ladder of parity checks, L0 to L3, over any pair of networks.

Each rung compares structure in float64 and numerics in the working precision; `parity.compare`
says by how much they may differ.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from parity import compare
from parity.compare import (
    STRUCTURE_FORWARD,
    STRUCTURE_GRADIENT,
    Difference,
    Measurement,
    difference,
)
from parity.evidence import Case, Evidence
from parity.port import Port
from parity.report import PRECISIONS, RUNGS, Check, Report
from parity.runs import DISTURBANCES, Flat, Key, Runs, UnlikeError, against
from parity.sides import NETWORK, Call, ForwardError, transposed
from parity.spec import draw
from parity.spool import release
from parity.torch_side import TorchSide, one_thread
from parity.weights import COUNTER, SYNONYMS

Progress = Callable[[str], None]


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
        precision: The working precision: `float32`, `bfloat16` or `float16`.
        progress: Called with the name of a rung when it begins.

    Returns:
        Everything that was compared; `report.ok` is the verdict.

    Raises:
        ValueError: An unknown rung or precision, or no rung.
        InputError: The port cannot be compared: see `Port` for what it must be.
        ForwardError: A network raised while it ran. If L1 can tell the layer at fault, its message
            ends with that, and `report` is what was compared until then.
    """
    if unknown := [level for level in levels if level not in RUNGS]:
        raise ValueError(f"unknown rung {unknown[0]!r}, expected one of {', '.join(RUNGS)}")
    if not levels:
        raise ValueError(f"no rung to climb, expected one of {', '.join(RUNGS)}")
    if precision not in PRECISIONS:
        raise ValueError(
            f"unknown precision {precision!r}, expected one of {', '.join(PRECISIONS)}"
        )
    levels = sorted(set(levels))
    with ThreadPoolExecutor(2) as pool, one_thread():
        runs = Runs(port, precision, pool)
        ladder = Ladder(runs)
        report = Report(port.name, precision, notes=ladder.notes)
        if {"L2", "L3"} & set(levels):
            runs.start((True, False) if "L2" in levels else (True,))
        for level in levels:
            if runs.failed and level in ("L2", "L3"):
                raise _explained(runs.failed, report)
            start = time.perf_counter()
            progress(f"{level} {RUNGS[level]}")
            report.checks += getattr(ladder, level.lower())()
            report.seconds[level] = time.perf_counter() - start
            if runs.large:
                release()
        if runs.failed and report.ok:
            raise runs.failed
        if "L1" in levels and {c.rung for c in report.failures()} & {"L2", "L3"}:
            progress("L1 blocks")
            report.checks += ladder.blocks(report)
        report.checks = _with_isolated(report.checks)
        ladder.explain(report)
    return report


class Ladder:
    """One climb. Whole networks are run once and serve every rung.

    Attributes:
        notes: What could not be paired or fed alone, and what was switched off, a line each.
    """

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.notes = list(runs.alignment.notes())
        if runs.r64.silenced:
            self.notes.append(f"switched off on both sides: {', '.join(runs.r64.silenced)}")

    def l0(self) -> list[Check]:
        """Every source tensor used once, every target filled once, bit for bit."""
        runs, assignment = self.runs, self.runs.assignment
        source, target = runs.r64.state(), runs.p64.state()
        if not source and not target:
            return [_exact(NETWORK, NETWORK, "")]
        taken: dict[str, str] = {}
        checks = []
        for name in sorted(target.keys() | assignment.map.keys()):
            if name in assignment.made:
                note = _unlike(target.get(name), (assignment.arrays or {}).get(name))
                checks.append(_exact(name, "(made by the function)", note))
                continue
            key, axes = assignment.map.get(name, ("(none)", None))
            expected = transposed(source[key], axes) if key in source else None
            note = _unlike(target.get(name), expected)
            if key in taken:
                note = f"{key} fills {taken[key]} already"
            taken[key] = name
            checks.append(_exact(name, key, note))
        spare = () if runs.strict else {k for k in source if k.rpartition(".")[2] == COUNTER}
        unused = sorted(source.keys() - taken.keys() - assignment.idle - set(spare))
        return checks + [_exact(key, key, "no tensor of the port uses it") for key in unused]

    def l1(self) -> list[Check]:
        """Each layer that has no parts alone, fed the reference's input and upstream gradient."""
        runs = self.runs
        rng = draw.generator(0, "rounding")
        disturbed = runs.r64.disturbed(compare.ROUNDING[runs.precision], rng)
        evaluated = runs.oracle(False).calls
        cases: list[tuple[Call, bool]] = []
        for call in runs.oracle(True).calls.values():
            pair = runs.pair(call)
            if not runs.leaf(call) or not (runs.strict or pair):
                continue
            if pair and (made := runs.made(pair.port.partition("#")[0])):
                self.notes.append(f"not fed alone: {pair.port} holds {made[0]}, which was made")
                continue
            cases.append((call, True))
            if call.layer in evaluated and self._has_modes(call):
                cases.append((evaluated[call.layer], False))
        found = runs.pool.map(lambda case: self._layer(case[0], case[1], disturbed), cases)
        measured = [m for layer in found for m in layer]
        if not measured:  # such as a function: the whole is the only layer there is
            measured += self._network()
        return self._judge("L1", measured)

    def blocks(self, report: Report) -> list[Check]:
        """Blocks alone, in float64, where the network is wrong although every layer is right.

        Then the fault lies in what a block does between its layers.
        """
        if any(c.rung == "L1" and c.kind == "structure" for c in report.failures()):
            return []
        runs = self.runs
        calls = [c for c in runs.oracle(True).calls.values() if runs.r64.has_parts(c.module)]
        paired = [c for c in calls if runs.pair(c)]
        return self._judge("L1", [m for call in paired for m in self._layer(call, True, None)])

    def l2(self) -> list[Check]:
        """Every layer's output inside the whole network, and the statistics after a step."""
        found = self._whole(False, lambda quantity: True)
        found += self._whole(True, lambda quantity: quantity.endswith((" mode", " after a step")))
        return self._judge("L2", found)

    def l3(self) -> list[Check]:
        """The loss, and its gradient for every parameter and input."""
        found = self._whole(True, lambda q: q == "loss" or q.startswith("gradient of"))
        return self._judge("L3", found)

    def explain(self, report: Report) -> None:
        """Put the likely causes of the first fault into the report."""
        evidence = self.evidence(report)
        if evidence is None:
            return
        report.evidence = evidence
        try:
            from parity.faults import causes
        except ImportError:
            return
        report.causes = causes.rank(evidence)[:3]

    def evidence(self, report: Report) -> Evidence | None:
        """All that is known of a report's first fault."""
        fault = report.fault()
        if fault is None:
            return None
        runs, call = self.runs, self._call_of(fault)
        module = fault.reference.partition("#")[0]
        if call is None:
            module, call = self._holder(fault)
        kind = runs.r64.kind(module) if module else ""
        return Evidence(
            fault=fault,
            failures=tuple(report.failures()),
            kind=kind,
            settings=runs.r64.settings(module) if module else {},
            cases=self._cases(call) if call is not None else {},
            weights=self._weights(module),
        )

    def _judge(self, rung: str, found: list[Measurement]) -> list[Check]:
        return compare.judge(rung, found, self.runs.precision)

    def _has_modes(self, call: Call) -> bool:
        pair = self.runs.pair(call)
        if pair is None:
            return False
        port = self.runs.p64.has_modes(pair.port.partition("#")[0])
        return port or self.runs.r64.has_modes(call.module)

    def _layer(self, call: Call, train: bool, disturbed: TorchSide | None) -> list[Measurement]:
        """Measure one call of one layer; in float64 only where nothing is `disturbed`."""
        runs, pair = self.runs, self.runs.pair(call)
        if pair is None:
            return [self._one(Key(call.layer, "output 0"), call.outputs[0], {})]
        fed = runs.fed(call, train)
        oracle = runs.alone(runs.r64, call, pair, train, fed)
        found: dict[str, Flat] = {}
        try:
            found["p64"] = runs.alone(runs.p64, call, pair, train, fed)
            if disturbed:
                found["pw"] = runs.alone(runs.pw, call, pair, train, fed)
        except ForwardError as error:
            lost = {"p64": Difference(math.inf, note=str(error))}
            return [self._one(Key(pair.port, "output 0"), call.outputs[0], lost, call.layer)]
        except UnlikeError as reason:
            if runs.strict:
                lost = {"p64": Difference(math.inf, note=str(reason))}
                return [self._one(Key(pair.port, "output 0"), call.outputs[0], lost, call.layer)]
            self.notes.append(f"not fed alone: {pair.port} {reason}")
            return []
        if disturbed:
            found["rw"] = runs.alone(runs.rw, call, pair, train, fed)
            rng = draw.generator(0, f"rounding/{call.layer}")
            fed = compare.disturb(fed, compare.ROUNDING[runs.precision], rng)
            found["stir0"] = runs.alone(disturbed, call, pair, train, fed)
        return self._measure(oracle, found, call.layer, "" if train else " in eval mode")

    def _network(self) -> list[Measurement]:
        """The whole network as one layer."""
        found = self._whole(True, lambda q: "output" in q or q.startswith("gradient of"))
        return [dataclasses.replace(m, quantity=f"{m.quantity} (whole)") for m in found]

    def _measure(
        self, oracle: Flat, found: Mapping[str, Flat], reference: str, suffix: str
    ) -> list[Measurement]:
        """Compare, key by key, the runs of one layer with the oracle's."""
        measured = []
        for key in dict.fromkeys([*oracle, *found["p64"]]):
            target = against(key, oracle, found["p64"])
            apart = {
                run: difference(
                    flat.get(key), target, self.runs.precision if run[1] == "w" else "float64"
                )
                for run, flat in found.items()
            }
            measured.append(self._one(key, target, apart, reference, suffix))
        return measured

    def _whole(self, train: bool, wanted: Callable[[str], bool]) -> list[Measurement]:
        """Measure runs of the whole network: those quantities that are wanted."""
        apart = self.runs.differences(train)
        oracle = self.runs.flat(train)
        measured = []
        for key in apart["p64"]:
            if wanted(key.quantity):
                each = {run: found[key] for run, found in apart.items() if key in found}
                target = oracle.get(key)
                if target is None and each["p64"].distance == 0:
                    target = np.zeros(1)  # a gradient the reference lacks, zero in the port
                measured.append(self._one(key, target, each))
        return measured

    def _one(
        self,
        key: Key,
        oracle: np.ndarray | None,
        apart: Mapping[str, Difference],
        reference: str = "",
        suffix: str = "",
    ) -> Measurement:
        pair = self.runs.by_port.get(key.layer)
        reference = reference or (pair.reference if pair else self._reference_of(key.layer))
        kind = ""
        if key.layer != NETWORK and pair is not None:
            kind = self.runs.r64.kind(pair.reference.partition("#")[0])
        gradient = key.quantity.startswith("gradient")
        measured = Measurement(
            layer=key.layer,
            reference=reference,
            quantity=key.quantity + suffix,
            sort=f"{kind}: {key.quantity}{suffix}",
            limit=STRUCTURE_GRADIENT if gradient else STRUCTURE_FORWARD,
            elements=0 if oracle is None else oracle.size,
            size=0.0 if oracle is None else compare.size(oracle),
            structure=apart.get("p64", difference(None, oracle)),
            terms=self._terms(key, reference) if oracle is not None else 0.0,
        )
        if "pw" not in apart or oracle is None or oracle.dtype.kind != "f":
            return measured
        # A gradient that the reference lacks is in none of its runs.
        rounded = apart["rw"].distance if "rw" in apart else 0.0
        stirred = [apart[f"stir{i}"].distance for i in range(DISTURBANCES) if f"stir{i}" in apart]
        return measured.with_numerics(apart["pw"], rounded, max(stirred, default=0.0))

    def _terms(self, key: Key, reference: str) -> float:
        """Of a bias's gradient: the size of what is summed, the gradient of the layer's output.

        Before a batch norm in train mode the sum is zero but for rounding.
        """
        leaf = key.quantity.removeprefix("gradient of ")
        if leaf not in SYNONYMS["bias"] or leaf == key.quantity:
            return 0.0
        module = reference.partition("#")[0]
        calls = self.runs.oracle(True).calls.values()
        return sum(
            compare.size(abs(np.asarray(c)).sum(axis=tuple(range(c.ndim - 1))))
            for call in calls
            if call.module == module
            for c in call.cotangents
            if c is not None
        )

    def _reference_of(self, layer: str) -> str:
        """The reference's name of a layer that was not recorded, by a tensor in it."""
        for name, (key, _) in self.runs.assignment.map.items():
            if name.rpartition(".")[0] == layer:
                return key.rpartition(".")[0]
        return layer

    def _call_of(self, fault: Check) -> Call | None:
        calls = self.runs.oracle(True).calls
        return calls.get(fault.reference) if fault.reference else None

    def _holder(self, fault: Check) -> tuple[str, Call | None]:
        """The layer that holds a tensor which L0 names, and its first call."""
        module = fault.reference.rpartition(".")[0]
        calls = self.runs.oracle(True).calls
        return (module, calls[module]) if module in calls else ("", None)

    def _cases(self, call: Call) -> dict[str, Case]:
        """One layer alone on both sides, in either mode."""
        runs, pair = self.runs, self.runs.pair(call)
        found: dict[str, Case] = {}
        for mode, train in (("train", True), ("eval", False)):
            called = runs.oracle(train).calls.get(call.layer)
            if pair is None or called is None:
                continue
            fed = runs.fed(called, train)
            try:
                sides = [runs.alone(s, called, pair, train, fed) for s in (runs.r64, runs.p64)]
            except (ForwardError, UnlikeError):
                continue
            arrays = [{key.quantity: a for key, a in side.items()} for side in sides]
            found[mode] = Case(called.args, *arrays)
        return found

    def _weights(self, module: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Of a layer's tensors: the reference's in the port's layout, and the port's."""
        source, target = self.runs.r64.state(), self.runs.p64.state()
        return {
            name.rpartition(".")[2]: (transposed(source[key], axes), target[name])
            for name, (key, axes) in self.runs.assignment.map.items()
            if module and key.rpartition(".")[0] == module and name in target and key in source
        }


def _with_isolated(checks: list[Check]) -> list[Check]:
    """Beside each failed output inside the network, how wrong the layer is alone."""
    alone = {
        (c.kind, c.layer, c.quantity.removesuffix(" in eval mode"), "eval" in c.quantity): c.error
        for c in checks
        if c.rung == "L1"
    }

    def found(c: Check) -> float | None:
        quantity, _, mode = c.quantity.partition(" in ")
        here = alone.get((c.kind, c.layer, quantity, False))
        return alone.get((c.kind, c.layer, quantity, mode == "eval mode"), here)

    return [
        c if c.ok or c.rung != "L2" else dataclasses.replace(c, isolated=found(c)) for c in checks
    ]


def _explained(error: ForwardError, report: Report) -> ForwardError:
    """The same with what L1 found, if it found something."""
    fault = report.fault()
    if fault is not None:
        error.args = (f"{error}; alone, {fault.sentence()}",)
    error.report = report
    return error


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
