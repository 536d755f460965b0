"""The project's own networks, as ports to check."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

import jax_impl.losses
import jax_impl.state
import torch_impl.losses
import torch_impl.state
from parity.capture.records import Loss
from parity.ladder.port import NAMES, Port
from parity.ladder.weights import WeightMap
from parity.spec import draw, icnet_labels
from parity.spec.models import Config
from parity.spec.networks.enet import ENetConfig
from parity.spec.networks.erfnet import ERFNetConfig
from parity.spec.networks.icnet import ICNetConfig
from weights_convert import naming, to_jax

Task = tuple[tuple[Loss, Loss], tuple[np.ndarray, ...]]


def port(
    name: str,
    config: Config,
    size: tuple[int, int],
    batch: int = 2,
    seed: int = 0,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> Port:
    """Build the port of one of our networks, with a batch to run both sides on.

    Args:
        name: The name shown in tables.
        config: The network's configuration.
        size: Height and width of the images, in pixels.
        batch: Number of images.
        seed: Seed of weights, images, labels and dropout masks.
        arrays: Weights to check with, published key -> array; drawn if not given.

    Raises:
        ValueError: The network cannot process images of this size.
    """
    config.check_input(*size)
    arrays = draw.weights(config, seed) if arrays is None else arrays
    rng = draw.generator(seed, "check/batch")
    images = rng.random((batch, *size, 3), np.float32)
    losses, targets = TASKS[config.family](config, rng, (batch, *size))
    masks = draw.dropout_masks(config, size, seed, epoch=0, step=0, samples=range(batch))
    return Port(
        name=name,
        reference=torch_impl.state.build(config, arrays),
        port=jax_impl.state.build(config, to_jax(config, arrays)),
        weights=weight_map(config),
        inputs=(images, masks) if masks else (images,),
        eval_inputs=(images,),
        layers=NAMES,
        filled=True,
        losses=losses,
        targets=targets,
    )


def segmentation(config: Config, rng: np.random.Generator, shape: tuple[int, ...]) -> Task:
    """A class for every pixel; no class weighs like another, and the last, void, does not count."""
    class_weights = np.linspace(1, 2, config.num_classes, dtype=np.float32)
    class_weights[-1] = 0
    return CROSS_ENTROPY, (rng.integers(0, config.num_classes, shape), class_weights)


def at_output(
    config: ENetConfig | ERFNetConfig, rng: np.random.Generator, shape: tuple[int, ...]
) -> Task:
    """Draw a segmentation task at the size of the network's output."""
    return segmentation(config, rng, (shape[0], *config.output_size(*shape[1:])))


def at_three_sizes(config: ICNetConfig, rng: np.random.Generator, shape: tuple[int, ...]) -> Task:
    """A class for every pixel, or none, at the sizes of the last three outputs."""
    labels = rng.integers(-1, config.num_classes, shape)
    _, *sizes = config.output_sizes(*shape[1:])
    return ICNET_LOSS, tuple(icnet_labels.published(labels, size) for size in sizes)


def classification(config: Config, rng: np.random.Generator, shape: tuple[int, ...]) -> Task:
    """A class for every image."""
    return CROSS_ENTROPY, (rng.integers(0, config.num_classes, shape[0]),)


CROSS_ENTROPY = (torch_impl.losses.cross_entropy, jax_impl.losses.cross_entropy)
ICNET_LOSS = (torch_impl.losses.icnet_loss, jax_impl.losses.icnet_loss)

# Family -> what it is trained on: losses and targets for images of a shape (N, H, W).
TASKS: dict[str, Callable[..., Task]] = {
    "enet": at_output,
    "erfnet": at_output,
    "erfnet-imagenet": classification,
    "genet": classification,
    "icnet": at_three_sizes,
}


def weight_map(config: Config) -> WeightMap:
    """Return the published key and axes of each tensor of the JAX network."""
    names = naming.names(config, "jax")
    return {name: (key, leaf.axes) for name, (key, leaf) in names.items()}
