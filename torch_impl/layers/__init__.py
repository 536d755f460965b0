"""Layers in PyTorch, with the same names as in `jax_impl/layers`; arrays are NCHW here."""

from torch_impl.layers.activation import PReLU, ReLU, Sigmoid
from torch_impl.layers.container import Identity, ModuleList, Sequential
from torch_impl.layers.convolution import Conv2d, ConvTranspose2d, ConvTranspose2dSame
from torch_impl.layers.dropout import Dropout, Dropout2d
from torch_impl.layers.linear import Linear
from torch_impl.layers.normalization import BatchNorm2d, synchronize
from torch_impl.layers.pooling import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    MaxPool2d,
    MaxPool2dSame,
    MaxUnpool2d,
)
from torch_impl.layers.resize import BilinearX2, Nearest, Resize

__all__ = [
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm2d",
    "BilinearX2",
    "Conv2d",
    "ConvTranspose2d",
    "ConvTranspose2dSame",
    "Dropout",
    "Dropout2d",
    "Identity",
    "Linear",
    "MaxPool2d",
    "MaxPool2dSame",
    "MaxUnpool2d",
    "ModuleList",
    "Nearest",
    "PReLU",
    "ReLU",
    "Resize",
    "Sequential",
    "Sigmoid",
    "synchronize",
]
