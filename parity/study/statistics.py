"""The statistics of a study: pure functions of numbers; no files, no framework.

The methods and their sources, in plain words: `docs/study.md`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from parity.report.numbers import in_points

ALPHA = 0.05  # risk of each test; the equivalence test therefore uses a 90 % interval
POWER = 0.8
ALIKE = 1e-9  # points; scores are shares times 100, whose differences are no exact numbers
MOST_SEEDS = 100_000  # where the search for a number of seeds ends
GRID = 512  # points of the numerical integral over the measured deviation

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Summary:
    """Scores of several runs, in points (percent).

    Attributes:
        n: Number of runs.
        mean: Their mean.
        deviation: Sample standard deviation (n - 1); NaN of a single run.
        low: The smallest score.
        high: The largest.
    """

    n: int
    mean: float
    deviation: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """A mean of differences with what can be said of the true one.

    Attributes:
        n: Number of pairs.
        mean: Mean of second minus first.
        deviation: Sample standard deviation of the differences; NaN of a single pair.
        interval90: 90 % confidence interval; infinite of a single pair, and of pairs that all
            differ by the same.
        interval95: 95 % confidence interval.
        p: Of the two-sided paired t test of "no difference"; NaN of a single pair. Where all pairs
            differ by the same, that of the sign test, as there is no deviation to test with.
    """

    n: int
    mean: float
    deviation: float
    interval90: Interval
    interval95: Interval
    p: float

    @property
    def different(self) -> bool:
        """Return whether the two-sided test at 5 % finds a difference.

        That is where the 95 % interval excludes 0, unless all pairs differ by the same.
        """
        return self.p < ALPHA

    @property
    def alike(self) -> bool:
        """Return whether all pairs, or the only one, are equal."""
        return self.mean == 0 and not self.deviation > 0  # that of a single pair is NaN


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a study says of two sides.

    Attributes:
        difference: The paired difference.
        margin: The margin of equivalence, in points.
        p_equivalence: Of the two one-sided tests: the larger one; NaN of a single pair. Where all
            pairs differ by the same, those of the sign test.
    """

    difference: Difference
    margin: float
    p_equivalence: float

    @functools.cached_property
    def more(self) -> int | None:
        """How many pairs a new study needs for a verdict, judged alone, with a power of 80 %.

        The pairs that called for it do not count: judged together with them, equal sides would be
        called different too often. None where there is a verdict, where no number of pairs up to
        `MOST_SEEDS` would do, or the deviation is unknown.
        """
        return self._more(self.difference.deviation)

    @functools.cached_property
    def more_at_most(self) -> int | None:
        """How many pairs are needed if the true deviation is the upper end of its 95 % interval.

        None as for `more`, or where all pairs differ by the same.
        """
        if self.difference.n < 2 or self.difference.deviation == 0:
            return None
        return self._more(deviation_interval(self.difference.deviation, self.difference.n)[1])

    def _more(self, deviation: float) -> int | None:
        if self.decided or self.difference.n < 2:
            return None
        return pairs_needed(self.difference.mean, deviation, self.margin)

    @property
    def equivalent(self) -> bool:
        """Return whether both one-sided tests at 5 % succeed.

        That is where the 90 % interval lies inside of the margin, unless all pairs differ by the
        same.
        """
        return self.p_equivalence < ALPHA

    @property
    def different(self) -> bool:
        return self.difference.different

    @property
    def decided(self) -> bool:
        return self.equivalent or self.different

    @property
    def words(self) -> str:
        """Return the verdict as one line."""
        d, m = in_points(self.difference.mean, signed=True), f"{self.margin:g}"
        if d == in_points(0.0) and self.difference.mean:  # small, and yet found to be different
            d = f"{self.difference.mean:+.1g}"
        if self.difference.n < 2:
            equal = " (the pair is equal)" if self.difference.alike else ""
            return f"not decided: one pair of seeds has no deviation, 2 or more are needed{equal}"
        if self.equivalent and self.different:
            words = f"equivalent within {m}, and different by {d}: less than the margin"
        elif self.equivalent:
            words = f"equivalent within {m}"
        elif self.different:
            words = f"different by {d}"
        elif self.more is None:
            words = f"not decided: even {MOST_SEEDS:,} seeds would not decide"
        else:
            words = f"not decided: about {self.more} more seeds would be needed"
        if self.difference.deviation == 0:
            exact = f"{self.difference.mean:+.3g}" if self.difference.mean else "0"
            words += f" (all {self.difference.n} pairs differ by exactly {exact})"
        return words


