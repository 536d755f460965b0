"""Deterministic algorithms, where a framework has them: `parity train --deterministic`.

What remains without one is named. `docs/study.md` says for each recipe which operations these are.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Callable, Iterator

from parity.spec.errors import InputError

# https://openxla.org/xla/determinism: the first excludes what has no deterministic form, with an
# error; the second keeps autotuning from choosing kernels by their time.
XLA = ("--xla_gpu_exclude_nondeterministic_ops=true", "--xla_gpu_autotune_level=0")
# cuBLAS computes alike only with a workspace of its own:
# https://docs.nvidia.com/cuda/cublas/#results-reproducibility
CUBLAS = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
WITHOUT = re.compile(r"(\w+) does not have a deterministic implementation")


@contextlib.contextmanager
def deterministic(framework: str, say: Callable[[str], None]) -> Iterator[None]:
    """Compute with deterministic algorithms; call before the framework computes anything.

    An operation of PyTorch that has none is not refused, for it may be deterministic as it is used
    (such as unpooling to places that are all different); a line names it.

    Args:
        framework: `torch` or `jax`.
        say: Called with the line.

    Raises:
        InputError: JAX has begun in this process: its flags are read once.
    """
    if framework == "jax":
        _flags()
        yield
        return
    os.environ.setdefault(*CUBLAS)
    import torch

    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        with _named(say):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def _flags() -> None:
    given = os.environ.get("XLA_FLAGS", "").split()
    missing = [flag for flag in XLA if flag not in given]
    if not missing:
        return
    from jax._src import xla_bridge

    if xla_bridge.backends_are_initialized():
        raise InputError("--deterministic: JAX has begun already, its flags come too late")
    os.environ["XLA_FLAGS"] = " ".join([*given, *missing])


@contextlib.contextmanager
def _named(say: Callable[[str], None]) -> Iterator[None]:
    """Say once which operations have no deterministic form; other warnings stay what they are."""
    said = set[str]()
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=f".*{WITHOUT.pattern}")
        show = warnings.showwarning

        def name_once(message: Warning | str, *rest: object) -> None:
            match = WITHOUT.search(str(message))
            if match is None:
                show(message, *rest)  # type: ignore[arg-type]  # what it was called with
            elif match[1] not in said:
                said.add(match[1])
                say(f"deterministic: PyTorch has no deterministic form of {match[1]}")

        warnings.showwarning = name_once  # type: ignore[assignment]  # takes whatever comes
        yield
