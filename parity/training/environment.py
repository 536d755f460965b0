"""The record of a run's environment: enough to repeat the run, or to explain differences."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import parity
from parity.spec.training.recipe import Recipe
from parity.spec.training.written import digest, plain
from parity.training.dist_env import ALONE, DistEnv

PACKAGES = (
    "parity-suite",
    "torch",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "grain",
    "array_record",
    "numpy",
    "pillow",
    "safetensors",
    "onnxruntime",
)
# Settings of the process that may change what comes out, or how fast.
SETTINGS = (
    *("JAX_", "XLA_", "CUDA_", "NCCL_", "CUBLAS_", "MKL_", "OMP_", "GOMP_", "KMP_"),
    *("TORCH_", "TORCHDYNAMO_", "TORCHINDUCTOR_", "CXX"),
)


def facts(
    recipe: Recipe,
    framework: str,
    data: Path,
    resumed: Path | None,
    env: DistEnv = ALONE,
    compiled: bool = False,
) -> dict[str, Any]:
    """Return the facts of a start of a run, as JSON values.

    Args:
        recipe: The run's recipe.
        framework: `torch` or `jax`.
        data: The data set.
        resumed: The checkpoint that it continues from.
        env: Where this process and its devices are.
        compiled: Whether `torch.compile` compiles PyTorch's network.
    """
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "framework": framework,
        "compiled": compiled,
        "devices": devices(framework),
        "place": dataclasses.asdict(env),
        "data": str(data.absolute()),
        "resumed": None if resumed is None else str(resumed.absolute()),
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(),
        "settings": {k: v for k, v in sorted(os.environ.items()) if k.startswith(SETTINGS)},
        "seed": recipe.seed,
        "recipe_sha256": digest(recipe),
        "recipe": plain(recipe),
    }


def versions() -> dict[str, str]:
    """Package -> version, of what is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the git commit of this checkout, with `-dirty` if files are changed; else None."""
    folder = Path(parity.__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def hardware() -> dict[str, Any]:
    """Return the system, host, processor, cores and memory of this machine."""
    model = platform.processor() or platform.machine()
    cpus, memory = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    if cpus.exists():
        lines = [line.partition(":") for line in cpus.read_text().splitlines()]
        model = next((v.strip() for k, _, v in lines if k.strip() == "model name"), model)
    total = None
    if memory.exists():
        total = int(memory.read_text().split()[1]) * 1024
    return {
        "system": platform.platform(),
        "host": platform.node(),
        "processor": model,
        "cores": os.cpu_count(),
        "memory": total,
    }


def devices(framework: str) -> list[str]:
    """Return descriptions of the devices that the framework computes on."""
    if framework == "jax":
        import jax

        return [f"{device.platform}: {device.device_kind}" for device in jax.devices()]
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [f"cuda: {name}" for name in names] or [f"cpu: {torch.get_num_threads()} threads"]
