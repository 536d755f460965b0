"""Several devices of the JAX side. `torch_impl/parallel.py` answers name by name.

A step is written for one device and mapped over all, in this one place: by `jax.pmap`, or by
`jax.shard_map`, which takes and gives the same arrays. What is mapped has an axis of devices in
front.
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
        count: Devices, over all processes.
        way: One of `parity.spec.training.parallel.WAYS`.
        whole: They are all processes'; else this one's alone.
    """

    count: int = 1
    way: str = WAYS[0]
    whole: bool = True

    @property
    def local(self) -> int:
        """Devices of this process."""
        return self.count // jax.process_count() if self.whole else self.count

    @property
    def own(self) -> Group:
        """This process's devices, which need not wait for the others."""
        return dataclasses.replace(self, count=self.local, whole=False)

    def map(
        self, function: Callable[..., Any], mapped: int, shared: int = 0, donated: tuple = ()
    ) -> Callable[..., Any]:
        """Compile a function of one device for all of them.

        Args:
            function: Of pytrees of arrays; its collectives are along `DEVICES`.
            mapped: How many of its arguments have an axis of devices in front: the first ones.
                Whatever it gives has one, too.
            shared: How many are the same for all devices: the rest.
            donated: Which arguments are used up.
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
        """The same on every device."""
        return self.put(jax.tree.map(lambda x: np.stack([np.asarray(x)] * self.local), tree))

    def parts(self, tree: Any) -> Any:
        """Each device's part of arrays of samples, equal ones, in their order."""

        def divided(x: Any) -> Any:
            return x.reshape(self.local, x.shape[0] // self.local, *x.shape[1:])

        return self.put(jax.tree.map(divided, tree))

    def put(self, tree: Any) -> Any:
        """Arrays with an axis of this process's devices in front, each part on its device."""
        sharding = NamedSharding(self._mesh, PartitionSpec(DEVICES))
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
        )

    def taken(self, tree: Any) -> Any:
        """What lies on all processes' devices, as something of `own`: on this one's."""
        sharding = NamedSharding(self.own._mesh, PartitionSpec(DEVICES))

        def here(x: jax.Array) -> jax.Array:
            parts = [shard.data for shard in x.addressable_shards]
            shape = (self.local, *x.shape[1:])
            return jax.make_array_from_single_device_arrays(shape, sharding, parts)

        return jax.tree.map(here, tree)

    def first(self, tree: Any) -> Any:
        """What this process's first device holds."""
        return jax.tree.map(lambda x: x.addressable_shards[0].data[0], tree)

    def maximum(self, number: int) -> int:
        """The largest number that any process gives; each waits for all."""
        if jax.process_count() == 1:
            return number
        found = self._maximum(self.put(np.full(self.local, number, np.int32)))
        return int(self.first(found))

    def broadcast(self, value: Any) -> Any:
        """What process 0 gives, which can be pickled; what the others give counts for nothing."""
        if jax.process_count() == 1:
            return value
        text = pickle.dumps(value)
        size = self.maximum(len(text) if jax.process_index() == 0 else 0)
        given = np.zeros(size, np.uint8)
        if jax.process_index() == 0:
            given[:] = np.frombuffer(text, np.uint8)
        return pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(given)).tobytes())

    def all_gather(self, value: Any) -> list[Any]:
        """What every process gives, which can be pickled, in their order; each waits for all."""
        if jax.process_count() == 1:
            return [value]
        text = np.frombuffer(pickle.dumps(value), np.uint8)
        given = np.zeros(self.maximum(len(text)), np.uint8)
        given[: len(text)] = text  # what follows a pickle is not read
        found = np.asarray(multihost_utils.process_allgather(given))
        return [pickle.loads(one.tobytes()) for one in found]

    def leave(self) -> None:
        """The end, once all processes are there."""
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
    """All devices' gradients as one, inside a mapped function."""
    joined = jax.lax.pmean if parallel.gradients == "mean" else jax.lax.psum
    return joined(gradients, DEVICES)


def mean(value: Any) -> Any:
    """The mean over all devices, inside a mapped function."""
    return jax.lax.pmean(value, DEVICES)


def first(value: Any) -> Any:
    """What the first device has, inside a mapped function."""
    leads = jax.lax.axis_index(DEVICES) == 0
    own = jax.tree.map(lambda x: jnp.where(leads, x, jnp.zeros_like(x)), value)
    return jax.lax.psum(own, DEVICES)


def start(
    place: tuple[str, int] | None, devices: int, processes: int = 1, process: int = 0
) -> Group:
    """Before anything else is done with JAX: this process's devices, and the other processes.

    Args:
        place: Host and port of process 0; none where there is one process.
        devices: Of this process. Of a CPU as many are made as are asked for.
        processes: That train together.
        process: Which of them this one is.

    Raises:
        InputError: There are fewer devices, or the other processes are not there in time.
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
    """Whether an error says that another process is gone."""
    signs = ("gloo", "NCCL", "Connection closed by peer", "Connection reset", "UNAVAILABLE")
    return isinstance(error, RuntimeError) and any(
        sign.lower() in str(error).lower() for sign in signs
    )
