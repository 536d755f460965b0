"""What becomes of one mutant, and of one clean run."""

from __future__ import annotations

import dataclasses

from parity.diagnosis.catalogue import CATALOGUE, Fault


@dataclasses.dataclass(frozen=True)
class MutantRow:
    """What became of one mutant.

    Attributes:
        fault: Its name in the catalogue.
        title: Of the fault.
        name: What was done.
        model: In which network.
        place: The right answer; empty where there is no single one.
        level: `layer`, `block`, `network`, `loss`, `training`,
            `start` (initial weights and stages), `devices` or `evaluation`.
        equivalent: Why no input can tell it apart; empty if one can.
        killed: Whether anything was found.
        rung: The lowest that found it.
        kind: `structure` or `numerics`.
        named: The layer to look at first; of a survivor what it raised, if it did.
        right: Whether that is the place; None where there is no single one.
        margin: How many times above its limit the difference was.
        rank: Of the true cause among those suggested, from 1; None if it is not among them.
        seconds: That it took.
    """

    fault: Fault
    title: str
    name: str
    model: str
    place: str
    level: str
    equivalent: str = ""
    killed: bool = False
    rung: str = ""
    kind: str = ""
    named: str = ""
    right: bool | None = None
    margin: float = 0.0
    rank: int | None = None
    seconds: float = 0.0

    @property
    def number(self) -> int:
        """The fault's, in tables and JSON."""
        return CATALOGUE[self.fault].number


@dataclasses.dataclass(frozen=True)
class CleanRow:
    """What became of a run without a fault.

    Attributes:
        model: Which network.
        seed: Of weights, images, labels and masks.
        size: Height and width of the images.
        alarm: The first check that failed, as a sentence; empty if all is well.
    """

    model: str
    seed: int
    size: tuple[int, int]
    alarm: str
