"""Where in the user's code an operation of a traced program comes from."""

from __future__ import annotations

from typing import Any

from jax.extend.core import JaxprEqn

# Their frames are no user's code.
PACKAGES = ("/jax/", "/flax/", "/equinox/", "/haiku/", "/parity/capture/")


def line_of(eqn: JaxprEqn) -> str:
    """Return file and line of the innermost frame that is user's code; empty if there is none."""
    traceback: Any = eqn.source_info.traceback
    frames: list[Any] = [] if traceback is None else traceback.frames
    for frame in frames:
        file = frame.file_name.replace("\\", "/")
        if not any(part in file for part in PACKAGES) and not file.startswith("<"):
            return f"{file.rpartition('/')[2]}:{frame.line_num}"
    return ""


def place_of(operation: str, layer: str, line: str) -> str:
    """Return an operation with its layer and line, as far as they are known."""
    return f"{operation}{layer and f' of {layer}'}{line and f' [{line}]'}"
