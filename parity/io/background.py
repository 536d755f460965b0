"""One thread beside this one: it makes what comes next, or finishes what came before.

For work between two calls of a network, which leave Python free while they compute: reading and
resizing the next image, counting the last one. Both keep the order, so results are those of one
thread; both are at most one item apart from their user, so memory is bounded. Context variables
have the values that they have for their user, such as how much a message lists (`--verbose`).
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")


def ahead(make: Callable[[int], T], count: int) -> Generator[T, None, None]:
    """Yield `make(0)` to `make(count - 1)` in order; each is made while the one before is used.

    Whoever does not take all closes the iterator (`contextlib.closing`), which waits for the item
    that is being made.

    Args:
        make: Called in the thread, one call at a time.
        count: Number of items.

    Raises:
        Exception: What `make` raised, where its item would come.
    """
    with ThreadPoolExecutor(1, "ahead") as thread:
        coming = _submit(thread, functools.partial(make, 0)) if count else None
        for following in range(1, count + 1):
            assert coming
            made = coming.result()
            coming = None
            if following < count:
                coming = _submit(thread, functools.partial(make, following))
            yield made


class Behind:
    """Calls of functions in a thread, in order, at most one of them unfinished.

    A context manager; all calls are done at its end, also where an error ends it.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "behind")
        self._pending: Future[object] | None = None

    def do(self, call: Callable[[], object]) -> None:
        """Have a function called, once the one before it has returned.

        Raises:
            Exception: What the one before raised.
        """
        self._finish()
        self._pending = _submit(self._thread, call)

    def _finish(self) -> None:
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown()
        if kind is None:  # else that one is told
            self._finish()


def _submit(thread: ThreadPoolExecutor, call: Callable[[], T]) -> Future[T]:
    """Have a function called in a thread, with this one's context variables."""
    return thread.submit(contextvars.copy_context().run, call)
