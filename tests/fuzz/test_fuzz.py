"""`python -m tests.fuzz`: suites of few rounds, and faults that they must find."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz import campaign, damage, disk_errors, kill_training, kills, pairs, samples
from tests.fuzz.__main__ import main
from tests.fuzz.kill_training import CASES, Case
from tests.fuzz.result import FuzzResult, FuzzRow, Job
from tests.fuzz.sandbox import Sandbox
from weights_convert import formats

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="watched with Linux's means")


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One child for all: it takes seconds to start."""
    folder = tmp_path_factory.mktemp("warm")
    warm = [samples.sample(folder, format, 0) for format in ("safetensors", "npz")]
    with Sandbox(warm=warm) as found:
        yield found


@pytest.mark.parametrize("kind", damage.KINDS)
def test_damage_is_refused(tmp_path: Path, kind: str, sandbox: Sandbox) -> None:
    """Catches a changed safetensors file that is read; every format and 1,000 times: `long`."""
    found = damage.endure(Job(tmp_path, 30), kind, "safetensors", sandbox)
    assert found.ok, found


@pytest.mark.parametrize("format", formats.FORMATS)
def test_changes_are_made_and_taken_back(tmp_path: Path, format: str) -> None:
    """Catches a change that changes nothing, and one that stays for the next."""
    path = samples.sample(tmp_path, format)
    before = {file: file.read_bytes() for file in samples.files_of(path)}
    hit = set()
    for kind in damage.KINDS:
        for change in damage.changed(path, kind, 40, 0):
            now = {file: file.read_bytes() for file in before}
            assert [file for file in before if now[file] != before[file]] == [change.file]
            assert damage.region(path, change)
            hit.add(change.file)
    assert {file: file.read_bytes() for file in samples.files_of(path)} == before
    assert len(hit) > 1 or len(before) == 1


def test_damage_that_is_accepted_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    """Catches a suite that cannot fail: of a manifest that says nothing, and a version in a zip."""

    def version(data: bytes, rng: np.random.Generator) -> tuple[int, bytes]:
        del rng
        return 4, data[:4] + b"\x2d" + data[5:]

    def nothing(data: bytes, rng: np.random.Generator) -> tuple[int, bytes]:
        del data, rng
        return 0, b"{}"

    for file, change, how in (
        (1, nothing, "without its manifest"),
        (0, version, "as if nothing were"),
    ):
        monkeypatch.setattr(damage, "drawn_file", lambda files, rng, file=file: files[file])
        monkeypatch.setitem(damage.KINDS, "flips", change)
        found = damage.endure(Job(tmp_path, 2), "flips", "npz", sandbox)
        assert (found.loaded, found.ok) == (2, False)
        assert [fault.endswith(f": loaded {how}") for fault in found.faults] == [True, True]


@pytest.mark.parametrize(
    ("way", "format"),
    [
        ("steps", "mindspore"),
        # At random instants another format's writing is killed by `test_the_command`.
        pytest.param("kills", "mindspore", marks=pytest.mark.long),
        pytest.param("steps", "orbax", marks=pytest.mark.long),
    ],
)
def test_kills(tmp_path: Path, way: str, format: str) -> None:
    """Catches a target that is neither the old nor the new one after a kill.

    Orbax's has twice as many steps: `long`; what is left of one that could not be written:
    `test_convert_refused.py`.
    """
    found = kills.endure(Job(tmp_path, 4), format, way)
    assert found.ok, found
    assert found.refused + found.loaded == found.tried > 3
    assert way == "kills" or (found.refused and found.loaded)


