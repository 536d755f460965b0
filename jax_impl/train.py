"""Training of a JAX network, step by step, with the same names as in `torch_impl/train.py`.

    python -m jax_impl.train enet-camvid --data DIR --out DIR

is `parity train` with `--framework jax`.

What is computed in which precision:

- `fp64`, `fp32`: everything in that one.
- `bf16`, `fp16` at level O1: convolutions, fully connected layers and PReLUs take inputs and
  weights, and return results, in half precision. Weights are float32.
- At level O2 images and weights are in half precision; the optimizer updates float32 master copies;
  scales, shifts and statistics of batch norms are float32.
- At both levels batch norms compute in float32 and return their input's dtype; everything else
  computes in its inputs' dtype, the wider of two; the loss is that of logits in float32, and the
  optimizer works in float32 on gradients in float32, divided by the loss scale.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jax_impl import layers, optim
from jax_impl.evaluate import precision as holding
from jax_impl.losses import training_loss
from jax_impl.parallel import Group, first, join, mean
from jax_impl.state import build, flat, nested, published, to_device, to_host
from parity.spec.models import Config
from parity.spec.training.losses import Loss
from parity.spec.training.optimizers import Optimizer, idle, parameters
from parity.spec.training.parallel import DDP, Parallel
from parity.spec.training.scaling import LossScale, not_finite
from parity.spec.training.trainer import Batch, Snapshot, Step

HALVES = {"bf16": "bfloat16", "fp16": "float16"}


class State(NamedTuple):
    """The arrays that a training step changes.

    Attributes:
        trained: Path -> parameter; at level O2 the float32 master copy.
        rest: Path -> batch norm statistic, or parameter that the network does not use.
        optimizer: optax's state.
    """

    trained: dict[str, jax.Array]
    rest: dict[str, jax.Array]
    optimizer: optax.OptState


class Trainer:
    """One stage of training; see `parity.spec.training.trainer.Trainer`.

    Runs on JAX's default device; compiled once per shape of a batch.

    Args:
        config: The network's configuration.
        optimizer: The stage's optimizer.
        loss: The loss to minimise.
        arrays: Initial weights, as `jax_impl.state.build` takes them.
        class_weights: (classes,), for cross-entropy; ones if not given.
        precision: `fp64`, `fp32`, `bf16` or `fp16`.
        level: For half precision, `O1` or `O2`.
        loss_scale: A number, `dynamic`, or none.
        parallel: How several devices combine their results.
        group: The devices, where there are several; see `jax_impl.parallel`.

    Raises:
        InputError: A tensor is missing, left over, or of another shape.
    """

    def __init__(
        self,
        config: Config,
        optimizer: Optimizer,
        loss: Loss,
        arrays: Mapping[str, np.ndarray],
        class_weights: np.ndarray | None = None,
        precision: str = "fp32",
        level: str = "O1",
        loss_scale: float | str | None = None,
        parallel: Parallel = DDP,
        group: Group | None = None,
    ) -> None:
        self.optimizer, self.loss = optimizer, loss
        self.parallel, self.group = parallel, group
        self.dtype = "float64" if precision == "fp64" else "float32"
        self.half, self.level = HALVES.get(precision), level
        with holding(self.dtype):
            model = build(config, arrays, self.dtype)
            if self.half and level == "O1":
                model.set_attributes(compute_dtype=self.half)
            if group and parallel.batch_norm == "sync":
                layers.synchronize(model)
            graph, state = nnx.split(model)
            own = {published(n): n for n in flat(nnx.state(model, nnx.Param))}
        held, keys = flat(state), parameters(config)
        unused = idle(config, keys)
        self.trained = tuple(own[key] for key in keys if key not in unused)
        half = self.half if level == "O2" else None
        stage = (graph, config, optimizer, loss, self.trained, half, parallel, group)
        self._program = compiled(*stage)  # type: ignore[arg-type]  # a Config is a frozen dataclass
        self.class_weights = None if class_weights is None else class_weights.astype(self.dtype)
        self.scale = LossScale.of(loss_scale)
        self.steps = 0
        with holding(self.dtype):
            self.state = self._shared(self._state(held))

    def step(self, batch: Batch, rate: float) -> Step:
        """Run forward, backward and update; a fault or a skipped step leaves the weights unchanged.

        Args:
            batch: A batch of the stage's size.
            rate: The learning rate, before the groups' factors.
        """
        settings = optim.hyperparameters(self.optimizer, self.dtype, rate, self.steps + 1)
        with holding(self.dtype):
            scale = np.dtype(self.dtype).type(self.scale.value)
            made = self._program.step(self.state, self._inputs(batch), settings, scale)
            self.state = made[0]
            loss, counts = jax.device_get(self._own(made[1:]))
        outcome = self.scale.outcome(float(loss), self._overflow(counts))
        self.steps += not (outcome.fault or outcome.skipped)
        return outcome

    def evaluate(self, batch: Batch) -> tuple[np.ndarray, float]:
        """Predict in eval mode: classes, (N, H, W) or (N,) int32, and the loss."""
        with holding(self.dtype):
            state = self._own(self.state)
            arrays = state.trained | state.rest
            classes, loss = self._program.evaluate(arrays, jax.device_put(self._given(batch)))
            return np.array(classes), float(loss)

    @property
    def batches_at_once(self) -> int:
        """Return how many batches `evaluate_each` takes at once."""
        return 1 if self.group is None else self.group.local

    def evaluate_each(self, batches: Sequence[Batch]) -> list[tuple[np.ndarray, float]]:
        """Evaluate several batches of one size at once: one on each of this process's devices."""
        if self.group is None:
            return [self.evaluate(batch) for batch in batches]
        # Spare devices evaluate the last batch again; that result is ignored.
        all_of = [*batches, *[batches[-1]] * (self.batches_at_once - len(batches))]
        own, each = self.group.own, [self._given(batch._replace(masks={})) for batch in all_of]
        with holding(self.dtype):
            arrays = self.group.taken(self.state.trained | self.state.rest)
            inputs = own.put(jax.tree.map(lambda *parts: np.stack(parts), *each))
            found = jax.device_get(self._program.evaluate_each(arrays, inputs))
        pairs = zip(*found, strict=True)
        return [(classes, float(loss)) for classes, loss in list(pairs)[: len(batches)]]

    def snapshot(self) -> Snapshot:
        """Copy everything that is needed to continue training."""
        state = self._own(self.state)
        held = state.trained | state.rest
        slots = optim.slots(self.optimizer, state.optimizer) if self.steps else {}
        # Copies: a step writes over what NumPy would only look at.
        arrays = {n: to_host(held[n]) for n in sorted(held)}
        copies = {s: {n: to_host(found[n]) for n in self.trained} for s, found in slots.items()}
        return Snapshot(arrays, copies, self.steps, self.scale.value, self.scale.good)

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot, bit for bit.

        Raises:
            InputError: A name is missing, left over, or of another shape.
        """
        state = self._own(self.state)
        held = state.trained | state.rest
        shapes = {n: array.shape for n, array in held.items()}
        snapshot.check(
            shapes, {s: {n: shapes[n] for n in self.trained} for s in self.optimizer.slots}
        )
        with holding(self.dtype):
            arrays = {n: to_device(snapshot.arrays[n], held[n].dtype, self.dtype) for n in held}
            state = self._state(arrays)
            slots = {
                slot: {n: jnp.array(found[n], self.dtype) for n in self.trained}
                for slot, found in snapshot.slots.items()
            }
            loaded = optim.load(self.optimizer, state.optimizer, slots, snapshot.step)
            self.state = self._shared(state._replace(optimizer=loaded))
        self.steps = snapshot.step
        self.scale.value, self.scale.good = snapshot.scale, snapshot.good

    def _state(self, arrays: Mapping[str, jax.Array]) -> State:
        """Build a state with a new optimizer; arrays are copied, since a step overwrites them."""
        held = {n: jnp.array(array) for n, array in arrays.items()}
        trained = {n: held.pop(n) for n in self.trained}
        return State(trained, held, self._program.transform.init(trained))

    def _given(self, batch: Batch) -> Inputs:
        images = batch.images.astype(self.dtype, copy=False)
        arrays: Any = (images, batch.targets, dict(batch.masks), self.class_weights)
        return Inputs(*arrays)

    def _inputs(self, batch: Batch) -> Inputs:
        given = self._given(batch)
        if self.group is None:
            return jax.device_put(given)
        parts = self.group.parts(given._replace(class_weights=None))
        return parts._replace(class_weights=self.group.copies(given.class_weights))

    def _shared(self, state: State) -> State:
        """Copy the state to every device."""
        return state if self.group is None else self.group.copies(state)

    def _own(self, tree: Any) -> Any:
        """Return the first device's arrays."""
        return tree if self.group is None else self.group.first(tree)

    def _overflow(self, counts: np.ndarray) -> str:
        """Describe the first gradient, in published order, that is not finite; empty if all are."""
        for n, count in zip(self.trained, counts.tolist(), strict=True):
            if count:
                return not_finite(n, count, self._own(self.state.trained[n]).size)
        return ""


