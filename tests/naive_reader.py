"""A reader that does whatever a file says: what `tests.fuzz.watch` sees of it, tests ask."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

from tests.fuzz import watch


def naive(path: str) -> dict[str, Any]:
    """Evaluate a file."""
    with open(path) as file:
        text = file.read()
    code = compile(text, "file", "eval")
    eval(code)
    return {"outcome": "loaded"}


def serve(pipe: Connection, folder: str) -> None:
    """In the child: see `watch.serve`."""
    watch.TASKS["naive"] = naive
    watch.FORMATS = {}  # their frameworks take seconds to import, and files here need none
    watch.serve(pipe, folder)
