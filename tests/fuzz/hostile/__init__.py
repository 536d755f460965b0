"""Files made to do harm: a module per format, and what several have in common.

Another format needs a module with `kinds()` and a line in `MODULES`.
"""

from __future__ import annotations

import functools
import importlib

from tests.fuzz.hostile.kinds import Kind, Place

MODULES = (
    "pickles",
    "torch_files",
    "archives",
    "npz_files",
    "safetensors_files",
    "msgpack_files",
    "mindspore_files",
    "orbax_directories",
    "old_orbax",
    "manifests",
    "onnx_files",
)

__all__ = ["Kind", "Place", "all_kinds"]


@functools.cache
def all_kinds() -> tuple[Kind, ...]:
    """Every kind of hostile file, by group in the order of `MODULES`."""
    found: list[Kind] = []
    for name in MODULES:
        found += importlib.import_module(f"{__name__}.{name}").kinds()
    return tuple(found)
