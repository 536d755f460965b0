"""The numbers of a study: against scipy's own tests, known values, and simulated studies."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from parity.study import statistics
from parity.study.statistics import Verdict

STUDIES = 1000
RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results"
STUDY = RESULTS.with_name("study.md")


def scores(seed: int, n: int, shift: float = 0.0, deviation: float = 1.0) -> tuple[list, list]:
    """Paired scores, whose differences have this mean and standard deviation."""
    rng = np.random.default_rng(seed)
    first = 60 + 3 * rng.standard_normal(n)  # seeds differ more than the two sides of one
    return list(first), list(first + shift + deviation * rng.standard_normal(n))


@pytest.mark.parametrize("n", [2, 5, 12])
def test_intervals_are_those_of_scipy(n: int) -> None:
    """Catches an unpaired test, a wrong number of degrees of freedom, or a wrong level."""
    first, second = scores(3, n, 0.4)
    found = statistics.difference(first, second)
    right = stats.ttest_rel(second, first)
    assert found.p == pytest.approx(right.pvalue, rel=1e-9)
    for level, interval in ((0.9, found.interval90), (0.95, found.interval95)):
        theirs = right.confidence_interval(level)
        assert interval == pytest.approx((theirs.low, theirs.high), rel=1e-9)
    assert found.different == (right.pvalue < 0.05)


@pytest.mark.parametrize("shift", [-0.6, 0.0, 0.2])
def test_equivalence_is_two_one_sided_tests(shift: float) -> None:
    """Catches one side that is not tested, and a p value that contradicts the interval."""
    first, second = scores(5, 9, shift, 0.3)
    found = statistics.verdict(first, second, 0.5)
    d = np.array(second) - first
    low = stats.ttest_1samp(d, -0.5, alternative="greater").pvalue
    high = stats.ttest_1samp(d, 0.5, alternative="less").pvalue
    assert found.p_equivalence == pytest.approx(max(low, high), rel=1e-9)
    assert found.equivalent == (found.p_equivalence < 0.05)


def test_equivalence_is_judged_by_the_90_percent_interval() -> None:
    """Catches one-sided tests at 2.5 % each, which need more seeds than those at 5 %."""
    found = statistics.verdict([1, 2, 3, 4, 5], [1.1, 2.4, 2.9, 4.2, 5.6], 0.5)
    assert found.difference.interval90[1] < 0.5 < found.difference.interval95[1]
    assert found.p_equivalence == pytest.approx(0.048893, abs=1e-6)
    assert found.equivalent


def rates(deviation: float, shift: float, margin: float, n: int = 5) -> tuple[float, float]:
    """Return which share of simulated studies is called different, and which equivalent."""
    found: list[Verdict] = [
        statistics.verdict(*scores(seed, n, shift, deviation), margin) for seed in range(STUDIES)
    ]
    return tuple(np.mean([getattr(v, name) for v in found]) for name in ("different", "equivalent"))  # type: ignore[return-value]  # there are two


def bound(risk: float) -> float:
    """The share that so many studies stay below in 999 of 1,000 cases, if the risk is this one."""
    return stats.binom.ppf(0.999, STUDIES, risk) / STUDIES


def test_equal_sides_are_seldom_called_different() -> None:
    """Catches a rule that finds a difference where there is none more often than it says.

    The test is that of a ratio, so the deviation does not matter.
    """
    different, _ = rates(0.6, 0.0, 0.5)
    assert 0.02 < different <= bound(0.05)


def measured(page: str) -> tuple[float, float]:
    """Deviation of runs and of paired differences, in points, of the score a page reports."""
    text = (RESULTS / page).read_text()
    kept = re.search(r"the recipe reports the (best|last) validation", text)
    assert kept is not None
    found = re.findall(
        r"^\| (torch|jax) seed \d+ \| finished \| ([\d.]+) \| ([\d.]+) \|", text, re.MULTILINE
    )
    column = {"best": 1, "last": 2}[kept[1]]
    by_side = {
        side: np.array([float(row[column]) for row in found if row[0] == side])
        for side in ("torch", "jax")
    }
    assert [len(values) for values in by_side.values()] == [5, 5]
    differences = by_side["jax"] - by_side["torch"]
    return float(by_side["torch"].std(ddof=1)), float(differences.std(ddof=1))


@pytest.mark.parametrize(
    ("page", "step", "place"),
    [("study-enet-camvid.md", 0.0, 0), ("study-genet-cifar10.md", 0.01, 1)],
)
def test_equal_sides_with_measured_deviations(page: str, step: float, place: int) -> None:
    """Catches a rule that calls equal sides different, with the scores that real studies have.

    The deviations are those of the pages of results. Accuracies of 10,000 images come in steps of
    0.01 points, so that differences tie. `docs/study.md` says both counts; they depend on
    NumPy's generator, so another count is one as near as two such simulations are to each other.
    """
    runs, pairs = measured(page)
    rng = np.random.default_rng(0)
    different, studies = 0, 10 * STUDIES
    for _ in range(studies):
        first = rng.normal(50, runs, 5)
        second = first + rng.normal(0, pairs, 5)
        if step:
            first, second = (np.round(side / step) * step for side in (first, second))
        different += statistics.verdict(list(first), list(second), 0.5).different
    said = re.search(r"([\d,]+) and ([\d,]+) of 10,000\s+simulated studies", STUDY.read_text())
    assert said is not None
    apart = abs(different - int(said.groups()[place].replace(",", "")))
    assert apart <= 4 * math.sqrt(2 * studies * 0.05 * 0.95)
    assert different <= stats.binom.ppf(0.999, studies, 0.05)


def test_sides_at_the_margin_are_seldom_called_equivalent() -> None:
    """Catches a rule that finds equivalence at the margin itself more often than it says."""
    _, equivalent = rates(0.3, 0.5, 0.5)
    assert 0.02 < equivalent <= bound(0.05)


def test_power_is_that_of_known_tables() -> None:
    """Catches a number of seeds that would not suffice.

    A paired t test at 5 % that finds half a deviation with 80 % needs 34 pairs (Cohen 1988).
    """
    assert statistics.power_of_difference(0.5, 1.0, 34) == pytest.approx(0.8078, abs=1e-4)
    assert statistics.pairs_needed(0.5, 1.0, margin=0.1) == 34
    # Of equal sides the two one-sided tests need 36 pairs for a margin of half a deviation; a
    # normal approximation, 2 (1.645 + 1.282)^2 / ... / 0.5^2, says 34.3.
    assert statistics.pairs_needed(0.0, 1.0, margin=0.5) == 36


@pytest.mark.parametrize(("true", "n"), [(0.0, 5), (0.2, 8)])
def test_power_of_equivalence_is_how_often_it_is_found(true: float, n: int) -> None:
    """Catches a wrong integral over the measured deviation."""
    _, equivalent = rates(0.4, true, 0.5, n)
    power = statistics.power_of_equivalence(true, 0.4, 0.5, n)
    assert abs(equivalent - power) < 4 * math.sqrt(power * (1 - power) / STUDIES)


def test_holm_adjusts_as_published() -> None:
    """Catches an adjustment that is Bonferroni's, or falls where it must not."""
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = statistics.holm([math.nan, 0.5, 0.9])
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == [1.0, 1.0]


