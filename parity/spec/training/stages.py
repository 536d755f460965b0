"""Weights that a stage of training takes from the previous stage or from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parity.spec.errors import InputError
from parity.spec.models import ONE_OF, Config
from parity.spec.tensors import check_names, tensors
from parity.spec.training.optimizers import idle

CLASSIFIER = "features."  # what stands before the encoder's names where it classifies images


def carried(
    before: Config,
    arrays: Mapping[str, np.ndarray],
    config: Config,
    drawn: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Return the tensors that a stage begins with.

    Weights and statistics of every layer that both networks have come along, and those of a layer
    that the one before held and did not use do not: ERFNet's decoder begins anew after its encoder
    was trained, statistics included.

    Args:
        before: The network of the stage before, or of the checkpoint.
        arrays: Its tensors; published key -> array.
        config: The network of this stage.
        drawn: A new one's tensors, such as `parity.spec.initial.initial` makes them.

    Returns:
        Published key -> array, of all of this stage's network; those of `arrays` as they are.

    Raises:
        InputError: The networks share no tensor, or one is of another shape.
    """
    unused = idle(before, arrays)
    used = {key.removeprefix(CLASSIFIER): a for key, a in arrays.items() if key not in unused}
    target = tensors(config)
    shared = {key: used[key] for key in target if key in used}
    if not shared:
        here, there = ONE_OF[before.family], ONE_OF[config.family]
        raise InputError(f"{here} holds nothing that {there} begins with")
    shapes = {key: target[key].shape for key in shared}
    check_names(shapes, {k: a.shape for k, a in shared.items()}, f"{before.family} carried over")
    return {key: shared.get(key, drawn[key]) for key in target}
