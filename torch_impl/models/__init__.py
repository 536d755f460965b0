"""The networks in PyTorch, one module per family."""

from collections.abc import Callable

from torch import nn

from torch_impl.models.decoder import Decoder
from torch_impl.models.enet import ENet
from torch_impl.models.erfnet import ERFNet
from torch_impl.models.erfnet_imagenet import ERFNetImageNet
from torch_impl.models.genet import GENet
from torch_impl.models.icnet import ICNet
from torch_impl.models.vit import ViT

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "enet": ENet,
    "erfnet": ERFNet,
    "erfnet-imagenet": ERFNetImageNet,
    "genet": GENet,
    "icnet": ICNet,
    "vit": ViT,
    "decoder": Decoder,
}
