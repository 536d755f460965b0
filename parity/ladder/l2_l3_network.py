"""L2 and L3: the whole network."""

from __future__ import annotations

from parity.ladder.rung import INFERENCE, Absence, Lacking, Rung
from parity.report.quantity import Kind
from parity.report.report import Check


class Whole(Rung):
    """Rung L2: every layer's output inside the whole network, and the statistics after a step."""

    def climb(self) -> list[Check]:
        """Compare every layer's output in the whole network, and the statistics after a step."""
        found = self._measure_network(False, lambda quantity: True)
        if self.runs.port.train:
            found += self._measure_network(True, lambda q: q.kind in (Kind.OUTPUT, Kind.STATISTIC))
        return self._judge("L2", found)


class Gradients(Rung):
    """The loss, and its gradient for every parameter and input."""

    def absent(self) -> Absence | None:
        return None if self.runs.port.train else Absence(Lacking.PORT, INFERENCE)

    def climb(self) -> list[Check]:
        """Compare the loss, and its gradient for every parameter and input."""
        found = self._measure_network(True, lambda q: q.kind is Kind.LOSS or q.is_gradient)
        checks = self._judge("L3", found)
        if not self._loss_at_fault():
            return checks
        # Where to look first.
        return sorted(checks, key=lambda c: c.quantity.kind is not Kind.LOSS)
