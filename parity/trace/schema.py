"""What the index of a trace must be: the table of docs/traces.md as checks of JSON values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from parity.spec.errors import InputError, shortened
from parity.trace.recorder import FORMAT, KINDS, ROUNDING, VERSION

Pairs = Iterator[tuple[str, list[int], list[int]]]  # what it is, its shape, and the expected one
# Takes a value, its place in the index, and the names of all arrays.
Rule = Callable[[Any, str, Mapping[str, Any]], None]

DTYPES = {"bool", "bfloat16", "float16", "float32", "float64"}
DTYPES |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


def checked(index: Any, path: str) -> dict[str, Any]:
    """Return an index that holds every key.

    Raises:
        InputError: It is not the index of a trace, or of a later version.
    """
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise InputError(f"{path}: its index says nothing of {FORMAT}, expected a trace")
    version = index.get("version")
    if version != VERSION or isinstance(version, bool):
        raise InputError(f"{path}: trace of version {version!r}, expected {VERSION}")
    try:
        _rule_of(INDEX)(index, "the index", index.get("arrays", {}))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: its index is nested too deeply") from None
    found = _filled(index)
    try:
        _refuse_contradictions(found)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return found


def _refuse_contradictions(index: dict[str, Any]) -> None:
    """Refuse calls of one name, gradients of outputs that are not there, and unknown parameters."""
    for run in index["runs"]:
        names = set()
        for call in run["calls"]:
            name, counts = call["layer"], [len(call[k]) for k in ("outputs", "cotangents")]
            if name in names:
                raise InputError(f"two calls are {name!r} in one run, expected NAME#2 for one")
            names.add(name)
            if counts[1] and counts[0] != counts[1]:
                raise InputError(f"{name!r} has {counts[0]} outputs and {counts[1]} cotangents")
    for name in index["trained"]:
        if name not in index["state"] and name not in _tied(index):
            raise InputError(f"{name!r} is trained, and not in state")
    known = {*index["state"], *_tied(index)}
    for run in index["runs"]:
        inputs, count = _float_inputs(run, index["arrays"]), len(run["input_gradients"])
        if inputs is not None and count > len(inputs):
            most = f"expected at most {len(inputs)}, as many as it has of floating-point numbers"
            raise InputError(f"{count} gradients of inputs in {run['mode']} mode, {most}")
        for name in run["parameter_gradients"]:
            if name not in known:
                raise InputError(f"a gradient is one of {name!r}, which is not in state")
    for training in index["training"]:
        for name in (n for step in training["steps"] for n in step["state"]):
            if name not in training["before"]:
                raise InputError(f"in {training['kind']}, {name!r} is after a step, not before it")
    for what, found, expected in _shapes(index):
        if found != expected:
            raise InputError(f"{what} is of shape {tuple(found)}, expected {tuple(expected)}")


def _shapes(index: dict[str, Any]) -> Pairs:
    """Yield what an array is, its shape, and the one that another array's says it must have."""
    arrays, known = index["arrays"], index["unsaved"] | index["state"]

    def shape(name: str) -> list[int]:
        return list(arrays[name]["shape"])

    def alike(what: str, names: Mapping[str, str], prefix: str = "") -> Pairs:
        for name, array in names.items():
            if f"{prefix}{name}" in known:
                yield f"{what} {prefix + name!r}", shape(array), shape(known[f"{prefix}{name}"])

    for run in index["runs"]:
        if run["loss"] is not None:
            yield f"the loss in {run['mode']} mode", shape(run["loss"]), []
        yield from alike("the gradient of", run["parameter_gradients"])
        inputs = _float_inputs(run, arrays) or []
        for i, (array, gradient) in enumerate(zip(inputs, run["input_gradients"], strict=False)):
            if gradient is not None:
                yield f"the gradient of input {i}", shape(gradient), shape(array)
        yield from alike("the statistic", run["statistics"])
        yield from alike("before the backward pass, the statistic", run["first_statistics"])
        for call in run["calls"]:
            for i, pair in enumerate(zip(call["outputs"], call["cotangents"], strict=False)):
                if pair[1] is not None:
                    what = f"the gradient of output {i} of {call['layer']!r}"
                    yield what, shape(pair[1]), shape(pair[0])
    for alone in index["alone"]:
        for call, layer in alone["layers"].items():
            prefix = call.partition("#")[0] + "."
            yield from alike("alone, the gradient of", layer["parameter_gradients"], prefix)
            yield from alike("alone, the statistic", layer["statistics"], prefix)
    for training in index["training"]:
        where = f"in {training['kind']},"
        yield from alike(f"{where} before a step,", training["before"])
        for step in training["steps"]:
            yield from alike(f"{where} after a step,", step["state"])
            yield from alike(f"{where} the gradient of", step["gradients"])
            if step["loss"] is not None:
                yield f"{where} the loss", shape(step["loss"]), []


