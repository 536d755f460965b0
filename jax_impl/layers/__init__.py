"""Layers in JAX, with the same names as in `torch_impl/layers`; arrays are NHWC here.

Defaults are PyTorch's, and so are the semantics where Flax differs: running variances are unbiased,
the first of equal maxima wins and takes the gradient, paddings are numbers.
"""

from jax_impl.layers.activation import GELU, PReLU, ReLU, Sigmoid, SiLU
from jax_impl.layers.attention import Attention, Rotary
from jax_impl.layers.container import Identity, ModuleList, Sequential
from jax_impl.layers.convolution import Conv2d, ConvTranspose2d, ConvTranspose2dSame
from jax_impl.layers.dropout import Dropout, Dropout2d
from jax_impl.layers.embedding import Embedding
from jax_impl.layers.linear import Linear
from jax_impl.layers.normalization import BatchNorm2d, LayerNorm, RMSNorm, synchronize
from jax_impl.layers.pooling import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    MaxPool2d,
    MaxPool2dSame,
    MaxUnpool2d,
)
from jax_impl.layers.resize import BilinearX2, Nearest, Resize

__all__ = [
    "GELU",
    "AdaptiveAvgPool2d",
    "Attention",
    "AvgPool2d",
    "BatchNorm2d",
    "BilinearX2",
    "Conv2d",
    "ConvTranspose2d",
    "ConvTranspose2dSame",
    "Dropout",
    "Dropout2d",
    "Embedding",
    "Identity",
    "LayerNorm",
    "Linear",
    "MaxPool2d",
    "MaxPool2dSame",
    "MaxUnpool2d",
    "ModuleList",
    "Nearest",
    "PReLU",
    "RMSNorm",
    "ReLU",
    "Resize",
    "Rotary",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "synchronize",
]
