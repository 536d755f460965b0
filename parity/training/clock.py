"""Timing of an epoch of training."""

from __future__ import annotations

import dataclasses
import time


@dataclasses.dataclass
class Clock:
    """Measures how the time of an epoch is spent, in seconds.

    Attributes:
        met: The sizes of batches of which the trainer has made a step. The first step of a size may
            compile, and is left out of the speed once there is another.
    """

    met: set[int] = dataclasses.field(default_factory=set)
    begun: float = dataclasses.field(default_factory=time.perf_counter)
    waited: float = 0.0
    images: int = 0
    first: tuple[float, int] = (0.0, 0)  # seconds and images of first steps

    def add(self, images: int, waited: float, took: float) -> None:
        """Count a step."""
        if images not in self.met:
            self.met.add(images)
            self.first = self.first[0] + took, self.first[1] + images
        self.waited += waited
        self.images += images

    @property
    def steady(self) -> bool:
        """Whether a step was made that was not the first of its size."""
        return self.images > self.first[1]

    def facts(self) -> dict[str, float]:
        """Return the times for the log."""
        passed = max(time.perf_counter() - self.begun, 1e-9)
        seconds, images = self.first if self.steady else (0.0, 0)
        speed = (self.images - images) / max(passed - seconds, 1e-9)
        return {
            "seconds": round(passed, 3),
            "images_per_second": round(speed, 3),
            "waiting": round(self.waited / passed, 4),
        }
