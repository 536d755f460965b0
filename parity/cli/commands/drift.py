"""Train both sides in float32, and each again on changed images, and show how fast they diverge.

The recipe is scaled down: a small network, tiny images. A side whose images are changed by a unit
in the last place diverges from itself; the two sides may diverge no faster than 16 times that. Exit
status 1 if they do.
"""

from __future__ import annotations

import argparse
import json

from parity.io.files import check_writable, write_atomically
from parity.report.console import working
from parity.spec.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="see parity recipes")
    parser.add_argument("--steps", type=int, default=50, help="default: %(default)s")
    parser.add_argument(
        "--changes", type=int, default=2, help="runs of each side on changed images (default: 2)"
    )
    parser.add_argument("--svg", metavar="FILE", help="write the picture to this file")
    parser.add_argument("--json", metavar="FILE", help="write every distance to this file")


def run(args: argparse.Namespace) -> int:
    from parity.spec.recipes import recipe

    for name in ("steps", "changes"):
        if getattr(args, name) < 1:
            raise InputError(f"{name} {getattr(args, name)}, expected 1 or more")
    found = recipe(args.recipe)
    for path in (args.svg, args.json):
        if path is not None:
            check_writable(path)

    from parity.report.plot import plot

    with working() as progress:
        from parity.model_checks.drift import measure

        drift = measure(found, args.steps, args.changes, progress)
    show(drift)
    if args.svg is not None:
        picture = plot(drift.lines(), "step", "distance, relative to all weights", alone=True)
        write_atomically(args.svg, picture.encode())
    if args.json is not None:
        write_atomically(args.json, json.dumps(drift.to_dict(), indent=1).encode())
    return 0 if drift.ok else 1


def show(drift) -> None:  # type: ignore[no-untyped-def]  # typed, it would load both frameworks
    """Print the table and the verdict."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from parity.ladder.tolerances import K
    from parity.report.console import standard_output

    title = f"{drift.recipe}, scaled down, float32: relative distances"
    table = Table(title=title, box=SIMPLE_HEAD)
    for column in ("step", "torch and jax", "torch from itself", "jax from itself", "ratio"):
        table.add_column(column, justify="right")
    for step, *numbers, ratio in drift.rows():
        table.add_row(f"{step}", *(f"{n:.2g}" for n in numbers), f"{ratio:.2f}")
    console = standard_output()
    console.print(table)
    verdict = "[green]PASSED[/green]" if drift.ok else "[red]FAILED[/red]"
    most = drift.ratios.max()
    console.print(f"{verdict} both sides part at most {most:.2f} times as fast; limit {K:g}")
