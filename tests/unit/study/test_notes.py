"""What a study says of runs that are missing, failed, or not like the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.cli import main
from parity.spec.errors import InputError
from parity.study import analysis, tables, writing
from parity.study.plan import StudyRun, ask, runs_of
from tests.study_folders import plan, whole, write_run


def test_what_is_missing_is_said_and_the_rest_is_counted(tmp_path: Path) -> None:
    """Catches a failed or half-done seed that is counted, or that hides the others."""
    made = whole(tmp_path)
    nan = {"status": "failed", "why": "stage whole, epoch 2: loss is nan", "epochs": 2}
    write_run(made, StudyRun((), 5, 1, "torch"), tmp_path, [0.1], state=nan)
    write_run(made, StudyRun((), 5, 1, "jax"), tmp_path, [0.9, 0.9])
    write_run(made, StudyRun((), 6, 1, "torch"), tmp_path, [0.1], state={})
    asked = [StudyRun((), 7, 1, "jax")]
    found = analysis.study(made, tmp_path, asked)
    assert found.notes == (
        "torch seed 5: failed, and is in no number below: stage whole, epoch 2: loss is nan",
        "torch seed 6: 1 of 2 epochs are done",
        "jax seed 6: not begun",
        "torch seed 7: not begun",
        "jax seed 7: not begun",
    )
    assert found.rows[0].comparisons[0].seeds == (1, 2, 3, 4)
    assert found.rows[0].sides[1].seeds == (1, 2, 3, 4, 5)
    # A verdict of a part of the seeds is not that of the study.
    assert writing.verdicts(found)[0].startswith("jax - torch, so far: different by +4.05")
    done = analysis.study(made, tmp_path, seeds=[1, 2, 3, 4, 5])  # one of which has failed
    assert writing.verdicts(done)[0].startswith("jax - torch: different by +4.05")


def test_a_table_knows_what_is_still_to_come(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Catches a final verdict of a study that was stopped between two runs of a pair, or two pairs.

    `parity table` is told of no runs: it knows what lies in the folder.
    """

    def verdict() -> str:
        assert main(["table", str(tmp_path)]) == 0
        return capsys.readouterr().out

    made = whole(tmp_path)
    assert "jax - torch: different by +4.05" in verdict()
    write_run(made, StudyRun((), 5, 1, "torch"), tmp_path, [0.5])
    out = verdict()
    assert "jax - torch, so far: different by +4.05" in out
    assert "jax seed 5: not begun" in out
    write_run(made, StudyRun((), 5, 1, "jax"), tmp_path, [0.54])
    assert "jax - torch: different by" in verdict()
    ask(tmp_path, runs_of(["torch", "jax"], [5, 6]))
    ask(tmp_path, runs_of(["torch"], [7]))  # of another command
    out = verdict()
    assert "jax - torch, so far: different by" in out
    for words in ("torch seed 6", "jax seed 6", "torch seed 7", "jax seed 7"):
        assert f"{words}: not begun" in out
    assert "seed 5: not begun" not in out


def test_seeds_that_are_judged_alone_are_all_there(tmp_path: Path) -> None:
    """Catches a verdict on half of the seeds that were asked for, told as if it were the whole."""
    found = analysis.study(whole(tmp_path), tmp_path, seeds=[3, 4, 5])
    assert found.notes == ("torch seed 5: not begun", "jax seed 5: not begun")
    assert writing.verdicts(found)[0].startswith("jax - torch, so far: different by +4.")
    assert "(2 pairs" in writing.verdicts(found)[0]


def test_a_repeat_does_not_stand_in_for_a_seed_that_failed(tmp_path: Path) -> None:
    """Catches a side that is given a second draw where its first was bad."""
    made = whole(tmp_path)
    nan = {"status": "failed", "why": "loss is nan", "epochs": 2}
    write_run(made, StudyRun((), 5, 1, "torch"), tmp_path, [0.1], state=nan)
    write_run(made, StudyRun((), 5, 2, "torch"), tmp_path, [0.5, 0.5])
    write_run(made, StudyRun((), 5, 3, "torch"), tmp_path, [None, None])
    write_run(made, StudyRun((), 5, 1, "jax"), tmp_path, [0.5, 0.5])
    row = analysis.study(made, tmp_path).rows[0]
    assert row.comparisons[0].seeds == row.sides[0].seeds == (1, 2, 3, 4)
    assert row.sides[0].noise is None  # one repeat with a number


def test_what_is_still_to_come_belongs_to_one_comparison(tmp_path: Path) -> None:
    """Catches a final verdict called "so far" because of another comparison; classes of one alone.

    Runs with deterministic algorithms are compared with each other.
    """
    made = whole(tmp_path)
    for side in ("torch-deterministic", "jax-deterministic"):
        write_run(made, StudyRun((), 1, 1, side), tmp_path, [0.5, 0.5])
    ask(tmp_path, [StudyRun((), 2, 1, "torch-deterministic"), StudyRun((), 4, 2, "jax")])
    found = analysis.study(made, tmp_path)
    plain, deterministic = writing.verdicts(found)
    assert plain.startswith("jax - torch: different")
    assert deterministic.startswith("jax-deterministic - torch-deterministic, so far: not decided")
    titles = [table.title for table in tables.tables(found) if "each class" in table.title]
    assert titles == [
        "IoU of each class, jax - torch",
        "IoU of each class, jax-deterministic - torch-deterministic",
    ]


