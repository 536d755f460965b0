"""Faults injected in the contract: that the campaign tells what is found from what is not."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from parity.spec.errors import InputError
from tests.forking import ROOT
from tests.mutation import campaign, judges
from tests.mutation.catalogue import FAULTS, KINDS, Fault, fast, listed, stale
from tests.mutation.judges import JUDGES, Judge
from tests.mutation.result import FaultRow, MutationResult

README = ROOT / "README.md"
RULE = Fault("data", "one more", "house/rule.py", "x + 1", "x + 2", ("referee",))
QUICK = ("data", "scores")  # kinds whose judges take seconds
TEST = "from house import rule\n\ndef test_rule():\n    assert rule.after(1) == 2\n"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another project of one rule, and its test."""
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "__init__.py").touch()
    (tmp_path / "house" / "rule.py").write_text("def after(x):\n    # next\n    return x + 1\n")
    (tmp_path / "house" / "other.py").write_text("y = 3\n")
    (tmp_path / "test_rule.py").write_text(TEST)
    monkeypatch.setitem(judges.JUDGES, "referee", Judge("arithmetic", ("test_rule.py",)))
    return tmp_path


def states(checkout: Path, *faults: Fault) -> list[str]:
    return [row.state for row in campaign.run(faults, checkout).rows]


def test_what_is_found_and_what_is_not(checkout: Path) -> None:
    """Catches a fault that does nothing called found, and one that is left in the file."""
    nothing = dataclasses.replace(RULE, title="nothing", right="# next", wrong="# after")
    broken = dataclasses.replace(RULE, title="broken", wrong="x +")
    unread = dataclasses.replace(RULE, file="house/other.py", right="y = 3", wrong="y = 4")
    before = (checkout / "house" / "rule.py").read_bytes()
    found = campaign.run([RULE, nothing, broken, unread, RULE], checkout)
    assert [row.state for row in found.rows] == ["found", "survived", "error", "error", "found"]
    assert found.rows[0].by == "test_rule.py::test_rule"
    assert "assert 3 == 2" in found.rows[0].message
    assert "SyntaxError" in found.rows[2].error
    assert "did not import" in found.rows[3].error
    assert not found.ok
    assert len(found.of("found")) == 2
    assert (checkout / "house" / "rule.py").read_bytes() == before


def test_a_clean_run_that_fails_is_no_kill(checkout: Path) -> None:
    """Catches a test that fails anyway and so finds every fault, and a selection of no test."""
    (checkout / "test_rule.py").write_text(TEST.replace("== 2", "== 5"))
    with pytest.raises(InputError, match=r"without a fault, the tests of arithmetic fail: .* == 5"):
        states(checkout, RULE)
    with pytest.raises(InputError, match=r"without a fault, the tests that found one fail: .*== 5"):
        campaign.run([RULE], checkout, quick=True)
    (checkout / "test_rule.py").write_text("")
    with pytest.raises(InputError, match="the tests of arithmetic fail"):
        states(checkout, RULE)


def test_a_text_that_is_not_there_is_refused(checkout: Path) -> None:
    """Catches a fault that is injected nowhere because somebody rewrote the line."""
    gone = dataclasses.replace(RULE, right="x + 7")
    with pytest.raises(InputError, match=r"'x \+ 7' stands 0 times in house/rule.py, not once"):
        states(checkout, RULE, gone)
    assert len(stale([dataclasses.replace(RULE, right="x")], checkout)) == 1


def test_the_result() -> None:
    """Catches a verdict, a table or a JSON file that hides who survived."""
    rows = [
        FaultRow(RULE, "t.py::t", "1 == 2"),
        FaultRow(dataclasses.replace(RULE, title="gone wrong")),
    ]
    found = MutationResult([*rows])
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(judges.JUDGES, "referee", Judge("arithmetic", ()))
        found.print(Console(file=out, width=120))
        made = json.loads(json.dumps(found.to_dict()))
    assert "survived: gone wrong: in house/rule.py; asked: arithmetic" in out.getvalue()
    assert "found: 1 of 2 (50%)" in out.getvalue()
    assert "FAILED" in out.getvalue()
    assert (made["ok"], made["found"], made["of"]) == (False, 1, 2)
    assert [f["state"] for f in made["faults"]] == ["found", "survived"]
    assert MutationResult(rows[:1]).ok
    assert not MutationResult([]).ok


def test_how_faults_are_listed() -> None:
    """Catches a fault that is read with another's text, or without its last line."""
    text = (
        "# said\n== data | a.py | data\nfirst\n- x\n+ y\nsecond\n-     if a:\n-\n+ b\n+     c\n"
        "\n== scores | b.py | scores, data\nthird\n- z\n+\n"
    )
    first, second, third = listed(text)
    assert first == Fault("data", "first", "a.py", "x", "y", ("data",))
    assert second == Fault("data", "second", "a.py", "    if a:\n", "b\n    c", ("data",))
    assert third == Fault("scores", "third", "b.py", "z", "", ("scores", "data"))


def test_the_catalogue() -> None:
    """Catches a fault whose text is no more there, one without a judge, and too few of them."""
    assert stale(FAULTS, ROOT) == []
    assert len({fault.title for fault in FAULTS}) == len(FAULTS)
    said = re.search(r"injects (\d+) faults into what both sides share", README.read_text())
    assert said
    assert len(FAULTS) == int(said[1])
    for fault in FAULTS:
        assert fault.judges, fault.title
        for test in fault.selection:
            assert (ROOT / test.partition("::")[0]).is_file(), test
        compile((ROOT / fault.file).read_text().replace(fault.right, fault.wrong), "", "exec")
    assert {judge for fault in FAULTS for judge in fault.judges} == set(JUDGES)


@pytest.mark.parametrize(
    "kinds", [QUICK, pytest.param(KINDS, marks=pytest.mark.long)], ids=["some kinds", "every kind"]
)
def test_one_fault_of_each_kind(kinds: tuple[str, ...]) -> None:
    """Catches a kind of fault of the contract that no third party finds any more.

    Every kind: `long`; the judges themselves are tests that always run.
    """
    found = campaign.run([fault for fault in fast() if fault.kind in kinds], ROOT, quick=True)
    assert found.ok, [(row.fault.title, row.why) for row in found.of("survived", "error")]
    assert len(found.rows) == len(kinds)


@pytest.mark.long
def test_every_fault() -> None:
    """Catches any fault of the contract that no third party finds."""
    found = campaign.run(FAULTS, ROOT)
    assert found.ok, [(row.fault.title, row.why) for row in found.of("survived", "error")]
