"""The choices of what several devices compute, as data, and the processes that show it."""

from __future__ import annotations

import pytest

from parity.faults.on_devices import INJECTOR
from parity.model_checks.devices import ladder
from parity.model_checks.devices.plan import DDP, Job, Plan
from parity.model_checks.devices.processes import run
from parity.spec.training.parallel import Parallel


def test_rates_of_other_batches() -> None:
    """Catches a rule of the learning rate that is another."""
    rules = {"none": 0.1, "linear": 0.4, "sqrt": 0.2}
    assert {r: Parallel(rate=r).scaled(0.1, 64, 16) for r in rules} == pytest.approx(rules)


def test_unknown_choice_is_refused() -> None:
    """Catches a misspelt choice that would silently be the default."""
    with pytest.raises(ValueError, match="gradients is 'average', expected mean or sum"):
        Parallel(gradients="average")


def test_a_process_that_fails_says_why() -> None:
    """Catches a ladder that waits for a process that has failed, or hides the reason."""
    plan = Plan(ladder.recipe_of("erfnet", 1), (Job(2, "one", DDP, "no such fault", INJECTOR),), 1)
    with pytest.raises(RuntimeError, match=r"processes of torch failed(.|\n)*no such fault"):
        run(plan)
