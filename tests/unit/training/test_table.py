"""`parity table`: what the logs of runs say, beside each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parity.cli import main


def log(folder: Path, scores: dict[int, float]) -> Path:
    """A run's folder whose log has these validations."""
    folder.mkdir()
    lines = [{"kind": "step", "batches": 1, "loss": 1.0}]
    lines += [
        {"kind": "validation", "batches": b, "score": s, "mean_loss": 1 - s}
        for b, s in scores.items()
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_runs_are_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Catches a row of another validation, a difference of the wrong sign, a picture without it."""
    one, two = log(tmp_path / "one", {10: 0.25, 20: 0.5}), log(tmp_path / "two", {20: 0.625})
    picture, data = tmp_path / "c.svg", tmp_path / "c.json"
    code = main(["table", str(one), str(two), "--picture", str(picture), "--json", str(data)])
    assert code == 0
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells == [
        ["10", "25.00", "0.7500", "", "", ""],
        ["20", "50.00", "0.5000", "62.50", "0.3750", "+12.50"],
    ]
    assert "20: 62.50" in picture.read_text()
    assert json.loads(data.read_text())[0]["scores"] == {"10": 0.25, "20": 0.5}


def test_a_run_without_a_validation_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Catches one run that has just begun, and because of which none is shown."""
    one, new = log(tmp_path / "one", {10: 0.25}), log(tmp_path / "new", {})
    picture = tmp_path / "c.svg"
    assert main(["table", str(new), str(one), "--picture", str(picture)]) == 0
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["10", "", "", "25.00", "0.7500", ""],
        ["", "none yet", "", "", "", ""],
    ]
    assert "10: 25.00" in picture.read_text()
    picture.unlink()
    assert main(["table", str(new)]) == 0
    assert "none yet" in capsys.readouterr().out
    assert main(["table", str(new), "--picture", str(picture)]) == 2
    assert "no validation yet, so no curve to draw" in capsys.readouterr().err
    assert not picture.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file or directory, expected the log of a run"),
        ("{}\n", "not the log of a run"),
        ("nonsense\n", "not the log of a run"),
        ("\udcff\n", "not the log of a run"),
        ('{"kind": "validation"}\n', "not the log of a run"),
        ('{"kind": "validation", "batches": "x", "score": 1, "mean_loss": 1}\n', "not the log"),
        ('{"kind": "validation", "batches": 1, "score": "x", "mean_loss": 1}\n', "not the log"),
        ('{"kind": "validation", "batches": [], "score": 1, "mean_loss": 1}\n', "not the log"),
    ],
)
def test_what_is_no_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture, content: str | None, words: str
) -> None:
    """Catches a traceback, or an empty table, of a folder that is no run."""
    if content is not None:
        (tmp_path / "log.jsonl").write_bytes(content.encode(errors="surrogateescape"))
    assert main(["table", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
