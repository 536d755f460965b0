"""A small network of MindSpore's, recorded by MindSpore's own Python.

python reference.py RECORDER OUT.trace

Each layer is one that another framework pads, shifts, or counts otherwise. RECORDER is
`parity/trace/recorder.py`, or a copy of it.
"""

from __future__ import annotations

import importlib.util
import sys

import mindspore
import numpy as np
from mindspore import nn, ops

RATES = [5e-3 * (1 - step / 20) ** 0.9 for step in range(20)]
DECAY = 1e-2  # of Adam's; MindSpore leaves out gamma and beta by itself


class Resize(nn.Cell):
    """Bilinear, to twice the size: pixel i lies at i / 2."""

    def construct(self, x):
        size = (2 * x.shape[2], 2 * x.shape[3])
        return ops.ResizeBilinearV2(align_corners=False, half_pixel_centers=False)(x, size)


class Net(nn.Cell):
    """(N, 3, H, W) to (N, 3, 2 H, 2 W)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, stride=2, pad_mode="same")
        self.bn = nn.BatchNorm2d(3)
        self.act = nn.PReLU(3)
        self.dilated = nn.Conv2d(3, 3, 3, pad_mode="pad", padding=2, dilation=2, has_bias=True)
        self.drop = nn.Dropout(p=0.3)
        self.up = nn.Conv2dTranspose(3, 4, 3, stride=2, pad_mode="same", has_bias=True)
        self.up_bn = nn.BatchNorm2d(4, momentum=0.8, eps=1e-3)
        self.relu = ops.ReLU()
        self.resize = Resize()
        self.head = nn.Conv2d(4, 3, 1, has_bias=True)

    def construct(self, x):
        x = self.act(self.bn(self.conv(x)))
        x = x + self.drop(self.dilated(x))
        x = self.relu(self.up_bn(self.up(x)))
        return self.head(self.resize(x))


def make_reference():
    """The network, its weights drawn by NumPy; its input, labels and class weights."""
    rng, net = np.random.default_rng(16), Net()
    for parameter in net.get_parameters():
        drawn, name = rng.standard_normal(parameter.shape), parameter.name
        if name.endswith("weight"):
            drawn /= np.sqrt(np.prod(parameter.shape[1:]))
        elif name.endswith(("gamma", "variance", "w")):
            drawn = rng.uniform(0.2, 1.2, parameter.shape)
        else:
            drawn *= 0.1
        parameter.set_data(mindspore.Tensor(drawn.astype(np.float32)))
    x = rng.standard_normal((2, 3, 4, 6)).astype(np.float32)
    labels = rng.integers(0, 3, (2, 8, 12)).astype(np.int32)
    weights = np.array([0.0, 1.0, 1.5], np.float32)
    return net, x, labels, weights


def loss(logits, labels, weights):
    """Cross-entropy, weighted by class: class 0 has none."""
    return ops.cross_entropy(logits, labels, weights)


def optimizer(net):
    return nn.Adam(net.trainable_params(), RATES, weight_decay=DECAY)


def record(recorder, path):
    net, x, labels, weights = make_reference()
    options = {"loss": loss, "targets": [labels, weights], "optimizer": optimizer}
    recorder.record_mindspore(path, net, [x], rates=len(RATES) - 1, steps=3, **options)


if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("recorder", sys.argv[1])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    record(module, sys.argv[2])
