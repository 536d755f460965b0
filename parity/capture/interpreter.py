"""Evaluating a jaxpr equation by equation: to see every layer's call, and to compute in float64.

The interpreter runs under whatever traces it, `jit` or `value_and_grad`, and binds the program's
own equations again. Where there is nothing to see and nothing to change inside a `jit`, `scan` or
custom derivative, that equation is bound as it is.

In float64 a program may still compute in a narrower type inside: a softmax in float32, a layer of
`dtype=float32`, a constant of `np.float32`. `lift` takes such casts away, so that what is left of a
difference is no rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import zero_from_primal
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.extend.core import primitives as p

from parity.capture import convolutions
from parity.capture.jaxprs import (
    bind,
    has_marks,
    has_narrow,
    is_narrow,
    narrow_equation,
    subjaxprs,
)
from parity.capture.marks import BEGIN, mark_p
from parity.capture.meant import meant
from parity.capture.records import is_exact
from parity.spec import draw

Change = Callable[[JaxprEqn, list[Any]], list[Any]]

# Called once, with their own jaxpr: evaluated in place where something in them is of interest.
INLINED = {p.jit_p: "jaxpr", p.closed_call_p: "call_jaxpr", p.remat_p: "jaxpr"}
# Their result depends on how a number is stored, so they are left in the type that they have.
STORED = {"bitcast_convert_type", "nextafter", "pure_callback", "io_callback", "ffi_call"}
DTYPES = ("new_dtype", "dtype", "preferred_element_type", "out_dtype")  # parameters of equations


@dataclasses.dataclass
class Seen:
    """A call of a layer that was met, in the order in which calls return.

    Attributes:
        site: The number of its `marks.Site`.
        fed: Its arguments' arrays.
        outputs: Its arrays.
        taken: For a call in a branch, whether the branch was taken; None elsewhere.
    """

    site: int
    fed: list[Any]
    outputs: list[Any]
    taken: Any = None


jax.tree_util.register_dataclass(
    Seen, data_fields=["fed", "outputs", "taken"], meta_fields=["site"]
)


class Interpreter:
    """Evaluates one program.

    Args:
        lift: Whether casts to a narrower type than float64 are left out.
        noise: If given, constants that are known in a narrower type only are multiplied by
            1 + noise * U(-1, 1), scalars by 1 + noise.
        changes: Equations, by their `id`, that are to be evaluated by another function.

    Attributes:
        seen: The calls of layers, in the order in which they returned.
        open: Calls that have begun: the site's number and what it was fed, innermost last.
        lifted: The sites in which, or None outside of any, a cast was left out.
        kept: The same, of equations that had to be left in a narrower type.
        rounded: Whether a constant is known in a narrower type only.
    """

    def __init__(
        self, lift: bool = False, noise: Any = None, changes: Mapping[int, Change] | None = None
    ) -> None:
        self.changes = changes or {}
        self.lift = lift
        self.noise = noise
        self.seen: list[Seen] = []
        self.open: list[tuple[int, list[Any]]] = []
        self.lifted: dict[int | None, str] = {}
        self.kept: dict[int | None, str] = {}
        self.rounded = False

    def closed(self, closed: ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
        """Evaluate a closed jaxpr."""
        consts = [self._constant(c) for c in closed.consts]
        return self.evaluate(closed.jaxpr, consts, args)

    def evaluate(self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """Evaluate a jaxpr; see `jax.core.eval_jaxpr`."""
        env: dict[Any, Any] = {}

        def read(atom: Any) -> Any:
            if not isinstance(atom, Literal):
                return env[atom]
            return (
                self._constant(np.asarray(atom.val, getattr(atom.aval, "dtype", None)))
                if self.lift
                else atom.val
            )

        for var, value in zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True):
            env[var] = value
        for eqn in jaxpr.eqns:
            found = self.equation(eqn, [read(atom) for atom in eqn.invars])
            for var, value in zip(eqn.outvars, found, strict=True):
                env[var] = value
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        """Evaluate one equation."""
        if eqn.primitive is mark_p:
            return self._mark(eqn.params, values)
        if id(eqn) in self.changes:
            return self.changes[id(eqn)](eqn, [self._up(v) for v in values])
        inner = list(subjaxprs(eqn))
        if not self._concerned(eqn, inner):
            return self._bound(eqn, values)
        if eqn.primitive in INLINED:
            return self._inlined(eqn.params[INLINED[eqn.primitive]], values)
        rules: dict[Any, Callable[[JaxprEqn, list[Any]], list[Any]]] = {
            p.scan_p: self._scan,
            p.cond_p: self._cond,
            p.while_p: self._while,
            p.custom_jvp_call_p: self._custom_jvp,
            p.custom_vjp_call_p: self._custom_vjp,
        }
        rule = rules.get(eqn.primitive, self._lifted)
        return rule(eqn, [self._up(v) for v in values])

    def _bound(
        self, eqn: JaxprEqn, values: list[Any], params: dict[str, Any] | None = None
    ) -> list[Any]:
        """Bind an equation on other values; where XLA would be slow, compute the same otherwise."""
        if self.lift and convolutions.is_slow(eqn, values):
            return convolutions.by_products(eqn, values)
        return bind(eqn, values, params)

    def _concerned(self, eqn: JaxprEqn, inner: list[Jaxpr]) -> bool:
        """Return whether an equation is to be looked into, or changed."""
        if any(has_marks(jaxpr) or self._is_changed(jaxpr) for jaxpr in inner):
            return True
        if self.lift and any(map(convolutions.has_slow, inner)):
            return True
        return self.lift and (any(map(has_narrow, inner)) or narrow_equation(eqn))

    def _is_changed(self, jaxpr: Jaxpr) -> bool:
        return bool(self.changes) and any(
            id(eqn) in self.changes or any(map(self._is_changed, subjaxprs(eqn)))
            for eqn in jaxpr.eqns
        )

    def _mark(self, params: dict[str, Any], values: list[Any]) -> list[Any]:
        if params["place"] == BEGIN:
            self.open.append((params["call"], values))
        else:
            call, fed = self.open.pop()
            self.seen.append(Seen(call, fed, values))
        return values

    def _inlined(self, jaxpr: Any, values: list[Any]) -> list[Any]:
        if isinstance(jaxpr, ClosedJaxpr):
            return self.closed(jaxpr, values)
        return self.evaluate(jaxpr, (), values)

    # Types.

    def _up(self, value: Any) -> Any:
        """Return a value in float64 where it is of a narrower type."""
        return value.astype(jnp.float64) if self.lift and is_narrow(value.dtype) else value

    def _constant(self, value: Any) -> Any:
        """Return a constant in float64; a scalar as it was meant."""
        if not self.lift or isinstance(value, jax.core.Tracer):
            return value
        if not jnp.issubdtype(value.dtype, jnp.floating):
            return value
        with np.errstate(over="ignore"):  # the least number of float64, of a mask, stays what it is
            array = np.asarray(value).astype(np.float32)
        if not is_narrow(value.dtype) and not np.array_equal(array, value, equal_nan=True):
            return value
        if is_exact(array):
            return jnp.asarray(array, jnp.float64)
        self._note(self.lifted, "constants")
        self.rounded = True
        wide = array.astype(np.float64)
        if array.ndim == 0:  # one draw might be 0: it moves by all that it may
            wide = np.array(meant(array))
            return jnp.asarray(wide) if self.noise is None else wide * (1 + self.noise)
        if self.noise is None:
            return jnp.asarray(wide)
        rng = draw.generator(0, "constants", array.size)
        return wide * (1 + self.noise * rng.uniform(-1, 1, array.shape))

    def _lifted(self, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        """Bind an equation on float64 instead of what it was traced for."""
        name = eqn.primitive.name
        if name in STORED or not self.lift:
            return self._kept(eqn, values)
        if name in ("convert_element_type", "reduce_precision"):
            self._note(self.lifted, "a cast")
            if name == "reduce_precision":
                return values
        params = {key: self._lifted_parameter(key, value) for key, value in eqn.params.items()}
        if name == "dot_general":
            params["precision"] = None
        try:
            return self._bound(eqn, values, params)
        except Exception:  # an operation that exists in the narrower type only
            return self._kept(eqn, values)

    def _lifted_parameter(self, key: str, value: Any) -> Any:
        """Return an equation's parameter: a type, or what a scatter does with two numbers."""
        if key in DTYPES and is_narrow(value):
            return np.dtype(np.float64)
        if isinstance(value, Jaxpr) and has_narrow(value):
            shapes = [
                jax.ShapeDtypeStruct(getattr(v.aval, "shape", ()), np.float64) for v in value.invars
            ]
            return jax.make_jaxpr(lambda *args: self._part().evaluate(value, (), args))(
                *shapes
            ).jaxpr
        return value

    def _kept(self, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        """Bind an equation in the types that it was traced for."""
        self._note(self.kept, eqn.primitive.name)
        values = [
            v.astype(getattr(a.aval, "dtype", None)) if jnp.issubdtype(v.dtype, jnp.floating) else v
            for v, a in zip(values, eqn.invars, strict=True)
        ]
        return bind(eqn, values)

    def _note(self, where: dict[int | None, str], what: str) -> None:
        where.setdefault(self.open[-1][0] if self.open else None, what)

    # Equations that hold programs.

    def _part(self) -> Interpreter:
        """Return an interpreter of a part whose calls are handed over as arrays of their own."""
        part = Interpreter(self.lift, self.noise, self.changes)
        part.open = [(call, []) for call, _ in self.open]
        return part

    def _absorb(self, part: Interpreter) -> None:
        self.lifted |= {k: v for k, v in part.lifted.items() if k not in self.lifted}
        self.kept |= {k: v for k, v in part.kept.items() if k not in self.kept}
        self.rounded |= part.rounded

    def _scan(self, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        params, closed = eqn.params, eqn.params["jaxpr"]
        n, m = params["num_consts"], params["num_consts"] + params["num_carry"]
        consts, carry, stacked = values[:n], values[n:m], values[m:]
        parts: list[Interpreter] = []

        def body(carry: list[Any], each: list[Any]) -> Any:
            part = self._part()
            parts[:] = [part]
            out = [self._up(v) for v in part.closed(closed, [*consts, *carry, *each])]
            return out[: len(carry)], (out[len(carry) :], part.seen)

        last, (rest, seen) = jax.lax.scan(
            body, carry, stacked, params["length"], params["reverse"], params["unroll"]
        )
        self._absorb(parts[0])
        places = range(params["length"])
        for i in reversed(places) if params["reverse"] else places:
            self.seen += jax.tree.map(lambda a, i=i: a[i], seen)
        return [*last, *rest]

    def _cond(self, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        index, *operands = values
        branches = eqn.params["branches"]
        shapes = [jax.eval_shape(self._branch(b), *operands)[1] for b in branches]

        def run(i: int) -> Callable[..., Any]:
            def branch(*args: Any) -> Any:
                out, seen = self._branch(branches[i])(*args)
                zeros = [jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), s) for s in shapes]
                return out, [*zeros[:i], seen, *zeros[i + 1 :]]

            return branch

        out, every = jax.lax.switch(index, [run(i) for i in range(len(branches))], *operands)
        for i, seen in enumerate(every):
            for call in seen:
                taken = index == i if call.taken is None else (index == i) & call.taken
                self.seen.append(dataclasses.replace(call, taken=taken))
        return out

    def _branch(self, closed: ClosedJaxpr) -> Callable[..., Any]:
        def branch(*args: Any) -> Any:
            part = self._part()
            out = [self._up(v) for v in part.closed(closed, args)]
            self._absorb(part)
            return out, part.seen

        return branch

    def _while(self, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        """Run a loop of unknown length; the calls in it are not kept."""
        params = eqn.params
        n, m = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]

        def run(closed: ClosedJaxpr, args: list[Any]) -> list[Any]:
            part = self._part()
            out = [self._up(v) for v in part.closed(closed, args)]
            self._absorb(part)
            return out

        return jax.lax.while_loop(
            lambda carry: run(params["cond_jaxpr"], [*values[:n], *carry])[0],
            lambda carry: run(params["body_jaxpr"], [*values[n:m], *carry]),
            values[m:],
        )

    def _custom_jvp(self, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        """Call a function with its own derivative, which stays its own."""
        closed, count = eqn.params["call_jaxpr"], eqn.params["num_consts"]
        made, consts, zeros = eqn.params["jvp_jaxpr_fun"].call_wrapped(
            *([False] * (len(values) - count))
        )
        parts: list[Interpreter] = []

        def part() -> Interpreter:
            parts[:] = [self._part()]
            return parts[0]

        @jax.custom_jvp
        def call(*args: Any) -> Any:
            here = part()
            return [self._up(v) for v in here.closed(closed, args)], here.seen

        @call.defjvp
        def differentiate(primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
            here = part()
            fixed = [here._constant(c) for c in consts]
            args = (*primals[count:], *tangents[count:])
            found = [self._up(v) for v in here.evaluate(made, fixed, args)]
            out, rest = found[: len(zeros)], iter(found[len(zeros) :])
            moved = [
                zero_from_primal(o) if z else next(rest) for o, z in zip(out, zeros, strict=True)
            ]
            seen = call(*primals)[1]
            return (out, seen), (moved, jax.tree.map(zero_from_primal, seen))

        out, seen = call(*values)
        self._absorb(parts[0])
        self.seen += seen
        return out

    def _custom_vjp(self, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        """Call a function with its own gradient, whose types are its own; look into it beside."""
        closed = eqn.params["call_jaxpr"]
        if has_marks(closed.jaxpr):
            self.closed(closed, [jax.lax.stop_gradient(v) for v in values])
        if self.lift and has_narrow(closed.jaxpr):
            return self._kept(eqn, values)
        return bind(eqn, values)