def _float_inputs(run: Mapping[str, Any], arrays: Mapping[str, Any]) -> list[str] | None:
    """Return a run's floating-point inputs, mappings by sorted key; None if some are not known."""
    found = list(_arrays_in([run["args"], run["kwargs"]]))
    if not found or None in found:
        return None
    return [name for name in found if name and "float" in arrays[name]["dtype"]]


def _arrays_in(tree: Any) -> Iterator[str | None]:
    """Yield the names of the arrays in a tree, and None for what was not stored."""
    if isinstance(tree, list):
        for item in tree:
            yield from _arrays_in(item)
    elif isinstance(tree, dict):
        kind, inner = next(iter(tree.items()))
        if kind in ("array", "object"):
            yield inner if kind == "array" else None
        elif kind == "list":
            yield from _arrays_in(inner)
        elif kind == "dict":
            yield from _arrays_in([inner[key] for key in sorted(inner)])


def _tied(index: dict[str, Any]) -> set[str]:
    return {name for names in index["aliases"].values() for name in names}


def _filled(index: dict[str, Any]) -> dict[str, Any]:
    found = {key: rule() for key, rule in EMPTY.items()} | index
    for kind, empty in (("runs", RUN_EMPTY), ("alone", {}), ("training", {})):
        found[kind] = [{k: make() for k, make in empty.items()} | run for run in found[kind]]
    for run in found["runs"]:
        run["outputs"] = [{"kind": "", "array": None} | output for output in run["outputs"]]
        run["calls"] = [{k: make() for k, make in CALL_EMPTY.items()} | c for c in run["calls"]]
    for training in found["training"]:
        lacking: dict[str, Any] = {"gradients": {}, "loss": None}
        training["steps"] = [lacking | step for step in training["steps"]]
    for alone in found["alone"]:
        for name, layer in alone["layers"].items():
            alone["layers"][name] = {k: make() for k, make in LAYER_EMPTY.items()} | layer
    return found


def _refuse(value: Any, place: str, expected: str) -> None:
    raise InputError(f"{place} is {shortened(repr(value), 60)}, expected {expected}")


def _is(kind: type | tuple[type, ...], expected: str) -> Rule:
    def rule(value: Any, place: str, _: Mapping[str, Any]) -> None:
        wrong = isinstance(value, bool) and kind is not bool
        if wrong or not isinstance(value, kind):
            _refuse(value, place, expected)

    return rule


def _one_of(*choices: Any) -> Rule:
    def rule(value: Any, place: str, _: Mapping[str, Any]) -> None:
        if not isinstance(value, str) or value not in choices:
            _refuse(value, place, f"one of {', '.join(map(str, sorted(choices)))}")

    return rule


def _name(value: Any, place: str, arrays: Mapping[str, Any]) -> None:
    if not isinstance(value, str) or value not in arrays:
        _refuse(value, place, "the name of an array")


def _anything(value: Any, place: str, arrays: Mapping[str, Any]) -> None:
    del value, place, arrays


def _or_null(spec: Any) -> Rule:
    inner = _rule_of(spec)

    def rule(value: Any, place: str, arrays: Mapping[str, Any]) -> None:
        if value is not None:
            inner(value, place, arrays)

    return rule


def _values(spec: Any) -> Rule:
    inner = _rule_of(spec)

    def rule(value: Any, place: str, arrays: Mapping[str, Any]) -> None:
        if not isinstance(value, dict):
            _refuse(value, place, "an object")
        for key, item in value.items():
            inner(item, f"{place}, {key!r}", arrays)

    return rule


def _tree(value: Any, place: str, arrays: Mapping[str, Any]) -> None:
    if not isinstance(value, dict):
        if isinstance(value, list):
            _refuse(value, place, "a tree")
        return
    kind, inner = next(iter(value.items())) if len(value) == 1 else ("", None)
    if kind == "list":
        _rule_of([_tree])(inner, place, arrays)
    elif kind == "dict":
        _values(_tree)(inner, place, arrays)
    elif kind == "array":
        _name(inner, place, arrays)
    elif kind == "number":
        _one_of("inf", "-inf", "nan")(inner, place, arrays)
    elif kind != "object" or not isinstance(inner, str):
        _refuse(value, place, "a tree")


