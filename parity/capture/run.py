"""The kinds of runs of a network: on which side, in which precision, disturbed or not."""

from __future__ import annotations

import dataclasses
import enum

FLOAT64 = "float64"


class Side(enum.StrEnum):
    """The side whose network runs."""

    REFERENCE = "reference"
    PORT = "port"


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a network.

    Attributes:
        side: Whose network runs.
        precision: Precision of its numbers: `float64`, or the working precision.
        disturbance: Number of the random disturbance of its inputs; None where they are not
            disturbed.
    """

    side: Side
    precision: str = FLOAT64
    disturbance: int | None = None

    @property
    def ported(self) -> bool:
        """Return whether the port runs."""
        return self.side is Side.PORT
