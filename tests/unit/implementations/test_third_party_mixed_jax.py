"""Mixed precision on JAX's side: every operation of a step as JAX itself traces it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from jax.extend import core

from parity.spec.training.optimizers import Optimizer
from tests.training import ADAM, SGD, batch, trainer

HALVES = {"bf16": "bfloat16", "fp16": "float16"}
cases = pytest.mark.parametrize(
    ("model", "level", "precision"),
    [(m, v, p) for m, p in (("genet", "fp16"), ("erfnet", "bf16")) for v in ("O1", "O2")],
)
PRODUCTS = ("dot_general", "conv_general_dilated")
WIDE = ("exp", "log", "sqrt", "rsqrt", "log1p")  # softmax, batch norms' deviations, Adam's root
PASSED_ON = ("broadcast_in_dim", "copy", "reshape", "squeeze", "optimization_barrier")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One equation of a trace.

    Attributes:
        name: Its primitive's.
        inputs: Precisions.
        outputs: Precisions.
        of: What it is fed unchanged: names of arguments of the whole program.
        within: Functions that it stands in, as JAX names them.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    of: tuple[str, ...]
    within: str


def walk(jaxpr: Any, known: dict[Any, str]) -> Iterator[Operation]:
    """All equations, those of inner functions too.

    Args:
        jaxpr: Of a function.
        known: Its variables that are arguments of the whole program, by name.
    """
    for equation in jaxpr.eqns:
        names = [
            known.get(v, "") if not isinstance(v, core.Literal) else "" for v in equation.invars
        ]
        inner = [x for value in equation.params.values() for x in jaxprs(value)]
        for one in inner:
            passed = names[len(names) - len(one.invars) :]
            yield from walk(one, {v: n for v, n in zip(one.invars, passed, strict=False) if n})
        if inner:
            continue
        if equation.primitive.name in PASSED_ON and names[0]:
            known[equation.outvars[0]] = names[0]
            continue
        yield Operation(
            equation.primitive.name,
            tuple(str(v.aval.dtype) for v in equation.invars),
            tuple(str(v.aval.dtype) for v in equation.outvars),
            tuple(n for n in names if n),
            str(equation.source_info.name_stack),
        )


def jaxprs(value: Any) -> Iterator[Any]:
    """Those in a parameter of an equation."""
    if isinstance(value, core.ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from jaxprs(item)


def traced(model: str, optimizer: Optimizer, precision: str, level: str) -> tuple[Any, list]:
    """A trainer, and all operations of its step."""
    made = trainer("jax", model, optimizer, precision, level=level, loss_scale=1024.0)
    told = jax_told(optimizer)
    given = (made.state, made._inputs(batch(model, 0)), told, np.float32(1024))
    jaxpr = jax.make_jaxpr(made._program.step)(*given).jaxpr
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(given)]
    return made, list(walk(jaxpr, dict(zip(jaxpr.invars, names, strict=True))))


def jax_told(optimizer: Optimizer) -> dict[str, np.float32]:
    names = ("rate", "first", "second", "eps") if optimizer.kind == "adam" else ("rate",)
    return {name: np.float32(0.5) for name in names}


@cases
def test_operations(model: str, level: str, precision: str) -> None:
    """Catches an operation in the wrong precision, forward, backward or in the optimizer's step."""
    half = HALVES[precision]
    _, seen = traced(model, ADAM, precision, level)
    # Not an average pooling's mean, which is written as an einsum of float32.
    products = [op for op in seen if op.name in PRODUCTS and "->" not in op.within]
    assert len(products) > 10
    assert {d for op in products for d in op.inputs} == {half}
    wide = [op for op in seen if op.name in WIDE]
    assert {op.name for op in wide} >= {"exp", "log", "sqrt"}
    assert {d for op in wide for d in op.inputs} == {"float32"}


@cases
def test_gradients_are_divided_in_float32(model: str, level: str, precision: str) -> None:
    """Catches gradients divided by the loss scale in half precision, or a scale cast to it."""
    made, seen = traced(model, SGD, precision, level)
    scaled = [op for op in seen if "[3]" in op.of]
    assert {op.name for op in scaled} == {"mul", "div"}
    assert sum(op.name == "div" for op in scaled) == len(made.trained)
    assert {d for op in scaled for d in (*op.inputs, *op.outputs)} == {"float32"}


@cases
def test_norms_and_masters_stay_in_float32(model: str, level: str, precision: str) -> None:
    """Catches a batch norm's scale, shift or statistics in half precision, and masters in it."""
    half = HALVES[precision]
    made, seen = traced(model, ADAM, precision, level)
    names = [*made.state.trained, *made.state.rest]
    norms = {n.rpartition(".")[0] for n in names if n.endswith(".scale")}
    assert norms
    cast = {n for op in seen if op.outputs == (half,) for n in op.of}
    own = {n for n in names if n.rpartition(".")[0] in norms}
    paths = {f"[0].{field}['{n}']": n for field in ("trained", "rest") for n in names}
    narrowed = {paths[path] for path in cast if path in paths}
    assert not narrowed & own
    kernels = {n for n in made.state.trained if n.endswith(".kernel")}
    assert kernels <= narrowed
    floats = [a for a in jax.tree.leaves(made.state) if np.dtype(a.dtype).kind != "i"]
    assert {str(a.dtype) for a in floats} == {"float32"}
    slots = [op for op in seen if any("optimizer" in name for name in op.of)]
    assert len(slots) >= 2 * len(made.trained)
    assert not [op for op in slots if half in (*op.inputs, *op.outputs)]


@cases
def test_the_loss_of_a_validation(model: str, level: str, precision: str) -> None:
    """Catches a validation whose loss is that of logits in half precision."""
    made = trainer("jax", model, SGD, precision, level=level)
    arrays = made.state.trained | made.state.rest
    jaxpr = jax.make_jaxpr(made._program.evaluate)(arrays, made._inputs(batch(model, 0))).jaxpr
    wide = [op for op in walk(jaxpr, {}) if op.name in ("exp", "log")]
    assert wide
    assert {d for op in wide for d in op.inputs} == {"float32"}


def test_the_scale_and_the_masters() -> None:
    """Catches masters that are missing: steps smaller than a half's last bit must add up.

    And a step that is made although a gradient overflowed.
    """
    made = trainer("jax", "genet", SGD, "fp16", level="O2", loss_scale="dynamic")
    made.scale.value = 2.0**30  # times the gradients: more than a half holds
    before = made.snapshot()
    step = made.step(batch("genet", 0), 1e-6)
    assert (step.skipped, step.scale, step.fault) == (True, 2.0**29, "")
    after = made.snapshot()
    assert all(np.array_equal(after.arrays[k], a) for k, a in before.arrays.items())
    made.scale.value = 1024.0
    right = {n: np.asarray(before.arrays[n], np.float64) for n in made.trained}
    for _ in range(3):
        assert made.step(batch("genet", 0), 1e-6).scale == 1024
        after = made.snapshot()
        for name in made.trained:
            right[name] -= 1e-6 * after.slots["momentum_buffer"][name].astype(np.float64)
    for name in made.trained:
        np.testing.assert_allclose(after.arrays[name], right[name], rtol=1e-6)
        assert not np.array_equal(after.arrays[name], before.arrays[name])
