"""How time and memory of `parity check` grow with a network, whole and bounded.

    python -m tests.benchmarks.check_scaling docs/results/check-scaling.md

Each network is checked twice, in a process of its own with nothing compiled before: whole, and with
`--sample 1`. The table stands between two marks of the page; what stands around them stays.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.io.files import write_atomically
from parity.report.console import working
from parity.spec.errors import InputError
from parity.spec.networks.decoder import DecoderConfig
from parity.spec.networks.vit import ViTConfig
from parity.training import environment
from tests import program
from tests.benchmarks.large_checkpoints import Measured, timed
from tests.benchmarks.speed_page import placed, table

if TYPE_CHECKING:
    from parity import Port

MODULE = "tests.benchmarks.check_scaling"
BEGIN = f"<!-- made by {MODULE} -->"
LEVELS = "L0,L1,L2,L3"  # the rungs of a port without an optimizer
BATCH = 2
RESNET_SIDE, VIT_SIDE, TOKENS, VOCABULARY = 64, 64, 16, 4096
BOUND = ("--sample", "1")
COLD = "JAX_ENABLE_COMPILATION_CACHE=false"
GIB = 2**30
PACKAGES = ("python", "torch", "jax", "jaxlib")


def resnet18() -> Port:
    return resnet(18)


def resnet50() -> Port:
    return resnet(50)


def resnet101() -> Port:
    return resnet(101)


def vit_s() -> Port:
    return vit(384, 6)


def vit_b() -> Port:
    return vit(768, 12)


def decoder_10m() -> Port:
    return decoder(256, 64, 12)


def decoder_30m() -> Port:
    return decoder(448, 64, 12)


def decoder_100m() -> Port:
    return decoder(832, 64, 12)


def decoder_300m() -> Port:
    return decoder(1024, 256, 26)


# Family -> the functions that make its ports, the smallest first.
FAMILIES: dict[str, tuple[Callable[[], Any], ...]] = {
    "ResNet": (resnet18, resnet50, resnet101),
    "ViT": (vit_s, vit_b),
    "decoder": (decoder_10m, decoder_30m, decoder_100m, decoder_300m),
}


def resnet(depth: int) -> Port:
    """Torchvision's ResNet beside Flax's, with random weights."""
    from tests import torchvision_resnets

    return torchvision_resnets.port(depth, (BATCH, RESNET_SIDE, RESNET_SIDE, 3))


def vit(width: int, heads: int) -> Port:
    """The catalogue's ViT of 12 blocks at ViT-S's or ViT-B's width, with small images."""
    from parity.model_checks import networks

    config = ViTConfig(1000, VIT_SIDE, 16, width, 12, 4 * width, width // heads)
    return networks.port(f"vit-{width}", config, config.check_size, BATCH)


def decoder(width: int, kv_width: int, depth: int) -> Port:
    """The catalogue's decoder, with heads of 64 channels and short sequences."""
    from parity.model_checks import networks

    config = DecoderConfig(VOCABULARY, width, depth, width, kv_width, 64, width * 11 // 4)
    return networks.port(f"decoder-{width}", config, (TOKENS,), BATCH)


@dataclasses.dataclass(frozen=True)
class Checked:
    """What one check took, and what it compared.

    Attributes:
        seconds: From the start of its process to the end.
        computing: Seconds of processors.
        memory: Its largest resident set in bytes.
        parameters: Numbers that the network trains; those of both sides are as many.
        layers: Layers that were compared.
        comparisons: Comparisons that were made.
    """

    seconds: float
    computing: float
    memory: int
    parameters: int
    layers: int
    comparisons: int


def checked(name: str, options: Sequence[str]) -> Checked:
    """Check a network of this module.

    Raises:
        InputError: The check could not be made, or failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        factory = f"{MODULE}:{name}"
        command = (sys.executable, "-m", "parity", "check", factory, "--levels", LEVELS)
        took = timed(name, ("env", COLD, *command, *options, "--json", str(file)))
        report = json.loads(file.read_text())
    return of_report(report, took)


def of_report(report: dict[str, Any], took: Measured) -> Checked:
    """Return what a report says of the network, with what its check took."""
    tensors = [pair for pair in report["pairs"] if pair["kind"] == "tensor"]
    trained = [t for t in tensors if t["port"].rpartition(".")[2] not in ("mean", "var")]
    layers = sum(pair["kind"] == "layer" for pair in report["pairs"])
    return Checked(
        seconds=took.seconds,
        computing=took.computing,
        memory=took.memory,
        parameters=sum(math.prod(sides(t["port_shape"])) for t in trained),
        layers=layers - sum(bound["layers"] for bound in report["bounds"]),
        comparisons=sum(check["can_fail"] for check in report["checks"]),
    )


def sides(shape: str) -> list[int]:
    """Return the sides of an array that a report shows as `3x3x64`, or as `number`."""
    return [int(side) for side in shape.split("x")] if shape[:1].isdigit() else []


def slope(parameters: Sequence[float], values: Sequence[float]) -> float:
    """Return the exponent of parameters with which values grow, fitted to their logarithms."""
    if len(parameters) < 2:
        return math.nan
    return float(np.polyfit(np.log(parameters), np.log(values), 1)[0])


def per_parameter(parameters: Sequence[float], values: Sequence[float]) -> float:
    """Return how much each further parameter adds, fitted by a straight line."""
    return float(np.polyfit(parameters, values, 1)[0]) if len(parameters) > 1 else math.nan


Pair = tuple[Checked | None, Checked | None]  # whole and bounded; None where the check broke off
MEASURES: tuple[Callable[[Checked], float], ...] = (
    lambda c: c.seconds,
    lambda c: c.computing,
    lambda c: c.memory,
)


def row(name: str, pair: Pair) -> list[str]:
    """One network: its size, and what both checks took."""
    known = next(filter(None, pair), None)
    size = "" if known is None else f"{known.parameters / 1e6:.1f}"
    cells = [name, size]
    for one in pair:
        if one is None:
            cells += ["broke off", "", "", ""]
            continue
        times = f"{one.seconds:.0f}", f"{one.computing:.0f}"
        cells += [f"{one.layers}", *times, f"{one.memory / GIB:.2f}"]
    return cells


def fits(family: str, pairs: Sequence[Pair]) -> list[str]:
    """One family: the exponents, and the bytes that a further parameter takes."""
    cells = [family]
    for place in (0, 1):
        found = [pair[place] for pair in pairs]
        done = [one for one in found if one is not None]
        sizes = [one.parameters for one in done]
        for measure in MEASURES:
            cells.append(shown(slope(sizes, [measure(one) for one in done]), 2))
        cells.append(shown(per_parameter(sizes, [one.memory for one in done]), 0))
    return cells


def shown(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def page(
    found: dict[str, dict[str, Pair]], versions: dict[str, str], machine: dict[str, Any]
) -> str:
    """Return the tables in Markdown, and what they were measured with."""
    used = ", ".join(f"{name} {versions[name]}" for name in PACKAGES)
    option = " ".join(BOUND)
    columns = ["", "million parameters"]
    columns += ["layers", "s", "CPU s", "GiB"]
    columns += [f"layers, {option}", "s", "CPU s", "GiB"]
    networks = [row(name, pair) for each in found.values() for name, pair in each.items()]
    slopes = ["", "time", "CPU time", "memory", "bytes a parameter"]
    slopes += [f"time, {option}", "CPU time", "memory", "bytes a parameter"]
    families = [fits(name, list(each.values())) for name, each in found.items()]
    return (
        f"{machine['cores']} cores of {machine['processor']}; {used}; rungs {LEVELS}.\n\n"
        f"{table(columns, networks)}\n"
        "Exponents of the number of parameters, fitted to logarithms within each family, and the"
        f" bytes of memory that each further parameter takes:\n\n{table(slopes, families)}"
    )


def measured(families: Mapping[str, Sequence[str]], progress: Callable[[str], None]) -> Any:
    """Check networks by family, whole and bounded; say on standard error what broke off."""
    found: dict[str, dict[str, Pair]] = {}
    for family, names in families.items():
        for name in names:
            both: list[Checked | None] = []
            for options in ((), BOUND):
                progress(" ".join([name, *options]))
                try:
                    both.append(checked(name, options))
                except InputError as error:
                    print(f"{name} {' '.join(options)}: {error}", file=sys.stderr)
                    both.append(None)
            found.setdefault(family, {})[name] = (both[0], both[1])
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("page", type=Path, help="where the tables are written, between its marks")
    parser.add_argument("--networks", help="only these, with a comma between (default: all)")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to this file, too")


def run(args: argparse.Namespace) -> int:
    names = {family: [make.__name__ for make in each] for family, each in FAMILIES.items()}
    known = [name for each in names.values() for name in each]
    wanted = known if args.networks is None else args.networks.split(",")
    if unknown := [name for name in wanted if name not in known]:
        raise InputError(f"network {unknown[0]!r}, expected some of {', '.join(known)}")
    placed(args.page.read_text(), "", BEGIN)  # or refused before anything is measured
    chosen = {f: kept for f, each in names.items() if (kept := [n for n in each if n in wanted])}
    with working() as progress:
        found = measured(chosen, progress)
    made = page(found, environment.versions(), environment.hardware())
    write_atomically(args.page, placed(args.page.read_text(), made, BEGIN).encode())
    plain = {
        name: [one and dataclasses.asdict(one) for one in pair]
        for each in found.values()
        for name, pair in each.items()
    }
    program.save(args.json, plain)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return program.start(MODULE, add_arguments, run, argv)


if __name__ == "__main__":
    sys.exit(main())