def test_what_changed_between_starts_is_said(tmp_path: Path) -> None:
    """Catches a run that went on under another version, or on other data, taken for any other."""
    made = whole(tmp_path)
    older = {"versions": {"torch": "2.11.0"}, "data": "/elsewhere"}
    write_run(made, StudyRun((), 5, 1, "torch"), tmp_path, [0.5, 0.5], starts=[older, {}])
    write_run(made, StudyRun((), 5, 1, "jax"), tmp_path, [0.54, 0.54])
    assert analysis.study(made, tmp_path).notes == (
        "torch: trained by several versions: torch 2.11.0 then 2.13.0; torch 2.13.0",
        "runs were trained on data in 2 places, of which only the numbers of images were compared:"
        " /data, /elsewhere",
    )
    write_run(made, StudyRun((), 6, 1, "jax"), tmp_path, [0.5], starts=[{"framework": "torch"}, {}])
    with pytest.raises(InputError, match=r"seed-6/environment.json: trained by torch, not by jax"):
        analysis.study(made, tmp_path)


def test_one_side_and_one_seed_are_said(tmp_path: Path) -> None:
    """Catches a traceback, or a verdict, where there is nothing to compare."""
    made = plan(tmp_path)
    write_run(made, StudyRun((), 1, 1, "torch"), tmp_path, [0.5, 0.4])
    found = analysis.study(made, tmp_path)
    assert found.notes == (
        "no finished run of jax: nothing to compare",
        "torch: one seed alone has no deviation; nothing can be said of its noise",
    )
    assert writing.verdicts(found) == []
    write_run(made, StudyRun((), 2, 1, "jax"), tmp_path, [0.5, 0.4])
    found = analysis.study(made, tmp_path)
    assert "both frameworks have finished runs, but of no seed in common" in found.notes
    write_run(made, StudyRun((), 1, 1, "jax"), tmp_path, [0.6, 0.4])
    found = analysis.study(made, tmp_path)
    assert writing.verdicts(found) == [
        "jax - torch, so far: not decided: one pair of seeds has no deviation, 2 or more are"
        " needed (1 pair)"
    ]
    writing.write_study(found, tmp_path)


def test_a_score_that_is_no_number_is_said(tmp_path: Path) -> None:
    """Catches a run that is left out silently, here and in the table of runs."""
    made = whole(tmp_path)
    write_run(made, StudyRun((), 5, 1, "torch"), tmp_path, [None, None])
    write_run(made, StudyRun((), 5, 1, "jax"), tmp_path, [0.5, 0.5])
    found = analysis.study(made, tmp_path)
    assert found.notes == ("torch seed 5: its score is not a number, and is in no number below",)
    assert found.rows[0].comparisons[0].seeds == (1, 2, 3, 4)
    assert main(["table", str(tmp_path / "torch/seed-5"), str(tmp_path / "jax/seed-5")]) == 0


def test_the_first_run_of_a_repeat_is_still_to_come(tmp_path: Path) -> None:
    """Catches a pair that vanishes silently where only repeats of its seed are there."""
    made = whole(tmp_path)
    write_run(made, StudyRun((), 5, 2, "torch"), tmp_path, [0.5, 0.5])
    found = analysis.study(made, tmp_path)
    assert found.notes == ("torch seed 5: not begun", "jax seed 5: not begun")
    assert writing.verdicts(found)[0].startswith("jax - torch, so far: different")


def test_repeats_alone_are_not_called_no_run(tmp_path: Path) -> None:
    """Catches "no finished run" of a framework whose repeats have finished, or had no score."""
    made = plan(tmp_path)
    nan = {"status": "failed", "why": "loss is nan", "epochs": 2}
    write_run(made, StudyRun((), 1, 1, "torch"), tmp_path, [0.1], state=nan)
    write_run(made, StudyRun((), 1, 2, "torch"), tmp_path, [0.5, 0.5])
    words = "no finished first run with a score"
    assert analysis.study(made, tmp_path).notes[0] == f"{words} yet"
    for seed in (1, 2):
        write_run(made, StudyRun((), seed, 1, "jax"), tmp_path, [0.5, 0.5])
    assert analysis.study(made, tmp_path).notes[0] == f"{words} of torch: nothing to compare"


def test_a_run_without_a_score_is_in_no_speed(tmp_path: Path) -> None:
    """Catches a run that is said to be in no number, and is in the speed's."""
    made = whole(tmp_path)
    before = analysis.study(made, tmp_path).rows[0].sides[1].speed
    for seed in range(5, 12):
        for side in ("torch", "jax"):
            run = StudyRun((), seed, 1, side)
            write_run(made, run, tmp_path, [None, None], images_per_second=1000.0)
    assert analysis.study(made, tmp_path).rows[0].sides[1].speed == before


def test_settings_of_machines_are_counted(tmp_path: Path) -> None:
    """Catches one machine with two numbers of threads called two kinds, or three, or none."""
    made = plan(tmp_path)
    one, two = {"devices": ["cpu: 1 threads"]}, {"devices": ["cpu: 2 threads"]}
    for seed in (1, 2):
        write_run(made, StudyRun((), seed, 1, "torch"), tmp_path, [0.5, 0.5], starts=[two, one])
    line = "torch: trained under 2 settings of machine and threads; times are mixed"
    assert line in analysis.study(made, tmp_path).notes
    write_run(made, StudyRun((), 3, 1, "torch"), tmp_path, [0.5, 0.5], starts=[one])
    assert line in analysis.study(made, tmp_path).notes


@pytest.mark.parametrize("data", [3, None, ["/data"], {}])
def test_a_damaged_record_of_where_the_data_were(tmp_path: Path, data: object) -> None:
    """Catches a traceback of a place that is no text, beside one that is."""
    made = whole(tmp_path)
    write_run(made, StudyRun((), 5, 1, "torch"), tmp_path, [0.5, 0.5], starts=[{"data": data}])
    with pytest.raises(InputError, match=r"environment.json: not the record of a run's starts"):
        analysis.study(made, tmp_path)
