"""Ports that cannot be checked, on the command line: one clear line, status 2, no traceback."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn

from parity import Port, check
from parity.cli import main

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[3]
RULES: list = [("weight", "l.kernel", (1, 0)), ("bias", "l.bias")]
LEAKED: list = []


class Linear(nnx.Module):
    def __init__(self) -> None:
        self.l = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.training = False

    def train(self, **attributes: Any) -> None:
        self.training = True

    def eval(self, **attributes: Any) -> None:
        self.training = False

    def __call__(self, x: jax.Array) -> Any:
        return self.after(self.l(x))

    def after(self, y: jax.Array) -> Any:
        return y


def port(after: Any = None, **fields: Any) -> Port:
    """A linear map on both sides, and something after the port's."""
    network = Linear()
    if after is not None:
        kind = type("Changed", (Linear,), {"after": after})
        network = kind()
    given: dict[str, Any] = {"reference": nn.Linear(4, 4), "port": network, "inputs": (2, 4)}
    return Port(**(given | {"weights": RULES} | fields))


def raise_(error: BaseException) -> Any:
    raise error


def raises() -> Port:
    return port(lambda self, y: raise_(RuntimeError("one line\nand another")))


def exits() -> Port:
    return port(lambda self, y: raise_(SystemExit(0)))


def leaks() -> Port:
    LEAKED.clear()
    return port(lambda self, y: LEAKED.append(y) or y + LEAKED[0])


def concrete() -> Port:
    return port(lambda self, y: y if float(y.sum()) > 0 else -y)


def changes_shapes() -> Port:
    return port(lambda self, y: y[None] if self.training else y)


def returns_text() -> Port:
    return port(lambda self, y: "text")


def returns_a_number() -> Port:
    return port(lambda self, y: {"y": 3.0}, reference=Named())


def returns_numpy() -> Port:
    return port(lambda self, y: np.asarray(y))


class Named(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)

    def forward(self, x: torch.Tensor) -> Any:
        return {"y": super().forward(x)}


class Text(nn.Linear):
    def forward(self, x: torch.Tensor) -> Any:
        return "text"


def reference_returns_text() -> Port:
    return port(reference=Text(4, 4))


def nothing() -> None:
    pass


def imports_nothing() -> Port:
    return Prt(nn.Linear(4, 4), Linear(), (2, 4))  # type: ignore[name-defined] # noqa: F821 - a misspelt name


class Same(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.Dense(4, name="l")(linen.Dense(4, name="l")(x))


PARAMS = {"l": {"kernel": jnp.zeros((4, 4)), "bias": jnp.zeros(4)}}


def two_layers_of_one_name() -> Port:
    return port(port=Same(), params=PARAMS)


class Dotted(nnx.Module):
    def __init__(self) -> None:
        self.a = nnx.Dict(b=nnx.Linear(4, 4, rngs=nnx.Rngs(0)))
        setattr(self, "a.b", nnx.Linear(4, 4, rngs=nnx.Rngs(0)))


def two_paths_of_one_name() -> Port:
    return port(port=Dotted())


def two_tensors_of_one_name() -> Port:
    params = {**PARAMS, "l.bias": jnp.zeros(4)}
    return port(port=lambda p, x: x @ p["l"]["kernel"] + p["l.bias"], params=params)


def elsewhere() -> Port:
    return port(reference=nn.Linear(4, 4, device="meta"))


class Moves(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to("meta"))


def moves() -> Port:
    return port(reference=Moves(4, 4))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (raises, "the port raised RuntimeError: one line and another [test_bad_ports.py:"),
        (exits, "a network ended the program"),
        (leaks, "it leaks a tracer"),
        (concrete, "the port raised ConcretizationTypeError"),
        (changes_shapes, "the port returns (2, 4) in eval mode and (1, 2, 4) in train mode"),
        (returns_text, "the port returned a str, expected arrays"),
        (returns_a_number, "the port returned a float, expected arrays"),
        (returns_numpy, "the port raised TracerArrayConversionError"),
        (reference_returns_text, "the reference returned a str, expected arrays"),
        (nothing, "returned nothing, expected a parity.Port"),
        (imports_nothing, "raised NameError: name 'Prt' is not defined"),
        (two_layers_of_one_name, 'Could not create submodule "l"'),
        (two_paths_of_one_name, "the port has two layers of the name a.b, expected one"),
        (two_tensors_of_one_name, "the port has two tensors of the name l.bias, expected one"),
        (elsewhere, "the reference's weight is on meta, expected the cpu"),
        (moves, "the reference raised RuntimeError: Tensor on device"),
    ],
)
def test_one_line_and_status_two(
    factory: Any, message: str, tmp_path: Path, capsys: Capture
) -> None:
    """Catches a port that ends in a traceback, in a verdict, or in another status."""
    path = written(tmp_path, factory.__name__)
    found = tmp_path / "r.json"
    assert main(["check", f"{path}:made", "--json", str(found)]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.startswith("parity check: error: ")
    assert err.count("\n") == 1
    assert "PASSED" not in out
    assert not found.exists()


def written(folder: Path, name: str) -> Path:
    path = folder / "mine.py"
    path.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"from tests.unit.cli.test_bad_ports import {name} as made\n"
    )
    return path


