"""Training on several devices in PyTorch, with the same names as in `jax_impl/parallel.py`.

One process for each device, as `torchrun` starts them; `DistributedDataParallel` averages
gradients.
"""

from __future__ import annotations

import dataclasses
import datetime
import gc
import inspect
import os
import threading
import time
from typing import Any

import torch

# The defaults of its functions are the group that there is when it is imported, and hold it for
# good: PyTorch would do so with the first DistributedDataParallel. Before a group, they are none.
import torch.distributed.nn.functional
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from parity.spec.errors import InputError
from parity.spec.training.parallel import LOST, MEETING, SILENCE, Parallel

_LONGEST = datetime.timedelta(days=1)  # that one does what the others wait for, such as to validate
_BEAT = 3  # seconds


@dataclasses.dataclass(frozen=True)
class Group:
    """The devices that train together.

    Attributes:
        count: Number of devices, over all processes.
        rank: This process's rank.
    """

    count: int = 1
    rank: int = 0
    _pulse: _Pulse | None = dataclasses.field(default=None, compare=False)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Wrap a network so that backward passes average gradients over all processes.

        It begins with the weights and statistics of process 0; the trainer shares the statistics
        after each step.
        """
        if self.count == 1 and not distributed.is_initialized():
            return model
        known = inspect.signature(DistributedDataParallel).parameters
        # PyTorch 2.13 warns of the old name.
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {name: False}
        return DistributedDataParallel(model, **options)

    def maximum(self, number: int) -> int:
        """Return the largest of all processes' numbers; waits for all."""
        if not distributed.is_initialized():
            return number
        given = torch.tensor(number, device="cuda" if torch.cuda.is_available() else "cpu")
        distributed.all_reduce(given, distributed.ReduceOp.MAX)
        return int(given)

    def broadcast(self, value: Any) -> Any:
        """Return process 0's picklable value on every process; other values are ignored."""
        values = [value]
        if distributed.is_initialized():
            distributed.broadcast_object_list(values)
        return values[0]

    def all_gather(self, value: Any) -> list[Any]:
        """Return every process's picklable value, in order of rank; waits for all."""
        values = [value] * self.count
        if distributed.is_initialized():
            distributed.all_gather_object(values, value)
        return values

    def leave(self) -> None:
        """Leave the group, once all processes have arrived here.

        Gloo's threads end with the group, and the group with the last of what refers to it. An
        interpreter that ends before them is aborted by one of them, now and then: so what `wrap`
        gave must not be held any more.
        """
        if distributed.is_initialized():
            self.maximum(0)
            if self._pulse:
                self._pulse.end()
            gc.collect()  # trainers refer to themselves
            distributed.destroy_process_group()


class _Pulse(threading.Thread):
    """Tells processes of other machines that this one is there; ends it when one of them is not.

    Gloo notices a process that has ended, but waits for a machine or network that is gone. JAX has
    the same built in.

    Attributes:
        over: Set at the end of the run: nobody is missed any more.
    """

    def __init__(self, place: tuple[str, int], processes: int, process: int) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.own, keys = f"pulse/{process}", [f"pulse/{i}" for i in range(processes)]
        self.heard = {key: (b"", time.monotonic()) for key in keys}
        # A separate connection: that of the group may be blocked.
        self.store = distributed.TCPStore(*place, is_master=False)
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.start()
        self.listener.start()

    def end(self) -> None:
        """End the run, both threads too, which must not be inside of PyTorch after it."""
        self.over.set()
        for thread in (self, self.listener):
            thread.join(SILENCE)

    def run(self) -> None:
        while not self.over.wait(_BEAT):
            if time.monotonic() - min(when for _, when in self.heard.values()) > SILENCE:
                os._exit(LOST)  # the group waits, perhaps for ever

    def _listen(self) -> None:
        """Exchange heartbeats in a thread; process 0, which holds the store, may stop answering."""
        beat = 0
        while not self.over.wait(_BEAT):
            beat += 1
            try:
                self.store.set(self.own, str(beat))
                for key, (last, _) in self.heard.items():
                    said = self.store.get(key) if self.store.check([key]) else b""
                    if said != last:
                        self.heard[key] = said, time.monotonic()
            except RuntimeError:
                return


def join(parallel: Parallel, gradients: torch.Tensor) -> torch.Tensor:
    """Return the sum or mean of all devices' gradients, given their mean, which DDP computes."""
    mean_of_all = parallel.gradients == "mean" or not distributed.is_initialized()
    return gradients if mean_of_all else gradients * distributed.get_world_size()


def mean(value: torch.Tensor) -> torch.Tensor:
    """Average over all devices, without a gradient."""
    value = value.detach().clone()
    if distributed.is_initialized():
        distributed.all_reduce(value)
        value /= distributed.get_world_size()
    return value


def first(value: torch.Tensor) -> torch.Tensor:
    """Return the first device's value on every device, detached."""
    value = value.detach().clone()
    if distributed.is_initialized():
        distributed.broadcast(value, 0)
    return value


def start(
    place: tuple[str, int] | None, devices: int, processes: int = 1, process: int = 0
) -> Group:
    """Connect to the other processes.

    Args:
        place: Host and port of process 0; None with a single process.
        devices: Number of devices of this machine.
        processes: Number of processes that train, one for each device of all machines.
        process: This process's rank.

    Raises:
        InputError: There are fewer devices, or the other processes do not connect in time.
    """
    cuda = torch.cuda.is_available()
    if cuda and torch.cuda.device_count() < devices:
        found = torch.cuda.device_count()
        raise InputError(f"{devices} devices were asked for, PyTorch finds {found}")
    if place is None:
        return Group()
    if cuda:
        torch.cuda.set_device(process % devices)
    else:  # or every process would take all cores
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // devices))
    # torchrun has met them already.
    there = f"tcp://{place[0]}:{place[1]}"
    met = "env://" if "TORCHELASTIC_RUN_ID" in os.environ else there
    try:
        wait = datetime.timedelta(seconds=MEETING)
        store, _, _ = next(distributed.rendezvous(met, process, processes, timeout=wait))
        distributed.init_process_group(
            "nccl" if cuda else "gloo",
            timeout=_LONGEST,
            store=store,
            world_size=processes,
            rank=process,
        )
    except (distributed.DistError, RuntimeError) as error:
        where = f"{place[0]}:{place[1]}"
        raise InputError(
            f"{where}: {processes} processes did not meet there within {MEETING} s"
        ) from error
    if met == "env://" or processes == devices:  # the launcher watches them
        return Group(processes, process)
    return Group(processes, process, _Pulse(place, processes, process))


def lost(error: BaseException) -> bool:
    """Return whether an error means that another process has died."""
    phrases = (
        "gloo",
        "NCCL",
        "Connection closed by peer",
        "Connection reset",
        "TCPStore",
        "recvValue",
    )
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in phrases)
    )
