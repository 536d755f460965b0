"""Programs of a checkout: the names that they had as commands still run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from parity.cli import checkout, main, parser

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("argv", "module", "rest"),
    [
        (["fuzz", "--rounds", "3"], "tests.fuzz", ["--rounds", "3"]),
        (["calibrate"], "tests.benchmarks.calibrate", []),
        (["unpack", "a.npz", "b"], "tests.unpack_cifar10", ["a.npz", "b"]),
        (["faults", "--spec", "--fast"], "tests.mutation", ["--fast"]),
        (
            ["bench", "--runs", "2", "--convert"],
            "tests.benchmarks.conversion_speed",
            ["--runs", "2"],
        ),
        (
            ["bench", "--data=x", "--recipe", "y"],
            "tests.benchmarks.loading_speed",
            ["--data=x", "--recipe", "y"],
        ),
    ],
)
def test_which_program_is_meant(argv: list[str], module: str, rest: list[str]) -> None:
    """Catches a name of earlier versions that is no longer understood, and a lost argument."""
    assert checkout.program(argv) == (module, rest)


@pytest.mark.parametrize(
    "argv", [[], ["bench"], ["faults", "--fast"], ["train", "--data", "x"], ["check", "fuzz"]]
)
def test_commands_are_not_programs(argv: list[str]) -> None:
    """Catches an option of another command that is taken for one of these."""
    assert checkout.program(argv) is None


def test_in_a_checkout_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    """Catches a lost exit status, and a `tests` package of the working directory that is run."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").write_text("raise SystemExit(77)")
    monkeypatch.chdir(tmp_path)
    assert main(["unpack", "nothing.npz", "out"]) == 2
    error = capfd.readouterr().err
    assert error.startswith("tests.unpack_cifar10: error: nothing.npz: no such file")
    assert main(["fuzz", "--help"]) == 0
    assert "python -m tests.fuzz" in capfd.readouterr().out


def test_elsewhere_it_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Catches a traceback of what is not installed, also where another `tests` is."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    assert main(["faults", "--spec", "--fast"]) == 2
    assert capsys.readouterr().err == (
        "parity faults: error: only a checkout of the project has this program;"
        " there, run python -m tests.mutation --fast\n"
    )


def test_a_program_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a program ended by a signal that is called a success."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()
    killed = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    (tmp_path / "tests" / "killed.py").write_text(killed)
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    assert checkout.run("tests.killed", []) == 128 + 9


def test_the_programs_exist() -> None:
    """Catches a name whose program was moved, and a program that is a command again."""
    modules = [*checkout.COMMANDS.values()]
    modules += [module for options in checkout.OPTIONS.values() for module, _ in options.values()]
    code = "import importlib.util, sys\nprint([m for m in sys.argv[1:] if not find(m)])"
    code = code.replace("find(m)", "importlib.util.find_spec(m)")
    environment = os.environ | {"PYTHONPATH": str(checkout.ROOT)}
    command = [sys.executable, "-c", code, *modules]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "[]\n"
    said = parser().format_help()
    assert said.count("fuzz") == said.count("calibrate") == 1


def test_help_loads_no_command() -> None:
    """Catches a list of the commands that waits for NumPy, or for every command's module."""
    program = (
        "import sys\n"
        "from parity.cli import parser\n"
        "assert 'miou' in parser(['--help']).format_help()\n"
        "loaded = [name for name in sys.modules if name.startswith('parity.cli.commands.')]\n"
        "assert not loaded and 'numpy' not in sys.modules, loaded\n"
        "assert parser(['recipes', 'enet-camvid']).parse_args(['recipes', 'enet-camvid']).run\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
