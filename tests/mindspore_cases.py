"""What MindSpore 2.10 computed with its two published ports, and how far from it arrays are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import torch_impl.train
from parity.data.statistics import weights
from parity.spec.models import Config
from parity.spec.recipes import recipe
from parity.spec.training.recipe import Stage
from parity.spec.training.trainer import Batch
from tests.golden_vectors import Golden, probe, without_dropout
from weights_convert import naming

# Case -> recipe and stage.
CASES = {
    "enet_mindspore_steps_c20": ("enet-mindspore", "whole"),
    "enet_mindspore_encoder_c20": ("enet-mindspore", "encoder-1"),
    "erfnet_mindspore_c20": ("erfnet-mindspore", "whole-1"),
    "erfnet_mindspore_encoder_c20": ("erfnet-mindspore", "encoder-1"),
}


def stage_of(case: str) -> Stage:
    name, stage = CASES[case]
    return next(s for s in recipe(name).stages if s.name == stage)


class Case:
    """A golden case, and what our recipe says of its training.

    Attributes:
        name: A key of `CASES`.
        golden: MindSpore's numbers.
        stage: The stage of our recipe.
        config: Its network, without dropout.
        arrays: The weights, by published key.
        names: MindSpore's name -> published key, of what is trained.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.golden = Golden(folder / f"{name}.npz")
        self.stage = stage_of(name)
        self.config: Config = without_dropout(self.stage.config)
        named = {k: a.astype(np.float32) for k, a in self.golden.weights().items()}
        self.arrays = naming.to_canonical(self.config, named, "mindspore")
        keys = naming.names(self.config, "mindspore")
        self.names = {name: keys[name][0] for name in self.golden.names("grad_names")}
        self.statistics = {name: keys[name][0] for name in self.golden.names("stat_names")}

    @property
    def batch(self) -> Batch:
        images = self.golden.images().astype(np.float32)
        return Batch(images, (self.golden.labels().astype(np.int32),), {}, np.arange(len(images)))

    @property
    def class_weights(self) -> np.ndarray:
        return weights(self.stage.loss.class_weights, None, 19, 19, True)

    def moved(
        self, arrays: Mapping[str, np.ndarray], start: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """MindSpore's name -> how far a parameter went; given are published keys."""
        wide = np.float64
        return {n: arrays[k].astype(wide) - start[k] for n, k in self.names.items()}

    def apart(
        self, what: str, found: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """How far norms and products are from MindSpore's, relative to the norm, by its name.

        Gradients of cancelled biases, which are 0, are left out.
        """
        norms, products = {}, {}
        theirs = zip(self.names, self.golden[f"{what}_l2"], self.golden[f"{what}_dot"], strict=True)
        for name, norm, product in theirs:
            if what == "grad" and name in self.cancelled():
                continue
            own = float(np.linalg.norm(found[name]))
            norms[name] = abs(norm - own) / own
            products[name] = abs(product - probe(found[name])) / own
        return norms, products

    def cancelled(self) -> list[str]:
        """Names of the biases of convolutions that a batch norm follows: all but the last one's."""
        return [name for name in self.names if name.endswith(".bias") and "pred." not in name]


@dataclasses.dataclass(frozen=True)
class Steps:
    """Five steps of training on one batch, as MindSpore made them.

    Attributes:
        losses: Of each step, before its update.
        moved: `moved_1` and `moved_5` -> MindSpore's name -> how far the parameter went.
        statistics: `stat_1` and `stat_5` -> MindSpore's name -> running mean or variance.
    """

    losses: list[float]
    moved: dict[str, dict[str, np.ndarray]]
    statistics: dict[str, dict[str, np.ndarray]]


def train(
    case: Case, precision: str = "fp64", arrays: Mapping[str, np.ndarray] | None = None
) -> Steps:
    """Train a case by PyTorch's trainer.

    Args:
        case: What is trained.
        precision: `fp64` or `fp32`.
        arrays: Weights by published key, if not the case's own.
    """
    stage, start = case.stage, dict(arrays or case.arrays)
    rate = stage.optimizer.lr * stage.schedule.factor(0, 0, 1)
    given = (case.config, stage.optimizer, stage.loss, start, case.class_weights)
    trainer = torch_impl.train.Trainer(*given, precision)
    found = Steps([], {}, {})
    for step in range(1, 6):
        found.losses.append(trainer.step(case.batch, rate).loss)
        if step in (1, 5):
            after = trainer.snapshot().arrays
            found.moved[f"moved_{step}"] = case.moved(after, start)
            found.statistics[f"stat_{step}"] = {n: after[k] for n, k in case.statistics.items()}
    return found