class Inputs(NamedTuple):
    """The inputs of a training step.

    Attributes:
        images: (N, H, W, 3).
        targets: The targets of a `Batch`.
        masks: The dropout masks of a `Batch`.
        class_weights: (classes,), or None.
    """

    images: jax.Array
    targets: tuple[jax.Array, ...]
    masks: dict[str, jax.Array]
    class_weights: jax.Array | None


class Program(NamedTuple):
    """The compiled functions of one stage.

    Attributes:
        transform: The optax optimizer.
        step: (state, inputs, result of `optim.hyperparameters`, loss scale) -> state, loss, and the
            number of non-finite elements in each parameter's gradient. The input state is donated.
        evaluate: (arrays, inputs) -> classes and loss.
        evaluate_each: `evaluate` on each of this process's devices.
    """

    transform: optax.GradientTransformationExtraArgs
    step: Callable
    evaluate: Callable
    evaluate_each: Callable


@functools.lru_cache(maxsize=16)
def compiled(
    graph: nnx.GraphDef,
    config: Config,
    optimizer: Optimizer,
    loss: Loss,
    trained: tuple[str, ...],
    half: str | None,
    parallel: Parallel,
    group: Group | None,
) -> Program:
    """Compile the functions of one stage, shared by all its trainers; weights are arguments.

    Args:
        graph: The network's graph definition, in train mode.
        config: The network's configuration.
        optimizer: The stage's optimizer.
        loss: The loss to minimise.
        trained: Names of the parameters.
        half: At level O2, the dtype of all weights except batch norms'.
        parallel: How several devices combine their results.
        group: The devices, where there are several.
    """
    transform = optim.build(config, optimizer, trained)

    whole = mean if group and parallel.normalizer == "global" else None

    def run(model: nnx.Module, inputs: Inputs, masks: bool) -> tuple[Any, jax.Array]:
        x = inputs.images.astype(half or inputs.images.dtype)
        outputs = model(x, inputs.masks) if masks and inputs.masks else model(x)
        wide = jax.tree.map(lambda o: o.astype(inputs.images.dtype), outputs)
        return outputs, training_loss(
            loss, wide, inputs.targets, inputs.class_weights, whole if masks else None
        )

    def gradients(state: State, inputs: Inputs, scale: jax.Array) -> tuple:
        def objective(weights: dict[str, jax.Array]) -> tuple[jax.Array, tuple]:
            model = nnx.merge(graph, nested(weights | state.rest))
            value = run(model, inputs, masks=True)[1]
            after = flat(nnx.state(model))
            return value * scale, (value, {n: after[n] for n in state.rest})

        weights = halve(state.trained, half) if half else state.trained
        made, (value, rest) = jax.grad(objective, has_aux=True)(weights)
        if group:
            made, value = join(parallel, made), mean(value)
            rest = shared(parallel, rest)
        made = {n: g.astype(state.trained[n].dtype) / scale for n, g in made.items()}
        return made, rest, value

    def apply(state: State, made: dict[str, jax.Array], rest: dict, settings: dict) -> State:
        updates, after = transform.update(made, state.optimizer, state.trained, **settings)
        return State(optax.apply_updates(state.trained, updates), rest, after)

    def step(state: State, inputs: Inputs, settings: dict, scale: jax.Array) -> tuple:
        made, rest, value = gradients(state, inputs, scale)
        counts = jnp.stack([(~jnp.isfinite(made[n])).sum() for n in trained])
        good = jnp.isfinite(value) & (counts.sum() == 0)
        # Not `where`: XLA fuses it with all the counts, for every array anew, and takes minutes.
        after = jax.lax.cond(good, lambda: apply(state, made, rest, settings), lambda: state)
        return after, value, counts

    def evaluate(arrays: dict[str, jax.Array], inputs: Inputs) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graph, nested(halve(arrays, half) if half else arrays))
        model.eval()
        outputs, value = run(model, inputs, masks=False)
        # Of several, the first is of the image's size.
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        return logits.argmax(axis=-1).astype(jnp.int32), value

    alone = jax.jit(evaluate)
    if group is None:
        return Program(transform, jax.jit(step, donate_argnums=0), alone, alone)
    mapped = group.map(step, mapped=2, shared=2, donated=(0,))
    return Program(transform, mapped, alone, group.own.map(evaluate, mapped=2))


def shared(parallel: Parallel, statistics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Return running statistics that are equal on all devices, as the recipe combines them."""
    if parallel.batch_norm == "sync":
        return statistics
    floats = {n: a for n, a in statistics.items() if jnp.issubdtype(a.dtype, jnp.floating)}
    return statistics | (mean(floats) if parallel.statistics == "mean" else first(floats))


def halve(arrays: dict[str, jax.Array], dtype: str) -> dict[str, jax.Array]:
    """Cast all but what batch norms hold; path -> array."""
    norms = {path.rpartition(".")[0] for path in arrays if path.endswith(".scale")}
    return {
        path: array if path.rpartition(".")[0] in norms else array.astype(dtype)
        for path, array in arrays.items()
    }


if __name__ == "__main__":
    import sys

    from parity.cli import main

    sys.exit(main(["train", "--framework", "jax", *sys.argv[1:]]))
