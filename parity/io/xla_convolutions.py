"""Convolutions on CPUs by Eigen, which XLA uses where YNNPACK is turned off.

jaxlib 0.10 computes float32 convolutions on CPUs by YNNPACK. On two cores, best of 7, in ms, by
YNNPACK and by Eigen: 3x3 of 64 channels on 32 maps of 32x32, forward 45 and 22, gradient of the
kernel 562 and 36; 3x1 of 64 channels on 2 maps of 64x128, 6 and 4, gradient of the kernel 65 and
10. What whole networks take is in `docs/results/speed.md`.
"""

from __future__ import annotations

import os
import sys

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
# jaxlib 0.11.2 uses Eigen without the flag. XLA ends a process that gives it an unknown one.
NEEDED_BY = ("0", "10")


def by_eigen() -> None:
    """Have XLA compute convolutions by Eigen in this process and its children.

    Does nothing where JAX has begun to compute, for XLA reads its flags once; where `XLA_FLAGS` has
    the flag already, or names a file of flags; and with other releases of jaxlib.
    """
    from importlib import metadata  # `parity --help` imports this module, too

    given = os.environ.get("XLA_FLAGS", "")
    is_file = bool(given.strip()) and not given.strip().startswith("-")
    if FLAG in given or is_file or _has_begun():
        return
    if tuple(metadata.version("jaxlib").split(".")[:2]) != NEEDED_BY:
        return
    os.environ["XLA_FLAGS"] = f"{given} {FLAG}=-individual_convolution".strip()


def _has_begun() -> bool:
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bridge.backends_are_initialized()
