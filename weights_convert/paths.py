"""Paths of layers in MindSpore's ports, where they differ from the published ones.

Rules are tried in order against the whole path, without the tensor's own last part; a layer that no
rule matches does not exist in the port. The inverse follows from the names of a network:
`naming.names`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from parity.spec.models import Config

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

ERFNET_ENCODER: Rules = (
    (r"encoder\.initial_block\.(.+)", r"encoder.down1.\1"),
    (r"encoder\.layers\.0\.(.+)", r"encoder.down2.\1"),
    (r"encoder\.layers\.6\.(.+)", r"encoder.down3.\1"),
    *((rf"encoder\.layers\.{i}\.(.+)", rf"encoder.bottleneck{i}.\1") for i in range(1, 6)),
    *((rf"encoder\.layers\.{i}\.(.+)", rf"encoder.bottleneck{i - 1}.\1") for i in range(7, 15)),
)

# The whole network has no classifier at 1/8.
ERFNET: Rules = (
    *ERFNET_ENCODER,
    (r"decoder\.layers\.0\.(.+)", r"decoder.up1.\1"),
    (r"decoder\.layers\.1\.(.+)", r"decoder.bottleneck1.\1"),
    (r"decoder\.layers\.2\.(.+)", r"decoder.bottleneck2.\1"),
    (r"decoder\.layers\.3\.(.+)", r"decoder.up2.\1"),
    (r"decoder\.layers\.4\.(.+)", r"decoder.bottleneck3.\1"),
    (r"decoder\.layers\.5\.(.+)", r"decoder.bottleneck4.\1"),
    (r"decoder\.output_conv", r"decoder.pred"),
)

# Its first two training stages have the encoder and a separate head, and no decoder.
ERFNET_STAGE: Rules = (*ERFNET_ENCODER, (r"encoder\.output_conv", r"pred"))

MINDSPORE: dict[str, Rules] = {"enet": ENET, "erfnet": ERFNET}

# MindSpore lists a batch norm's tensors in this order, and the batch norms of these blocks last.
NORM = ("moving_mean", "moving_variance", "gamma", "beta")
LAST = re.compile(r"encoder\.initial_block\.batch_norm|.+\.bottleneck\d+\.bn[12]")


def rules_of(config: Config) -> Rules:
    """Return the rules for one variant of a family in `MINDSPORE`."""
    stage = config.family == "erfnet" and getattr(config, "encoder_only", False)
    return ERFNET_STAGE if stage else MINDSPORE[config.family]


def in_order(names: Iterable[str]) -> list[str]:
    """Order the names of a network's tensors as MindSpore's own `save_checkpoint` does.

    Args:
        names: MindSpore's, in the published order of the layers.
    """
    names = list(names)
    first: dict[str, int] = {}  # block or layer -> where it begins
    for place, name in enumerate(names):
        layer = name.rpartition(".")[0]
        for part in (layer, _block(layer)):
            first.setdefault(part, place)

    def key(name: str) -> tuple[int, bool, int, int]:
        layer, _, leaf = name.rpartition(".")
        rank = NORM.index(leaf) if leaf in NORM else 0
        return first[_block(layer)], bool(LAST.fullmatch(layer)), first[layer], rank

    return sorted(names, key=key)


def _block(layer: str) -> str:
    return ".".join(layer.split(".")[:2])


def renamed(path: str, rules: Rules) -> str | None:
    """Return a layer's path by the first rule that matches it, or None."""
    for pattern, name in rules:
        if found := re.fullmatch(pattern, path):
            return found.expand(name)
    return None
