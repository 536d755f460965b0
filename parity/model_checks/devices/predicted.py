"""Predicting the results of several devices on one device, with independent code.

One network is fed the parts of each batch, one after the other or all at once, and losses,
normalisers, gradients and statistics are combined here, in plain sums: nothing of either side's
`parallel`, losses or synchronised batch norms is used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from parity.model_checks.devices.plan import CASES, Plan, digests
from parity.spec.training.losses import Loss
from parity.spec.training.optimizers import idle
from parity.spec.training.parallel import Parallel
from parity.spec.training.recipe import Stage
from parity.spec.training.trainer import Arrays, Batch
from torch_impl import optim
from torch_impl.state import build

Tensors = tuple[torch.Tensor, ...]
Statistics = dict[str, torch.Tensor]
WIDE = torch.float64


@dataclasses.dataclass(frozen=True)
class Handed:
    """Splits a batch's samples into equal parts for all devices, as `makers.Share` should.

    Attributes:
        parts: Number of parts.
    """

    parts: int

    def of(self, chosen: np.ndarray, whole: np.ndarray, last: str) -> np.ndarray:
        """Return the samples of all parts, in their order."""
        if last == "drop":
            return chosen[: len(chosen) // self.parts * self.parts]
        padded = chosen.tolist()
        while len(padded) % self.parts:
            padded.append(whole[(len(padded) - len(chosen)) % len(whole)])
        return np.array(padded)


@dataclasses.dataclass
class DeviceRun:
    """The results of a run.

    Attributes:
        rate: Learning rate of the first step.
        before: Initial weights, by published names.
        gradients: Gradients of the first step, without weight decay.
        first: Weights after the first step.
        last: Weights after the last step.
        losses: The loss of each step, (steps,).
        samples: Digests of each step's samples, see `parity.model_checks.devices.plan.digests`.
        masks: Digests of each step's dropout masks.
    """

    rate: float
    before: Arrays
    gradients: Arrays
    first: Arrays
    last: Arrays
    losses: np.ndarray
    samples: list[np.ndarray]
    masks: list[np.ndarray]


class OneDevice:
    """A network trained as several devices would.

    Args:
        stage: The stage to train.
        arrays: Initial weights, by published names.
        class_weights: (classes,), or None.
        parallel: How the devices combine their results.
        parts: Number of devices.
    """

    def __init__(
        self,
        stage: Stage,
        arrays: Arrays,
        class_weights: np.ndarray | None,
        parallel: Parallel,
        parts: int,
    ) -> None:
        self.stage, self.parallel, self.parts = stage, parallel, parts
        self.model = build(stage.config, arrays, "float64").train()
        held = dict(self.model.named_parameters())
        unused = idle(stage.config, held)
        self.trained = {key: p for key, p in held.items() if key not in unused}
        self.weights = None if class_weights is None else torch.tensor(class_weights, dtype=WIDE)
        self.built = optim.build(stage.config, stage.optimizer, self.trained)
        self.steps = 0

    def step(self, batch: Batch, rate: float) -> float:
        """Train on a batch of all parts; return the mean of the devices' losses."""
        loss = self.differentiate(batch)
        self.update(rate)
        return loss

    def update(self, rate: float) -> None:
        """Let the optimizer make a step of the parameters' gradients."""
        self.steps += 1
        optim.hyperparameters(self.stage.optimizer, self.built, rate, self.steps).step()

    def differentiate(self, batch: Batch) -> float:
        """Leave the joined gradients with the parameters, and the statistics that are kept."""
        self.model.zero_grad()
        pieces = [_part(batch, k, self.parts) for k in range(self.parts)]
        losses = self._losses(self._outputs(batch, pieces), pieces)
        share = 1.0 if self.parallel.gradients == "sum" else 1 / self.parts
        total = torch.stack(losses).sum()
        (share * total).backward()
        return total.item() / self.parts

    def arrays(self) -> Arrays:
        return {key: t.detach().numpy().copy() for key, t in self.model.state_dict().items()}

    def gradients(self) -> Arrays:
        held = {key: p.grad for key, p in self.trained.items()}
        return {key: g.numpy().copy() for key, g in held.items() if g is not None}

    def _outputs(self, batch: Batch, pieces: Sequence[Batch]) -> list[Tensors]:
        """Compute each part's outputs; then keep the statistics that the recipe keeps."""
        if self.parallel.batch_norm == "sync":
            whole, after = self._forward(batch)
            self._keep(after)
            return list(zip(*(o.chunk(self.parts) for o in whole), strict=True))
        each = [self._forward(piece) for piece in pieces]
        kept = {name: _kept(self.parallel, [a[name] for _, a in each]) for name in each[0][1]}
        self._keep(kept)
        return [outputs for outputs, _ in each]

    def _forward(self, batch: Batch) -> tuple[Tensors, Statistics]:
        """Return the outputs and new statistics; the network's own statistics are unchanged."""
        x = torch.tensor(batch.images).permute(0, 3, 1, 2).contiguous()
        masks = {site: _channels_first(torch.tensor(m)) for site, m in batch.masks.items()}
        after = {name: b.clone() for name, b in self.model.named_buffers()}
        outputs = torch.func.functional_call(self.model, after, (x, masks) if masks else (x,))
        return outputs if isinstance(outputs, tuple) else (outputs,), after

    def _keep(self, statistics: Statistics) -> None:
        for name, buffer in self.model.named_buffers():
            buffer.copy_(statistics[name])

    def _losses(self, outputs: Sequence[Tensors], pieces: Sequence[Batch]) -> list[torch.Tensor]:
        """Return each device's loss: the sum over terms of weighted sum / normaliser."""
        each = [
            list(terms(self.stage.loss, o, piece, self.weights))
            for o, piece in zip(outputs, pieces, strict=True)
        ]
        found = [torch.zeros((), dtype=WIDE) for _ in each]
        for alike in zip(*each, strict=True):  # one term on all devices
            whole = torch.stack([weight for _, _, weight in alike]).sum() / self.parts
            for k, (factor, total, weight) in enumerate(alike):
                by = weight if self.parallel.normalizer == "device" else whole
                found[k] = found[k] + factor * total / by
        return found