def summary(scores: Sequence[float]) -> Summary:
    """Summarise the scores of one side; at least one."""
    found = np.asarray(scores, np.float64)
    deviation = float(found.std(ddof=1)) if len(found) > 1 else math.nan
    return Summary(len(found), float(found.mean()), deviation, float(min(found)), float(max(found)))


def difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare paired scores: element i of both has the same seed.

    Args:
        first: Scores of the first side, at least one.
        second: As many of the second side.
    """
    from scipy import special

    found = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    n, mean = len(found), float(found.mean())
    deviation = float(found.std(ddof=1)) if n > 1 else math.nan
    everything = (-math.inf, math.inf)
    if n < 2 or deviation < ALIKE:
        mean = 0.0 if abs(mean) < ALIKE else mean
    if n < 2:
        return Difference(n, mean, math.nan, everything, everything, math.nan)
    if deviation < ALIKE:
        p = min(2 * _sign(n), 1.0) if mean else 1.0
        return Difference(n, mean, 0.0, everything, everything, p)
    error = deviation / math.sqrt(n)
    both = []
    for tail in (ALPHA, ALPHA / 2):
        end = float(special.stdtrit(n - 1, 1 - tail)) * error
        both.append((mean - end, mean + end))
    return Difference(n, mean, deviation, both[0], both[1], 2 * _tail(abs(mean), error, n))


def verdict(first: Sequence[float], second: Sequence[float], margin: float) -> Verdict:
    """Judge paired scores by two one-sided tests and the paired t test.

    Args:
        first: Scores of the first side, at least one.
        second: As many of the second side, of the same seeds.
        margin: The difference, in the scores' unit, below which two sides count as equivalent.
    """
    found = difference(first, second)
    if found.n < 2:
        return Verdict(found, margin, math.nan)
    if found.deviation == 0:
        return Verdict(found, margin, _sign(found.n) if abs(found.mean) < margin else 1.0)
    error = found.deviation / math.sqrt(found.n)
    ends = [_tail(margin + sign * found.mean, error, found.n) for sign in (1, -1)]
    return Verdict(found, margin, max(ends))


def _sign(n: int) -> float:
    """The one-sided p value of the sign test where all of n pairs lie on one side of a bound."""
    return 0.5**n


def _tail(distance: float, error: float, n: int) -> float:
    """The one-sided p value of a mean that lies `distance` on the far side of a bound."""
    from scipy import special  # of which scipy.stats is made, at many times the cost of a call

    return float(special.stdtr(n - 1, -distance / error))


def deviation_interval(deviation: float, n: int, level: float = 0.95) -> Interval:
    """The confidence interval of a standard deviation that was measured on n values."""
    from scipy import stats

    tails = ((1 + level) / 2, (1 - level) / 2)
    low, high = (math.sqrt((n - 1) / stats.chi2.ppf(q, n - 1)) * deviation for q in tails)
    return low, high


def prediction_interval(scores: Sequence[float], level: float = 0.95) -> Interval:
    """The interval in which one more run of the same kind lies with this probability.

    Infinite of a single score, whose deviation is unknown.
    """
    from scipy import stats

    found = summary(scores)
    if found.n < 2:
        return -math.inf, math.inf
    end = float(stats.t.ppf((1 + level) / 2, found.n - 1))
    end *= found.deviation * math.sqrt(1 + 1 / found.n)
    return found.mean - end, found.mean + end


def power_of_difference(true: float, deviation: float, n: int) -> float:
    """The probability that the paired t test, at 5 %, finds a difference.

    It is that of the noncentral t distribution. scipy's has no value far from 0, so it is
    integrated over the measured deviation, as for equivalence.

    Args:
        true: The true difference.
        deviation: The true standard deviation of paired differences, above 0.
        n: Number of pairs, at least 2.
    """
    from scipy import special

    measured, error = _errors(deviation, n)
    reach = special.stdtrit(n - 1, 1 - ALPHA / 2) * measured
    return float(
        (special.ndtr((true - reach) / error) + special.ndtr((-true - reach) / error)).mean()
    )


def power_of_equivalence(true: float, deviation: float, margin: float, n: int) -> float:
    """The probability that two one-sided tests, each at 5 %, find equivalence.

    Integrates over the measured deviation: for each, the mean must lie close enough to 0.

    Args:
        true: The true difference.
        deviation: The true standard deviation of paired differences, above 0.
        margin: The margin.
        n: Number of pairs, at least 2.
    """
    from scipy import special

    measured, error = _errors(deviation, n)
    reach = margin - special.stdtrit(n - 1, 1 - ALPHA) * measured
    inside = special.ndtr((reach - true) / error) - special.ndtr((-reach - true) / error)
    return float(np.where(reach > 0, inside, 0.0).mean())


def _errors(deviation: float, n: int) -> tuple[np.ndarray, float]:
    """Standard errors of a mean that n pairs will give, each as likely; and the true one."""
    from scipy import special

    shares = (np.arange(GRID) + 0.5) / GRID
    error = deviation / math.sqrt(n)
    return np.sqrt(special.chdtri(n - 1, 1 - shares) / (n - 1)) * error, error


def pairs_needed(true: float, deviation: float, margin: float) -> int | None:
    """The smallest number of pairs, 2 or more, with which either test has 80 % power.

    Args:
        true: The difference that is taken for the true one, as measured.
        deviation: The standard deviation of paired differences.
        margin: The margin of equivalence.

    Returns:
        The number, or None if `MOST_SEEDS` would not do.
    """
    if not math.isfinite(deviation):
        return None
    if deviation == 0:  # as `difference` and `verdict` judge pairs that are all alike
        tails = 1 if abs(true) < margin else 2
        return _smallest(lambda n: float(tails * _sign(n) < ALPHA))
    found = [_smallest(lambda n: power_of_difference(true, deviation, n))]
    if abs(true) < margin:
        found.append(_smallest(lambda n: power_of_equivalence(true, deviation, margin, n)))
    counts = [count for count in found if count is not None]
    return min(counts, default=None)


def _smallest(power: Callable[[int], float]) -> int | None:
    """The smallest n from 2 on at which a power that rises with n is `POWER`."""
    low, high = 1, 2
    while power(high) < POWER:
        if high >= MOST_SEEDS:
            return None
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p values for many comparisons (Holm 1979); a NaN counts for nothing and stays one.

    An adjusted value below 5 % is significant, with a risk of 5 % for all comparisons together.
    """
    made = [math.nan] * len(values)
    known = sorted((p, i) for i, p in enumerate(values) if not math.isnan(p))
    least = 0.0
    for rank, (p, i) in enumerate(known):
        least = made[i] = min(1.0, max(least, p * (len(known) - rank)))
    return made


def pooled_deviation(groups: Sequence[Sequence[float]]) -> float:
    """The standard deviation within groups, such as repeats of one seed.

    NaN where no group has two values.
    """
    several = [np.asarray(group, np.float64) for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    if not freedom:
        return math.nan
    return math.sqrt(sum(float(group.var() * len(group)) for group in several) / freedom)
