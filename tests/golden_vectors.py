"""Golden vectors: what the published reference implementations compute, in float64.

`tests/golden/NAME.npz` holds, for weights and inputs that follow from a seed by the rule below, the
reference's eval-mode output at 8192 places, the norm and mean of every layer's output, the train
loss, the norm of every gradient and its product with a fixed vector, and the norms of the running
statistics after that one step. The loss is cross-entropy weighted by class, linearly from 1 to 2,
the last class 0; every dropout probability is 0.

Cases of MindSpore's ports have MindSpore's names, were computed in float32, weigh classes as the
ports do, and hold how far every parameter went in five steps of MindSpore's Adam.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest


class Golden:
    """One case.

    Args:
        path: Its `.npz`; also the place of its arrays, by name: `case["eval_logits"]`.
    """

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            self.arrays = {key: file[key] for key in file.files}

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def names(self, key: str) -> list[str]:
        return [str(name) for name in self[key]]

    def weights(self) -> dict[str, np.ndarray]:
        """Published key -> array of PyTorch's shape, float64."""
        shapes = [tuple(int(n) for n in s.split("x") if n) for s in self.names("state_shapes")]
        return {
            k: self._weight(k, s) for k, s in zip(self.names("state_names"), shapes, strict=True)
        }

    def images(self) -> np.ndarray:
        """(N, H, W, 3), float64 in [0, 1)."""
        images = self._rng("input").uniform(0.0, 1.0, tuple(self["x_shape"]))
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))

    def labels(self) -> np.ndarray:
        """(N, H, W) integers."""
        low, high = (int(n) for n in self["y_range"])
        return self._rng("target").integers(low, high, tuple(self["y_shape"]))

    def class_weights(self) -> np.ndarray:
        weights = np.linspace(1, 2, int(self["y_range"][1]))
        weights[-1] = 0
        return weights

    def _rng(self, name: str) -> np.random.Generator:
        digest = hashlib.sha256(f"{int(self['seed'])}:{name}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little"))

    def _weight(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        rng = self._rng(key)
        leaf = key.rpartition(".")[2]
        if leaf == "num_batches_tracked":
            return np.zeros(shape, np.int64)
        if leaf in ("running_mean", "bias", "moving_mean", "beta"):
            return rng.normal(0.0, 0.1, shape)
        if shape == (1,) or leaf == "w":  # a PReLU's slope, or slopes
            return rng.uniform(0.05, 0.45, shape)
        if leaf == "running_var" or len(shape) == 1:
            return rng.uniform(0.5, 1.5, shape)
        return rng.normal(0.0, np.sqrt(2.0 / np.prod(shape[1:])), shape)


def probe(gradient: np.ndarray) -> float:
    """A gradient's product with sin(1), sin(2), ...: it changes where the layout does."""
    return float((gradient.ravel() * np.sin(1 + np.arange(gradient.size))).sum())


def parametrize(
    metafunc: pytest.Metafunc,
    runs: Sequence[tuple[str, str]],
    forward: Collection[tuple[str, str]],
    in_eval_mode: Collection[str],
) -> None:
    """Give a test every run, by its fixture `answer`; some runs to tests of eval mode alone.

    Args:
        metafunc: The test.
        runs: Cases and sides.
        forward: Runs of which train mode, several times as much to compile, is left to `-m long`.
        in_eval_mode: Names of the tests that look at nothing else.
    """
    if "answer" not in metafunc.fixturenames:
        return
    late = () if metafunc.function.__name__ in in_eval_mode else forward
    made = [pytest.param(run, marks=[pytest.mark.long] if run in late else []) for run in runs]
    metafunc.parametrize("answer", made, indirect=True, ids="-".join, scope="module")


C = TypeVar("C")


def without_dropout(config: C) -> C:
    """Return the config of a network with every dropout probability set to 0."""
    if not hasattr(config, "dropout"):
        return config
    return dataclasses.replace(config, dropout=(0.0, 0.0))  # type: ignore[type-var]  # a Config is