@pytest.mark.parametrize(
    ("case", "count"),
    [
        (("torch", "fp32", 1), 1),
        pytest.param(("jax", "fp32", 1), 1, marks=pytest.mark.long),
        pytest.param(("torch", "fp16", 1), 5, marks=pytest.mark.long),
        *(pytest.param(case, 100 // (2 * case[2]), marks=pytest.mark.long) for case in CASES),
    ],
)
def test_a_killed_run_goes_on_bitwise(tmp_path: Path, case: Case, count: int) -> None:
    """Catches whatever a checkpoint forgets: of optimizer, statistics, masks, order, log.

    JAX's: `long`; that its runs go on bit for bit `test_training.py` shows without a kill. Many:
    what only one instant in many shows; on several devices: processes that stay.
    """
    found = kill_training.endure(Job(tmp_path, count, 1), case)
    assert found.ok, found
    assert (found.tried, found.loaded) == (count, count)


@pytest.mark.parametrize("way", ["disk full", "no permission"])
def test_disk_errors(way: str) -> None:
    """Catches an old checkpoint lost where nothing can be written, and more than one line."""
    found = disk_errors.endure(way)
    if not found.tried:
        pytest.skip(found.note)
    assert found.ok, found
    assert found.tried == 6


@pytest.mark.parametrize(
    ("naming_scheme", "dtype", "refused"),
    [("torch", "float32", 0), ("jax", "float32", 0), ("torch", "bfloat16", 11)],
)
def test_pairs(tmp_path: Path, naming_scheme: str, dtype: str, refused: int) -> None:
    """Catches a bit lost between two formats, and bfloat16 written into .npz; all: `long`."""
    case = ("genet", naming_scheme, dtype)
    found = pairs.endure(Job(tmp_path), case, pairs.smallest("genet"))
    assert found.ok, found
    assert (found.loaded, found.refused) == (36 - refused, refused)
    assert "have no name" not in found.note


def test_every_network_has_its_pairs() -> None:
    """Catches a network, or names of one, without its pairs."""
    cases = list(pairs.cases(whole=False))
    assert {name for name, _, _ in cases} == set(pairs.MODELS)
    assert ("enet-mindspore", "mindspore", "float32") in cases
    assert ("genet", "torch", "bfloat16") in cases


@pytest.mark.long
@pytest.mark.parametrize("name", ["mutants", "kills", "disk-errors", "pairs"])
def test_whole_suites(name: str) -> None:
    """Catches what few rounds do not."""
    result = campaign.run([name])
    assert result.ok, [row for row in result.rows if row.faults]


@pytest.fixture
def one_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "FORMATS", {"safetensors": "safetensors_file"})


@pytest.mark.usefixtures("one_format")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a table or JSON that does not say what happened."""
    file = tmp_path / "x.json"
    assert main(["--suite", "appended,kills", "--rounds", "2", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [(row["suite"], row["what"], row["tried"]) for row in rows] == [
        ("appended", "safetensors", 2),
        ("kills", "safetensors", 2),
    ]
    assert "PASSED 4 cases" in capsys.readouterr().out


@pytest.mark.usefixtures("one_format")
def test_what_is_tried_is_shown() -> None:
    """Catches minutes before an empty screen: each suite and format is named as it begins."""
    said: list[str] = []
    campaign.run(["appended", "kills"], rounds=1, progress=said.append)
    for which in ("suite 1 of 2: ", "suite 2 of 2: "):
        assert any(line.startswith(which) and "safetensors" in line for line in said), said


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["--suite", "flips,prayers"], "suite 'prayers', expected one of flips, truncations"),
        (["--rounds", "0"], "rounds 0, expected 1 or more"),
        (["--seed", "-1"], "seed -1, expected 0 or more"),
        (["--json", "/nowhere/x.json"], "no folder /nowhere"),
    ],
)
def test_usage(argv: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a run that begins with what it cannot use."""
    assert main(argv) == 2
    assert what in capsys.readouterr().err


def test_a_fault_fails_the_result() -> None:
    """Catches a table of faults that passes, and one of nothing."""
    good = FuzzRow("kills", "torch", 3, 3, 0)
    assert FuzzResult({}, [good]).ok
    assert not FuzzResult({}, []).ok
    assert not FuzzResult({}, [good, FuzzRow("kills", "npz", 0, 0, 0)]).ok
    assert not FuzzResult({}, [good, FuzzRow("kills", "npz", 1, 0, 0, ["neither"])]).ok
