"""The result of one mutant, and of one clean run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from parity.diagnosis.catalogue import CATALOGUE, PROVED_AS, Fault


@dataclasses.dataclass(frozen=True)
class MutantRow:
    """The result of one mutant.

    Attributes:
        fault: Its name in the catalogue.
        title: The fault's title.
        name: A description of the change.
        model: The network.
        place: The layer or block that should be named; empty where there is no single one.
        level: `layer`, `block`, `network`, `loss`, `training`, `start` (initial weights and
            stages), `devices` or `evaluation`.
        equivalent: Why no input can reveal it; empty if one can.
        killed: Whether the ladder detected it.
        rung: The lowest rung that detected it.
        kind: `structure` or `numerics`.
        named: The layer reported first; for an undetected mutant its exception, if any.
        right: Whether `named` is `place`; None where there is no single one.
        margin: How many times above its limit the difference was.
        proved: Whether the true cause is proved, alone or as one of several that give the same.
        wrong: Whether causes are called proved and the true one is not among them.
        causes: Those that are proved, as sentences.
        seconds: Duration of the run.
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
    proved: bool = False
    wrong: bool = False
    causes: tuple[str, ...] = ()
    seconds: float = 0.0

    def explained(self, proofs: Sequence[Any]) -> MutantRow:
        """Return the row with what was proved: causes with a `fault`."""
        names = {self.fault, *PROVED_AS.get(self.fault, ())}
        right = any(proof.fault in names for proof in proofs)
        causes = tuple(map(str, proofs))
        return dataclasses.replace(
            self, proved=right, wrong=bool(proofs) and not right, causes=causes
        )

    @property
    def number(self) -> int:
        """Return the fault's number in tables and JSON."""
        return CATALOGUE[self.fault].number


@dataclasses.dataclass(frozen=True)
class CleanRow:
    """The result of a run without a fault.

    Attributes:
        model: The network.
        seed: Seed of weights, images, labels and masks.
        size: Height and width of the images, or number of tokens.
        alarm: The first check that failed, as a sentence; empty if all is well.
    """

    model: str
    seed: int
    size: tuple[int, ...]
    alarm: str