def terms(
    loss: Loss, outputs: Tensors, batch: Batch, weights: torch.Tensor | None
) -> Iterator[tuple[float, torch.Tensor, torch.Tensor]]:
    """Yield each term of a loss: its factor, the sum of weighted losses, the sum of weights."""
    logits, ignored, factors = outputs, loss.ignore_index, [1.0]
    if loss.kind == "icnet":
        factors = [1.0, loss.auxiliary, loss.auxiliary]
        logits, ignored, weights = outputs[1:], -1, None
    for factor, scores, target in zip(factors, logits, batch.targets, strict=True):
        labels = torch.tensor(target).long()
        counts = labels >= 0 if ignored is None else labels != ignored
        label = torch.where(counts, labels, 0)
        log_p = scores - scores.logsumexp(1, keepdim=True)
        picked = log_p.gather(1, label[:, None])[:, 0]
        weight = torch.ones(scores.shape[1], dtype=WIDE) if weights is None else weights
        each = weight[label] * counts
        yield factor, -(each * picked).sum(), each.sum()


def predict(plan: Plan, case: str, devices: int) -> DeviceRun:
    """Predict the run of a case on several devices."""
    share: Any = Handed(devices)
    stage, before = plan.of(case)[1], plan.arrays()
    one = OneDevice(stage, before, plan.class_weights(), CASES[case].parallel, devices)
    gradients, first, losses, samples, masks = Arrays(), Arrays(), [], [], []
    for number in range(plan.steps):
        batch = plan.batch(case, share, number)
        handed = digests(batch)
        samples.append(handed[0])
        masks.append(handed[1])
        losses.append(one.step(batch, plan.rate(case, devices, number)))
        if not number:
            gradients, first = one.gradients(), one.arrays()
    rate = plan.rate(case, devices, 0)
    return DeviceRun(rate, before, gradients, first, one.arrays(), np.array(losses), samples, masks)


def stepped(stage: Stage, run: DeviceRun) -> Arrays:
    """Return the parameters after one optimizer step on a run's first gradients."""
    one = OneDevice(stage, run.before, None, Parallel(), 1)
    for key, gradient in run.gradients.items():
        one.trained[key].grad = torch.tensor(gradient)
    one.update(run.rate)
    after = one.arrays()
    return {key: after[key] for key in run.gradients}


def _part(batch: Batch, k: int, parts: int) -> Batch:
    n = len(batch.samples) // parts
    at = slice(k * n, (k + 1) * n)
    masks = {site: mask[at] for site, mask in batch.masks.items()}
    return Batch(batch.images[at], tuple(t[at] for t in batch.targets), masks, batch.samples[at])


def _kept(parallel: Parallel, each: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the value kept of one statistic, given all devices' values."""
    if parallel.statistics == "first" or not each[0].is_floating_point():
        return each[0]
    return torch.stack(list(each)).mean(0)


def _channels_first(mask: torch.Tensor) -> torch.Tensor:
    return mask.permute(0, 3, 1, 2) if mask.ndim == 4 else mask
