"""The page of references: what the networks and recipes are taken from can be found."""

from __future__ import annotations

import re

import pytest

from parity.spec.models import MODELS
from parity.spec.recipes import RECIPES
from tests.pages import text_of

LINK = re.compile(r"\[[^\]]+\]\(https?://[^)]+\)")


def rows(heading: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    part = text_of("references.md").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
    return found[1:]


@pytest.mark.parametrize("family", sorted({config.family for config in MODELS.values()}))
def test_each_network_has_its_paper_and_program(family: str) -> None:
    """Catches a network that nobody can look up: its row has no link to a paper or program."""
    variants = {name for name, config in MODELS.items() if config.family == family}
    found = [row for row in rows("Networks") if variants & set(re.findall(r"`([\w-]+)`", row[0]))]
    assert found
    for _, paper, program in found:
        assert LINK.search(program)
        assert LINK.search(paper) or paper == "the same"


@pytest.mark.parametrize("data", sorted({recipe.data for recipe in RECIPES.values()}))
def test_each_data_set_has_its_origin(data: str) -> None:
    """Catches a data set that a recipe names, and nobody says where to get."""
    (row,) = (row for row in rows("Data sets") if row[0] == f"`{data}`")
    assert LINK.search(row[1])


def test_readers_are_sent_there() -> None:
    """Catches a README without its way to papers, programs, data sets and checkpoints."""
    assert "(docs/references.md)" in text_of("README.md")
    assert all(LINK.search(row[1]) for row in rows("Published checkpoints"))
