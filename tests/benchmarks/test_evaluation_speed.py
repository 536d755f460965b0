"""The speed of evaluations: what is timed, and what is refused before anything is."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from parity.spec import draw
from parity.spec.models import MODELS
from tests.benchmarks import evaluation_speed
from tests.benchmarks.evaluation_speed import Speed, Spent
from tests.scenes import cityscapes, save_weights

Capture = pytest.CaptureFixture[str]


@pytest.mark.long
def test_every_row(tmp_path: Path, capsys: Capture) -> None:
    """Catches a side or a command that is not timed, and a split that is not repeated."""
    weights = save_weights(tmp_path / "enet.pth", draw.weights(MODELS["enet"], 0))
    root, file = cityscapes(tmp_path / "data"), tmp_path / "x.json"
    argv = ["--weights", str(weights), "--data", str(root), "--size", "24x40", "--workers", "0"]
    argv += ["--times", "2", "--rounds", "1", "--threads", "1", "--json", str(file)]
    assert evaluation_speed.main(argv) == 0
    rows = json.loads(file.read_text())
    whats = (
        "forward",
        "predictor",
        "read",
        "miou",
        "forward, a batch",
        "predictor, a batch",
        "eval",
    )
    assert [(r["framework"], r["what"]) for r in rows] == [
        (side, what) for side in ("torch", "jax") for what in whats
    ]
    assert all(row["images_per_second"] > 0 for row in rows)
    assert all(row["cpu_ms_per_image"] > 0 for row in rows)
    assert "of forward" in capsys.readouterr().out


def test_shares_are_of_the_forward_pass_above() -> None:
    """Catches an evaluation beside another side's forward pass, or that of another batch."""
    speeds = (10.0, 8.0, 4.0, 2.0)
    whats = ("forward", "miou", "forward, a batch", "eval")
    found = {("jax", w): Speed(s, 7.6) for w, s in zip(whats, speeds, strict=True)}
    made = evaluation_speed.table(found)
    assert list(made.columns[3].cells) == ["1.00", "0.80", "1.00", "0.50"]
    assert list(made.columns[4].cells) == ["8"] * 4


def test_processor_time_is_that_of_an_image() -> None:
    """Catches time of waiting or of a whole round in the column of processor time."""
    rounds = iter([Spent(4, 2.0, 0.4), Spent(4, 9.0, 0.2), Spent(4, 1.0, 4.0)])
    found = evaluation_speed.measured({("jax", "miou"): lambda: next(rounds)}, 3, lambda text: None)
    assert found == {("jax", "miou"): (2.0, pytest.approx(100.0))}

    def asleep_and_awake() -> None:
        time.sleep(0.3)
        sum(range(10**5))

    spent = evaluation_speed.called(asleep_and_awake, images=2, times=2)
    assert spent.images == 4
    assert spent.seconds > 0.6
    assert 0 < spent.cpu_seconds < 0.6


def test_a_split_is_repeated() -> None:
    """Catches samples left out, or the wrong ones at the seam."""
    made = evaluation_speed.Repeated(["a", "b", "c"], 2)
    assert [made[i] for i in range(len(made))] == list("abcabc")
    assert made.index("b") == 1  # all else is the split's own


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["--rounds", "0"], "rounds 0, expected 1"),
        (["--frameworks", "onnx"], "frameworks 'onnx'"),
        (["--commands", "infer"], "commands 'infer'"),
        (["--size", "31"], "expected HEIGHTxWIDTH"),
        (["--recipe", "x"], "unknown recipe 'x'"),
    ],
)
def test_usage(argv: list[str], what: str, capsys: Capture) -> None:
    """Catches minutes of timing that begin with what cannot be used."""
    assert evaluation_speed.main(["--weights", "no", "--data", "no", *argv]) == 2
    assert what in capsys.readouterr().err
