"""The place of a process in a run: its machine, its devices, and the other processes."""

from __future__ import annotations

import dataclasses
import os
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from parity.spec.errors import InputError
from parity.spec.training.parallel import MEETING, WAYS

if TYPE_CHECKING:
    from parity.spec.training.recipe import Recipe

LOCAL = "127.0.0.1"
TORCHRUN = "TORCHELASTIC_RUN_ID"  # in the environment of a process that torchrun started
STARTER = "PARITY_STARTER"  # of one that our launcher started


@dataclasses.dataclass(frozen=True)
class DistEnv:
    """The place of a process in a run.

    Attributes:
        devices: Number of devices of each machine.
        nodes: Number of machines.
        node: Number of this machine, from 0.
        coordinator: Host and port of process 0; None with a single process.
        processes: Number of processes: one per device with PyTorch, one per machine with JAX.
        process: Number of this process, from 0.
        way: How JAX maps a step over its devices, one of `WAYS`.
    """

    devices: int = 1
    nodes: int = 1
    node: int = 0
    coordinator: tuple[str, int] | None = None
    processes: int = 1
    process: int = 0
    way: str = WAYS[0]

    @property
    def parts(self) -> int:
        """Return the number of devices of all machines, which share a batch."""
        return self.devices * self.nodes

    @property
    def leads(self) -> bool:
        """Return whether this process writes files and messages for all."""
        return self.process == 0

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe whose batches do not divide.

        Raises:
            InputError: Names the stage.
        """
        for stage in recipe.on(self.parts).stages:
            if stage.batch % self.parts:
                over = f" of {self.nodes} machines" if self.nodes > 1 else ""
                raise InputError(
                    f"stage {stage.name}: a batch of {stage.batch} images does not divide among"
                    f" {self.parts} devices{over}; --batch-size N changes it"
                )


ALONE = DistEnv()


def asked(
    framework: str,
    devices: int | None,
    nodes: int = 1,
    node: int = 0,
    coordinator: str | None = None,
    way: str | None = None,
) -> DistEnv:
    """Check the command line's options; return the place of this machine's first process.

    Raises:
        InputError: An invalid value, or two that contradict each other.
    """
    devices = 1 if devices is None else devices
    for name, value in (("--devices", devices), ("--nodes", nodes)):
        if value < 1:
            raise InputError(f"{name} {value}, expected 1 or more")
    if not 0 <= node < nodes:
        raise InputError(f"--node-rank {node}, expected 0 to {nodes - 1} with --nodes {nodes}")
    if way is not None and framework != "jax":
        raise InputError(f"--map {way} is how JAX maps a step, --framework is {framework}")
    each = devices if framework == "torch" else 1
    env = DistEnv(devices, nodes, node, None, nodes * each, node * each, way or WAYS[0])
    if nodes == 1:
        if coordinator is not None:
            raise InputError("--coordinator is for several machines: --nodes M")
        return env
    if coordinator is None:
        raise InputError(f"--nodes {nodes} needs --coordinator HOST:PORT, of machine 0")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"--coordinator {coordinator!r}, expected HOST:PORT")
    return dataclasses.replace(env, coordinator=(host.strip("[]"), int(port)))


def by_torchrun(env: DistEnv, environment: Mapping[str, str] = os.environ) -> DistEnv:
    """Return this process's place among those started by `torchrun` or by our launcher.

    Args:
        env: The command line's settings; its devices are 1, or as many as there are processes.
        environment: The process's environment variables.

    Raises:
        InputError: They contradict each other.
    """
    names = ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    try:
        world, rank, devices, port = (int(environment[name]) for name in names)
        host = environment["MASTER_ADDR"]
    except (KeyError, ValueError) as error:
        raise InputError(f"the environment of torchrun is not whole: {error}") from None
    if env.devices not in (1, devices) or env.nodes not in (1, world // devices):
        raise InputError(
            f"--devices {env.devices} --nodes {env.nodes}, but torchrun started {devices}"
            f" processes on each of {world // devices} machines"
        )
    nodes, node = world // devices, rank // devices
    return DistEnv(devices, nodes, node, (host, port), world, rank)


def started() -> bool:
    """Return whether this process was started as one of several."""
    return STARTER in os.environ or TORCHRUN in os.environ


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as s:
        s.bind((LOCAL, 0))
        return s.getsockname()[1]


def check_coordinator(host: str, port: int, seconds: float = MEETING) -> None:
    """Wait until the coordinator is there.

    Raises:
        InputError: Nobody answers in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((host, port), timeout=seconds):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                reason = error.strerror or str(error)
                raise InputError(
                    f"--coordinator {host}:{port}: nobody answers within {seconds:g} s: {reason}"
                ) from error
        time.sleep(0.5)


def check_port(host: str, port: int) -> None:
    """Refuse a port of this machine that is in use, before anybody waits for it.

    Raises:
        InputError: It is, or the host is none of this machine's.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(address)
    except OSError as error:
        raise InputError(f"--coordinator {host}:{port}: {error.strerror or error}") from error
