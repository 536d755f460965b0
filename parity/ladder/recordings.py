"""Comparing two traces with each other: same inputs, same layers, same numbers?"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from parity.capture.records import NETWORK, leaves
from parity.capture.run import FLOAT64
from parity.ladder.array_pairs import ArrayPairs, Found
from parity.ladder.axes import refuse_axes
from parity.ladder.comparison import Compared, Comparison, Layouts, Rename
from parity.ladder.orders import Order, commonest, fitting
from parity.ladder.weights import SYNONYMS
from parity.report.quantity import Kind, Quantity
from parity.spec.errors import InputError, listed
from parity.trace.reading import Stored, TraceFile

AS_THE_REST = Layouts()
Output = dict[str, Any] | None  # as an index lists it; None: the other trace has one more


def compare(
    one: TraceFile,
    other: TraceFile,
    rename: Sequence[Rename] = (),
    limit: float | None = None,
    layouts: Layouts = AS_THE_REST,
) -> Comparison:
    """Compare all runs that both traces hold, and that are not disturbed.

    Args:
        one: The first, which is taken for the reference.
        other: The second.
        rename: Applied to the first's names, one after the other.
        limit: Of a relative difference, instead of the derived ones.
        layouts: What is returned or taken in another order of axes on purpose.

    Raises:
        InputError: They have no run in common, or no input or output that `layouts` names.
    """
    runs = [key for key in one.runs if key in other.runs and key[2] is None]
    if one.narrow or other.narrow:  # a run is listed as float64, too
        runs = [key for key in runs if key[1] != FLOAT64]
    if not runs:
        raise InputError(f"{one.path} and {other.path} hold no run of one mode and precision")
    found = Comparison([], _alone(one, other))
    pairs = [RunPair(one, other, key, rename, limit, layouts) for key in runs]
    for pair in pairs:
        found.compared += pair.compared()
        found.left_out += pair.left_out
        found.drowned += pair.drowned
    _refuse_unknown(pairs, layouts)
    return found


def _refuse_unknown(pairs: Sequence[RunPair], layouts: Layouts) -> None:
    """Refuse orders of axes of inputs and outputs that no run has."""
    for option, given in (("input", layouts.inputs), ("output", layouts.outputs)):
        known = {name for pair in pairs for name in pair.laid_out[option]}
        if unknown := [name for name in given if name not in known]:
            raise InputError(f"--{option}-layout: there is no {option} {unknown[0]}")


def _alone(one: TraceFile, other: TraceFile) -> list[str]:
    """Return a line for each undisturbed run that only one of two traces holds.

    Where one was not recorded in float64, those in float64 are not asked for.
    """
    recorded = [
        {(r["mode"], r["precision"]): None for r in trace.index["runs"] if r["disturbance"] is None}
        for trace in (one, other)
    ]
    narrow = one.narrow or other.narrow
    return [
        f"{mode} {precision}: only the {side} holds this run"
        for side, mine, theirs in (("first", *recorded), ("second", *reversed(recorded)))
        for mode, precision in mine
        if (mode, precision) not in theirs and not (narrow and precision == FLOAT64)
    ]


def _array_of(output: Output) -> str | None:
    return None if output is None else str(output["array"])


class RunPair(ArrayPairs):
    """One run of either trace.

    Attributes:
        left_out: Lines on what has no counterpart.
        number: Of a step of training, from 1.
        laid_out: `input` and `output` -> the names of those whose order of axes was given.
    """

    number = 0
    layouts = AS_THE_REST

    def __init__(
        self,
        one: TraceFile,
        other: TraceFile,
        key: tuple[str, str, int | None],
        rename: Sequence[Rename],
        limit: float | None,
        layouts: Layouts = AS_THE_REST,
    ) -> None:
        self.one, self.other, self.rename, self.limit = one, other, rename, limit
        self.layouts = layouts
        self.laid_out: dict[str, set[str]] = {"input": set(), "output": set()}
        self.mode, self.precision, _ = key
        self.runs = one.runs[key], other.runs[key]
        self.name = f"{self.mode} {self.precision}"
        self.left_out: list[str] = []
        self.found: list[Found] = []
        exact = [one.runs.get((self.mode, FLOAT64, i)) for i in (None, 0)]
        known = None not in exact and self.precision != FLOAT64
        self.exact = [run for run in exact if run is not None] if known else []

    def compared(self) -> list[Compared]:
        """Compare everything: inputs, layers in their order, outputs, loss, gradients."""
        calls, inputs, returned = list(self._calls()), self._inputs(), self._returned()
        outputs = [(_array_of(a), _array_of(b)) for a, b in returned]
        given = self._given(inputs, returned)
        self._settle_orders(
            [pair for i, pair in enumerate(inputs) if i not in given[0]],
            [pair for i, pair in enumerate(outputs) if i not in given[1]],
            calls,
        )
        for i, pair in enumerate(inputs):
            quantity, orders = Quantity(Kind.BATCH, path=f"input {i}"), given[0].get(i)
            orders = orders or self._common(pair)
            self._measure(quantity, NETWORK, NETWORK, *pair, f"input {i}", orders=orders)
        for mine, other in calls:
            self._call(mine, other)
        self._say_upstream(calls)
        for i, (a, b) in enumerate(outputs):
            quantity = Quantity(Kind.OUTPUT, index=i)
            if a is None or b is None:
                only = f"only the {'first' if b is None else 'second'} returns it"
                self._unlike(quantity, NETWORK, NETWORK, only)
            else:
                orders = given[1].get(i) or self._common((a, b))
                self._measure(quantity, NETWORK, NETWORK, a, b, orders=orders)
        self._loss()
        self._named("statistics", Kind.STATISTIC)
        self._named("parameter_gradients", Kind.PARAMETER_GRADIENT)
        gradients = [run["input_gradients"] for run in self.runs]
        floats = [i for i, (a, _) in enumerate(inputs) if self._is_float(a)]
        of_floats = {j: given[0][i] for j, i in enumerate(floats) if i in given[0]}
        for i, (a, b) in enumerate(itertools.zip_longest(*gradients)):
            quantity = Quantity(Kind.INPUT_GRADIENT, index=i)
            if a is not None and b is not None:
                orders = of_floats.get(i) or self._common((a, b))
                self._measure(quantity, NETWORK, NETWORK, a, b, orders=orders)
            else:
                self._say_one_sided(str(quantity), a, b)
        return self._judged()

    def _loss(self) -> None:
        """Compare the loss."""
        a, b = (run["loss"] for run in self.runs)
        if a is not None and b is not None:
            self._measure(Quantity(Kind.LOSS), NETWORK, NETWORK, a, b)
        else:
            self._say_one_sided(str(Quantity(Kind.LOSS)), a, b)

    def _say_one_sided(self, what: str, mine: Any, other: Any) -> None:
        """Say that only one of both has something; nothing if none has."""
        for side, value in (("first", mine), ("second", other)):
            if value is not None:
                self.left_out.append(f"{self.name}, {what}: only the {side} has it")

    def _say_upstream(self, calls: Iterable[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        """Say of which layers only one trace holds the gradients of the outputs."""
        only: tuple[list[str], list[str]] = ([], [])
        for mine, other in calls:
            known = [
                [name is not None for name in call["cotangents"] or [None] * len(call["outputs"])]
                for call in (mine, other)
            ]
            for i, (a, b) in enumerate([known, known[::-1]]):
                if any(x and not y for x, y in zip(a, b, strict=False)):
                    only[i].append(mine["layer"])
        for side, names in zip(("first", "second"), only, strict=True):
            if names:
                what = f"gradients of outputs of {len(names)} layer{'s' * (len(names) > 1)}"
                self.left_out.append(f"{self.name}, {what} only in the {side}: {listed(names)}")

    def _settle_orders(
        self,
        inputs: Iterable[tuple[str, str]],
        outputs: Iterable[tuple[str | None, str | None]],
        calls: Iterable[tuple[dict[str, Any], dict[str, Any]]],
    ) -> None:
        """Find the one order of axes in which the network takes and returns arrays.

        It is that of the inputs. Where they have another number of axes, it is that of most
        layers' outputs; else the axes are as they are, if the shapes allow it.
        """
        returned = [(a, b) for a, b in outputs if a is not None and b is not None]
        asked = (self._orders(*pair) for pair in returned)
        self.common = commonest((self._orders(*pair) for pair in inputs), asked)
        axes = {len(self.one.shape(a)) for a, _ in returned} - self.common.keys()
        known = {a for a, _ in returned}
        layers = [
            pair
            for mine, other in calls
            for pair in zip(mine["outputs"], other["outputs"], strict=False)
            if pair[0] not in known and len(self.one.shape(pair[0])) in axes
        ]
        self.common |= commonest(self._orders(*pair) for pair in layers)
        firsts = [fitting(self.one.shape(a), self.other.shape(b))[:1] for a, b in returned]
        self.common = commonest(firsts) | self.common

    def _is_float(self, name: str) -> bool:
        return "float" in self.one.index["arrays"][name]["dtype"]

    def _given(
        self,
        inputs: Sequence[tuple[str, str]],
        returned: Sequence[tuple[Output, Output]],
    ) -> tuple[dict[int, list[Order]], dict[int, list[Order]]]:
        """Return the orders of axes that were given of inputs and of outputs, by place."""
        found: tuple[dict[int, list[Order]], dict[int, list[Order]]] = {}, {}
        for i, (a, _) in enumerate(inputs):
            if str(i) in self.layouts.inputs:
                self.laid_out["input"].add(str(i))
                found[0][i] = [self._order("input", str(i), self.layouts.inputs[str(i)], a)]
        names = [{output["name"] for output in pair if output} for pair in returned]
        by_place: dict[int, str] = {}
        for name, axes in self.layouts.outputs.items():
            # An output may have a number as its name, which then is not another one's place.
            places = [i for i, known in enumerate(names) if name in known]
            for i in places or [i for i in range(len(names)) if str(i) == name]:
                if None in returned[i]:  # only one trace has it
                    continue
                if i in by_place:
                    both = f"{by_place[i]} and {name}"
                    raise InputError(f"--output-layout: {both} are the same output, expected one")
                by_place[i] = name
                self.laid_out["output"].add(name)
                array = str(_array_of(returned[i][0]))
                found[1][i] = [self._order("output", name, axes, array)]
        return found

    def _order(self, what: str, name: str, axes: Order, array: str) -> Order:
        refuse_axes(f"--{what}-layout {name}", axes, len(self.one.shape(array)))
        return axes

    def _common(self, pair: tuple[str, str]) -> list[Order] | None:
        """Return the order of what the network takes and returns, as the only one."""
        found = self.common.get(len(self.one.shape(pair[0])))
        return None if found is None else [found]

    def _inputs(self) -> list[tuple[str, str]]:
        """Return pairs of inputs."""
        names = [
            [leaf.name for leaf in leaves(tuple(nest)) if isinstance(leaf, Stored)]
            for trace, run in ((self.one, self.runs[0]), (self.other, self.runs[1]))
            for nest in [[trace.tree(run[key], Stored) for key in ("args", "kwargs")]]
        ]
        if len(names[0]) != len(names[1]):
            self.left_out.append(f"{self.name}: {len(names[0])} and {len(names[1])} inputs")
        return list(zip(*names, strict=False))

    def _returned(self) -> list[tuple[Output, Output]]:
        """Return pairs of outputs: by name where both have the same, else by place."""
        mine, theirs = ([o for o in r["outputs"] if o["array"] is not None] for r in self.runs)
        names = [[o["name"] for o in each] for each in (mine, theirs)]
        unique = len(set(names[0])) == len(names[0])
        if unique and sorted(names[0]) == sorted(names[1]):
            theirs = [theirs[names[1].index(name)] for name in names[0]]
        return list(itertools.zip_longest(mine, theirs))

    def _named(self, kind: str, what: Kind) -> None:
        """Compare tensors by name, the others by value."""
        mine, rest = self.runs[0][kind], dict(self.runs[1][kind])
        pairs = {name: other for name in mine if (other := self._named_alike(name, rest))}
        for other in pairs.values():
            rest.pop(other, None)
        for name in [n for n in mine if n not in pairs]:
            found = next((n for n, b in rest.items() if self._equal(mine[name], b)), None)
            if found is not None:
                pairs[name] = found
                rest.pop(found)
        for name, array in mine.items():
            layer, _, leaf = name.rpartition(".")
            if name in pairs:
                quantity = Quantity(what, path=leaf, step=self.number)
                other = self.runs[1][kind][pairs[name]]
                orders = self._orders_before(name, pairs[name]) if what is not Kind.VALUES else None
                place = (layer or NETWORK, pairs[name], array, other)
                self._measure(quantity, *place, one=name, orders=orders)
            else:
                self.left_out.append(f"{self.name}, {name}, {what}: only the first has it")
        self.left_out += [f"{self.name}, {name}, {what}: only the second has it" for name in rest]

    def _orders_before(self, one: str, other: str) -> list[Order] | None:
        """Return how a tensor's axes may be ordered, as far as its shapes tell; None if unknown."""
        mine, theirs = (t.index["state"].get(n) for t, n in ((self.one, one), (self.other, other)))
        return (self._orders(mine, theirs) or None) if mine and theirs else None

    def _named_alike(self, name: str, others: Mapping[str, Any]) -> str:
        """Return the second's name of a tensor, of a layer of the same name; empty if none."""
        layer, dot, leaf = self._renamed(name).rpartition(".")
        alike = next((names for names in SYNONYMS.values() if leaf in names), ())
        found = [f"{layer}{dot}{last}" for last in (leaf, *sorted(alike))]
        return next((other for other in found if other in others), "")

    def _renamed(self, name: str) -> str:
        for pattern, replacement in self.rename:
            name = pattern.sub(replacement, name)
        return name

    def _calls(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Yield pairs of calls, in the first's order: by name, else by value."""
        mine, rest = self.runs[0]["calls"], {c["layer"]: c for c in self.runs[1]["calls"]}
        pairs = {}
        for call in mine:
            layer, sign, count = call["layer"].partition("#")
            name = f"{self._renamed(layer)}{sign}{count}"
            if name in rest:
                pairs[call["layer"]] = rest.pop(name)
        for call in mine:
            if call["layer"] in pairs:
                continue
            found = next((n for n, c in rest.items() if self._equal_calls(call, c)), None)
            if found is not None:
                pairs[call["layer"]] = rest.pop(found)
        alone = [c["layer"] for c in mine if c["layer"] not in pairs]
        for side, names in (("first", alone), ("second", list(rest))):
            if names:
                count = f"{len(names)} layer{'s' * (len(names) > 1)}"
                self.left_out.append(f"{self.name}, {count} only in the {side}: {listed(names)}")
        for call in mine:
            if call["layer"] in pairs:
                yield call, pairs[call["layer"]]

    def _equal_calls(self, mine: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        a, b = mine["outputs"], other["outputs"]
        return bool(a) and len(a) == len(b) and all(map(self._equal, a, b))

    def _call(self, mine: Mapping[str, Any], other: Mapping[str, Any]) -> None:
        names = mine["layer"], other["layer"]
        if len(mine["outputs"]) != len(other["outputs"]):
            note = f"{len(mine['outputs'])} outputs, in the second {len(other['outputs'])}"
            self._unlike(Quantity(Kind.OUTPUT), *names, note)
            return
        for i, (a, b) in enumerate(zip(mine["outputs"], other["outputs"], strict=True)):
            self._measure(Quantity(Kind.OUTPUT, index=i), *names, a, b)
        for i, (a, b) in enumerate(zip(mine["cotangents"], other["cotangents"], strict=False)):
            if a is not None and b is not None:
                what, quantity = f"gradient of output {i}", Quantity(Kind.INPUT_GRADIENT, index=i)
                orders = self._orders(mine["outputs"][i], other["outputs"][i]) or None
                self._measure(quantity, *names, a, b, what, orders=orders)
