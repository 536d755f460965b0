"""Sweeps: one row of each setting, and what a report says of the rows."""

from __future__ import annotations

import argparse
from pathlib import Path

from parity.cli.commands import study
from parity.study import analysis, tables
from parity.study.grid import as_there, parse_grid
from parity.study.plan import StudyRun, runs_of
from tests.study_folders import plan, write_run


def test_one_setting_is_one_row(tmp_path: Path) -> None:
    """Catches a run that is trained again because options came in another order or spelling.

    A folder of an older version, which named rows as they were typed, is gone on with.
    """
    grid = parse_grid(["lr=0.1,0.2", "level=O1"])
    assert parse_grid(["level=O1", "stages.all.optimizer.lr=0.1,0.2"]) == grid
    assert as_there(grid, [()]) == grid
    old = ("lr=0.10", "level=O1")
    assert as_there(grid, [(), old]) == [old, grid[1]]
    (tmp_path / "sweep" / ",".join(old)).mkdir(parents=True)
    args = argparse.Namespace(frameworks="torch", seeds="1", repeat=1, only=[], deterministic=False)
    args.grid = ["level=O1", "optimizer.lr=1e-1"]
    assert [run.name for run in study.runs_of(args, tmp_path)] == [
        "sweep/lr=0.10,level=O1/torch/seed-1"
    ]


def test_a_sweep_says_which_rows_differ(tmp_path: Path) -> None:
    """Catches a row that differs by less than its seeds do, and one whose difference is missed."""
    made, grid = plan(tmp_path), parse_grid(["optimizer.lr=1e-3,5e-4,1e-4", "batch=4"])
    levels = {grid[0]: 0.5, grid[1]: 0.502, grid[2]: 0.3}
    noise = {"torch": (0.0, 0.01, -0.02, 0.015), "jax": (0.003, 0.012, -0.021, 0.01)}
    for run in runs_of(["torch", "jax"], [1, 2, 3, 4], grid=grid):
        score = levels[run.row] + noise[run.side][run.seed - 1]
        score += 0.004 * ((run.seed * (1 + grid.index(run.row))) % 3 - 1)
        write_run(made, run, tmp_path, [score, score - 0.1])
    found = analysis.study(made, tmp_path)
    rates = ["optimizer.lr=1e-4", "optimizer.lr=5e-4", "optimizer.lr=1e-3"]
    assert [row.settings[1] for row in found.rows] == rates
    unlike = {(d.side, d.first, d.second) for d in found.row_differences if d.different}
    assert unlike == {(s, *pair) for s in ("torch", "jax") for pair in ((0, 1), (0, 2))}
    shown = tables.sweep(found)
    assert shown.head[:3] == ("row", "batch", "optimizer.lr")
    row = dict(zip(shown.head[:7], shown.rows[0][:7], strict=True))
    assert row["batch"] == "4"
    assert row["optimizer.lr"] == "1e-4"
    assert row["torch: final"].startswith("19.")
    assert row["best"].startswith("29.")
    assert shown.rows[0][6] == "2, 3"
    assert shown.rows[1][6] == "1"


def test_rows_of_another_spelling_are_in_the_same_columns(tmp_path: Path) -> None:
    """Catches a rate in two columns, and rows out of order, where an older row says `lr`."""
    made = plan(tmp_path)
    for row in (("lr=5e-4", "batch=4"), ("batch=4", "optimizer.lr=1e-3")):
        write_run(made, StudyRun(row, 1, 1, "torch"), tmp_path, [0.5])
    shown = tables.sweep(analysis.study(made, tmp_path))
    assert shown.head[:4] == ("row", "batch", "optimizer.lr", "torch: final")
    assert [row[:3] for row in shown.rows] == [("1", "4", "5e-4"), ("2", "4", "1e-3")]


def test_a_row_of_a_sweep_has_its_own_settings(tmp_path: Path) -> None:
    """Catches the level of the first row, and a row said to be as published that is not."""
    made = plan(tmp_path)
    for run in runs_of(["torch"], [1], grid=parse_grid(["precision=bf16", "level=O1,O2"])):
        write_run(made, run, tmp_path, [0.5])
    found = analysis.study(made, tmp_path)
    for level, row in zip(("O1", "O2"), found.rows, strict=True):
        shown = tables.speed(found, row)
        assert dict(zip(shown.head, shown.rows[0], strict=True))["AMP"] == f"bf16 {level}"
        assert found.notes[-1].endswith("of its noise (in 2 of 2 rows)")
        below = tables.accuracy(found, row).below[1]
        assert 'precision "bf16", not "fp32"' in below
        assert ('level "O2", not "O1"' in below) == (level == "O2")
