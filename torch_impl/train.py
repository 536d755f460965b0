"""Training of a PyTorch network, step by step; `jax_impl/train.py` has the same names.

    python -m torch_impl.train enet-camvid --data DIR --out DIR

is `parity train` with `--framework torch`.

What is computed in which precision:

- `fp64`, `fp32`: everything in that one.
- `bf16`, `fp16` at level O1: convolutions, fully connected layers and PReLUs take inputs and
  weights, and return results, in half precision. Weights are float32.
- At level O2 images and weights are in half precision; the optimizer updates float32 master copies;
  scales, shifts and statistics of batch norms are float32.
- At both levels batch norms compute in float32 and return their input's dtype; everything else
  computes in its inputs' dtype, the wider of two; the loss is that of logits in float32, and the
  optimizer works in float32 on gradients in float32, divided by the loss scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from parity.spec.errors import InputError
from parity.spec.models import Config
from parity.spec.training.losses import Loss
from parity.spec.training.optimizers import Optimizer, idle, parameters
from parity.spec.training.parallel import DDP, Parallel
from parity.spec.training.scaling import LossScale, not_finite
from parity.spec.training.trainer import Batch, Snapshot, Step
from torch_impl import layers, optim
from torch_impl.losses import Normalizer, training_loss
from torch_impl.ops import compilation
from torch_impl.parallel import Group, first, join, mean
from torch_impl.state import build

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """One stage of training; see `parity.spec.training.trainer.Trainer`.

    Runs on a GPU where PyTorch finds one, else on the CPU.

    Args:
        config: The network's configuration.
        optimizer: The stage's optimizer.
        loss: The loss to minimise.
        arrays: The weights, as `torch_impl.state.build` takes them.
        class_weights: (classes,), for cross-entropy; ones if not given.
        precision: `fp64`, `fp32`, `bf16` or `fp16`.
        level: For half precision, `O1` or `O2`.
        loss_scale: A number, `dynamic`, or none.
        parallel: How several devices combine their results.
        group: The devices, where there are several; see `torch_impl.parallel`.

    Raises:
        InputError: A tensor is missing, left over, or of another shape.
    """

    def __init__(
        self,
        config: Config,
        optimizer: Optimizer,
        loss: Loss,
        arrays: Mapping[str, np.ndarray],
        class_weights: np.ndarray | None = None,
        precision: str = "fp32",
        level: str = "O1",
        loss_scale: float | str | None = None,
        parallel: Parallel = DDP,
        group: Group | None = None,
    ) -> None:
        self.optimizer, self.loss = optimizer, loss
        self.parallel, self.group, self.precision = parallel, group, precision
        self.dtype = torch.float64 if precision == "fp64" else torch.float32
        self.half, self.level = HALVES.get(precision), level
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.layout = torch.contiguous_format if precision == "fp64" else torch.channels_last
        model = build(config, arrays, str(self.dtype).removeprefix("torch."))
        self.model = model.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]  # no such stub
        for module in self.model.modules():
            if isinstance(module, layers.MaxUnpool2d):  # autocast would widen it, on CPUs alone
                unchanged = torch.autocast(self.device.type, enabled=False)
                setattr(module, "forward", unchanged(module.forward))  # noqa: B010  # mypy wants it
        self.parameters = dict(self.model.named_parameters())
        self.masters = dict(self.parameters)
        if self.half and level == "O2":
            self.masters = halve(self.model, self.half)
        keys = parameters(config)
        self.trained = [key for key in keys if key not in idle(config, keys)]
        for key in idle(config, keys):  # or DDP would wait for its gradient
            self.parameters[key].requires_grad_(False)
        if group and parallel.batch_norm == "sync":
            layers.synchronize(self.model)
        self.replica: Callable = group.wrap(self.model) if group else self.model
        self.alone: Callable = self.model  # of this process's batch, in eval mode
        self.class_weights = None if class_weights is None else self._tensor(class_weights)
        self.scale = LossScale.of(loss_scale)
        self.steps = 0
        self.built = optim.build(config, optimizer, self.masters)

    def compile(self, say: compilation.Say = lambda line: None) -> None:
        """Have `torch.compile` compile the network, for steps and predictions; JAX always compiles.

        Args:
            say: Told how long it took.

        Raises:
            InputError: There is no compiler, the precision is half, or there are several devices.
        """
        if self.group:
            raise InputError("--compile with several devices, expected one")
        compilation.check_precision(self.precision)
        self.replica = self.alone = compilation.Compiled(self.model, say)

    def step(self, batch: Batch, rate: float) -> Step:
        """Run forward, backward and update; a fault or a skipped step leaves the weights unchanged.

        Args:
            batch: A batch of the stage's size.
            rate: The learning rate, before the groups' factors.
        """
        statistics = [buffer.clone() for buffer in self.model.buffers()]
        loss = self._gradients(batch)
        outcome = self.scale.outcome(loss, self._overflow())
        if outcome.fault or outcome.skipped:
            for buffer, before in zip(self.model.buffers(), statistics, strict=True):
                buffer.copy_(before)
        else:
            self.steps += 1
            self._share_statistics()
            optim.hyperparameters(self.optimizer, self.built, rate, self.steps).step()
            self._follow()
        return outcome

    def evaluate(self, batch: Batch) -> tuple[np.ndarray, float]:
        """Predict in eval mode: classes, (N, H, W) or (N,) int32, and the loss."""
        self.model.eval()
        with torch.inference_mode():
            outputs = self._forward(batch, masks=False)
            loss = self._loss(outputs, batch, None)
            # Of several, the first is of the image's size.
            logits = outputs[0] if isinstance(outputs, tuple) else outputs
            return logits.argmax(dim=1).int().cpu().numpy(), loss.item()

    @property
    def batches_at_once(self) -> int:
        """Return how many batches `evaluate_each` takes at once."""
        return 1

    def evaluate_each(self, batches: Sequence[Batch]) -> list[tuple[np.ndarray, float]]:
        """Evaluate several batches of one size, one after the other."""
        return [self.evaluate(batch) for batch in batches]

    def snapshot(self) -> Snapshot:
        """Copy everything that is needed to continue training."""
        held = self.model.state_dict() | self.masters
        arrays = {key: held[key].detach().cpu().numpy().copy(order="C") for key in held}
        slots = optim.slots(self.optimizer, self.built) if self.steps else {}
        copies = {
            slot: {key: array.cpu().numpy().copy(order="C") for key, array in found.items()}
            for slot, found in slots.items()
        }
        return Snapshot(arrays, copies, self.steps, self.scale.value, self.scale.good)

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot, bit for bit.

        Raises:
            InputError: A name is missing, left over, or of another shape.
        """
        held, trained = self.model.state_dict() | self.masters, self._of_optimizer()
        shapes = {key: tuple(array.shape) for key, array in held.items()}
        snapshot.check(
            shapes, {s: {key: shapes[key] for key in trained} for s in self.optimizer.slots}
        )
        with torch.no_grad():
            for key, array in snapshot.arrays.items():
                held[key].copy_(torch.tensor(np.asarray(array, order="C")))
        slots = {
            slot: {key: self._tensor(array) for key, array in found.items()}
            for slot, found in snapshot.slots.items()
        }
        optim.load(self.optimizer, self.built, slots, snapshot.step)
        self.steps = snapshot.step
        self.scale.value, self.scale.good = snapshot.scale, snapshot.good
        self._follow()

    def _gradients(self, batch: Batch) -> float:
        """Leave the gradients with the masters, no more scaled; gives the loss."""
        self.model.train()
        self.model.zero_grad()
        whole = mean if self.group and self.parallel.normalizer == "global" else None
        loss = self._loss(self._forward(batch), batch, whole)
        (loss * self.scale.value).backward()
        for key in self.trained:
            gradient = self.parameters[key].grad
            assert gradient is not None, key
            gradient = gradient.to(self.dtype)
            if self.group:
                gradient = join(self.parallel, gradient)
            self.masters[key].grad = gradient.div_(self.scale.value)
        return (mean(loss) if self.group else loss).item()

    def _forward(self, batch: Batch, masks: bool = True) -> torch.Tensor | tuple[torch.Tensor, ...]:
        x = self._tensor(batch.images).permute(0, 3, 1, 2).contiguous(memory_format=self.layout)
        x = x.to(self.half) if self.half and self.level == "O2" else x
        drops = {site: self._mask(mask) for site, mask in batch.masks.items()} if masks else {}
        casts = self.half is not None and self.level == "O1"
        with torch.autocast(self.device.type, self.half, enabled=casts):
            network = self.replica if masks else self.alone
            return network(x, drops) if drops else network(x)

    def _loss(
        self,
        outputs: torch.Tensor | tuple[torch.Tensor, ...],
        batch: Batch,
        whole: Normalizer | None,
    ) -> torch.Tensor:
        several = isinstance(outputs, tuple)
        wide = [o.to(self.dtype) for o in (outputs if isinstance(outputs, tuple) else [outputs])]
        targets = [torch.tensor(t, device=self.device) for t in batch.targets]
        return training_loss(
            self.loss, wide if several else wide[0], targets, self.class_weights, whole
        )

    def _overflow(self) -> str:
        """Describe the first gradient, in published order, that is not finite; empty if all are."""
        gradients = {key: self.masters[key].grad for key in self.trained}
        if torch.nn.utils.get_total_norm(list(gradients.values())).isfinite():
            return ""
        for key, gradient in gradients.items():
            if count := int((~gradient.isfinite()).sum()):
                return not_finite(key, count, gradient.numel())
        return ""  # it is only their norm that is too large

    def _share_statistics(self) -> None:
        """Make running statistics equal on all devices; those of synchronised norms already are."""
        if not self.group or self.parallel.batch_norm == "sync":
            return
        held = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        one = torch.cat([buffer.flatten() for buffer in held])
        shared = mean(one) if self.parallel.statistics == "mean" else first(one)
        parts = shared.split([buffer.numel() for buffer in held])
        with torch.no_grad():
            for buffer, part in zip(held, parts, strict=True):
                buffer.copy_(part.view_as(buffer))

    def _follow(self) -> None:
        """Copy the float32 master weights to the weights."""
        with torch.no_grad():
            for key, master in self.masters.items():
                if master is not self.parameters[key]:
                    self.parameters[key].copy_(master)

    def _of_optimizer(self) -> dict[str, torch.Tensor]:
        return {key: self.masters[key] for key in self.trained}

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.tensor(np.asarray(array, order="C"), dtype=self.dtype, device=self.device)

    def _mask(self, mask: np.ndarray) -> torch.Tensor:
        """Leave (N, C) masks as they are; transpose (N, H', W', C) to (N, C, H', W')."""
        tensor = torch.tensor(mask, device=self.device)
        return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


def halve(model: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Cast all parameters but those of batch norms.

    Returns:
        Published key -> master: a copy as it was, or the parameter itself where it was not cast.
    """
    masters: dict[str, torch.Tensor] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(path, recurse=False):
            masters[name] = parameter
            if not isinstance(module, layers.BatchNorm2d):
                masters[name] = parameter.detach().clone().requires_grad_()
                parameter.data = parameter.data.to(dtype)
    return masters


if __name__ == "__main__":
    import sys

    from parity.cli import main

    sys.exit(main(["train", "--framework", "torch", *sys.argv[1:]]))
