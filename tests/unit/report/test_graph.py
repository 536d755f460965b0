"""Where in the network a fault is, on the page of a report."""

from __future__ import annotations

import dataclasses
import re

import pytest

from parity.report.findings import Check
from parity.report.graph import Node, graph
from parity.report.page import MOST, listed_failures, page
from parity.report.quantity import Kind, Mode, Quantity
from parity.report.report import Report

LAYERS = [
    "stem",
    *(f"stages.{i}.blocks.{j}.{part}" for i in range(4) for j in range(25) for part in "ab"),
    "stages.3.blocks.7",  # a layer that holds layers, and ends after them
    "head.linear",
]


def report(*wrong: str) -> Report:
    """A report on `LAYERS`, some of whose outputs are wrong."""
    output = Quantity(Kind.OUTPUT, index=0, mode=Mode.EVAL)
    made = Report("net", "float32")
    made.checks += [
        Check("L2", "structure", name, name, output, 0.5 if name in wrong else 0.0, 1e-10)
        for name in LAYERS
    ]
    return made


def flat(nodes: tuple[Node, ...]) -> list[Node]:
    return [found for node in nodes for found in (node, *flat(node.inside))]


def test_modules_stand_in_each_other_in_order() -> None:
    """Catches a module that is lost, or stands before what runs before it."""
    found = graph(report(), set())
    assert [node.label for node in found] == ["stem", "stages", "head.linear"]
    stages = found[1].inside
    assert [node.label for node in stages] == [f"{i}.blocks" for i in range(4)]
    assert [node.label for node in stages[3].inside] == [f"{j}" for j in range(25)]
    block = stages[3].inside[7]
    assert (block.name, block.layers) == ("stages.3.blocks.7", 3)
    assert sorted(node.name for node in flat(found) if node.name) == sorted(LAYERS)
    assert found[1].layers == len(LAYERS) - 2


def test_only_what_failed_is_open() -> None:
    """Catches a large network in which nobody finds the fault: all is open, or nothing."""
    found = flat(graph(report("stages.2.blocks.9.b"), {"stages.2.blocks.9.b"}))
    opened = [node.label for node in found if node.inside and node.shown]
    assert opened == ["stages", "2.blocks", "9"]
    assert [node.label for node in found if node.first] == ["stages", "2.blocks", "9", "b"]
    assert [node.name for node in found if node.linked] == ["stages.2.blocks.9.b"]
    assert not any(node.shown for node in flat(graph(report(), set())) if node.inside)


@pytest.mark.parametrize("wrong", [LAYERS[5:6], LAYERS[1:180], ["stages.3.blocks.7"]])
def test_links_lead_somewhere(wrong: list[str]) -> None:
    """Catches a link to the section of a failure that the page no longer lists."""
    text = page(report(*wrong))
    links = re.findall(r'href="#(layer-[^"]+)"', text)
    assert len(links) == len(wrong)
    assert all(f'id="{link}"' in text for link in links)
    assert text.count("<details") == text.count("</details>")
    assert text.count('class="bad first"') == (wrong != ["stages.3.blocks.7"])


def test_a_filter_hides_no_row_that_a_link_leads_to() -> None:
    """Catches a link that does nothing, since the layer's first row is of a rung left out."""
    made = report("stem")
    (failed,) = made.failures()
    made.checks.append(dataclasses.replace(failed, rung="L1"))
    hides = re.findall(r"body:has\(#only-(L\d):checked\) ([^{]+)\{ display: none; \}", page(made))
    assert [rung for rung, _ in hides] == ["L1", "L2"]
    for rung, rows in hides:
        assert rows.strip() == f'#failed tr[data-rung]:not([data-rung="{rung}"], :target)'


def test_each_rung_and_each_layer_has_rows() -> None:
    """Catches a filter that shows an empty table, since the first rung's failures fill the page."""
    made = report(*LAYERS)
    made.checks += [dataclasses.replace(c, rung="L3") for c in made.failures() for _ in range(3)]
    listed = listed_failures(made.failures())
    assert {c.layer for c in listed} == set(LAYERS)
    assert [sum(c.rung == rung for c in listed) for rung in ("L2", "L3")] == [len(LAYERS), MOST]
    assert f"and {3 * len(LAYERS) - MOST:,} more, of the same layers" in page(made)
