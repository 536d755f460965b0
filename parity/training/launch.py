"""Several processes that train together: started, watched, and ended together.

`torchrun` does the same for PyTorch and may be used instead. This one also starts JAX's processes,
and says in one line what went wrong.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.spec.errors import InputError, printable

WAIT = 45  # seconds that processes wait for each other
GRACE = 5  # seconds that a process has to end after it was asked to
WORKER = "PARITY_WORKER"  # set in the environment of a process that was started here
PR_SET_PDEATHSIG = 1  # of Linux's prctl


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run's processes are.

    Attributes:
        devices: Of this machine.
        nodes: Machines.
        node: The number of this one.
        coordinator: Host and port of machine 0, where there are several.
    """

    devices: int = 1
    nodes: int = 1
    node: int = 0
    coordinator: tuple[str, int] | None = None

    @property
    def ranks(self) -> int:
        """Devices of all machines."""
        return self.devices * self.nodes


def place(devices: int, nodes: int, node: int, coordinator: str | None) -> Place:
    """Check what the command line says.

    Raises:
        InputError: One of them is none, or they contradict each other.
    """
    for name, value, least in (("--devices", devices, 1), ("--nodes", nodes, 1)):
        if value < least:
            raise InputError(f"{name} is {value}, expected {least} or more")
    if not 0 <= node < nodes:
        raise InputError(f"--node-rank is {node}, expected 0 to {nodes - 1} with --nodes {nodes}")
    if nodes == 1:
        return Place(devices)
    if coordinator is None:
        raise InputError(f"--nodes {nodes} needs --coordinator HOST:PORT, of machine 0")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"--coordinator is {coordinator!r}, expected HOST:PORT")
    if node == 0:
        _check_port(host, int(port))
    return Place(devices, nodes, node, (host, int(port)))


def torch_processes(argv: Sequence[str], at: Place) -> list[dict[str, str]]:
    """The environment of each process of PyTorch's, as `torchrun` sets it; one for each device."""
    del argv
    host, port = at.coordinator or ("127.0.0.1", free_port())
    shared = {
        "WORLD_SIZE": at.ranks,
        "LOCAL_WORLD_SIZE": at.devices,
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
    }
    return [
        {
            k: str(v)
            for k, v in (shared | {"RANK": at.node * at.devices + i, "LOCAL_RANK": i}).items()
        }
        for i in range(at.devices)
    ]


def run(command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> int:
    """Run a command in several processes until all have ended, or one has failed.

    The first one's output is this process's; of the others', the last line is told if they fail.

    Args:
        command: With its arguments, the same for all.
        environments: What each process's environment has besides this one's.

    Returns:
        The exit status of the one that failed first, 1 where a signal killed it; 0 if none did.
    """
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / f"{i}" for i in range(len(environments))]
        processes: list[subprocess.Popen] = []
        try:
            for i, more in enumerate(environments):
                processes.append(_start(command, more, None if i == 0 else logs[i]))
            return _watch(processes, logs)
        finally:
            _end(processes)


def tie() -> None:
    """In a process that was started here: end when the starter does. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(os.environ[WORKER]):  # it has ended already
            os.kill(os.getpid(), signal.SIGKILL)


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _start(command: Sequence[str], more: Mapping[str, str], log: Path | None) -> subprocess.Popen:
    where: dict[str, Any] = {}
    if log is not None:
        file = log.open("wb")
        where = {"stdout": file, "stderr": file, "stdin": subprocess.DEVNULL}
    environment = os.environ | dict(more) | {WORKER: str(os.getpid())}
    return subprocess.Popen(command, env=environment, **where)


def _watch(processes: Sequence[subprocess.Popen], logs: Sequence[Path]) -> int:
    while True:
        codes = [process.poll() for process in processes]
        failed = {i: code for i, code in enumerate(codes) if code}
        if failed:
            # One that was killed is why the others fail.
            first = min(failed, key=lambda i: (failed[i] > 0, i))
            return _told(first, failed[first], logs[first])
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.2)


def _told(rank: int, code: int, log: Path) -> int:
    """Say why a process failed, unless it did so itself."""
    if code < 0:
        name = signal.Signals(-code).name
        print(f"process {rank} was killed by {name}; the others were ended", file=sys.stderr)
        return 1
    if rank and log.exists():
        lines = log.read_text(errors="replace").strip().splitlines()
        print(printable(lines[-1]) if lines else f"process {rank} failed", file=sys.stderr)
    return code


def _end(processes: Sequence[subprocess.Popen]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _check_port(host: str, port: int) -> None:
    """Refuse a port of this machine that is in use, before anybody waits for it."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except OSError as error:
            raise InputError(f"--coordinator {host}:{port}: {error.strerror}") from error
