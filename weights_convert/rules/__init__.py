r"""Rules from one network's tensors to another's, in a notation whose inverse is derived.

table = Rules.of([(r"(.*)\.weight", r"\1.kernel", "o i -> i o")])
plan = table.plan(shapes)  # names, shapes and dtypes; no values
for step in plan.steps:
    made = step.apply({name: load(name) for name in step.sources})
table.inverted()  # the way back
"""

from __future__ import annotations

from weights_convert.rules.files import load
from weights_convert.rules.step import ArraySpec, Described, Step
from weights_convert.rules.table import Plan, Rules

__all__ = ["ArraySpec", "Described", "Plan", "Rules", "Step", "load"]
