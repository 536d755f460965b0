"""What a release says of itself, and what its distributions hold."""

from __future__ import annotations

import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from tests import distributions
from tests.pages import ROOT, text_of

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_is_of_this_version() -> None:
    """Catches a release whose citation names the one before, or another licence."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == PROJECT["version"]
    assert (cited["title"], cited["license"]) == (PROJECT["name"], PROJECT["license"])
    assert {"cff-version", "message", "authors", "date-released"} <= cited.keys()


def rows(head: str) -> list[list[str]]:
    """The rows of the first table after a heading of the page on versions."""
    text = text_of("versions.md").partition(f"## {head}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


def test_the_page_on_versions_has_the_bounds_of_the_package() -> None:
    """Catches a bound that was moved in `pyproject.toml` alone."""
    required = {"Python": PROJECT["requires-python"]}
    for entry in PROJECT["dependencies"]:
        name, bounds = re.fullmatch(r"([\w-]+)(.*)", entry).groups()  # type: ignore[union-attr]  # all match
        required[name] = bounds
    shown = {row[0]: row[1].replace("\\", "") for row in rows("What is required")}
    assert {k: v for k, v in shown.items() if k in required} == required


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)[:3]))


def test_what_was_run_is_within_the_bounds() -> None:
    """Catches a combination that is said to have been run, and that cannot be installed."""
    (head, *found) = rows("What was run")
    bounds = {row[0]: row[1] for row in rows("What is required")}
    assert len(found) >= 2
    for name, *versions in (row for row in found if row[0] in bounds):
        for given in filter(None, versions):
            for sign, bound in re.findall(r"(>=|<=|<)([\d.]+)", bounds[name]):
                a, b = version(given), version(bound)
                fits = {">=": a >= b, "<=": a[: len(b)] <= b, "<": a < b}[sign]
                assert fits, f"{name} {given} is not {sign}{bound}"
    assert len(head) == len(found[0])


def wheel(path: Path, names: set[str]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "")
    return path


NEEDED = {*distributions.needed(), "parity_suite-1.dist-info/METADATA", "parity/cli/__init__.py"}


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        (NEEDED, ""),
        (NEEDED - {"parity/py.typed"}, "parity/py.typed is missing"),
        (NEEDED - {"parity/diagnosis/remedies.toml"}, "remedies.toml is missing"),
        (NEEDED | {"parity/cli/test_x.py"}, "test_x.py belongs to the checkout"),
        (NEEDED | {"tests/program.py"}, "tests/program.py belongs to the checkout"),
        (NEEDED | {"parity/tests/test_golden.py"}, "test_golden.py belongs to the checkout"),
        (NEEDED | {"docs/index.md"}, "docs/index.md belongs to the checkout"),
        (NEEDED | {"parity/report/notes.txt"}, "notes.txt is of no kind that is shipped"),
    ],
)
def test_what_a_wheel_holds(
    changed: set[str], fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a wheel without a file that the product reads, or with what only a checkout needs."""
    wheel(tmp_path / "parity_suite-1-py3-none-any.whl", changed)
    source = tmp_path / "parity_suite-1.tar.gz"
    with tarfile.open(source, "w:gz") as archive:
        for name in (*distributions.needed(), "LICENSE", "README.md"):
            archive.addfile(tarfile.TarInfo(f"parity_suite-1/{name}"))
    assert distributions.main([str(tmp_path)]) == (1 if fault else 0)
    assert fault in capsys.readouterr().err


def test_both_distributions_must_be_there(tmp_path: Path) -> None:
    """Catches a step of CI that looks at an empty folder and finds no fault."""
    assert distributions.main([str(tmp_path)]) == 1


def test_ci_builds_checks_and_runs_the_wheel() -> None:
    """Catches a release that nobody built or installed before it was made, and tests unmeasured."""
    steps = (ROOT / ".ci" / "run").read_text()
    wanted = (
        "python -m build",
        "pytest --cov",
        '"$work"/dist/*.whl',
        "parity demo",
        "twine check --strict",
    )
    assert [step for step in (*wanted, "tests.distributions") if step not in steps] == []
