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
            InputError: PyTorch cannot compile it; one line says why.
        """
        key = (x.shape, torch.is_grad_enabled())
        if key in self.seen:
            return self.fast(x, *more)
        from torch._dynamo.exc import TorchDynamoException  # a second, for those who compile

        start = time.perf_counter()
        try:
            found = self.fast(x, *more)
        except TorchDynamoException as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise InputError(f"torch.compile failed: {' '.join(lines[:2])[:300]}") from error
        self.seen.add(key)
        seconds = time.perf_counter() - start
        self.say(f"torch.compile: {seconds:.1f} s for images of {'x'.join(map(str, x.shape))}")
        return found
