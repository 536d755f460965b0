"""What a study says of single classes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from parity.study import analysis, statistics, tables
from parity.study.plan import StudyRun
from tests.study_folders import plan, write_run


def test_a_class_is_different_only_after_adjustment(tmp_path: Path) -> None:
    """Catches p values per class without Holm's correction, and an absent class that is a 0."""
    made = plan(tmp_path)
    for seed, d in enumerate((0.010, 0.005, 0.012, 0.003), 1):
        one = {"road": 0.5, "car": 0.4, "pole": 0.3, "sign": 0.2, "absent": None}
        two = {"road": 0.6 + d / 100, "car": 0.4 + d, "pole": 0.3 - d, "sign": 0.2 + d}
        write_run(made, StudyRun((), seed, 1, "torch"), tmp_path, [0.5], one)
        write_run(made, StudyRun((), seed, 1, "jax"), tmp_path, [0.5], two | {"absent": None})
    rows = {r.name: r for r in analysis.study(made, tmp_path).rows[0].comparisons[0].classes}
    assert rows["road"].different
    assert rows["car"].difference is not None
    assert rows["car"].difference.p < 0.05
    assert rows["car"].adjusted == pytest.approx(3 * rows["car"].difference.p)
    assert not rows["car"].different
    assert rows["absent"].difference is None
    assert math.isnan(rows["absent"].adjusted)


def test_a_class_is_equivalent_only_after_adjustment(tmp_path: Path) -> None:
    """Catches p values of equivalence that are not adjusted, and a pair without the class hidden.

    Differences of four pairs in points; the margin is 0.5.
    """
    made = plan(tmp_path)
    points = {
        "near": (0.1, -0.1, 0.2, 0.0),
        "less near": (0.3, 0.0, 0.5, 0.1),
        "far": (2.0, 1.9, 2.1, 2.0),
    }
    for seed in range(1, 5):
        one = dict.fromkeys((*points, "rare"), 0.5)
        two = {name: 0.5 + d[seed - 1] / 100 for name, d in points.items()}
        write_run(made, StudyRun((), seed, 1, "torch"), tmp_path, [0.5], one)
        rare = None if seed == 1 else 0.5 + seed / 100
        write_run(made, StudyRun((), seed, 1, "jax"), tmp_path, [0.5], two | {"rare": rare})
    found = analysis.study(made, tmp_path)
    rows = {r.name: r for r in found.rows[0].comparisons[0].classes}
    alone = {
        name: statistics.verdict([0.0] * 4, list(d), 0.5).p_equivalence
        for name, d in points.items()
    }
    assert alone["near"] < 0.05 / 4
    assert 0.05 / 3 < alone["less near"] < 0.05
    assert rows["near"].equivalence == pytest.approx(4 * alone["near"])
    assert rows["less near"].equivalence == pytest.approx(3 * alone["less near"])
    assert [rows[name].equivalent for name in points] == [True, False, False]
    shown = tables.classes(found, found.rows[0], found.rows[0].comparisons[0])
    cells = {row[0]: dict(zip(shown.head, row, strict=True)) for row in shown.rows}
    assert [cells[name]["verdict"] for name in points] == [
        "equivalent",
        "not decided",
        "different",
    ]
    assert [cells[name]["pairs"] for name in ("near", "rare")] == ["4", "3"]
    assert "p adjusted for 4 classes" in shown.below[0]


def test_a_class_that_is_equal_in_all_pairs_is_alike(tmp_path: Path) -> None:
    """Catches "not decided" of a class that no side has learned, and "alike" of one that differs.

    Five equal pairs have p 2^-5, which is above 5 % after adjustment for two classes.
    """
    made = plan(tmp_path)
    for seed in range(1, 6):
        one = {"unlearned": 0.0, "apart": 0.25}
        write_run(made, StudyRun((), seed, 1, "torch"), tmp_path, [0.5], one)
        two = {"unlearned": 0.0, "apart": 0.375}
        write_run(made, StudyRun((), seed, 1, "jax"), tmp_path, [0.5], two)
    found = analysis.study(made, tmp_path)
    shown = tables.classes(found, found.rows[0], found.rows[0].comparisons[0])
    assert {row[0]: row[-1] for row in shown.rows} == {"unlearned": "alike", "apart": "not decided"}
    assert found.rows[0].comparisons[0].classes[0].equivalence == 2 * 2**-5
    one = analysis.study(made, tmp_path, seeds=[1])  # that a pair is equal is seen of one, too
    shown = tables.classes(one, one.rows[0], one.rows[0].comparisons[0])
    assert {row[0]: row[-1] for row in shown.rows} == {"unlearned": "alike", "apart": "not decided"}
    assert "one pair alone is not tested" in shown.below[0]
    assert one.rows[0].comparisons[0].kept.words.endswith("(the pair is equal)")
    below = tables.comparison(one, one.rows[0]).below
    assert not any("number of seeds" in line for line in below)  # of which there is none
