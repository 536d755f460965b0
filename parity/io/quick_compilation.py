"""Options with which XLA compiles fast, for programs that take longer to compile than to run.

They change how the machine code of each fused loop is generated. XLA's own passes, which decide
what is computed and in which order, are those of every program.
"""

from __future__ import annotations

import functools
from importlib import metadata

LAST_WITH_BOTH_EMITTERS = (0, 10)  # minor release of jaxlib; later ones refuse the option


def options(level: int) -> dict[str, int | bool]:
    """Return options for `jax.jit(..., compiler_options=...)`.

    Args:
        level: LLVM's optimisation level, from 0 to 3.
    """
    found: dict[str, int | bool] = {"xla_backend_optimization_level": level}
    if _has_both_emitters():
        # The older generator of code for fused loops. A ladder over a small ICNet with no cache
        # took 45 s of CPU time with it, and 99 s with the newer one, which builds MLIR.
        found["xla_cpu_use_fusion_emitters"] = False
    return found


@functools.cache
def _has_both_emitters() -> bool:
    major, minor = metadata.version("jaxlib").split(".")[:2]
    return (int(major), int(minor)) <= LAST_WITH_BOTH_EMITTERS
