"""Layers in PyTorch, with the same names as in `jax_impl/layers`; arrays are NCHW here."""

from torch_impl.layers.activation import GELU, PReLU, ReLU, Sigmoid, SiLU
from torch_impl.layers.attention import Attention, Rotary
from torch_impl.layers.container import Identity, ModuleList, Sequential
from torch_impl.layers.convolution import Conv2d, ConvTranspose2d, ConvTranspose2dSame
from torch_impl.layers.dropout import Dropout, Dropout2d
from torch_impl.layers.embedding import Embedding
from torch_impl.layers.linear import Linear
from torch_impl.layers.normalization import BatchNorm2d, LayerNorm, RMSNorm, synchronize
from torch_impl.layers.pooling import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    MaxPool2d,
    MaxPool2dSame,
    MaxUnpool2d,
)
from torch_impl.layers.resize import BilinearX2, Nearest, Resize

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
