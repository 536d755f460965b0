"""One run of a network: on which side, in which precision, disturbed or not."""

from __future__ import annotations

import dataclasses
import enum

FLOAT64 = "float64"


class Side(enum.StrEnum):
    """Whose network runs."""

    REFERENCE = "reference"
    PORT = "port"


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        side: Whose network runs.
        precision: Of its numbers: `float64`, or the working precision.
        disturbance: Number of the disturbance of what it is fed; None where it is not disturbed.
    """

    side: Side
    precision: str = FLOAT64
    disturbance: int | None = None

    @property
    def ported(self) -> bool:
        """Return whether the port runs."""
        return self.side is Side.PORT
