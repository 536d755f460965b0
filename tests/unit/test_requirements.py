"""What the project's tests import is what the extra `test` installs."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata

from tests.pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {"parity", "torch_impl", "jax_impl", "weights_convert", "tests"}
# In environments of their own: `pytest -m mindspore` makes one, a page tells how to make the other.
ELSEWHERE = {"jax2onnx", "mindspore"}
FILES = ("conftest.py", "tests/**/*.py", "parity/tests/**/*.py", "docs/*.py")
REQUIREMENT = re.compile(r"([\w.-]+)(?:\[([^\]]*)\])?")


def imported() -> dict[str, str]:
    """Every module of others that a test imports, and a file that does so."""
    found: dict[str, str] = {}
    for path in (path for pattern in FILES for path in ROOT.glob(pattern)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found[node.module.partition(".")[0]] = str(path)
            elif isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0]: str(path) for alias in node.names}
    own = OURS | ELSEWHERE | sys.stdlib_module_names
    return {name: path for name, path in found.items() if name not in own}


def normal(name: str) -> str:
    """Return a distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required(wanted: Iterable[str]) -> Iterator[tuple[str, set[str]]]:
    """Yield the names and extras of requirements."""
    for text in wanted:
        found = REQUIREMENT.match(text)
        assert found is not None
        yield normal(found[1]), {e.strip() for e in (found[2] or "").split(",")} - {""}


def installed_by(extra: str) -> set[str]:
    """Return every distribution that `pip install '.[EXTRA]'` installs, dependencies included."""
    own = PROJECT["optional-dependencies"]
    found: set[str] = set()
    left = list(required([*PROJECT["dependencies"], *own[extra]]))
    while left:
        name, extras = left.pop()
        if name == PROJECT["name"]:
            left += required(line for e in extras for line in own[e])
        elif name not in found:
            found.add(name)
            left += required(_of(name, extras))
    return found


def _of(name: str, extras: set[str]) -> Iterator[str]:
    """Yield what a distribution requires, with these extras; nothing if it is not here."""
    try:
        lines = metadata.requires(name) or ()
    except metadata.PackageNotFoundError:
        return
    for line in lines:
        text, _, marker = line.partition(";")
        of = re.search(r"extra == [\"']([^\"']+)[\"']", marker)
        if of is None or of[1] in extras:
            yield text


def missing(extra: str) -> dict[str, str]:
    """Return modules that tests import and that this extra does not install."""
    have = installed_by(extra)
    owners = metadata.packages_distributions()
    return {
        module: path
        for module, path in imported().items()
        if not have & {normal(name) for name in owners.get(module, (module,))}
    }


def test_the_extra_installs_what_tests_import() -> None:
    """Catches a test that fails after `pip install '.[test]'`: a module is missing."""
    assert missing("test") == {}


def test_a_missing_module_is_found() -> None:
    """Catches the test above accepting everything."""
    assert {"pytest", "hypothesis", "jsonschema", "sklearn"} <= missing("docs").keys()
