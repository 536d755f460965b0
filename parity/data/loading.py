"""Batches prepared ahead of training, by a thread or by processes, using Grain."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import connection, resource_tracker
from typing import Any, Generic, TypeVar

import numpy as np

from parity.io.interrupts import unheard
from parity.spec.errors import InputError

T = TypeVar("T")
AHEAD = 2  # batches, of a thread
SMALL = 1 << 16  # bytes: what is no larger goes through a pipe
SETTLE = 0.1  # seconds


def stream(
    make: Callable[[int], T], own: Callable[[T], T], first: int, last: int, workers: int
) -> Iterator[T]:
    """Yield `make(i)` for each number from `first` to `last - 1`, in order.

    Args:
        make: Makes an item of a number; must be picklable if there are `workers`.
        own: Copies an item out of shared memory.
        first: The first number.
        last: One beyond the last.
        workers: Number of processes; 0 uses a thread of this one.

    Raises:
        InputError: `make` raised it, or a process died.
    """
    if first >= last:
        return
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain reads its options there; it has the command line's else
        flags.FLAGS.mark_as_parsed()
    numbers = grain.MapDataset.range(first, last).map(make)
    if workers:
        _free_silently()
        made = numbers.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        options = grain.MultiprocessingOptions(
            num_workers=min(workers, last - first), per_worker_buffer_size=1
        )
        large = grain.experimental.DatasetOptions(min_shm_size=SMALL)
        made = grain.experimental.WithOptionsIterDataset(made, large)
        made = made.mp_prefetch(options, worker_init_fn=_begin).map(own)
        made = grain.experimental.ThreadPrefetchIterDataset(made, prefetch_buffer_size=1)
    else:
        one = grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD)
        made = numbers.to_iter_dataset(one)
    iterator, failure = iter(made), None
    try:
        if workers:
            with unheard():
                iterator.start_prefetch()
        for _ in range(last - first):
            yield next(iterator)
    except (InputError, RuntimeError) as error:
        failure = _without_frames(error)
    finally:
        iterator.close()
        del iterator
        if workers:
            # Grain leaves the last batches to the collector, and a thread of its own to give back
            # their memory; without both, the system warns at the end that some was left.
            gc.collect()
            time.sleep(SETTLE)
    if failure is not None:
        raise failure


def _without_frames(error: Exception) -> Exception:
    """Return a worker's error without the frames that keep its batches alive."""
    text = str(error)
    if isinstance(error, InputError):
        return InputError(text)
    if "Worker process was terminated" not in text:
        return error
    reason = "killed, perhaps for want of memory" if "code -9" in text else text.split(". ")[0]
    return InputError(f"a process that reads the data died: {reason}")


def _free_silently() -> None:
    """Start Python's process that frees what is left of shared memory, and let it do so in silence.

    A process that ends at once, as by a second Ctrl-C, always leaves some; nobody can act on it.
    """
    name, quiet = "PYTHONWARNINGS", "ignore:resource_tracker:UserWarning"
    before = os.environ.get(name)
    os.environ[name] = f"{before},{quiet}" if before else quiet
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _begin(index: int, count: int) -> None:
    """Initialise a worker so that it ends with its parent process, however that ends."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # the terminal sends it to all; the first cleans up
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def copied(value: Any) -> Any:
    """Return a copy of an array that owns its memory; anything else unchanged."""
    return np.array(value) if isinstance(value, np.ndarray) else value


class Watched(Generic[T]):
    """An iterator that measures how long its consumer waited for it.

    Attributes:
        first: Seconds until the first item was ready, including the start of workers.
        waited: Seconds spent waiting for the items after it.
        taken: Number of items taken.
    """

    def __init__(self, source: Iterator[T]) -> None:
        self.source = source
        self.first = self.waited = 0.0
        self.taken = 0

    def __iter__(self) -> Watched[T]:
        return self

    def __next__(self) -> T:
        start = time.perf_counter()
        value = next(self.source)
        seconds = time.perf_counter() - start
        if self.taken:
            self.waited += seconds
        else:
            self.first = seconds
        self.taken += 1
        return value
