"""The flags with which the tests' processes have XLA compile fast."""

from __future__ import annotations

import os

from parity.io import quick_compilation


def set_for_process(level: int) -> None:
    """Compile everything fast, also in child processes; call before importing JAX.

    Does nothing where `XLA_FLAGS` is set, even to nothing.
    """
    # To compile parts of one program at the same time costs a tenth more in all.
    chosen = quick_compilation.options(level) | {"xla_cpu_parallel_codegen_split_count": 1}
    flags = " ".join(f"--{name}={str(value).lower()}" for name, value in chosen.items())
    os.environ.setdefault("XLA_FLAGS", flags)
