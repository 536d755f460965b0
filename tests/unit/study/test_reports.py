"""What a study says of folders whose numbers are known."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from parity.cli import main
from parity.spec.errors import InputError
from parity.study import analysis, results, tables, writing
from parity.study.plan import Plan, StudyRun
from parity.training import overrides
from tests.study_folders import FIRST, plan, whole, write_run

TINY = (0.00002, -0.00002, 0.00004, 0.00006)


def test_a_report_says_what_the_logs_say(tmp_path: Path) -> None:
    """Catches best and last exchanged, a difference of the wrong sign, a speed of another side."""
    found = analysis.study(whole(tmp_path), tmp_path)
    torch, jax = found.rows[0].sides
    assert (torch.name, jax.name) == ("torch", "jax")
    assert torch.seeds == (1, 2, 3, 4)
    assert torch.best.mean == pytest.approx(51.5)
    assert torch.last.mean == pytest.approx(50.5)
    assert torch.best.deviation == pytest.approx(1.29099, abs=1e-5)
    assert jax.best.mean == pytest.approx(55.55)
    compared = found.rows[0].comparisons[0]
    assert compared.kept.difference.mean == pytest.approx(4.05)  # the recipe keeps the best
    assert compared.other.difference.mean == pytest.approx(3.05)
    assert compared.kept.words == "different by +4.05"
    assert (torch.speed.images_per_second, jax.speed.images_per_second) == (20, 10)
    assert torch.speed.step == pytest.approx(0.5)  # a batch of 10
    assert torch.speed.validation == pytest.approx(30)
    assert torch.speed.hours == pytest.approx(42 / 3600)
    assert found.notes == ()


def test_the_published_number_is_beside_them(tmp_path: Path) -> None:
    """Catches a published run of 300 epochs that is compared as if it were the same."""
    found = analysis.study(whole(tmp_path), tmp_path)
    shown = tables.accuracy(found, found.rows[0])
    cells = [dict(zip(shown.head, row, strict=True)) for row in shown.rows]
    assert [(c["published"], c["inside"]) for c in cells] == [("65.2", "no"), ("65.2", "no")]
    assert "the published run is another one: 2 epochs, not 300" in shown.below


def test_repeats_and_deterministic_runs_are_sides_of_their_own(tmp_path: Path) -> None:
    """Catches repeats that count as seeds, and deterministic runs that are mixed with others."""
    made = whole(tmp_path)
    write_run(made, StudyRun((), 1, 2, "torch"), tmp_path, [0.7, 0.1])
    for repeat in (1, 2):
        run = StudyRun((), 1, repeat, "torch-deterministic")
        write_run(made, run, tmp_path, [0.5, 0.5], images_per_second=8.0)
    found = analysis.study(made, tmp_path).rows[0]
    torch, _, deterministic = found.sides
    assert torch.best.mean == pytest.approx(51.5)
    assert torch.noise is not None
    assert (torch.noise.seeds, torch.noise.runs, torch.noise.alike) == (1, 2, 0)
    assert torch.noise.deviation == pytest.approx(20 / math.sqrt(2))
    assert tables.noise(deterministic) == [
        "torch-deterministic: 2 runs of 1 seed, repeated: equal to the last digit of the log"
    ]
    shown = tables.speed(analysis.study(made, tmp_path), found)
    assert "torch-deterministic: a step takes 2.50 times as long as torch's" in shown.below


def test_the_files_hold_everything(tmp_path: Path) -> None:
    """Catches a NaN in JSON, a table without its verdict, a page without curves or bars."""
    found = analysis.study(whole(tmp_path), tmp_path)
    data, text, page = writing.write_study(found, tmp_path)
    entries = json.loads(data.read_text(), parse_constant=lambda name: pytest.fail(name))
    kept = entries["rows"][0]["comparisons"][0]["kept"]
    assert kept["difference"]["mean"] == pytest.approx(4.05)
    assert (kept["different"], kept["equivalent"]) == (True, False)
    assert "**jax - torch: different by +4.05 (4 pairs; 90 % interval +3.90 to" in text.read_text()
    assert "| torch | 4 | 51.50 | 1.29 | 50.50 | 1.29 |" in text.read_text()
    drawn = page.read_text()
    assert drawn.count("<polyline") == 8
    assert drawn.count("width:55.6%") == 2  # a bar of each class
    assert '<tr title="car, torch: 51.50, jax: 55.55">' in drawn


def test_a_difference_that_rounds_to_zero_has_no_sign(tmp_path: Path) -> None:
    """Catches "-0.00" in a table, and in a verdict's interval an end on the wrong side of 0."""
    made = whole(tmp_path, tuple(a + d for a, d in zip(FIRST, TINY, strict=True)))
    found = analysis.study(made, tmp_path)
    low, high = found.rows[0].comparisons[0].kept.difference.interval90
    assert -0.005 < low < 0 < high
    text, page = writing.markdown(found), writing.page(found)
    assert "(4 pairs; 90 % interval 0.00 to +0.01)" in text
    assert "0.00 to 0.01" in text
    assert "-0.00" not in text + page


