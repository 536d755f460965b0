"""A stage of a scaled-down recipe; a separate module, as its maker imports both frameworks."""

from __future__ import annotations

import dataclasses
from typing import Any

from parity.spec.models import Config
from parity.spec.training.recipe import Stage


@dataclasses.dataclass(frozen=True)
class SmallStage(Stage):
    """A stage that trains another network than that of its model.

    Attributes:
        network: The network's configuration, with the stage's dropout.
    """

    network: Config | None = None

    @property
    def config(self) -> Config:
        assert self.network is not None
        if self.dropout is None:
            return self.network
        changed: Any = self.network  # a frozen dataclass
        return dataclasses.replace(changed, dropout=self.dropout)
