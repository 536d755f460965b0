"""Small but complete networks to inject faults into: every kind of layer, little to compile."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from parity.capture.records import Call
from parity.capture.torch_side import TorchSide
from parity.ladder.port import Port
from parity.model_checks.networks import port
from parity.spec import draw
from parity.spec.models import LANGUAGE, MODELS, Config, check_input
from parity.spec.tensors import tensors

Size = tuple[int, ...]  # height and width of images, or number of tokens

SEED = 3
ENET_LEAST = frozenset(("downsample1_0", "regular1_1", "upsample5_0"))
ENET = ENET_LEAST | {"downsample2_0", "dilated2_2", "asymmetric2_3", "upsample4_0", "regular5_1"}


def enet(config: Any, least: bool) -> tuple[Config, Size]:
    """Return a block of each kind; the map before the second pooling is odd, where allowed."""
    names = ENET_LEAST if least else ENET
    made = dataclasses.replace(config, blocks=tuple(b for b in config.blocks if b.name in names))
    for size in ((20, 28), (24, 32)) if least else ((44, 60), (48, 64)):
        if accepts(made, size):
            break
    return made, size


def erfnet(config: Any, least: bool) -> tuple[Config, Size]:
    """Return a block of each kind at each scale."""

    def block(kind: str, i: int, o: int, dilation: int = 1) -> Any:
        return type(config.encoder[0])(kind, i, o, dilation)

    encoder: tuple[Any, ...] = (block("down", 3, 16), block("down", 16, 24), block("nb1d", 24, 24))
    decoder: tuple[Any, ...] = (block("up", 24, 16), block("nb1d", 16, 16))
    if not least:
        encoder += (block("down", 24, 64), block("nb1d", 64, 64, 4))
        decoder = (block("up", 64, 16), block("nb1d", 16, 16), block("up", 16, 8))
    size = (24, 32) if least else (40, 56)
    return dataclasses.replace(config, encoder=encoder, decoder=decoder), size


def erfnet_imagenet(config: Any, least: bool) -> tuple[Config, Size]:
    """Return ERFNet's small encoder as a classifier, at the smallest size of an image."""
    made: Any = erfnet(config, least)[0]
    size = (112, 112) if least else config.check_size
    return dataclasses.replace(made, decoder=()), size


def icnet(config: Any, least: bool) -> tuple[Config, Size]:
    """Return a narrow bottleneck in each stage; the pyramid's map, 5x7, divides by no bin."""
    del least
    return dataclasses.replace(config, blocks=(1, 1, 1, 1), width=8, classifier=0), (160, 224)


def accepts(config: Config, size: Size) -> bool:
    """Return whether the network takes inputs of this size."""
    try:
        check_input(config, size)
    except ValueError:
        return False
    return True


def genet(config: Any, least: bool) -> tuple[Config, Size]:
    """Return a narrow block in each group."""
    del least
    return dataclasses.replace(config, depth=10, width=1), config.check_size


# Family -> its small network, and the size of the images; `least` in every respect if so asked.
SMALL: dict[str, Callable[[Any, bool], tuple[Config, Size]]] = {
    "enet": enet,
    "erfnet": erfnet,
    "erfnet-imagenet": erfnet_imagenet,
    "genet": genet,
    "icnet": icnet,
}


def ties(arrays: dict[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
    """Slopes of 0, so that activations make exact ties."""
    kinds = tensors(config)
    return {k: a * 0 if kinds[k].kind == "slope" else a for k, a in arrays.items()}


def offsets(arrays: dict[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
    """Biases around 250, so that means are large against deviations.

    Not larger: JAX's sums are less exact than PyTorch's, which shows in clean norms at 2000.
    """
    kinds = tensors(config)
    return {k: a + np.float32(250) if kinds[k].kind == "bias" else a for k, a in arrays.items()}


# Condition -> what it makes of the weights, and of the images in [0, 1].
CONDITIONS: dict[str, tuple[Callable, Callable[[np.ndarray], np.ndarray]]] = {
    "": (lambda arrays, config: arrays, lambda images: images),
    "ties": (ties, lambda images: np.round(images * 8) / np.float32(8)),
    "offset": (offsets, lambda images: np.float32(1) + images / np.float32(4096)),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A clean port, and the inputs of each layer of the reference in train mode.

    Attributes:
        model: The model's name.
        port: The clean port.
        config: Its network's configuration.
        calls: Layer -> its first call; arrays in float64, NHWC.
    """

    model: str
    port: Port
    config: Config
    calls: dict[str, Call]


def small(model: str, least: bool = False) -> tuple[Config, Size]:
    """Return a model's small network and its images' size; the whole network if there is none."""
    config = MODELS[model]
    if config.family in SMALL:
        return SMALL[config.family](config, least)
    return config, config.check_size


@functools.lru_cache(maxsize=16)
def subject(model: str, condition: str = "", least: bool = False, seed: int = SEED) -> Subject:
    """Return a clean small network under a condition."""
    config, size = small(model, least)
    weigh, picture = CONDITIONS[condition]
    arrays = weigh(draw.weights(config, seed), config)
    made = port(model, config, size, seed=seed, arrays=arrays)
    images, *rest = made.inputs
    if config.family not in LANGUAGE:
        made = dataclasses.replace(
            made, inputs=(picture(images), *rest), eval_inputs=(picture(images),)
        )
    run = TorchSide(made.reference, "float64", made.layout).run(made.inputs, train=True)
    return Subject(model, made, config, run.calls)


def models() -> list[str]:
    """Return one model per small network; models that differ only in their classes share one."""
    seen: dict[Any, str] = {}
    for name in MODELS:
        config: Any = small(name)[0]  # a frozen dataclass
        seen.setdefault(dataclasses.replace(config, num_classes=20), name)
    return list(seen.values())