def test_scores_of_zero_are_drawn(tmp_path: Path) -> None:
    """Catches a curve at the bottom, of a network that knows nothing yet, that is no picture."""
    made = plan(tmp_path)
    write_run(made, StudyRun((), 1, 1, "torch"), tmp_path, [0.0, 0.0])
    assert "<polyline" in writing.page(analysis.study(made, tmp_path))


def test_table_reads_studies(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Catches a study's folder that `parity table` takes for a run without a log."""
    whole(tmp_path)
    data = tmp_path / "table.json"
    assert main(["table", str(tmp_path), "--json", str(data)]) == 0
    out = capsys.readouterr().out
    assert "jax - torch: different by +4.05" in out
    assert json.loads(data.read_text())[0]["recipe"]["name"] == "enet-camvid"
    other = tmp_path / "jax" / "seed-1"
    assert main(["table", str(tmp_path), str(other)]) == 0
    out = capsys.readouterr().out
    assert "54.00" in out
    assert "different by" in out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"name": "enet-cityscapes"},
            "holds a study of recipe enet-camvid, not of enet-cityscapes",
        ),
        ({"epochs": 1}, "holds a study with epochs 2, not 1"),
    ],
)
def test_another_study_is_refused(tmp_path: Path, change: dict, words: str) -> None:
    """Catches runs of two recipes, or of two lengths, in one table."""
    whole(tmp_path)
    with pytest.raises(InputError, match=words):
        plan(tmp_path, **change)


def test_a_run_of_another_recipe_is_refused(tmp_path: Path) -> None:
    """Catches a run's folder that was copied from another study."""
    made = plan(tmp_path)
    run = StudyRun((), 1, 1, "torch")
    write_run(made, run, tmp_path, [0.5])
    path = tmp_path / run.name / "environment.json"
    path.write_text(path.read_text().replace('"lr": 0.0005', '"lr": 0.5'))
    with pytest.raises(InputError, match=r"optimizer.lr 0.5, the study has 0.0005"):
        analysis.study(made, tmp_path)


def test_the_best_is_that_of_the_last_stage(tmp_path: Path) -> None:
    """Catches the score of an encoder alone, at an eighth of the size, reported as the whole's."""
    made = plan(tmp_path, epochs=4, name="erfnet-cityscapes")
    run = StudyRun((), 1, 1, "torch")
    stages, speeds = ["encoder"] * 2 + ["decoder"] * 2, [40.0, 40.0, 12.0, 12.0]
    scores = [0.7, 0.8, 0.5, 0.4]
    write_run(made, run, tmp_path, scores, stages=stages, images_per_second=speeds)
    found = results.read(made, run, tmp_path)
    assert (found.best, found.last) == (50, 40)
    assert found.classes == {"road": 50, "car": 50}
    assert len(found.curve) == 4
    assert found.speed.images_per_second == 12  # not of the smaller network
    assert found.speed.step == pytest.approx(made.recipe.stages[-1].batch / 12)
    assert found.speed.hours == pytest.approx(84 / 3600)  # of both


def test_runs_of_other_data_are_refused(tmp_path: Path) -> None:
    """Catches runs that were validated by other images, averaged with the rest."""
    made = whole(tmp_path)
    write_run(made, StudyRun((), 5, 1, "jax"), tmp_path, [0.5], images=24)
    with pytest.raises(InputError, match=r"jax/seed-5: validated 24 images, .* 90: other data"):
        analysis.study(made, tmp_path)


