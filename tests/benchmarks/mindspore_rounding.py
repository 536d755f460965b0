"""Measure what float32's rounding changes in the golden cases of MindSpore's ports.

    python -m tests.benchmarks.mindspore_rounding

MindSpore computed in float32, so nothing can be told from it that a float32 run of our own does not
agree with itself on. Each case is run in float32 from weights rounded in three ways (to the nearest
number, and to both of its neighbours) and compared with its float64 run. What it prints are the
numbers that `parity/tests/test_mindspore_training.py` derives its limits from.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import torch_impl.state
from parity.capture.torch_side import TorchSide
from parity.model_checks.networks import CROSS_ENTROPY
from tests.golden_vectors import probe
from tests.mindspore_cases import CASES, Case, Steps, train

GOLDEN = Path(__file__).parents[1] / "golden"
Arrays = Mapping[str, np.ndarray]


def rounded(case: Case) -> list[dict[str, np.ndarray]]:
    """Return the case's weights, all one float32 number further, or all one less."""
    return [
        {
            k: np.nextafter(a, np.float32(way)) if a.dtype == np.float32 else a
            for k, a in case.arrays.items()
        }
        for way in (np.inf, -np.inf)
    ]


def gradients(case: Case, arrays: Arrays, precision: str) -> dict[str, np.ndarray]:
    """Return MindSpore's name -> gradient of the first step."""
    network = TorchSide(torch_impl.state.build(case.config, dict(arrays), precision), precision)
    images = (case.batch.images.astype(precision),)
    targets = (*case.batch.targets, case.class_weights.astype(precision))
    found = network.run(images, True, CROSS_ENTROPY[False], targets).parameter_gradients
    return {n: found[k].astype(np.float64) for n, k in case.names.items()}


def apart(found: Arrays, exact: Arrays) -> np.ndarray:
    """Return how far norms, and products with a fixed vector, are apart; (2, tensors)."""
    norms = {n: np.linalg.norm(a.astype(np.float64)) for n, a in exact.items()}
    return np.array(
        [
            [abs(np.linalg.norm(found[n].astype(np.float64)) / norms[n] - 1) for n in exact],
            [abs(probe(found[n]) - probe(exact[n])) / norms[n] for n in exact],
        ]
    )


def measure(case: Case) -> None:
    """Print one case: the largest median of the three runs, and of its losses the largest error."""
    starts = [case.arrays, *rounded(case)]
    wide, runs = train(case), [train(case, "fp32", a) for a in starts]
    exact = gradients(case, case.arrays, "float64")
    counted = [n for n in exact if n not in case.cancelled()]
    found = [gradients(case, a, "float32") for a in starts]
    rows = {"grad": [apart(f, {n: exact[n] for n in counted}) for f in found]}
    for what, moved in wide.moved.items():
        rows[what] = [apart(run.moved[what], moved) for run in runs]
    biases = {n: a for n, a in wide.moved["moved_1"].items() if n in case.cancelled()}
    if biases:
        rows["biases"] = [apart(run.moved["moved_1"], biases) for run in runs]
    for what, kept in wide.statistics.items():
        rows[what] = [apart(run.statistics[what], kept) for run in runs]
    print(case.name)
    for what, each in rows.items():
        medians = np.median(each, axis=2).max(axis=0)
        print(f"  {what:8} medians {medians[0]:.1e} {medians[1]:.1e}, largest {np.max(each):.1e}")
        print(f"           largest norm {np.max(np.array(each)[:, 0]):.1e}")
    print("  losses  ", *(f"{x:.1e}" for x in later(wide, runs)))


def later(wide: Steps, runs: list[Steps]) -> np.ndarray:
    """Return the largest relative error of each step's loss."""
    errors = [np.abs(np.array(run.losses) / wide.losses - 1) for run in runs]
    return np.max(errors, axis=0)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)} (default: all)")
    for name in parser.parse_args(argv).cases or CASES:
        measure(Case(GOLDEN, name))


if __name__ == "__main__":
    main()
