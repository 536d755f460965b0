"""Faults of names: MindSpore's blocks and layers, and what a batch norm's tensors are called."""

from __future__ import annotations

from tests.mutation.fault import Fault

PATHS, NAMING_SCHEMES = "weights_convert/paths.py", "weights_convert/naming.py"


def fault(title: str, right: str, wrong: str, file: str = PATHS) -> Fault:
    return Fault("names", title, file, right, wrong, ("mindspore-names",))


FAULTS: tuple[Fault, ...] = (
    fault(
        "two blocks of MindSpore's decoder exchanged",
        'layers\\.1\\.(.+)", r"decoder.bottleneck1.\\1"),\n    (r"decoder\\.layers\\.2\\.(.+)",'
        ' r"decoder.bottleneck2.',
        'layers\\.2\\.(.+)", r"decoder.bottleneck1.\\1"),\n    (r"decoder\\.layers\\.1\\.(.+)",'
        ' r"decoder.bottleneck2.',
    ),
    fault(
        "the last blocks of MindSpore's encoder in the other order",
        "encoder.bottleneck{i - 1}",
        "encoder.bottleneck{20 - i}",
    ),
    fault(
        "the first blocks of MindSpore's encoder in the other order",
        "encoder.bottleneck{i}.",
        "encoder.bottleneck{6 - i}.",
    ),
    fault(
        "a batch norm's tensors in another order",
        '("moving_mean", "moving_variance", "gamma", "beta")',
        '("gamma", "beta", "moving_mean", "moving_variance")',
    ),
    fault(
        "mean and variance exchanged",
        '"mean": Leaf("moving_mean"),\n',
        '"mean": Leaf("moving_variance"),\n',
        NAMING_SCHEMES,
    ),
    fault(
        "E-NET's norm and activation after a transposed convolution exchanged",
        'ext_tconv1_bnorm", r"decoder.\\1.ext_tconv1.1"',
        'ext_tconv1_bnorm", r"decoder.\\1.ext_tconv1.3"',
    ),
    fault(
        "the head of MindSpore's encoder under another name",
        'r"encoder\\.output_conv", r"pred"',
        'r"encoder\\.output_conv", r"encoder.pred"',
    ),
)
