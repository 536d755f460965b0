"""What every command owes to a person at a terminal: progress, whole lists, no colours."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from parity.cli import COMMANDS, main, parser
from parity.cli.commands.recipes import facts
from parity.report.console import standard_output
from parity.spec.recipes import RECIPES
from parity.trace.recorder import Trace

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[3]
# Commands without `working`, `counting` or `display` of their own, and why.
WITHOUT = {
    "recipes": "it reads no file",
    "table": "it reads the lines of logs",
    "study": "it shows what each run prints",
    "demo": "it prints a line for each step",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_what_it_does(command: str) -> None:
    """Catches a new command that leaves a person before an empty terminal."""
    text = (ROOT / f"parity/cli/commands/{command}.py").read_text()
    shows = re.search(r"\b(working|counting|display)\(", text) is not None
    assert shows != (command in WITHOUT)


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A checkpoint with a dozen tensors that no network has."""
    path = tmp_path / "strange.npz"
    np.savez(path, **{f"layer{i}.strange": np.zeros(2, np.float32) for i in range(12)})
    return str(path)


def shown(said: list[str]) -> Callable[[], contextlib.AbstractContextManager]:
    @contextlib.contextmanager
    def working() -> Iterator[Callable[[str], None]]:
        yield said.append

    return working


def test_reading_a_large_file_is_shown(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches `inspect` of a large file, or `compare` of large traces, that says nothing."""
    said: list[str] = []
    monkeypatch.setattr("parity.cli.commands.inspect.working", shown(said))
    monkeypatch.setattr("parity.cli.commands.compare.working", shown(said))
    assert main(["inspect", file]) == 0
    trace = str(tmp_path / "a.trace")
    with Trace(trace) as recording:
        recording.run("eval", "float64")
        recording.input("x", np.zeros(3))
        recording.tap("layer", np.ones(3))
        recording.output("", np.ones(3))
    assert main(["compare", trace, trace]) == 0
    comparing = f"comparing {trace} with {trace}"
    assert said == [f"reading {file}", comparing, "verifying what was not compared"]


def test_verbose_lists_every_offender(file: str, tmp_path: Path, capsys: Capture) -> None:
    """Catches offenders that nobody can get at, and a list that is not cut where nobody asked."""
    out = str(tmp_path / "out.safetensors")
    assert main(["convert", file, out]) == 2
    short = capsys.readouterr().err
    assert main(["convert", file, out, "--verbose"]) == 2
    whole = capsys.readouterr().err
    assert "and 7 more" in short
    assert short.count(".strange") == 5
    assert "more" not in whole
    assert all(f"layer{i}.strange" in whole for i in range(12))
    assert whole.count("\n") == 1
    assert main(["convert", file, out]) == 2
    assert capsys.readouterr().err == short  # the next one is short again


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_lists_all_when_asked(command: str) -> None:
    """Catches a command whose messages cannot be had whole."""
    (commands,) = (a for a in parser([command])._actions if a.dest == "command")
    assert isinstance(commands.choices, dict)
    options = [a.option_strings for a in commands.choices[command]._actions]
    assert options.count(["--verbose"]) == 1


def test_no_color(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Catches colours that a person has switched off."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    for name, value, coloured in (("NO_COLOR", "", True), ("NO_COLOR", "1", False)):
        monkeypatch.setenv(name, value)
        standard_output().print("[red]FAILED[/red]")
        assert ("\x1b[31m" in capsys.readouterr().out) == coloured


@pytest.mark.parametrize("command", ["check", "study"])
def test_ctrl_c_says_what_happens(command: str) -> None:
    """Catches a command that calls itself interrupted and goes on for as long as a step lasts."""
    given = ["enet"] if command == "check" else ["enet-camvid", "--data", "D", "--out", "O"]
    answer = parser([command]).parse_args([command, *given]).answer
    assert answer.startswith(f"parity {command}: ")
    assert ("Ctrl-C again stops at once" in answer) == (command == "study")


def test_ctrl_c_while_a_command_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Catches a traceback where Ctrl-C comes before the command runs."""

    def interrupted(_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("parity.cli.parser", interrupted)
    assert main(["check", "enet"]) == 130
    assert capsys.readouterr().err == "parity: interrupted\n"


def test_ctrl_c_that_a_library_turns_into_another_exception(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Catches a traceback where an import or a callback raised anew what Ctrl-C had raised."""

    def run(_: object) -> NoReturn:
        try:
            signal.raise_signal(signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt as error:  # perhaps before the other thread has heard it
            raise RuntimeError("Error calling __set_name__") from error
        raise AssertionError

    monkeypatch.setattr("parity.cli.commands.summary.run", run)
    assert main(["summary", "enet"]) == 130
    assert capsys.readouterr().err == "parity summary: interrupted\n"
    monkeypatch.setattr("parity.cli.commands.summary.run", lambda _: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main(["summary", "enet"])


def test_a_recipe_is_readable_at_80_columns() -> None:
    """Catches a value of a recipe that a terminal breaks inside of a word."""
    for recipe in RECIPES.values():
        whole, narrow = facts(recipe), facts(recipe, 80)
        assert max(map(len, "\n".join(narrow).splitlines())) <= 80
        assert [" ".join(line.split()) for line in narrow] == [" ".join(w.split()) for w in whole]
