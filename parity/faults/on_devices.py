"""Faults of several devices, injected in the real trainers of either side and really run.

A worker (`parity.model_checks.devices.worker`) injects them in its own process. No framework is
imported before.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np

from parity.data import makers
from parity.diagnosis.catalogue import Fault
from parity.model_checks.devices.plan import DDP
from parity.spec import draw

DEVICES = 2
Patch = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Injection:
    """A fault of training on several devices.

    Attributes:
        fault: Its name in the catalogue.
        name: A description of the change.
        way: The side and way of mapping, from `parity.model_checks.devices.plan`.
        case: The case of the plan that should be computed.
        patch: Returns a context manager that injects it.
        masks: Whether it concerns dropout masks.
    """

    fault: Fault
    name: str
    way: str
    case: str
    patch: Patch
    masks: bool = False

    @contextlib.contextmanager
    def inject(self) -> Iterator[None]:
        """Context with the fault active; compiled functions are not shared with the outside."""
        _forget(self.way)
        with self.patch():
            yield
        _forget(self.way)


def _forget(way: str) -> None:
    if way != DDP:
        import jax

        import jax_impl.train

        jax_impl.train.compiled.cache_clear()
        jax.clear_caches()


def summed() -> Any:
    """Sum the gradients where their mean is required."""
    import torch_impl.train

    return mock.patch.object(torch_impl.train, "join", lambda p, g: g * DEVICES)


def summed_jax() -> Any:
    import jax

    import jax_impl.train
    from jax_impl.layers.normalization import DEVICES

    return mock.patch.object(jax_impl.train, "join", lambda p, made: jax.lax.psum(made, DEVICES))


def averaged_jax() -> Any:
    """Average the gradients where their sum is required, in JAX."""
    import jax

    import jax_impl.train
    from jax_impl.layers.normalization import DEVICES

    return mock.patch.object(jax_impl.train, "join", lambda p, made: jax.lax.pmean(made, DEVICES))


def own_normalizer(package: str) -> Any:
    """Let each device divide by its own sum of weights."""
    import importlib

    module: Any = importlib.import_module(f"{package}.train")
    sound = module.training_loss

    def wrong_loss(loss: Any, outputs: Any, targets: Any, weights: Any, normalizer: Any) -> Any:
        return sound(loss, outputs, targets, weights, None)

    return mock.patch.object(module, "training_loss", wrong_loss)


def common_normalizer_jax() -> Any:
    """Normalise the loss by the whole batch where each device's own part is required, in JAX."""
    import jax_impl.train

    sound, mean = jax_impl.train.training_loss, jax_impl.train.mean

    def wrong_loss(loss: Any, outputs: Any, targets: Any, weights: Any, normalizer: Any) -> Any:
        return sound(loss, outputs, targets, weights, mean)

    return mock.patch.object(jax_impl.train, "training_loss", wrong_loss)


def local_norms(package: str) -> Any:
    """Keep batch norms local where they should be synchronised."""
    import importlib

    layers = importlib.import_module(f"{package}.layers")
    return mock.patch.object(layers, "synchronize")


def synchronized_norms(package: str) -> Any:
    """Synchronise batch norms where they should be local."""
    import importlib

    train: Any = importlib.import_module(f"{package}.train")
    sound = train.build

    def patched(*args: Any) -> Any:
        model = sound(*args)
        train.layers.synchronize(model)
        return model

    return mock.patch.object(train, "build", patched)


def local_backward() -> Any:
    """Use statistics of all devices, but treat them as local in the gradient."""
    from torch_impl.layers import normalization

    sound = normalization._SyncBatchNorm.backward

    def patched(ctx: Any, *dy: Any) -> Any:
        with mock.patch.object(normalization.distributed, "all_reduce"):
            return sound(ctx, *dy)

    return mock.patch.object(normalization._SyncBatchNorm, "backward", staticmethod(patched))


def share(of: Callable[[makers.Share, np.ndarray], np.ndarray]) -> Patch:
    """Let processes take other samples of a padded batch."""

    def patched(self: makers.Share, chosen: np.ndarray, whole: np.ndarray, last: str) -> np.ndarray:
        over = -len(chosen) % self.parts
        return of(self, np.concatenate([chosen, np.resize(whole, over)]))

    return lambda: mock.patch.object(makers.Share, "of", patched)


