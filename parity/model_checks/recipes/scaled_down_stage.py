"""A stage in small; apart from what makes it, which takes both frameworks to import."""

from __future__ import annotations

import dataclasses
from typing import Any

from parity.spec.models import Config
from parity.spec.training.recipe import Stage


@dataclasses.dataclass(frozen=True)
class SmallStage(Stage):
    """A stage that trains another network than its model's.

    Attributes:
        network: Which; with the stage's dropout.
    """

    network: Config | None = None

    @property
    def config(self) -> Config:
        assert self.network is not None
        if self.dropout is None:
            return self.network
        changed: Any = self.network  # a frozen dataclass
        return dataclasses.replace(changed, dropout=self.dropout)
