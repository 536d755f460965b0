"""Tables on terminals of any width."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from parity.report.console import standard_output
from parity.report.lines import broken, say
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


def test_a_list_has_no_line_that_the_terminal_breaks() -> None:
    """Catches a cell of several words, wider than the terminal, that is cut within a word."""
    table = Table("rung", "of the worst")
    table.add_row("L1", f"{NAME}: output 0 in eval mode, of the second call")
    text = io.StringIO()
    Output(file=text, width=40, force_terminal=True, color_system=None).print(table)
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 40
    assert " ".join(text.getvalue().split()).endswith("in eval mode, of the second call")


def test_colours_in_a_file_break_no_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches FORCE_COLOR, which CI sets, taken for a terminal of 80 columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout", (tmp_path / "out").open("w"))
    standard_output().print(LINE, soft_wrap=True, markup=False, highlight=False)
    sys.stdout.close()
    assert (tmp_path / "out").read_text() == LINE + "\n"


DISPLAYS = {
    "working": "parity.report.console.working()",
    "counting": "parity.report.console.counting('first')",
    "training": "parity.training.progress_bar.display()",
}


@pytest.mark.parametrize("shown", DISPLAYS)
def test_what_a_network_prints_stays_in_its_file(shown: str, tmp_path: Path) -> None:
    """Catches standard output, given to a file, that progress at a terminal takes to itself."""
    program = (
        "import parity.report.console, parity.training.progress_bar\n"
        f"with {DISPLAYS[shown]}:\n    print('of the network')"
    )
    ours, theirs = pty.openpty()
    with (tmp_path / "out").open("wb") as out:
        command = [sys.executable, "-c", program]
        subprocess.run(command, stdin=theirs, stdout=out, stderr=theirs, check=True)
    os.close(theirs)
    os.close(ours)
    assert (tmp_path / "out").read_text() == "of the network\n"


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


LINE = (
    f"L1 structure: {NAME}: differs by 1.4; reference -1.439449540924642, port 1.1388055404858914"
)


@pytest.mark.parametrize("width", [20, 60, 80, 140])
def test_a_long_line_is_broken_between_words(width: int) -> None:
    """Catches a name or a number of a sentence that the end of a terminal's line cuts in two."""
    text = io.StringIO()
    out = Output(file=text, width=width, force_terminal=True, color_system=None)
    out.print(f"[red]FAILED[/red] {LINE}", soft_wrap=True)
    lines = text.getvalue().splitlines()
    assert " ".join(text.getvalue().split()) == f"FAILED {LINE}"
    assert all(len(line) <= width or len(line.strip()) > width for line in lines)
    assert all(line.startswith(" ") for line in lines[1:])


def test_what_follows_a_heading_stays_beside_it() -> None:
    """Catches a value that runs on below the name of the next one."""
    line = "network   unknown: one of enet, erfnet, genet"
    assert [(indent, line[a:b]) for indent, a, b in broken(line, 30)] == [
        (0, "network   unknown: one of"),
        (10, "enet, erfnet, genet"),
    ]
    assert list(broken("", 80)) == [(0, 0, 0)]


def test_a_file_has_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a line that is broken where a program reads it, or loses something at a terminal."""
    say(f"{LINE}\n\nsecond")
    assert capsys.readouterr().out == f"{LINE}\n\nsecond\n"
    text = io.StringIO()
    Output(file=text, width=60).print(LINE, soft_wrap=True, markup=False)
    assert text.getvalue() == LINE + "\n"


def test_names_are_no_pictures() -> None:
    """Catches `a:car:b` shown with a picture of a car."""
    text = io.StringIO()
    out = Output(file=text, width=80, force_terminal=True, color_system=None)
    table = Table("name")
    table.add_row("a:car:b")
    out.print(table)
    out.print("a:car:b", markup=False)
    assert text.getvalue().count("a:car:b") == 2
