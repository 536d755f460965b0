"""Faults that are really made when a convolutional network is ported, and the rung that sees each.

`parity faults` plants them all.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Entry:
    """One fault.

    Attributes:
        number: In the catalogue, from 1.
        title: What was done wrong.
        rung: The lowest one that must see it.
    """

    number: int
    title: str
    rung: str


_ROWS = (
    ("batch norm momentum m against 1 - m", "L1"),
    ("batch norm eps 1e-3 against 1e-5", "L1"),
    ("biased against unbiased running variance", "L1"),
    ("variance as E[x^2] - E[x]^2 in the working precision", "L1"),
    ("frozen batch norm left in training mode", "L1"),
    ("SAME padding for (1, 1) at stride 2", "L1"),
    ("transposed convolution's kernel not flipped", "L1"),
    ("output padding on the wrong side", "L1"),
    ("in and out channels swapped, or a depthwise kernel's axes", "L0"),
    ("align_corners swapped when upsampling", "L1"),
    ("align_corners swapped when downsampling", "L1"),
    ("antialiased resize where the reference has none", "L1"),
    ("nearest: floor against half-pixel, of labels", "L6"),
    ("average pooling counts its padding", "L1"),
    ("ceil_mode of a pooling", "L1"),
    ("unpool indices flattened NHWC against NCHW", "L1"),
    ("max-pool ties: gradient split against first wins", "L1"),
    ("PReLU of one slope against one per channel", "L0"),
    ("PReLU initial slope 0.25 against 0.01", "L4"),
    ("channel dropout against element dropout", "L1"),
    ("keep probability against drop probability", "L1"),
    ("dropout not rescaled by 1 / (1 - p)", "L1"),
    ("loss averaged over all pixels against valid pixels", "L3"),
    ("class-weighted loss divided by N instead of the sum of weights", "L3"),
    ("label 255 through int8, or out of range and clamped", "L3"),
    ("softmax twice, or over the wrong axis", "L3"),
    ("Adam eps inside the square root", "L4"),
    ("Adam eps where TensorFlow puts it", "L4"),
    ("decoupled against coupled weight decay", "L4"),
    ("decay skips, or includes, batch norms, biases and slopes", "L4"),
    ("unused parameters decay: gradient 0 instead of absent", "L4"),
    ("learning rate folded into the momentum buffer", "L5"),
    ("schedule off by one step or epoch", "L4"),
    ("Nesterov on or off", "L4"),
    ("gradients summed instead of averaged over devices", "L3"),
    ("weighted means of devices averaged instead of one global mean", "L3"),
    ("synchronised against local batch norm", "L3"),
    ("initial weights of another distribution or fan", "L4"),
    ("RGB against BGR", "L6"),
    ("OpenCV's against Pillow's bilinear resize of images", "L6"),
    ("/255 forgotten, or normalised twice", "L6"),
    ("trainId against labelId, void first against void last", "L6"),
    ("last partial batch dropped or counted twice", "L6"),
    ("mean of batch IoUs instead of one confusion matrix", "L6"),
    ("absent classes counted as 0 against left out", "L6"),
    ("void predictions counted as misses or not", "L6"),
    ("backbone pass cut short: statistics updated once instead of twice", "L2"),
    ("adaptive pooling's windows of stride floor(in / out)", "L1"),
    ("interpolated labels where nearest is meant, in the loss", "L3"),
    ("TF32 left on", "L1"),
    ("x64 off: the float64 run is float32", "L1"),
    ("gate or activation before instead of after the shortcut", "L1"),
    ("nearest upsampling: floor against round", "L1"),
    ("encoder dropped in with its head's statistics", "L5"),
    ("samples of a batch handed to several devices, or to none", "L3"),
    ("dropout masks that depend on the device", "L3"),
)

CATALOGUE: dict[int, Entry] = {i: Entry(i, *row) for i, row in enumerate(_ROWS, 1)}
