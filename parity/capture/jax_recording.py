"""Records the calls of a Flax NNX network's layers."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

from flax import nnx

from parity.capture.marks import Marker

NAME = "_parity_name"  # of a layer, kept where a transformation such as `nnx.jit` copies it

# Layers are recorded by their class, so one network at a time; compiling is not part of it.
PATCHING = threading.RLock()


def join(path: tuple) -> str:
    """Return a path of names and indices as a dotted name."""
    return ".".join(str(part) for part in path)


@contextlib.contextmanager
def recording(module: nnx.Module, marker: Marker) -> Iterator[None]:
    """Context that records every call of a layer of `module`."""
    layers = list(nnx.iter_modules(module))  # which takes as long as tracing a small network
    names = {id(m): join(path) for path, m in layers if path}
    running: set[int] = set()
    thread = threading.get_ident()

    def wrapped(original: Any) -> Any:
        @functools.wraps(original)
        def call(self: nnx.Module, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return original(self, *args, **kwargs)
            name = names.get(id(self)) or vars(self).get(NAME)
            if not name or id(self) in running:  # the latter: a call of the parent class's
                return original(self, *args, **kwargs)
            running.add(id(self))
            try:
                return marker.around(name, functools.partial(original, self), args, kwargs)
            finally:
                running.discard(id(self))

        return call

    with PATCHING:
        # Read under the lock: what another thread has put there is no class's own `__call__`.
        originals: dict[Any, Any] = {type(m): type(m).__call__ for _, m in layers if callable(m)}
        own = {cls for cls in originals if "__call__" in vars(cls)}
        try:
            for cls, original in originals.items():
                cls.__call__ = wrapped(original)
            yield
        finally:
            for cls, original in originals.items():
                if cls in own:
                    cls.__call__ = original
                else:
                    del cls.__call__
