"""Norms of a token, and batch normalisation over one process's batch or over all processes'."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn

LayerNorm = nn.LayerNorm
RMSNorm = nn.RMSNorm


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over N, H and W.

    With `sync`, set by `synchronize`, the batch is that of all processes: as
    `torch.nn.SyncBatchNorm`, which does not run on CPUs.
    """

    sync: bool = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (N, C, H, W); in train mode by the batch, whose statistics are then stored."""
        if not (self.sync and self.training and distributed.is_initialized()):
            return super().forward(x)
        y, mean, var, n = _SyncBatchNorm.apply(x, self.weight, self.bias, self.eps)
        # Never none: every batch norm here keeps statistics, with a momentum.
        running_mean: Any = self.running_mean
        running_var: Any = self.running_var
        count: Any = self.num_batches_tracked
        momentum: Any = self.momentum
        with torch.no_grad():
            running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
            running_var.mul_(1 - momentum).add_(var * (n / (n - 1)), alpha=momentum)
            count.add_(1)
        return y


class _SyncBatchNorm(torch.autograd.Function):
    """Normalise by the batch of all processes: y, and its mean, biased variance and count.

    The gradient is that of the sum of all processes' losses (Ioffe and Szegedy 2015, section 3).
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        x32 = x.to(weight.dtype)  # statistics are not made in half precision
        total = torch.cat((x32.sum(dim=(0, 2, 3)), x32.new_tensor([x.numel() / x.shape[1]])))
        distributed.all_reduce(total)
        mean, n = total[:-1] / total[-1], total[-1]
        var = (x32 - mean[:, None, None]).square().sum(dim=(0, 2, 3))
        distributed.all_reduce(var)
        var = var / n
        inverse = (var + eps).rsqrt()
        normal = (x32 - mean[:, None, None]) * inverse[:, None, None]
        ctx.save_for_backward(normal, weight, inverse, n)
        y = normal * weight[:, None, None] + bias[:, None, None]
        ctx.mark_non_differentiable(mean, var, n)
        return y.to(x.dtype), mean, var, n

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        normal, weight, inverse, n = ctx.saved_tensors
        dy32 = dy.to(weight.dtype)
        d_bias, d_weight = dy32.sum(dim=(0, 2, 3)), (dy32 * normal).sum(dim=(0, 2, 3))
        whole = torch.stack((d_bias, d_weight))
        distributed.all_reduce(whole)
        mean = (whole[0][:, None, None] + normal * whole[1][:, None, None]) / n
        dx = (weight * inverse)[:, None, None] * (dy32 - mean)
        return dx.to(dy.dtype), d_weight, d_bias, None


def synchronize(model: nn.Module) -> None:
    """Let the batch norms of a network normalise by the batch of all processes."""
    for layer in model.modules():
        if isinstance(layer, BatchNorm2d):
            layer.sync = True
