"""What `parity bench` measures in one process, as one call."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

from parity.bench import alone, forward, training
from parity.bench.turns import in_turn

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Timing:
    """Times of forward passes or steps of training, by the names of what ran.

    Attributes:
        seconds: The times of all runs.
        first: The first call in this process, in seconds.
        alone: First calls in processes of their own; empty where they were not asked for.
    """

    seconds: dict[str, list[float]]
    first: dict[str, float]
    alone: dict[str, alone.First]

    @property
    def medians(self) -> dict[str, float]:
        """Return the median of each, in seconds."""
        return {name: statistics.median(times) for name, times in self.seconds.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the values as a dict for JSON, with the versions and the machine."""
        from parity.training import environment

        firsts = {name: dataclasses.asdict(first) for name, first in self.alone.items()}
        return {
            "seconds": self.seconds,
            "median": self.medians,
            "first_call": self.first,
            "first_calls_in_own_process": firsts,
            "versions": environment.versions(),
            "hardware": environment.hardware(),
        }


def bench(
    model: str,
    size: Size,
    batch: int = 1,
    threads: int = 2,
    runs: int = 15,
    train: bool = False,
    onnx: bool = False,
    compiled: bool = False,
    first_call: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Timing:
    """Time both sides' networks in one process and in turn, float32.

    Args:
        model: The network, a key of `parity.spec.models.MODELS`.
        size: Height and width of the images, in pixels.
        batch: Number of images.
        threads: PyTorch's.
        runs: Of each.
        train: Time steps of training, not forward passes.
        onnx: Also time what both sides export, forward passes only.
        compiled: Also time PyTorch's network compiled by `torch.compile`.
        first_call: Also measure first calls, each in a process of its own.
        progress: Called with what is being done.

    Raises:
        InputError: There is no compiler, or a network cannot run on such images.
    """
    known = training.NAMES if train else forward.NAMES
    names = tuple(name for name in known if compiled or name != "torch.compile")
    if compiled:
        from torch_impl.ops.compilation import check_compiler

        check_compiler()
    progress(f"building {model} on both sides")
    both = training.trainers if train else forward.networks
    timed = both(names, model, size, batch, threads)
    if onnx:
        progress("exporting what both sides run")
        timed |= forward.exported(model, size, batch, threads)
    first: dict[str, float] = {}
    seconds = in_turn(timed, runs, progress, first)
    firsts: dict[str, alone.First] = {}
    if first_call:
        own = [name for name in names if name != "plain"]
        firsts = alone.first_calls(own, model, size, batch, threads, train, progress)
    return Timing(seconds, first, firsts)
