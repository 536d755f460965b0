"""The pages on checking one's own port and on rules: their examples run."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from weights_convert.rules import Rules

DOCS = Path(__file__).parents[3] / "docs"


def blocks(page: str, language: str) -> list[str]:
    parts = (DOCS / page).read_text().split(f"```{language}\n")[1:]
    return [part.partition("```")[0] for part in parts]


@pytest.mark.parametrize(("page", "count"), [("checking.md", 8), ("rules.md", 1)])
def test_the_examples_run(page: str, count: int) -> None:
    """Catches an example that a stranger copies and that does not pass."""
    program = "\n".join(blocks(page, "python"))
    assert program.count("check(") >= count
    exec(compile(program, page, "exec"), {})


def test_the_rules_on_the_page_are_rules() -> None:
    """Catches a notation that the page shows and that is refused."""
    given = blocks("rules.md", "toml")
    assert len(given) == 2
    for content in map(tomllib.loads, given):
        rules = [tuple(None if item == [] else item for item in rule) for rule in content["rules"]]
        Rules.of(rules, sizes=content.get("sizes"))
    shown = [line for line in (DOCS / "rules.md").read_text().splitlines() if line.startswith("| ")]
    texts = [part for line in shown for part in line.split("`")[1::2] if part.startswith("(")]
    examples = [text for text in texts if text.endswith(")") and ", " in text]
    assert len(examples) >= 10
    for text in examples:
        Rules.of([eval(text)])
