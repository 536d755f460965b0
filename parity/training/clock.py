"""Timing of an epoch of training."""

from __future__ import annotations

import dataclasses
import time


@dataclasses.dataclass
class Clock:
    """Measures how the time of an epoch is spent, in seconds.

    Attributes:
        warm: Whether the trainer has made a step before. The first step compiles, and is left out
            of the speed once there is another.
    """

    warm: bool = False
    begun: float = dataclasses.field(default_factory=time.perf_counter)
    waited: float = 0.0
    images: int = 0
    steps: int = 0
    first: tuple[float, int] = (0.0, 0)  # its seconds and images

    def add(self, images: int, waited: float, took: float) -> None:
        """Count a step."""
        if not self.steps and not self.warm:
            self.first = took, images
        self.waited += waited
        self.images += images
        self.steps += 1

    def facts(self) -> dict[str, float]:
        """Return the times for the log."""
        passed = max(time.perf_counter() - self.begun, 1e-9)
        seconds, images = (0.0, 0) if self.steps < 2 else self.first
        speed = (self.images - images) / max(passed - seconds, 1e-9)
        return {
            "seconds": round(passed, 3),
            "images_per_second": round(speed, 3),
            "waiting": round(self.waited / passed, 4),
        }
