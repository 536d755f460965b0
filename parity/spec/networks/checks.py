"""What the configurations of several networks refuse."""

from __future__ import annotations

from collections.abc import Sequence


def check_classes(count: int) -> None:
    """Refuse a network without a class.

    Raises:
        ValueError: There is none.
    """
    if count < 1:
        raise ValueError(f"num_classes is {count}, expected 1 or more")


def check_dropout(rates: Sequence[float]) -> None:
    """Refuse other than two probabilities of dropout.

    Raises:
        ValueError: They are not two, or not in [0, 1).
    """
    if len(rates) != 2 or any(not 0.0 <= p < 1.0 for p in rates):
        raise ValueError(f"dropout is {rates}, expected two probabilities in [0, 1)")
