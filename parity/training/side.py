"""A framework's trainer, with weights by published names."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from parity.spec.errors import InputError
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.trainer import Arrays, Snapshot, Trainer
from parity.training.dist_env import ALONE, DistEnv
from parity.training.parts import ProcessGroup, SingleProcess
from weights_convert import naming
from weights_convert.memory import contiguous

FRAMEWORKS = ("torch", "jax")


class Side:
    """One framework's side of training.

    Args:
        framework: `torch` or `jax`; also the name of its naming scheme.
        env: Where this process and its devices are.
        compile_with: If given, PyTorch's networks are compiled by `torch.compile`, and it is told
            how long that took; JAX's always are.

    Raises:
        InputError: They are, and there is no compiler.
    """

    def __init__(
        self,
        framework: str,
        env: DistEnv = ALONE,
        compile_with: Callable[[str], object] | None = None,
    ) -> None:
        self.framework, self.env = framework, env
        self.compile_with = compile_with if framework == "torch" else None
        if self.compile_with:
            from torch_impl.ops.compilation import check_compiler

            check_compiler()  # or it is missed when all data has been read
        self.group: Any = None  # of one device there is none: it computes the same without

    def meet(self) -> ProcessGroup:
        """Set up the devices and connect to the other processes, before any computation.

        Raises:
            InputError: There are fewer devices, or the other processes are not there in time.
        """
        env = self.env
        if env.parts == 1:
            return SingleProcess()
        parallel: Any = importlib.import_module(f"{self.framework}_impl.parallel")
        where = env.coordinator if env.processes > 1 else None
        self.group = parallel.start(where, env.devices, env.processes, env.process)
        if self.framework == "jax":
            self.group = dataclasses.replace(self.group, way=env.way)
        return self.group

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe whose precision cannot be compiled, before any data is read.

        Raises:
            InputError: Its precision is half, and PyTorch's networks are compiled.
        """
        if self.compile_with:
            from torch_impl.ops.compilation import check_precision

            check_precision(recipe.precision)

    def leave(self) -> None:
        """Leave the group, once all processes have arrived here."""
        if self.group is not None:
            self.group.leave()

    def trainer(
        self, recipe: Recipe, stage: Stage, arrays: Arrays, class_weights: np.ndarray | None
    ) -> Trainer:
        """Create the trainer of a stage.

        Args:
            recipe: The recipe, for its precision and its settings for several devices.
            stage: One of its stages.
            arrays: Published key -> array of PyTorch's shape.
            class_weights: Weights of the network's outputs, or None.

        Raises:
            InputError: The arrays are not the network's.
        """
        module: Any = importlib.import_module(f"{self.framework}_impl.train")
        made = module.Trainer(
            stage.config,
            stage.optimizer,
            stage.loss,
            naming.to_naming_scheme(stage.config, arrays, self.framework),
            class_weights,
            recipe.precision,
            recipe.level,
            recipe.loss_scale,
            recipe.parallel,
            self.group,
        )
        if self.compile_with:
            made.compile(self.compile_with)
        return made

    def published(self, stage: Stage, snapshot: Snapshot) -> Snapshot:
        """Return the framework's snapshot with published names and shapes."""
        config = stage.config
        names = naming.names(config, self.framework)
        return dataclasses.replace(
            snapshot,
            arrays=naming.to_canonical(config, snapshot.arrays, self.framework),
            slots={
                slot: contiguous(
                    {k: leaf.inverse().array(a[n]) for n, (k, leaf) in names.items() if n in a}
                )
                for slot, a in snapshot.slots.items()
            },
        )

    def own(self, stage: Stage, snapshot: Snapshot) -> Snapshot:
        """Convert published names and shapes to the framework's, the inverse of `published`."""
        config = stage.config
        names = naming.names(config, self.framework)
        return dataclasses.replace(
            snapshot,
            arrays=naming.to_naming_scheme(config, snapshot.arrays, self.framework),
            slots={
                slot: {n: leaf.array(a[k]) for n, (k, leaf) in names.items() if k in a}
                for slot, a in snapshot.slots.items()
            },
        )


def check_compiled(compiled: bool, frameworks: Sequence[str]) -> None:
    """Refuse to compile by `torch.compile` where no network is PyTorch's.

    Args:
        compiled: Whether it is asked for.
        frameworks: Those that compute.

    Raises:
        InputError: PyTorch is none of them.
    """
    if compiled and "torch" not in frameworks:
        raise InputError("--compile is of PyTorch's network; JAX always compiles its own")


def slow(framework: str, precision: str) -> str:
    """Return a warning line if this precision is much slower than another; else empty."""
    if (framework, precision) != ("torch", "fp16"):
        return ""
    import torch

    if torch.cuda.is_available():
        return ""
    return (
        "warning: PyTorch has no fast fp16 for a CPU, an image may take many seconds;"
        " --precision fp32 is much faster"
    )
