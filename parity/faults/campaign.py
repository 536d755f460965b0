"""Campaigns: the whole catalogue in every network, and runs without a fault."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import jax

from parity.diagnosis.catalogue import CATALOGUE
from parity.diagnosis.check import check
from parity.faults import evaluation, several, staged
from parity.faults import mutants as catalogue
from parity.faults.result import CampaignResult
from parity.faults.rows import CleanRow, MutantRow
from parity.faults.runner import predict, run
from parity.model_checks.networks import port
from parity.model_checks.small_networks import accepts, models, small, subject

Progress = Callable[[str], None]

FRESH = 20  # mutants, after which what was compiled for them is given back


def mutants(model: str | None, fast: bool, progress: Progress = lambda _: None) -> CampaignResult:
    """Run every mutant.

    Args:
        model: The network; all networks if None.
        fast: Whether to run only one mutant per fault.
        progress: Called with the name of the next run.
    """
    rows: list[MutantRow] = []
    for name in models() if model is None else [model]:
        found = catalogue.fast(name) if fast else catalogue.mutants(name)
        for i, mutant in enumerate(found):
            fault = f"{CATALOGUE[mutant.fault].number} {mutant.name}"
            progress(f"{name} {i + 1}/{len(found)}: {fault} {mutant.place}")
            rows.append(run(mutant))
            if i % FRESH == FRESH - 1:
                forget()
        progress(f"{name}: evaluation")
        rows += evaluation.rows(subject(name, least=fast), predict)
        progress(f"{name}: initial weights and stages")
        rows += staged.rows(name)
        progress(f"{name}: several devices")
        rows += several.rows(name, fast)
        forget()
    return CampaignResult(rows)


def clean(count: int, model: str | None, progress: Progress = lambda _: None) -> CampaignResult:
    """Run `count` networks without a fault, each with a different seed.

    Each network and size has its share of the seeds, and is compiled once.
    """
    found: list[CleanRow] = []
    for name, size, seeds in shares(count, model):
        for seed in seeds:
            progress(f"{len(found) + 1}/{count}: {name} {size_said(size)}")
            found.append(clean_run(name, size, seed))
        forget()
    return CampaignResult(clean=found)


def shares(count: int, model: str | None) -> Iterator[tuple[str, tuple[int, ...], range]]:
    """Yield each network and size of its images, and its share of the seeds 0 to count - 1."""
    names = models() if model is None else [model]
    shapes = [(n, s) for n in names for s in sizes(n)]
    for i, (name, size) in enumerate(shapes):
        yield name, size, range(i, count, len(shapes))


def forget() -> None:
    """Give back what was compiled: every mutant's own programs would stay, gigabytes in the end."""
    jax.clear_caches()
    gc.collect()


def size_said(size: tuple[int, ...]) -> str:
    """`24x32` of an image, `12` of a sequence."""
    return "x".join(map(str, size))


def clean_run(model: str, size: tuple[int, ...], seed: int) -> CleanRow:
    """Run one network without a fault on every rung."""
    made = port(model, small(model, least=True)[0], size, seed=seed)
    fault = check(made).fault()
    return CleanRow(model, seed, size, fault.sentence() if fault else "")


def sizes(model: str) -> list[tuple[int, ...]]:
    """Return the input sizes for the smallest network: its own, and an odd one if accepted."""
    config, (first, *rest) = small(model, least=True)
    odd = ((first + 1, *(side + 3 for side in rest)), (first + 8, *rest))
    return [(first, *rest), *[size for size in odd if accepts(config, size)][:1]]
