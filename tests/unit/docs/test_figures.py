"""Figures on the pages: who reads one can print it again.

A machine cannot tell which command printed a number. What is tested here: where a page shows a
measured figure, or what a command printed, it names a command that measures, in the same section or
in one that this section belongs to; and each page of results begins with its command.
`test_snippets.py` tests that the commands exist and take their options.
"""

from __future__ import annotations

import re

import pytest

from parity.cli import COMMANDS
from tests.pages import (
    BLOCK,
    INLINE,
    Section,
    blocks_in,
    commands,
    inline_in,
    pages,
    prose,
    sections,
)

NUMBER = r"(?<![\w.+-])\d[\d,.]*"
UNIT = r"(?:s|ms|seconds?|minutes?|hours?|GB|MB|GiB|MiB|images/s|FPS|points?|times)\b"
# A time, a size in memory, a speed, a share, a score such as `3 of 4`, or the word itself.
FIGURE = re.compile(rf"{NUMBER} ?%|{NUMBER} {UNIT}|{NUMBER} of \d[\d,.]*|\b[Mm]easured\b")
# Commands that print figures; others, such as `inspect`, print what a file holds.
MEASURING = set(COMMANDS) - {"inspect", "recipes", "record"}
PROGRAMS = ("python -m tests.", "pytest", "mkdocs", "docs/results/")
RESULTS = [page for page in pages() if page.startswith("results/")]


def measures(command: list[str]) -> bool:
    """Whether a command is one that prints figures."""
    if command[0] == "chrt":
        return measures(command[3:])
    if command[0] == "parity":
        return len(command) > 1 and command[1] in MEASURING
    return " ".join(command).startswith(PROGRAMS)


def named(section: Section) -> list[list[str]]:
    """The commands that a section names, and which print figures."""
    lines = [line for block in blocks_in(section.text) for line in of_block(*block)]
    lines += [code for code in inline_in(section.text) if code.startswith(("parity ", *PROGRAMS))]
    return [command for line in lines for command in commands(line) if measures(command)]


def of_block(language: str, _: object, text: str) -> list[str]:
    """What of a block is commands."""
    if language == "console":
        return [text.partition("\n")[0]]
    lines = re.sub(r"\\\n *", " ", text).splitlines()
    return [line for line in lines if line.startswith(("parity ", "chrt ", *PROGRAMS))]


def figures(section: Section) -> list[str]:
    """The figures in a section's sentences and tables, and the outputs that it shows."""
    found = [match[0] for match in FIGURE.finditer(INLINE.sub("", prose(section.text)))]
    shown = [b for b in blocks_in(section.text) if b.language == "text"]
    return found + [block.text.splitlines()[0] for block in shown]


def without_command(found: list[Section]) -> list[tuple[str, list[str]]]:
    """Sections with figures, for which no command is named, and the figures."""
    loose, above = [], dict[int, bool]()  # level of a heading -> whether a command was named there
    for section in found:
        above = {level: has for level, has in above.items() if level < section.level}
        above[section.level] = bool(named(section))
        if figures(section) and not any(above.values()):
            loose.append((section.heading, figures(section)))
    return loose


@pytest.mark.parametrize("page", pages())
def test_figures_have_a_command(page: str) -> None:
    """Catches a time, a share or a table on a page that names no command to print it again."""
    assert without_command(list(sections(page))) == []


@pytest.mark.parametrize("page", RESULTS)
def test_results_begin_with_their_command(page: str) -> None:
    """Catches a page of results that shows numbers before it says where they come from."""
    first, *_ = sections(page)
    assert named(first)
    before, *_ = re.split(r"^ {4}|^```|`", first.text, maxsplit=1, flags=re.MULTILINE)
    assert FIGURE.findall(before) == []
    assert "|" not in before


def test_what_has_no_command_is_found() -> None:
    """Catches the tests above accepting everything."""
    bare = [Section("Speed", 2, "It takes 12 ms.\n"), Section("Memory", 2, "At most 3 GiB.\n")]
    assert [heading for heading, _ in without_command(bare)] == ["Speed", "Memory"]
    one = [bare[0]._replace(text="`parity bench` says 12 ms.\n"), bare[1]]
    assert [heading for heading, _ in without_command(one)] == ["Memory"]
    inside = [one[0], bare[1]._replace(level=3)]
    assert without_command(inside) == []
    assert without_command([Section("x", 1, "`parity inspect FILE` and 3 of 4.\n")]) != []
    assert without_command([Section("x", 1, "```text\n┃ 12 ┃\n```\n")]) != []
    assert BLOCK.search("```text\n┃ 12 ┃\n```\n")
