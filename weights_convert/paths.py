"""What MindSpore's ports call a layer, where its path is another than the published one.

Rules are tried in order against the whole path, without the tensor's own last part; a layer that no
rule knows is one that the port does not have. The way back follows from the names of a network:
`dialects.names`.
"""

from __future__ import annotations

import re

Rules = tuple[tuple[str, str], ...]

ENET: Rules = (
    (r"initial_block\.main_branch", r"encoder.initial_block.conv"),
    (r"(initial_block\..+)", r"encoder.\1"),
    (r"((?:regular|dilated|asymmetric)[123]_\d)\.ext_(conv.+)", r"encoder.\1.\2"),
    (r"((?:regular|dilated|asymmetric)[45]_\d)\.ext_(conv.+)", r"decoder.\1.\2"),
    (r"(.+)\.ext_tconv1", r"decoder.\1.ext_tconv1.0"),
    (r"(.+)\.ext_tconv1_bnorm", r"decoder.\1.ext_tconv1.1"),
    (r"(.+)\.ext_tconv1_activation", r"decoder.\1.ext_tconv1.2"),
    (r"([a-z]+[123]_\d\..+)", r"encoder.\1"),
    (r"([a-z]+[45]_\d\..+)", r"decoder.\1"),
    (r"transposed_conv", r"decoder.fullconv"),
    (r"output_conv", r"pred"),
)

ERFNET: Rules = (
    (r"encoder\.initial_block\.(.+)", r"encoder.down1.\1"),
    (r"encoder\.layers\.0\.(.+)", r"encoder.down2.\1"),
    (r"encoder\.layers\.6\.(.+)", r"encoder.down3.\1"),
    *((rf"encoder\.layers\.{i}\.(.+)", rf"encoder.bottleneck{i}.\1") for i in range(1, 6)),
    *((rf"encoder\.layers\.{i}\.(.+)", rf"encoder.bottleneck{i - 1}.\1") for i in range(7, 15)),
    (r"decoder\.layers\.0\.(.+)", r"decoder.up1.\1"),
    (r"decoder\.layers\.1\.(.+)", r"decoder.bottleneck1.\1"),
    (r"decoder\.layers\.2\.(.+)", r"decoder.bottleneck2.\1"),
    (r"decoder\.layers\.3\.(.+)", r"decoder.up2.\1"),
    (r"decoder\.layers\.4\.(.+)", r"decoder.bottleneck3.\1"),
    (r"decoder\.layers\.5\.(.+)", r"decoder.bottleneck4.\1"),
    (r"decoder\.output_conv", r"decoder.pred"),
)

MINDSPORE: dict[str, Rules] = {"enet": ENET, "erfnet": ERFNET}


def renamed(path: str, rules: Rules) -> str | None:
    """A layer's path by the first rule that knows it, or none."""
    for pattern, name in rules:
        if found := re.fullmatch(pattern, path):
            return found.expand(name)
    return None
