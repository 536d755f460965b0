"""What other tools' default rules say of mutants, and of networks without a fault.

    python -m tests.benchmarks.other_tools_rules --fast
    python -m tests.benchmarks.other_tools_rules --clean 500

Each is applied as its tool does by default: to the outputs of the whole network, in float32, in
eval mode, on the same input. Constants are those of the tools' documentation.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from parity.capture.torch_side import TorchSide
from parity.faults import mutants as catalogue
from parity.faults.campaign import clean_run, forget, shares, size_said
from parity.faults.mutants import Mutant
from parity.faults.runner import outputs_of, run
from parity.ladder.port import Port
from parity.model_checks.networks import port
from parity.model_checks.small_networks import Subject, models, small
from parity.report.console import standard_output, working
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from tests import program

Arrays = Sequence[np.ndarray]
Rule = Callable[[np.ndarray, np.ndarray, np.ndarray], bool]


def worst(a: np.ndarray, b: np.ndarray) -> float:
    return float(abs(a - b).max())


def close(rtol: float, atol: float) -> Rule:
    """|port - reference| <= atol + rtol |reference| everywhere."""
    return lambda port, ref, _: np.allclose(port, ref, rtol=rtol, atol=atol)


def polygraphy(port: np.ndarray, ref: np.ndarray, exact: np.ndarray) -> bool:
    """An element fails only where both tolerances, 1e-5, are exceeded."""
    apart = abs(port - ref)
    return bool(((apart <= 1e-5) | (apart <= 1e-5 * abs(ref))).all())


def within(limit: float) -> Rule:
    return lambda port, ref, _: worst(port, ref) <= limit


def reprod_log(port: np.ndarray, ref: np.ndarray, exact: np.ndarray) -> bool:
    return float(abs(port - ref).mean()) <= 1e-6


def msprobe(port: np.ndarray, ref: np.ndarray, exact: np.ndarray) -> bool:
    """Fails on a cosine below 0.9, a difference above 1, or 0.99 together with 1e-3."""
    size = np.linalg.norm(port) * np.linalg.norm(ref)
    cosine = float((port * ref).sum() / size) if size else float((port == ref).all())
    apart = worst(port, ref)
    return cosine >= 0.9 and apart <= 1 and not (cosine < 0.99 and apart > 1e-3)


def torch_dynamo(port: np.ndarray, ref: np.ndarray, exact: np.ndarray) -> bool:
    """RMSE to float64 at most twice the reference's, and a tenth of its tolerance, 1e-4."""

    def rmse(a: np.ndarray) -> float:
        return float(np.sqrt(np.square(a - exact).mean()))

    return rmse(port) <= 2 * rmse(ref) + 1e-4 / 10


RULES: dict[str, tuple[str, Rule]] = {
    "Polygraphy": ("rtol = atol = 1e-5, either", polygraphy),
    "HuggingFace PT-Flax": ("max 1e-5", within(1e-5)),
    "HuggingFace PT-Flax, formerly": ("max 4e-2", within(4e-2)),
    "torch.testing.assert_close": ("rtol 1.3e-6, atol 1e-5", close(1.3e-6, 1e-5)),
    "chex": ("rtol 1e-6", close(1e-6, 0.0)),
    "nobuco": ("max 1e-4", within(1e-4)),
    "reprod_log": ("mean 1e-6", reprod_log),
    "TroubleShooter": ("rtol = atol = 1e-4", close(1e-4, 1e-4)),
    "msprobe": ("cosine 0.9, or max 1, or 0.99 with 1e-3", msprobe),
    "TorchDynamo": ("RMSE 2 x the reference's + 1e-5", torch_dynamo),
}


def verdicts(port: Arrays, reference: Arrays, exact: Arrays) -> dict[str, bool]:
    """Which rules call the outputs equal.

    Args:
        port: Its outputs in float32.
        reference: Its outputs in float32.
        exact: The reference's in float64.

    Returns:
        Rule -> whether all outputs pass; outputs of other shapes or numbers never do.
    """
    alike = [a.shape for a in port] == [a.shape for a in reference]
    wide = [[np.asarray(a, np.float64) for a in side] for side in (port, reference, exact)]
    with np.errstate(all="ignore"):  # what is not finite fails every rule
        return {
            name: alike and all(rule(*arrays) for arrays in zip(*wide, strict=True))
            for name, (_, rule) in RULES.items()
        }


@dataclasses.dataclass(frozen=True)
class Judged:
    """What all rules say of one network.

    Attributes:
        network: Its name, and what was done to it.
        parity: The ladder calls it equal to its reference.
        equal: Tool -> its rule does.
        sound: Tool -> its rule calls the same network without the fault equal; of a mutant.
    """

    network: str
    parity: bool
    equal: dict[str, bool]
    sound: dict[str, bool] | None = None


