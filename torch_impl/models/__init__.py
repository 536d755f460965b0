"""The networks of the PyTorch side, by family."""

from collections.abc import Callable

from torch import nn

from torch_impl.models.enet import ENet

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "enet": ENet,
}