def unpadded() -> Any:
    """Drop samples that do not fill equal parts where padding is required."""
    sound = makers.Share.of

    def patched(self: makers.Share, chosen: np.ndarray, whole: np.ndarray, last: str) -> np.ndarray:
        return sound(self, chosen, whole, "drop")

    return mock.patch.object(makers.Share, "of", patched)


def first_part_jax() -> Any:
    """Give every device the first device's part of a batch, in JAX."""
    import jax

    from jax_impl.parallel import Group

    def patched(self: Group, tree: Any) -> Any:
        first = jax.tree.map(lambda x: x[: x.shape[0] // self.local], tree)
        return self.put(jax.tree.map(lambda x: np.stack([x] * self.local), first))

    return mock.patch.object(Group, "parts", patched)


def masks_by_place() -> Any:
    """Draw masks by the position in a device's part, not by the sample."""
    sound: Any = draw.dropout_masks

    def patched(*args: Any) -> Any:
        *rest, samples = args
        each = len(samples) // DEVICES
        return _concatenated(sound(*rest, list(samples)[:each]) for _ in range(DEVICES))

    return mock.patch.object(makers.draw, "dropout_masks", patched)


def masks_by_rank() -> Any:
    """Let each process add its rank to the seed."""
    from torch import distributed

    sound = draw.dropout_masks

    def patched(config: Any, size: Any, seed: int, *rest: Any) -> Any:
        return sound(config, size, seed + distributed.get_rank(), *rest)

    return mock.patch.object(makers.draw, "dropout_masks", patched)


def _concatenated(each: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    made = list(each)
    return {site: np.concatenate([m[site] for m in made]) for site in made[0]}


def _first(self: makers.Share, chosen: np.ndarray) -> np.ndarray:
    return chosen[: len(chosen) // self.ranks]


def _in_turn(self: makers.Share, chosen: np.ndarray) -> np.ndarray:
    return chosen[self.rank :: self.ranks]


_ALL = (
    Injection(Fault.GRADIENT_SUM, "summed, DDP", DDP, "one", summed),
    Injection(Fault.GRADIENT_SUM, "summed, pmap", "pmap", "one", summed_jax),
    Injection(
        Fault.GRADIENT_SUM, "averaged for summed, shard_map", "shard_map", "sum", averaged_jax
    ),
    Injection(
        Fault.DEVICE_LOSS_NORMALIZER,
        "own normaliser, DDP",
        DDP,
        "one",
        lambda: own_normalizer("torch_impl"),
    ),
    Injection(
        Fault.DEVICE_LOSS_NORMALIZER,
        "own normaliser, pmap",
        "pmap",
        "one",
        lambda: own_normalizer("jax_impl"),
    ),
    Injection(
        Fault.DEVICE_LOSS_NORMALIZER,
        "common for own, pmap",
        "pmap",
        "device",
        common_normalizer_jax,
    ),
    Injection(
        Fault.SYNC_BATCH_NORM, "local norms, DDP", DDP, "one", lambda: local_norms("torch_impl")
    ),
    Injection(
        Fault.SYNC_BATCH_NORM, "local norms, pmap", "pmap", "one", lambda: local_norms("jax_impl")
    ),
    Injection(
        Fault.SYNC_BATCH_NORM,
        "synchronised for local, DDP",
        DDP,
        "ddp",
        lambda: synchronized_norms("torch_impl"),
    ),
    Injection(Fault.SYNC_BATCH_NORM, "local backward pass, DDP", DDP, "one", local_backward),
    Injection(Fault.DEVICE_SAMPLES, "the first part on all, DDP", DDP, "one", share(_first)),
    Injection(Fault.DEVICE_SAMPLES, "parts in turn, DDP", DDP, "local", share(_in_turn)),
    Injection(Fault.DEVICE_SAMPLES, "dropped for padded, DDP", DDP, "pad", unpadded),
    Injection(Fault.DEVICE_SAMPLES, "the first part on all, pmap", "pmap", "one", first_part_jax),
    Injection(
        Fault.DEVICE_DROPOUT_MASKS, "masks by rank, DDP", DDP, "one", masks_by_rank, masks=True
    ),
    Injection(
        Fault.DEVICE_DROPOUT_MASKS,
        "masks by place, pmap",
        "pmap",
        "one",
        masks_by_place,
        masks=True,
    ),
)
INJECTIONS = {injection.name: injection for injection in _ALL}
INJECTOR = f"{__name__}:inject"


def inject(name: str) -> contextlib.AbstractContextManager[None]:
    """Return the context in which a fault is there; a worker finds this function by `INJECTOR`."""
    return INJECTIONS[name].inject()
