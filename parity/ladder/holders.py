"""Which layers hold a tensor, and which layer of the reference one of the port holds tensors of."""

from __future__ import annotations

from parity.ladder.weights import WeightMap


def outward(name: str) -> list[str]:
    """Return a layer's dotted name and those of all layers that hold it; none of an empty name."""
    parts = name.split(".") if name else []
    return [".".join(parts[:i]) for i in range(len(parts), 0, -1)]


def layers_by_weights(weights: WeightMap) -> dict[str, tuple[str, bool]]:
    """Return the port's layer -> the reference's, where all of its tensors come from that one.

    Those of the layers in it come from there, too, or from layers in that one: a block that holds
    an activation's slope beside a convolution is not that activation.

    Returns:
        With each: whether all tensors come from that one, and none from a layer in it.
    """
    layers: dict[str, set[str]] = {}
    inside: dict[str, set[str]] = {}
    for name, (key, _) in weights.items():
        layer, reference = name.rpartition(".")[0], key.rpartition(".")[0]
        layers.setdefault(layer, set()).add(reference)
        for outer in outward(layer):
            inside.setdefault(outer, set()).add(reference)
    found = {}
    for port, (first, *others) in layers.items():
        if port and not others and all(first in outward(key) for key in inside[port]):
            found[port] = (first, inside[port] == {first})
    return found
