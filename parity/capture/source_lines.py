"""Where in the user's code an operation of a traced program comes from."""

from __future__ import annotations

from typing import Any

from jax.extend.core import JaxprEqn

from parity.report.source import NO_LINE, SourceLine

# Their frames are no user's code.
PACKAGES = ("/jax/", "/flax/", "/equinox/", "/haiku/", "/parity/capture/")


def line_of(eqn: JaxprEqn) -> SourceLine:
    """Return the line of the innermost frame that is user's code; a false one if there is none."""
    traceback: Any = eqn.source_info.traceback
    frames: list[Any] = [] if traceback is None else traceback.frames
    for frame in frames:
        file = frame.file_name.replace("\\", "/")
        if not any(part in file for part in PACKAGES) and not file.startswith("<"):
            return SourceLine(frame.file_name, frame.line_num)
    return NO_LINE


def place_of(operation: str, layer: str, line: SourceLine) -> str:
    """Return an operation with its layer and line, as far as they are known."""
    layer, where = f" of {layer}" if layer else "", f" [{line}]" if line else ""
    return f"{operation}{layer}{where}"