def test_debug_shows_what_a_network_raised(tmp_path: Path) -> None:
    """Catches an author who cannot see where the own network failed."""
    path = written(tmp_path, "raises")
    with pytest.raises(RuntimeError, match="one line"):
        main(["check", f"{path}:made", "--debug"])
    path = written(tmp_path, "concrete")
    with pytest.raises(jax.errors.ConcretizationTypeError):
        main(["check", f"{path}:made", "--debug"])


SOURCE = """
import torch
from flax import nnx
from parity import Port

class Ported(nnx.Module):
    def __init__(self):
        self.l = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

    def __call__(self, x):
        x = self.l(x)
        return x.reshape(3, -1, 5)

def in_a_library():
    return Port(torch.nn.Linear(4, 4), Ported(), (2, 4), weights=[("weight", "l.kernel", (1, 0)),
        ("bias", "l.bias")])

def in_the_reference():
    made = in_a_library()
    made.reference.forward = lambda x: torch.relu(x, 3)
    return made

def prints():
    print("from the factory")
    made = in_a_library()
    made.reference.register_forward_hook(lambda *_: print("from the reference"))
    return made

def in_the_factory():
    return int("100%, or")
"""


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        ("in_a_library", "x.reshape"),
        ("in_the_reference", "torch.relu"),
        ("in_the_factory", "return int("),
    ],
)
def test_the_line_that_raised_is_named(
    function: str, fault: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an author, or GitHub's page of changes, that is not told which line raised."""
    monkeypatch.chdir(tmp_path)
    line = next(i for i, text in enumerate(SOURCE.splitlines(), 1) if fault in text)
    Path("mine, 2.py").write_text(SOURCE)
    assert main(["check", f"mine, 2.py:{function}", "--format", "github"]) == 2
    out, err = capsys.readouterr()
    assert f" [mine, 2.py:{line}]" in err
    assert out.startswith(f"::error file=mine%2C 2.py,line={line},title=mine%2C 2.py%3A{function}")
    message = err.removeprefix("parity check: error: ").rstrip("\n")
    assert out.partition("not checked::")[2].rstrip("\n") == message.replace("%", "%25")


@pytest.mark.parametrize("command", [["check", "--format", "json"], ["suggest"]])
def test_what_a_port_prints_is_not_in_the_output(
    command: list[str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches JSON, or a table of rules, with lines in it that the user's own code printed."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(SOURCE.replace("x.reshape(3, -1, 5)", "x"))
    assert main([*command[:1], "mine.py:prints", *command[1:]]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["ok"] if command[0] == "check" else tomllib.loads(out)["rules"]
    assert "from the factory" in err


def test_a_port_that_cannot_be_read_is_annotated(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches `--format github` without an annotation, or at no line, where nothing was run."""
    monkeypatch.chdir(tmp_path)
    Path("odd.py").write_text("x = 1\ny = (\n")
    Path("empty.py").write_text("\n\ndef make_port():\n    return 1\n")
    for name, place in (("odd.py", "2"), ("empty.py", "3"), ("none.py", "")):
        assert main(["check", f"{name}:make_port", "--format", "github"]) == 2
        out, err = capsys.readouterr()
        where = f"file={name},line={place}," if place else ""
        assert out.startswith(f"::error {where}title={name}%3Amake_port%3A not checked::{name}")
        assert (out.count("\n"), err.count("\n")) == (1, 1)


def test_a_file_without_the_function(tmp_path: Path, capsys: Capture) -> None:
    """Catches an empty file that is a port, or a traceback."""
    path = tmp_path / "empty.py"
    path.write_text("")
    assert main(["check", f"{path}:make_port"]) == 2
    assert capsys.readouterr().err.endswith("has no function 'make_port'\n")
    assert main(["check", str(path)]) == 2
    assert "or FILE.py:FUNCTION" in capsys.readouterr().err


class Keeps(Linear):
    def after(self, y: jax.Array) -> jax.Array:
        self.seen = nnx.Intermediate(y)
        return y


def test_what_a_port_stores_for_its_author_is_no_state(tmp_path: Path) -> None:
    """Catches a right port that fails because it keeps an activation for its author to look at."""
    check(port(port=Keeps()), levels=("L0", "L1", "L2", "L3")).assert_faithful()


def test_a_text_that_is_no_file_is_no_place(tmp_path: Path, capsys: Capture) -> None:
    """Catches a syntax error of a text that the user's code reads, annotated at no file."""
    file = tmp_path / "reads.py"
    file.write_text("import ast\n\n\ndef make_port():\n    ast.parse('x = = 1')\n")
    assert main(["check", f"{file}:make_port", "--format", "github"]) == 2
    said = capsys.readouterr()
    assert "line=5" in said.out
    assert "reads.py" in said.out.split("title=")[0]
    assert said.err.endswith("reads.py:5]\n")


def prints_to_nobody() -> Port:
    return port(lambda self, y: raise_(BrokenPipeError(32, "Broken pipe")))


def test_a_network_that_prints_to_a_reader_that_has_gone_is_no_fault(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches `parity check ... | head` that says that the network raised an error."""
    monkeypatch.setattr("parity.cli._unread", lambda: 141)
    assert main(["check", f"{__name__}:prints_to_nobody"]) == 141
    assert "BrokenPipe" not in capfd.readouterr().err
