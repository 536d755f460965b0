"""A user's own port: on the command line, as pytest's tests, in the README."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import torch
from flax import nnx

from parity import Report
from parity.cli import main
from parity.testing import ladder
from tests.pair import port

Capture = pytest.CaptureFixture[str]

ROOT = Path(__file__).parents[3]

test_generated = ladder(port)


def test_ladder_names_its_tests(tmp_path: Path) -> None:
    """Catches generated tests that pass over a fault, or do not say where it is."""
    (tmp_path / "test_mine.py").write_text(
        "from tests import pair\nfrom parity.testing import ladder\n\n"
        "def make():\n"
        "    port = pair.port()\n"
        "    port.port.second.epsilon = 1e-3\n"
        "    return port\n\n"
        "test_it = ladder(make, levels=('L0', 'L1'))\n"
    )
    here = str(ROOT)
    code = f"import sys; sys.path.insert(0, {here!r}); import pytest; pytest.main(['-q', '-rf'])"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    ).stdout
    assert "FAILED test_mine.py::test_it[L1-norm]" in out
    assert "1 failed" in out
    assert "[L1-stem]" not in out


FACTORY = """
import pathlib, sys
sys.path.insert(0, {here!r})
from tests.pair import port

def make_port():
    return port()

def faulty():
    p = port()
    p.port.second.epsilon = 1e-3
    return p

def raises():
    raise RuntimeError("no such thing")

def nothing():
    return 3
"""


@pytest.fixture
def factory(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(FACTORY.format(here=str(ROOT)))
    return str(path)


def test_command_line(factory: str, tmp_path: Path, capsys: Capture) -> None:
    """Catches a port of the user's own that the command does not check, or a wrong status."""
    found = tmp_path / "r.json"
    assert main(["check", f"{factory}:make_port", "--levels", "L0,L1", "--json", str(found)]) == 0
    assert "PASSED" in capsys.readouterr().out
    assert json.loads(found.read_text())["ok"] is True
    assert main(["check", f"{factory}:faulty", "--levels", "L0,L1"]) == 1
    assert "look at second first" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}:raises", "raised RuntimeError: no such thing"),
        ("{}:nothing", "returned a int, expected a parity.Port"),
        ("{}:missing", "has no function 'missing'"),
        ("{}x.py:make_port", "is not a file"),
        ("no.such.module:make_port", "raised ModuleNotFoundError"),
        (":make_port", "no module named before the colon"),
    ],
)
def test_bad_factories(factory: str, capsys: Capture, name: str, message: str) -> None:
    """Catches a factory whose failure is a traceback."""
    assert main(["check", name.format(factory)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_options_of_our_networks_are_refused(factory: str, capsys: Capture) -> None:
    """Catches an option that would be silently ignored."""
    assert main(["check", f"{factory}:make_port", "--size", "32x32"]) == 2
    assert "--size is for our own networks" in capsys.readouterr().err


def test_debug_shows_the_traceback(factory: str) -> None:
    """Catches a cause that nobody can get at."""
    with pytest.raises(RuntimeError, match="no such thing"):
        main(["check", f"{factory}:raises", "--debug"])


def test_public_names() -> None:
    """Catches a public name that cannot be imported lazily, and a module that hides mistakes."""
    import parity

    assert parity.Report is Report
    assert all(hasattr(parity, name) for name in parity.__all__)
    with pytest.raises(AttributeError, match="no attribute 'chekc'"):
        _ = parity.chekc


class OneConv(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x))


class MyNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = OneConv()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x)


class OneConvPort(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 4, (3, 3), padding=1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.conv(x))


class MyPort(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = OneConvPort(rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.first(x)


def test_the_readmes_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Catches an example that a stranger copies and that does not run."""
    text = (ROOT / "README.md").read_text()
    (example,) = (part for part in text.split("```python\n") if part.startswith("import torch"))
    monkeypatch.chdir(tmp_path)
    exec(example.partition("```")[0], {"MyNet": MyNet, "MyPort": MyPort})
    assert "PASSED" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.html"}
