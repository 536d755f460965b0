"""Convolutions on CPUs by Eigen, which XLA uses where YNNPACK is turned off.

jaxlib 0.10 computes float32 convolutions on CPUs by YNNPACK. On two cores, best of 7, in ms, by
YNNPACK and by Eigen: 3x3 of 64 channels on 32 maps of 32x32, forward 45 and 22, gradient of the
kernel 562 and 36; 3x1 of 64 channels on 2 maps of 64x128, 6 and 4, gradient of the kernel 65 and
10. What whole networks take is in `docs/results/speed.md`.
"""

from __future__ import annotations

import os

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
KNOWN_BY = ("0", "10")  # minor release of jaxlib; XLA ends a process that gives it an unknown flag


def by_eigen() -> None:
    """Have XLA compute convolutions by Eigen in this process and its children.

    Call it before JAX computes anything. Does nothing where `XLA_FLAGS` has the flag already, and
    with releases of jaxlib in which it was not tried.
    """
    from importlib import metadata  # not for every command that computes nothing

    given = os.environ.get("XLA_FLAGS", "")
    if FLAG in given or tuple(metadata.version("jaxlib").split(".")[:2]) != KNOWN_BY:
        return
    os.environ["XLA_FLAGS"] = f"{given} {FLAG}=-individual_convolution".strip()
