"""The table of all networks, on the site."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

from parity.spec.models import LANGUAGE, MODELS, ONE_OF, check_input
from parity.spec.preprocessing import published
from parity.spec.recipes import RECIPES
from tests.pages import program, text_of
from torch_impl.models import NETWORKS

COLUMNS = ("name", "sizes", "parameters", "outputs", "images", "weights", "published", "ours")


@pytest.fixture(scope="module")
def hooks() -> Any:
    """The module that makes pages of the site."""
    return program("site_hooks")


@pytest.fixture(scope="module")
def rows(hooks: Any) -> dict[str, dict[str, str]]:
    """Network -> column -> what the table says."""
    lines = [line for line in hooks.networks().splitlines() if line.startswith("| `")]
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    found = {cells[0].strip("`"): dict(zip(COLUMNS, cells, strict=True)) for cells in split}
    assert list(found) == list(MODELS)
    return found


def test_no_cell_is_empty(rows: dict[str, dict[str, str]]) -> None:
    """Catches a network that was added without its sizes, weights or order of outputs."""
    assert [(name, c) for name, row in rows.items() for c in COLUMNS if not row[c]] == []


def accepted(name: str, sides: tuple[int, ...]) -> bool:
    """Whether the contract lets a network process inputs of a size."""
    try:
        check_input(MODELS[name], sides)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", [n for n in MODELS if MODELS[n].family not in LANGUAGE])
def test_sizes_are_those_of_the_contract(name: str, rows: dict[str, dict[str, str]]) -> None:
    """Catches a size in the table that is refused, and one outside that is not."""
    text = rows[name]["sizes"]
    valid = [side for side in range(1, 300) if accepted(name, (side, side))]
    step = re.match(r"multiples of (\d+)", text)
    ends = [int(end) for end in re.findall(r"(\d+)x\d+", text)] or [1, 299]
    last = 299 if "larger" in text else ends[-1]
    every = range(ends[0], last + 1)
    assert valid == [side for side in every if side % int(step[1] if step else 1) == 0]


def test_parameters_are_those_of_pytorchs_modules(rows: dict[str, dict[str, str]]) -> None:
    """Catches a count that takes in statistics, or leaves out a tensor."""
    for name, config in MODELS.items():
        with torch.device("meta"):
            module = NETWORKS[config.family](config)
        count = sum(math.prod(p.shape) for p in module.parameters())
        assert rows[name]["parameters"] == f"{count:,}", name
    assert rows["erfnet"]["parameters"] == "2,066,836"
    assert rows["icnet"]["parameters"] == f"{26_249_376 + 2_049_000:,}"


def test_outputs_are_the_recipes(rows: dict[str, dict[str, str]]) -> None:
    """Catches a table that says void first where the network was trained with void last."""
    for recipe in RECIPES.values():
        said = rows[recipe.stages[-1].model]["outputs"]
        assert ("output 0" in said) == (recipe.labels == "void-first"), recipe.name
        assert ("the last" in said) == (recipe.labels == "void-last"), recipe.name
        config = MODELS[recipe.stages[-1].model]
        void = published(config, recipe.labels).void
        assert {"void-first": 0, "void-last": config.num_classes - 1, None: None}[
            recipe.labels
        ] == void


def test_accuracies_are_on_the_pages_that_are_named(
    hooks: Any, rows: dict[str, dict[str, str]]
) -> None:
    """Catches a number in the table that was changed on the page that it comes from, or there."""
    assert "59.50 (`enet-cityscapes`)" in rows["enet"]["published"]
    for text in hooks.OURS.values():
        (shown, page), *_ = re.findall(r"\[([^]]+)\]\(([^)]+)\)", text)
        assert all(number in text_of(page) for number in shown.split(", "))
    assert "49.72" in hooks.networks()
    assert "mean over the 17 classes present   │  49.72" in text_of("README.md")


def test_weights_are_on_the_page_of_references(hooks: Any) -> None:
    """Catches a table that sends a reader to a page where no checkpoint is named."""
    text = text_of("references.md").partition("## Published checkpoints")[2]
    named = {name for name, said in hooks.WEIGHTS.items() if said.startswith("[")}
    assert {re.match(r"\| (\w+)", line)[1].lower() for line in text.splitlines()  # type: ignore[index]  # every row matches
            if line.startswith("| ")} - {"network"} == named  # fmt: skip


def test_the_readme_calls_networks_by_their_names() -> None:
    """Catches a slip in the README's tables: a row or column that is no network's name."""
    text = text_of("README.md")
    table = text.partition("| network | variants |")[2].partition("\n\n")[0]
    called = set()
    for name, variants in re.findall(r"^\| ([^|]+) \| (`[^|]+) \|", table, re.M):
        models = [m for m in re.findall(r"`([\w-]+)`", variants) if m in MODELS]
        assert models, name
        for model in models:
            family = ONE_OF[MODELS[model].family].split()[1]
            assert family.lower() in name.replace("-", "").lower(), f"{model} is {name!r}"
            called.add(family)
    header = text.partition("| `parity faults --model` |")[2].partition("\n")[0]
    assert {column.strip() for column in header.strip("|").split("|")} <= called