def test_the_margin_is_that_of_the_beginning(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Catches a margin that is chosen when the numbers are known, and nobody is told."""
    made = dataclasses.replace(Plan.of(overrides.find("enet-camvid"), 2, 1, "data"), margin=6.0)
    made.write(tmp_path)
    assert Plan.read(tmp_path) == made
    whole(tmp_path)
    assert main(["table", str(tmp_path)]) == 0
    assert "jax - torch: equivalent within 6, and different by +4.05" in capsys.readouterr().out
    assert main(["table", str(tmp_path), "--margin", "1"]) == 0
    out = capsys.readouterr().out
    assert "jax - torch: different by +4.05 (4 pairs" in out
    assert "margin 1, where the study began with 6" in out


def test_new_seeds_are_judged_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Catches seeds that led to more seeds, counted again."""
    whole(tmp_path)
    assert main(["table", str(tmp_path), "--seeds", "3-4"]) == 0
    assert "(2 pairs" in capsys.readouterr().out
    for options, words in (
        (["--seeds", "7-9"], "holds no run of seeds 7, 8, 9"),
        (["--margin", "0"], "--margin 0, expected points above 0"),
        ([str(tmp_path), "--picture", str(tmp_path / "f.svg")], "draws one study, or runs"),
    ):
        assert main(["table", str(tmp_path), *options]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert main(["table", str(tmp_path / "torch/seed-1"), "--seeds", "2"]) == 2
    assert "--seeds and --margin are of a study" in capsys.readouterr().err


def test_a_page_of_results(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Catches a page that shows another picture, a legend of every run, an axis without numbers."""
    whole(tmp_path / "study")
    (tmp_path / "pages").mkdir()
    drawn, page = tmp_path / "study.svg", tmp_path / "pages" / "study.md"
    command = ["table", str(tmp_path / "study"), "--picture", str(drawn), "--markdown", str(page)]
    assert main(command) == 0
    text = page.read_text()
    assert "![mean IoU of every run, over the batches](../study.svg)" in text
    assert text.index("**jax - torch: different") < text.index("![mean IoU") < text.index("| side")
    runs = text[text.index("### runs") :]
    assert runs.index("| torch seed 1 |") < runs.index("| jax seed 1 |")
    svg = ElementTree.fromstring(drawn.read_text())
    words = [(float(t.get("x", 0)), t.text) for t in svg.iter("{http://www.w3.org/2000/svg}text")]
    names = [name for _, name in words if name in ("torch", "jax")]
    assert names == ["torch", "jax"]
    assert None not in [name for _, name in words]
    lines = list(svg.iter("{http://www.w3.org/2000/svg}polyline"))
    assert len(lines) == 8
    # The last validation is that of batch 20, at the right, where the axis says 20.
    ends = {float(line.get("points", "").split()[-1].split(",")[0]) for line in lines}
    assert ends == {x for x, name in words if name == "20" and x > 100}
    assert main([*command[:1], str(tmp_path / "study/torch/seed-1"), *command[2:]]) == 2
    assert "--markdown" in capsys.readouterr().err


def test_undecided_says_how_to_go_on(tmp_path: Path) -> None:
    """Catches a number of seeds that is added, and judged as if it had been planned."""
    found = analysis.study(whole(tmp_path, (0.54, 0.5, 0.56, 0.55)), tmp_path)
    assert "not decided" in writing.verdicts(found)[0]
    shown = tables.comparison(found, found.rows[0])
    assert any("judged alone (parity table --seeds)" in line for line in shown.below)
    kept = found.rows[0].comparisons[0].kept
    assert any(line.endswith(f", {kept.more_at_most} new seeds") for line in shown.below)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plan.json", "{}"),
        ("plan.json", '{"version": 1, "recipe": {}, "margin": "wide"}'),
        ("plan.json", "nonsense"),
        ("torch/seed-1/log.jsonl", "{}\n"),
        ("torch/seed-1/log.jsonl", '{"kind": "\udcff"}\n'),
        (
            "torch/seed-1/log.jsonl",
            '{"kind": "validation", "batches": 1, "score": 1, "images": 9, "iou_class": [1]}\n',
        ),
        ("torch/seed-1/environment.json", "{}"),
        ("torch/seed-1.state.json", "{}"),
    ],
)
def test_a_damaged_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, name: str, content: str
) -> None:
    """Catches a traceback that names no file."""
    whole(tmp_path)
    (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    assert main(["table", str(tmp_path)]) == 2
    assert str(tmp_path / name) in capsys.readouterr().err


@pytest.mark.parametrize("margin", ["NaN", "-1.0", "1e400"])
def test_a_margin_of_no_use_is_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture, margin: str
) -> None:
    """Catches a plan's margin with which nothing is equivalent, or all is."""
    whole(tmp_path)
    file = tmp_path / "plan.json"
    file.write_text(file.read_text().replace('"margin": 0.5', f'"margin": {margin}'))
    assert main(["table", str(tmp_path)]) == 2
    assert f"{file}: not the plan of a study" in capsys.readouterr().err


def test_names_that_look_like_markup_are_printed_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Catches a class or folder whose name ends the report, or of which a part is not printed."""
    made, names = plan(tmp_path / "[b]"), {"[/car]": 0.5, "car [parked]": 0.5}
    for side in ("torch", "jax"):
        write_run(made, StudyRun((), 1, 1, side), tmp_path / "[b]", [0.5], names)
    for path in ("[b]", "[b]/torch/seed-1"):
        assert main(["table", str(tmp_path / path)]) == 0
    out = capsys.readouterr().out
    first = {line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")}
    assert {*names} <= first
    assert "[b]/torch/seed-1" in out
