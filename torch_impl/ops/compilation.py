"""Networks compiled by `torch.compile`, which needs a C++ compiler on CPUs."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from parity.spec.errors import InputError

Say = Callable[[str], object]
MOST = 64  # programs of one network; PyTorch's own limit is 8, past which it computes uncompiled


def check_compiler() -> None:
    """Refuse to compile where there is no compiler, before anything is computed.

    Raises:
        InputError: It says which one is looked for.
    """
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name) is None:
        raise InputError(
            f"torch.compile needs a C++ compiler, and {name} is not there: install it, or set CXX"
        )


def check_precision(precision: str) -> None:
    """Refuse to compile in half precision.

    Compiled code rounds only the results of a fused sequence of operations to half precision, and
    keeps what is between them in float32.

    Raises:
        InputError: It names the precision.
    """
    if precision not in ("fp32", "fp64"):
        raise InputError(
            f"--compile with precision {precision}, expected fp32 or fp64: compiled, results"
            " between operations are not rounded to half precision"
        )


class Compiled:
    """A network, compiled at the first call of each shape and mode; equal but for rounding.

    Args:
        network: A module, or a function of tensors. Weights may change between calls.
        say: Told how long each first call took.

    Raises:
        InputError: There is no compiler.
    """

    def __init__(self, network: Callable[..., Any], say: Say = lambda line: None) -> None:
        check_compiler()
        self.network, self.say = network, say
        # One program for each shape: one for all would compute sizes at run time.
        self.fast = torch.compile(network, dynamic=False)
        self.seen: set[object] = set()

    def __call__(self, x: torch.Tensor, *more: Any) -> Any:
        """Run the network.

        Args:
            x: Images, (N, C, H, W).
            *more: What the network takes besides.

        Raises:
            InputError: PyTorch cannot compile it, or has compiled too many; one line says why.
        """
        key = (x.shape, torch.is_grad_enabled())
        if key in self.seen:
            return self._run(x, *more)
        start = time.perf_counter()
        found = self._run(x, *more)
        self.seen.add(key)
        seconds = time.perf_counter() - start
        self.say(f"torch.compile: {seconds:.1f} s for images of {'x'.join(map(str, x.shape))}")
        return found

    def _run(self, x: torch.Tensor, *more: Any) -> Any:
        """Run what is compiled, or compile; never the network uncompiled."""
        from torch._dynamo import config, exc  # a second, for those who compile

        strictly = config.patch(
            recompile_limit=MOST, fail_on_recompile_limit_hit=True, suppress_errors=False
        )
        try:
            with strictly:
                return self.fast(x, *more)
        except exc.FailOnRecompileLimitHit as error:
            raise InputError(
                f"torch.compile: more than {MOST} programs of one network, for images of"
                f" {'x'.join(map(str, x.shape))}; without --compile it computes any number of sizes"
            ) from error
        except exc.TorchDynamoException as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise InputError(f"torch.compile failed: {' '.join(lines[:2])[:300]}") from error
