"""What is installed: the product, and nothing of what tests, attacks or measures it."""

from __future__ import annotations

import tomllib
from pathlib import Path

from setuptools import find_namespace_packages

ROOT = Path(__file__).resolve().parents[2]
LABORATORY = {"tests", "fuzz", "mutation", "benchmarks"}


def installed() -> dict[str, list[Path]]:
    """Package -> its modules, by the rule of `pyproject.toml` as setuptools reads it."""
    text = (ROOT / "pyproject.toml").read_text()
    rule = tomllib.loads(text)["tool"]["setuptools"]["packages"]["find"]
    packages = find_namespace_packages(str(ROOT), **rule)
    return {name: sorted(ROOT.joinpath(*name.split(".")).glob("*.py")) for name in packages}


def test_nothing_of_the_laboratory_is_installed() -> None:
    """Catches tests, hostile files or measuring programs in the wheel, and a package without any.

    A package of the laboratory that moves into the product is caught, too: by its name.
    """
    found = installed()
    assert {"parity", "parity.cli.commands", "parity.bench", "weights_convert.formats"} <= set(
        found
    )
    assert not [name for name in found if LABORATORY & set(name.split("."))]
    modules = [path for paths in found.values() for path in paths]
    assert not [path for path in modules if path.name.startswith(("test_", "conftest"))]


def test_no_plugin_for_our_own_tests_is_installed() -> None:
    """Catches what orders our tests, or finds their data, where a user's pytest would load it."""
    for path in (path for paths in installed().values() for path in paths):
        assert "pytest_" not in path.read_text(), path


def test_every_module_of_the_product_is_installed() -> None:
    """Catches a room that works in a checkout and is missing where the wheel is installed."""
    shipped = {path for paths in installed().values() for path in paths}
    top = ("parity", "torch_impl", "jax_impl", "weights_convert")
    ours = {path for package in top for path in (ROOT / package).rglob("*.py")}
    assert {p for p in ours - shipped if (ROOT / "parity" / "tests") not in p.parents} == set()
