"""Tables on terminals of any width."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from parity.report.output import Output

NAME = "encoder.layers.14.conv3x1_2.weight"


def printed(width: int, terminal: bool = True) -> str:
    """A table of long names, as a terminal of this width, or a file, shows it."""
    table = Table(title="names")
    table.add_column("here")
    table.add_column("there", overflow="fold")
    table.add_column("rows", justify="right")
    table.add_row(NAME, f"[red]{NAME}[/red]", "1,234,567")
    table.add_row("b", "", "2")
    text = io.StringIO()
    Output(file=text, width=width, force_terminal=terminal, color_system=None).print(table)
    return text.getvalue()


@pytest.mark.parametrize("width", [20, 60, 80, 140])
def test_no_name_is_broken(width: int) -> None:
    """Catches a name or a number that is cut, folded or shortened on a narrow terminal."""
    found = printed(width)
    assert found.count(NAME) == 2
    assert "1,234,567" in found
    assert "[red]" not in found


def test_a_table_that_fits_stays_one() -> None:
    """Catches wide terminals that are given a list, and narrow ones whose cells lack names."""
    assert "┃" in printed(140)
    *_, last = printed(60).splitlines()
    assert last.split() == ["rows", "2"]  # the empty cell is left out


def test_a_file_has_the_whole_table() -> None:
    """Catches a list in a file, whose lines may be as long as they need, or a name cut there."""
    found = printed(60, terminal=False)
    assert "┃" in found
    assert found.count(NAME) == 2