def port_outputs(made: Port) -> list[np.ndarray]:
    """The port's outputs in float32, in eval mode."""
    return outputs_of(made, *made.arguments(train=False))


def reference_outputs(made: Port) -> tuple[Arrays, Arrays]:
    """The reference's outputs in eval mode, in float32 and in float64."""
    found = [
        TorchSide(made.reference, dtype, made.layout)
        .run(made.arguments(train=False), train=False)
        .outputs
        for dtype in ("float32", "float64")
    ]
    return found[0], found[1]


@functools.lru_cache(maxsize=16)
def of_sound(subject: Subject) -> dict[str, bool]:
    """What the rules say of a port without a fault."""
    return verdicts(port_outputs(subject.port), *reference_outputs(subject.port))


def of_mutant(mutant: Mutant) -> Judged:
    """What the rules say of a mutant; one that raises is equal to none."""
    try:
        outputs = port_outputs(mutant.make())
    except Exception:  # of any kind: it is what the tool's user would see
        equal = dict.fromkeys(RULES, False)
    else:
        equal = verdicts(outputs, *reference_outputs(mutant.subject.port))
    name = f"{mutant.subject.model}: {mutant.fault} {mutant.name} {mutant.place}"
    return Judged(name, not run(mutant).killed, equal, of_sound(mutant.subject))


def of_mutants(model: str | None, fast: bool, progress: Callable[[str], None]) -> Iterator[Judged]:
    """Every mutant of a network, or of all, that some input can tell apart.

    Not those whose training alone is changed: their networks are the ones without a fault.
    """
    for name in models() if model is None else [model]:
        for mutant in catalogue.fast(name) if fast else catalogue.mutants(name):
            if mutant.level != "training" and not mutant.equivalent:
                progress(f"{name}: {mutant.fault} {mutant.name} {mutant.place}")
                yield of_mutant(mutant)
        of_sound.cache_clear()
        forget()


def of_clean(count: int, model: str | None, progress: Callable[[str], None]) -> Iterator[Judged]:
    """So many networks without a fault, as `parity faults --clean` runs them."""
    for name, size, seeds in shares(count, model):
        for seed in seeds:
            title = f"{name} {size_said(size)}, seed {seed}"
            progress(title)
            made = port(name, small(name, least=True)[0], size, seed=seed)
            equal = verdicts(port_outputs(made), *reference_outputs(made))
            yield Judged(title, not clean_run(name, size, seed).alarm, equal)
        forget()


def counts(found: Sequence[Judged]) -> dict[str, dict[str, tuple[int, int]]]:
    """Tool -> what is counted -> (how many, of how many).

    `told apart` are the mutants that a rule finds and that it lets pass without the fault: a rule
    that fails everything finds all and tells nothing apart.
    """
    mutants = [j for j in found if j.sound is not None]
    clean = [j for j in found if j.sound is None]

    def of(equal: Callable[[Judged], bool], sound: Callable[[Judged], bool]) -> dict:
        return {
            "killed": (sum(not equal(j) for j in mutants), len(mutants)),
            "told apart": (sum(not equal(j) and sound(j) for j in mutants), len(mutants)),
            "false alarms": (sum(not equal(j) for j in clean), len(clean)),
        }

    def by(tool: str) -> dict:
        return of(lambda j: j.equal[tool], lambda j: bool(j.sound and j.sound[tool]))

    return {"parity": of(lambda j: j.parity, lambda j: True)} | {tool: by(tool) for tool in RULES}


def table(found: Sequence[Judged]) -> Table:
    """A row for each tool; `rich` prints it."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("rule", "constants", "killed", "told apart", "false alarms"):
        made.add_column(column, overflow="fold")
    for name, numbers in counts(found).items():
        constants = RULES[name][0] if name in RULES else "docs/tolerances.md"
        cells = (f"{n} of {of}" if of else "" for n, of in numbers.values())
        made.add_row(name, constants, *cells)
    return made


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", metavar="NAME", choices=MODELS, help="only this network (default: all)")
    add("--fast", action="store_true", help="one mutant per fault, in the smallest networks")
    add("--clean", type=int, metavar="N", help="instead, N networks without a fault")
    add("--json", metavar="FILE", help="write everything to this file")


def compare(args: argparse.Namespace) -> int:
    if args.clean is not None and args.clean < 1:
        raise InputError(f"clean {args.clean}, expected 1 or more")
    with working() as progress:
        if args.clean is not None:
            found = list(of_clean(args.clean, args.model, progress))
        else:
            found = list(of_mutants(args.model, args.fast, progress))
    standard_output().print(table(found))
    rows = [dataclasses.asdict(judged) for judged in found]
    program.save(args.json, {"rules": counts(found), "networks": rows})
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return program.start("tests.benchmarks.other_tools_rules", add_arguments, compare, argv)


if __name__ == "__main__":
    sys.exit(main())