def test_one_more_run_lies_in_its_interval() -> None:
    """Catches a confidence interval of the mean in place of one of a run."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(STUDIES):
        *known, new = rng.standard_normal(6)
        low, high = statistics.prediction_interval(known)
        inside += low <= new <= high
    assert abs(inside / STUDIES - 0.95) < 4 * math.sqrt(0.05 * 0.95 / STUDIES)


def test_every_verdict_has_its_words() -> None:
    """Catches a difference or an equivalence that is not said, and a number of seeds of no use."""
    equivalent = statistics.verdict([1, 2, 3, 4], [1.1, 1.9, 3.1, 3.9], 0.5)
    assert equivalent.words == "equivalent within 0.5"
    different = statistics.verdict([1, 2, 3, 4], [5.1, 6.3, 6.9, 8.2], 0.5)
    assert different.words == "different by +4.12"
    both = statistics.verdict([1, 2, 3, 4], [1.2, 2.21, 3.19, 4.2], 0.5)
    assert both.words == "equivalent within 0.5, and different by +0.20: less than the margin"
    neither = statistics.verdict([1, 2, 3, 4], [2.2, 1.5, 3.9, 3.4], 0.5)
    assert neither.more is not None
    assert neither.words == f"not decided: about {neither.more} more seeds would be needed"
    assert neither.more_at_most is not None
    assert neither.more_at_most > neither.more
    one = statistics.verdict([1], [2], 0.5)
    assert one.words == "not decided: one pair of seeds has no deviation, 2 or more are needed"
    assert not one.different
    assert not one.equivalent
    equal = statistics.verdict([100 * 0.07], [7.0], 0.5)
    assert equal.words == f"{one.words} (the pair is equal)"
    small = statistics.verdict([1, 2, 3, 4], [0.996, 1.997, 2.996, 3.996], 0.5)
    assert small.words == "equivalent within 0.5, and different by -0.004: less than the margin"
    same = statistics.verdict([1, 2], [1, 2], 0.5)
    needed = "not decided: about 5 more seeds would be needed"
    assert same.words == f"{needed} (all 2 pairs differ by exactly 0)"


@pytest.mark.parametrize(
    ("scores", "step", "words"),
    [
        ((0.57, 0.58), 0.01, "not decided: about 6 more seeds would be needed"),
        ((0.57, 0.58, 0.7, 0.29, 0.1), 0.01, "not decided: about 6 more seeds would be needed"),
        ((0.57, 0.58, 0.7, 0.29, 0.1, 0.2), 0.01, "different by +1.00"),
        ((0.57, 0.58, 0.7, 0.29), 0.0001, "not decided: about 5 more seeds would be needed"),
        ((0.57, 0.58, 0.7, 0.29, 0.1), 0.0001, "equivalent within 0.5"),
    ],
)
def test_pairs_that_differ_alike_are_judged_by_their_signs(
    scores: tuple[float, ...], step: float, words: str
) -> None:
    """Catches a t test of a deviation that is rounding: two pairs alike would be "different".

    Accuracies of few images often differ by the same; 100 * 0.58 - 100 * 0.57 is no exact 1.
    """
    pairs = [100 * a for a in scores], [100 * (a + step) for a in scores]
    assert np.ptp(np.subtract(*pairs)) > 0  # the noise of floating point
    found = statistics.verdict(*pairs, 0.5)
    exact = "+1" if step == 0.01 else "+0.01"
    assert found.words == f"{words} (all {len(scores)} pairs differ by exactly {exact})"
    sign = stats.binomtest(len(scores), len(scores)).pvalue  # two-sided
    assert found.difference.p == pytest.approx(sign)
    assert found.p_equivalence == (1 if step == 0.01 else pytest.approx(sign / 2))
    assert found.more_at_most is None
    assert math.isinf(found.difference.interval90[1])


@pytest.mark.parametrize(("true", "deviation"), [(-0.32, 0.40), (0.5, 0.9), (0.0, 0.9)])
def test_as_many_seeds_as_are_advised_decide(true: float, deviation: float) -> None:
    """Catches advice that counts the old pairs, though the new ones are judged alone.

    The first are the numbers of `docs/results/study-enet-camvid.md`, where ten new pairs, 15 less
    the 5 that there are, would decide in 62 of 100 cases.
    """
    spread = np.array([-1.5, -0.5, 0.0, 0.5, 1.5])
    found = statistics.verdict([0.0] * 5, list(true + deviation * spread / spread.std(ddof=1)), 0.5)
    assert not found.decided
    assert found.more_at_most is not None
    worst = statistics.deviation_interval(deviation, 5)[1]
    for count, sd in ((found.more, deviation), (found.more_at_most, worst)):
        assert count is not None
        assert _power(true, sd, count) >= 0.8 > _power(true, sd, count - 1)
    assert found.more is not None
    rng = np.random.default_rng(1)
    new = rng.normal(true, deviation, (STUDIES, found.more))
    decided = np.mean([statistics.verdict([0.0] * found.more, list(d), 0.5).decided for d in new])
    assert decided > 0.8 - 4 * math.sqrt(0.8 * 0.2 / STUDIES)


def _power(true: float, deviation: float, n: int) -> float:
    return max(
        statistics.power_of_difference(true, deviation, n),
        statistics.power_of_equivalence(true, deviation, 0.5, n),
    )


@pytest.mark.parametrize("n", [2, 5, 40])
def test_power_of_a_difference_is_that_of_the_noncentral_t(n: int) -> None:
    """Catches a wrong integral, and no number where scipy has none."""
    for true in (0.0, 0.2, 0.7):  # at much more scipy has no number
        shift, limit = true * math.sqrt(n), stats.t.ppf(0.975, n - 1)
        right = stats.nct.sf(limit, n - 1, shift) + stats.nct.cdf(-limit, n - 1, shift)
        for sign in (1, -1):
            power = statistics.power_of_difference(sign * true, 1.0, n)
            assert power == pytest.approx(right, abs=2e-4)
    assert statistics.power_of_difference(0.5, 1.0, 300) == pytest.approx(1.0)
    assert statistics.power_of_difference(15, 1.0, 2) == pytest.approx(
        0.9033, abs=2e-3
    )  # simulated


@pytest.mark.long
def test_seeds_that_are_added_because_of_a_verdict_are_judged_alone() -> None:
    """Catches advice that does not help: judged together, equal sides differ too often.

    The numbers are those of `docs/study.md`.
    """
    rng = np.random.default_rng(0)
    together, alone, studies = 0, 0, 0
    while studies < STUDIES:
        first = rng.standard_normal(5)  # of a deviation of twice the margin
        found = statistics.verdict([0.0] * 5, list(first), 0.5)
        if found.decided or found.more is None:
            together += found.different
            studies += 1
            continue
        added = rng.standard_normal(found.more)
        both = np.concatenate([first, added])
        together += statistics.verdict([0.0] * len(both), list(both), 0.5).different
        alone += statistics.verdict([0.0] * len(added), list(added), 0.5).different
        studies += 1
    assert together / STUDIES > 0.08
    assert alone / STUDIES <= bound(0.05)


def test_repeats_are_pooled_within_their_seed() -> None:
    """Catches the differences between seeds, counted as noise of one seed."""
    assert statistics.pooled_deviation([[1, 1.2], [50, 50.2]]) == pytest.approx(0.1 * math.sqrt(2))
    assert math.isnan(statistics.pooled_deviation([[1], [2]]))
