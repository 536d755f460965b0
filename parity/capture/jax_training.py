"""The JAX side of training: an optax optimizer over a network's parameters, step by step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax

from parity.capture.jax_models import keys, like_named, named
from parity.capture.jax_runs import compiled, flat_statistics
from parity.capture.jax_side import JaxSide, Loss
from parity.capture.records import Arrays, ForwardError
from parity.spec.errors import InputError, one_line


class JaxTraining:
    """A network's parameters and statistics, and the optimizer that trains them.

    Args:
        side: Holds the network, in one precision.
        optimizer: An optax transformation.

    Raises:
        InputError: `optimizer` is no optax transformation, or raises.
    """

    def __init__(self, side: JaxSide, optimizer: Any) -> None:
        if not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
            kind = type(optimizer).__name__
            raise InputError(f"the port's optimizer is a {kind}, expected one of optax")
        self.side = side
        self.optimizer = optimizer
        self.program, self.trained, self.rest = side.split()
        self.statistics: Arrays = {}
        with side.precision(), answered("optimizer"):
            self.kept = compiled(run_init)(optimizer, None, self.trained)

    def gradients(
        self, inputs: tuple[Any, ...], loss: Loss, targets: tuple[np.ndarray, ...]
    ) -> tuple[Arrays, float]:
        """Return every parameter's gradient, by name, and the loss; statistics are updated.

        Raises:
            ForwardError: The network or the loss raised.
        """
        found = self.side.differentiate(
            (self.program, self.trained, self.rest), inputs, loss, targets
        )
        self.rest = self.program.moved(self.rest, found["statistics"])
        self.statistics = flat_statistics(jax.device_get(found["statistics"]))
        return named(jax.device_get(found["d_trained"])), float(found["loss"])

    def update(self, gradients: Mapping[str, np.ndarray]) -> None:
        """Make one step of the optimizer.

        Args:
            gradients: Gradients by parameter name; a parameter that is absent has gradient 0, as in
                JAX.

        Raises:
            InputError: The optimizer raised.
        """
        shapes = named(self.trained)
        given = {n: gradients.get(n, np.zeros_like(a)) for n, a in shapes.items()}
        tree = like_named(self.trained, given)
        with self.side.precision(), answered("optimizer"):
            self.trained, self.kept = compiled(run_update)(
                self.optimizer, None, tree, self.kept, self.trained
            )

    def state(self) -> Arrays:
        """Return every parameter by name, and the statistics after the first step."""
        return named(jax.device_get(self.trained)) | self.statistics


def run_init(optimizer: Any, _: None, trained: Any) -> Any:
    return jax.tree_util.tree_map_with_path(_widened, optimizer.init(trained))


def _widened(path: tuple, leaf: Any) -> Any:
    """Widen step counts to 64 bits: with a 32-bit count, JAX computes rates in float32."""
    last = keys(path)[-1] if path else ""
    return leaf.astype(int) if last == "count" and leaf.dtype == np.int32 else leaf


def run_update(optimizer: Any, _: None, gradients: Any, kept: Any, trained: Any) -> Any:
    updates, kept = optimizer.update(gradients, kept, trained)
    return optax.apply_updates(trained, updates), kept


def rates(schedule: Callable[[Any], Any], count: int) -> np.ndarray:
    """Return the rate at each of the first steps, in float64.

    Raises:
        InputError: The schedule raised, or gives no number.
    """
    with jax.enable_x64(True), answered("schedule"):
        steps = np.arange(count)
        rate = jax.vmap(lambda step: jax.numpy.asarray(schedule(step), float))
        found = np.asarray(jax.jit(rate)(steps))
    if found.shape != (count,):
        raise InputError(f"the port's schedule gives arrays {found.shape[1:]}, expected numbers")
    return found


@contextlib.contextmanager
def answered(what: str) -> Iterator[None]:
    """Context that adds to an error whose function raised it."""
    try:
        yield
    except (InputError, ForwardError):
        raise
    except Exception as error:
        raise InputError(
            f"the port's {what} raised {type(error).__name__}: {one_line(error)}"
        ) from error
