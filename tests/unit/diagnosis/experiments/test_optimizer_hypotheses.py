"""The settings of PyTorch's optimizers that experiments change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from parity.diagnosis.experiments.optimizer_hypotheses import settings, with_setting


@pytest.mark.parametrize(
    "kind",
    [
        torch.optim.Adadelta,
        torch.optim.Adafactor,
        torch.optim.Adagrad,
        torch.optim.Adam,
        torch.optim.NAdam,
        torch.optim.RMSprop,
        torch.optim.SGD,
    ],
)
def test_settings_are_changed_to_others_of_their_kind(kind: type) -> None:
    """Catches a setting that is changed to itself, or to a value that the optimizer refuses."""
    for key, now, others in settings(kind([torch.zeros(1, requires_grad=True)], 0.1)):
        assert now not in others, key
        assert all(np.shape(value) == np.shape(now) for value in others), key


def test_a_setting_that_a_rule_changes_is_left_to_it() -> None:
    """Catches one cause that is proved twice, in two wordings."""
    module = torch.nn.Linear(1, 1)

    def make(module: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)

    assert "nesterov" not in [key for key, _, _ in settings(make(module))]
    assert "momentum" in [key for key, _, _ in settings(make(module))]
    changed = with_setting(make, "momentum", 0.5)(module)
    assert [group["momentum"] for group in changed.param_groups] == [0.5]
