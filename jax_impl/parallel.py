"""Training on several devices in JAX, with the same names as in `torch_impl/parallel.py`.

A step is written for one device and mapped over all of them, in this one place: by `jax.pmap` or by
`jax.shard_map`, with the same arguments and results. Mapped arrays have a leading device axis.
"""

from __future__ import annotations

import dataclasses
import functools
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_impl.layers.normalization import DEVICES
from parity.spec.errors import InputError
from parity.spec.training.parallel import MEETING, SILENCE, WAYS, Parallel


@dataclasses.dataclass(frozen=True)
class Group:
    """The devices that train together.

    Attributes:
        count: Number of devices, over all processes.
        way: How steps are mapped, one of `parity.spec.training.parallel.WAYS`.
        whole: Whether the devices of all processes belong to it, or only this process's.
    """

    count: int = 1
    way: str = WAYS[0]
    whole: bool = True

    @property
    def local(self) -> int:
        """Return the number of devices of this process."""
        return self.count // jax.process_count() if self.whole else self.count

    @property
    def own(self) -> Group:
        """Return a group of this process's devices, which need not wait for other processes."""
        return dataclasses.replace(self, count=self.local, whole=False)

    def map(
        self, function: Callable[..., Any], mapped: int, shared: int = 0, donated: tuple = ()
    ) -> Callable[..., Any]:
        """Compile a function of one device for all of them.

        Args:
            function: Takes pytrees of arrays; its collectives use the axis `DEVICES`.
            mapped: How many of its arguments, the first ones, have a leading device axis. Its
                results have one, too.
            shared: How many arguments, the rest, are the same for all devices.
            donated: Indices of the arguments whose buffers may be reused.
        """
        if self.way == "pmap":
            axes = (0,) * mapped + (None,) * shared
            return jax.pmap(
                function, DEVICES, in_axes=axes, devices=self._devices, donate_argnums=donated
            )

        def one(*arguments: Any) -> Any:
            own = jax.tree.map(lambda x: x[0], arguments[:mapped])
            return jax.tree.map(lambda x: x[None], function(*own, *arguments[mapped:]))

        spread = PartitionSpec(DEVICES)
        specs = (spread,) * mapped + (PartitionSpec(),) * shared
        over = jax.shard_map(
            one, mesh=self._mesh, in_specs=specs, out_specs=spread, check_vma=False
        )
        return jax.jit(over, donate_argnums=donated)

    def copies(self, tree: Any) -> Any:
        """Copy the arrays to each of this process's devices."""
        return self.put(jax.tree.map(lambda x: np.stack([np.asarray(x)] * self.local), tree))

    def parts(self, tree: Any) -> Any:
        """Split arrays of samples into equal parts, one per device, in order."""

        def divided(x: Any) -> Any:
            return x.reshape(self.local, x.shape[0] // self.local, *x.shape[1:])

        return self.put(jax.tree.map(divided, tree))

    def put(self, tree: Any) -> Any:
        """Put arrays with a leading axis of this process's devices on those devices."""
        sharding = NamedSharding(self._mesh, PartitionSpec(DEVICES))
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
        )

    def taken(self, tree: Any) -> Any:
        """Turn arrays on all processes' devices into arrays on this process's devices (`own`)."""
        sharding = NamedSharding(self.own._mesh, PartitionSpec(DEVICES))

        def here(x: jax.Array) -> jax.Array:
            parts = [shard.data for shard in x.addressable_shards]
            shape = (self.local, *x.shape[1:])
            return jax.make_array_from_single_device_arrays(shape, sharding, parts)

        return jax.tree.map(here, tree)

    def first(self, tree: Any) -> Any:
        """Return the arrays on this process's first device."""
        return jax.tree.map(lambda x: x.addressable_shards[0].data[0], tree)

    def maximum(self, number: int) -> int:
        """Return the largest of all processes' numbers; waits for all."""
        if jax.process_count() == 1:
            return number
        found = self._maximum(self.put(np.full(self.local, number, np.int32)))
        return int(self.first(found))

    def broadcast(self, value: Any) -> Any:
        """Return process 0's picklable value on every process; other values are ignored."""
        if jax.process_count() == 1:
            return value
        text = pickle.dumps(value)
        size = self.maximum(len(text) if jax.process_index() == 0 else 0)
        given = np.zeros(size, np.uint8)
        if jax.process_index() == 0:
            given[:] = np.frombuffer(text, np.uint8)
        return pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(given)).tobytes())

    def all_gather(self, value: Any) -> list[Any]:
        """Return every process's picklable value, in order of rank; waits for all."""
        if jax.process_count() == 1:
            return [value]
        text = np.frombuffer(pickle.dumps(value), np.uint8)
        given = np.zeros(self.maximum(len(text)), np.uint8)
        given[: len(text)] = text  # what follows a pickle is not read
        found = np.asarray(multihost_utils.process_allgather(given))
        return [pickle.loads(one.tobytes()) for one in found]

    def leave(self) -> None:
        """Leave the group, once all processes have arrived here."""
        if jax.process_count() > 1:
            self.maximum(0)
            jax.distributed.shutdown()

    @functools.cached_property
    def _maximum(self) -> Callable[[Any], Any]:
        return self.map(lambda number: jax.lax.pmax(number, DEVICES), mapped=1)

    @property
    def _devices(self) -> list[jax.Device]:
        if not self.whole:
            return jax.local_devices()[: self.count]
        found = jax.devices()
        each = [[d for d in found if d.process_index == i] for i in range(jax.process_count())]
        return [device for own in each for device in own[: self.local]]

    @property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(self._devices), (DEVICES,))


def join(parallel: Parallel, gradients: Any) -> Any:
    """Combine all devices' gradients, by mean or sum, inside a mapped function."""
    joined = jax.lax.pmean if parallel.gradients == "mean" else jax.lax.psum
    return joined(gradients, DEVICES)


def mean(value: Any) -> Any:
    """Average over all devices, inside a mapped function."""
    return jax.lax.pmean(value, DEVICES)


def first(value: Any) -> Any:
    """Return the first device's values on every device, inside a mapped function."""
    leads = jax.lax.axis_index(DEVICES) == 0
    own = jax.tree.map(lambda x: jnp.where(leads, x, jnp.zeros_like(x)), value)
    return jax.lax.psum(own, DEVICES)


def start(
    place: tuple[str, int] | None, devices: int, processes: int = 1, process: int = 0
) -> Group:
    """Set up this process's devices and connect to the other processes, before any use of JAX.

    Args:
        place: Host and port of process 0; None with a single process.
        devices: Number of devices of this process; on a CPU, as many are created.
        processes: Number of processes that train.
        process: This process's rank.

    Raises:
        InputError: There are fewer devices, or the other processes do not connect in time.
    """
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if place is not None:
        try:
            jax.distributed.initialize(
                f"{place[0]}:{place[1]}",
                processes,
                process,
                initialization_timeout=MEETING,
                heartbeat_timeout_seconds=SILENCE,
            )
        except RuntimeError as error:
            where = f"{place[0]}:{place[1]}"
            raise InputError(
                f"{where}: {processes} processes did not meet there within {MEETING} s"
            ) from error
    found = jax.local_device_count()
    if found < devices:
        raise InputError(f"{devices} devices were asked for, JAX finds {found}")
    return Group(devices * processes)


def lost(error: BaseException) -> bool:
    """Return whether an error means that another process has died."""
    phrases = ("gloo", "NCCL", "Connection closed by peer", "Connection reset", "UNAVAILABLE")
    return isinstance(error, RuntimeError) and any(
        phrase.lower() in str(error).lower() for phrase in phrases
    )
