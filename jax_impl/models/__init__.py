"""The networks in JAX, one module per family."""

from collections.abc import Callable

from flax import nnx

from jax_impl.models.decoder import Decoder
from jax_impl.models.enet import ENet
from jax_impl.models.erfnet import ERFNet
from jax_impl.models.erfnet_imagenet import ERFNetImageNet
from jax_impl.models.genet import GENet
from jax_impl.models.icnet import ICNet
from jax_impl.models.vit import ViT

NETWORKS: dict[str, Callable[..., nnx.Module]] = {
    "enet": ENet,
    "erfnet": ERFNet,
    "erfnet-imagenet": ERFNetImageNet,
    "genet": GENet,
    "icnet": ICNet,
    "vit": ViT,
    "decoder": Decoder,
}