def _rule_of(spec: Any) -> Rule:
    """Return a rule: a list of one is one for each item, a mapping one for each key."""
    if callable(spec):
        return spec
    if isinstance(spec, list):
        inner = _rule_of(spec[0])

        def items(value: Any, place: str, arrays: Mapping[str, Any]) -> None:
            if not isinstance(value, list):
                _refuse(value, place, "a list")
            for i, item in enumerate(value):
                inner(item, f"{place}, item {i}", arrays)

        return items

    def fields(value: Any, place: str, arrays: Mapping[str, Any]) -> None:
        if not isinstance(value, dict):
            _refuse(value, place, "an object")
        for key, rule in spec.items():
            bare = key.rstrip("*")
            if bare in value:
                _rule_of(rule)(value[bare], f"{bare} of {place}", arrays)
            elif key != bare:
                raise InputError(f"{place} has no {bare!r}")

    return fields


def _count(value: Any, place: str, _: Mapping[str, Any]) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        _refuse(value, place, "a whole number from 0")


TEXT, FLAG = _is(str, "text"), _is(bool, "true or false")
NUMBER, COUNT = _is((int, float), "a number"), _count
ARRAYS = _values(_name)
PLACE = {
    "mode*": _one_of("eval", "train"),
    "precision*": _one_of("float64", *ROUNDING),
    "disturbance": _or_null(COUNT),
}
CALL = {
    "layer*": TEXT,
    "outputs*": [_name],
    "args": _tree,
    "kwargs": _tree,
    "cotangents": [_or_null(_name)],
}
OUTPUT = {"name*": TEXT, "kind": TEXT, "array": _or_null(_name)}
# Keys with a star are required.
RUN = PLACE | {
    "outputs*": [OUTPUT],
    "args": _tree,
    "kwargs": _tree,
    "calls": [CALL],
    "targets": [_name],
    "loss": _or_null(_name),
    "input_gradients": [_or_null(_name)],
    "parameter_gradients": ARRAYS,
    "statistics": ARRAYS,
    "first_statistics": ARRAYS,
}
LAYER = {
    "outputs*": [_name],
    "input_gradients": [_name],
    "parameter_gradients": ARRAYS,
    "statistics": ARRAYS,
}
STEP = {
    "state*": ARRAYS,
    "gradients": ARRAYS,
    "loss": _or_null(_name),
    "rate": _or_null(NUMBER),
}
TRAINING = {
    "kind*": _one_of(*KINDS),
    "precision*": PLACE["precision*"],
    "disturbance": PLACE["disturbance"],
    "before*": ARRAYS,
    "steps*": [STEP],
}
FACTS = {
    "kind": TEXT,
    "settings": _values(_anything),
    "parts": FLAG,
    "modes": FLAG,
    "channels_last": FLAG,
}
NOTES = {
    "switched_off": [TEXT],
    "quieted": _values(TEXT),
    "lifted": _values(TEXT),
    "probe": [COUNT],
    "seed": COUNT,
}
INDEX = {
    "arrays*": _values(
        {"dtype*": _one_of(*DTYPES), "shape*": [COUNT], "sha256*": TEXT},
    ),
    "runs*": [RUN],
    "framework": TEXT,
    "precision": _one_of(*ROUNDING),
    "layers": _values(FACTS),
    "state": ARRAYS,
    "unsaved": ARRAYS,
    "trained": [TEXT],
    "aliases": _values([TEXT]),
    "alone": [PLACE | {"layers*": _values(LAYER)}],
    "training": [TRAINING],
    "batches": [{"args*": _tree, "kwargs": _tree, "targets": [_name]}],
    "rates": [NUMBER],
    "notes": NOTES,
}


def _no_arguments(kind: str) -> Callable[[], dict[str, Any]]:
    return lambda: {kind: [] if kind == "list" else {}}


# What an absent key stands for.
EMPTY: dict[str, Callable[[], Any]] = {
    "framework": str,
    "precision": lambda: "float32",
    "layers": dict,
    "state": dict,
    "unsaved": dict,
    "trained": list,
    "aliases": dict,
    "alone": list,
    "training": list,
    "batches": list,
    "rates": list,
    "notes": dict,
}
ARGUMENTS: dict[str, Callable[[], Any]] = {
    "args": _no_arguments("list"),
    "kwargs": _no_arguments("dict"),
}
CALL_EMPTY = ARGUMENTS | {"cotangents": list}
LAYER_EMPTY: dict[str, Callable[[], Any]] = {
    "input_gradients": list,
    "parameter_gradients": dict,
    "statistics": dict,
}
RUN_EMPTY = ARGUMENTS | LAYER_EMPTY
RUN_EMPTY |= {"calls": list, "targets": list, "loss": lambda: None, "first_statistics": dict}
