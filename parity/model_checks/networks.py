"""The project's own networks, as ports to check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

import jax_impl.losses
import jax_impl.state
import torch_impl.losses
import torch_impl.state
from parity.capture.records import NHWC, Loss
from parity.ladder.port import NAMES, Port
from parity.ladder.weights import WeightMap
from parity.spec import draw, icnet_labels
from parity.spec.models import LANGUAGE, Config, check_input, input_shape
from parity.spec.networks.decoder import DecoderConfig
from parity.spec.networks.enet import ENetConfig
from parity.spec.networks.erfnet import ERFNetConfig
from parity.spec.networks.icnet import ICNetConfig
from weights_convert import naming, to_jax

Task = tuple[tuple[Loss, Loss], tuple[np.ndarray, ...]]


def port(
    name: str,
    config: Config,
    size: tuple[int, ...],
    batch: int = 2,
    seed: int = 0,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> Port:
    """Build the port of one of our networks, with a batch to run both sides on.

    Args:
        name: The name shown in tables.
        config: The network's configuration.
        size: Height and width of the images, in pixels; or number of tokens.
        batch: Number of images or sequences.
        seed: Seed of weights, inputs, labels and dropout masks.
        arrays: Weights to check with, published key -> array; drawn if not given.

    Raises:
        ValueError: The network cannot process inputs of this size.
    """
    check_input(config, size)
    arrays = draw.weights(config, seed) if arrays is None else arrays
    rng = draw.generator(seed, "check/batch")
    inputs = drawn_inputs(config, rng, batch, size)
    losses, targets = TASKS[config.family](config, rng, (batch, *size))
    masks = draw.dropout_masks(config, size, seed, epoch=0, step=0, samples=range(batch))
    return Port(
        name=name,
        reference=torch_impl.state.build(config, arrays),
        port=jax_impl.state.build(config, to_jax(config, arrays)),
        weights=weight_map(config),
        inputs=(inputs, masks) if masks else (inputs,),
        eval_inputs=EVAL_INPUTS.get(config.family, plainly)(config, rng, inputs),
        layers=NAMES,
        layout={} if config.family in LANGUAGE else NHWC,
        filled=True,
        losses=losses,
        targets=targets,
    )


def drawn_inputs(
    config: Config, rng: np.random.Generator, batch: int, size: tuple[int, ...]
) -> np.ndarray:
    """Draw a batch of inputs: images in [0, 1], (N, H, W, 3), or token ids, (N, T)."""
    shape = input_shape(config, batch, size)
    if config.family in LANGUAGE:
        return rng.integers(0, config.num_classes, shape)
    return rng.random(shape, np.float32)


def plainly(config: Config, rng: np.random.Generator, inputs: np.ndarray) -> tuple[Any, ...]:
    """Return the inputs of eval mode, without dropout masks."""
    del config, rng
    return (inputs,)


def after_others(
    config: DecoderConfig, rng: np.random.Generator, ids: np.ndarray
) -> tuple[Any, ...]:
    """Return the inputs of eval mode: ids, and a cache as if other tokens stood before them."""
    shape = (len(ids), 5, config.kv_width)
    cache = rng.standard_normal((config.depth, 2, *shape)).astype(np.float32)
    return ids, tuple((k, v) for k, v in cache)


# Family -> its inputs in eval mode, if other than those in train mode without masks.
EVAL_INPUTS: dict[str, Callable[..., tuple[Any, ...]]] = {"decoder": after_others}


def segmentation(config: Config, rng: np.random.Generator, shape: tuple[int, ...]) -> Task:
    """Draw a class for every pixel; each weighs differently, and the last, void, does not count."""
    class_weights = np.linspace(1, 2, config.num_classes, dtype=np.float32)
    class_weights[-1] = 0
    return CROSS_ENTROPY, (rng.integers(0, config.num_classes, shape), class_weights)


def at_output(
    config: ENetConfig | ERFNetConfig, rng: np.random.Generator, shape: tuple[int, ...]
) -> Task:
    """Draw a segmentation task at the size of the network's output."""
    return segmentation(config, rng, (shape[0], *config.output_size(*shape[1:])))


def at_three_sizes(config: ICNetConfig, rng: np.random.Generator, shape: tuple[int, ...]) -> Task:
    """Draw a class for every pixel, or none, at the sizes of the last three outputs."""
    labels = rng.integers(-1, config.num_classes, shape)
    _, *sizes = config.output_sizes(*shape[1:])
    return ICNET_LOSS, tuple(icnet_labels.published(labels, size) for size in sizes)


def classification(config: Config, rng: np.random.Generator, shape: tuple[int, ...]) -> Task:
    """Draw a class for every image."""
    return CROSS_ENTROPY, (rng.integers(0, config.num_classes, shape[0]),)


def next_tokens(config: DecoderConfig, rng: np.random.Generator, shape: tuple[int, ...]) -> Task:
    """Draw a token for every place."""
    return TOKEN_CROSS_ENTROPY, (rng.integers(0, config.num_classes, shape),)


def per_token(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of logits (N, T, tokens), whose classes PyTorch expects on the second axis."""
    return torch_impl.losses.cross_entropy(logits.transpose(1, 2), labels)


CROSS_ENTROPY = (torch_impl.losses.cross_entropy, jax_impl.losses.cross_entropy)
TOKEN_CROSS_ENTROPY = (per_token, jax_impl.losses.cross_entropy)
ICNET_LOSS = (torch_impl.losses.icnet_loss, jax_impl.losses.icnet_loss)

# Family -> what it is trained on: losses and targets for images of a shape (N, H, W), or tokens.
TASKS: dict[str, Callable[..., Task]] = {
    "enet": at_output,
    "erfnet": at_output,
    "erfnet-imagenet": classification,
    "genet": classification,
    "icnet": at_three_sizes,
    "vit": classification,
    "decoder": next_tokens,
}


def weight_map(config: Config) -> WeightMap:
    """Return the published key and axes of each tensor of the JAX network."""
    names = naming.names(config, "jax")
    return {name: (key, leaf.axes) for name, (key, leaf) in names.items()}
