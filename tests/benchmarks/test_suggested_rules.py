"""The pair of the suggested rules' table that is not one of our own networks."""

from __future__ import annotations

from tests.benchmarks import suggested_rules


def test_the_resnet_is_a_pair_of_known_rules() -> None:
    """Catches rules of the ResNet that are no more where the program looks, or are not whole."""
    port, source, expected = suggested_rules.case("resnet18")
    assert port.weights is None
    assert len(expected) == 102
    counted = {name for name, array in source.items() if array.shape}  # without the counters
    assert len(counted) == 102
