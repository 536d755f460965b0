"""Print the accuracies of several runs of `parity train`, or of a study, side by side.

A folder of `parity study` is printed as that command prints it, whether or not it has come to its
end. Of several runs a row is a validation, a column a run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from parity.io.files import check_writable, write_atomically
from parity.spec.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="what parity train or parity study --out wrote"
    )
    parser.add_argument("--picture", metavar="FILE.svg", help="draw their curves into this file")
    parser.add_argument("--json", metavar="FILE", help="write everything to this file")
    parser.add_argument(
        "--markdown", metavar="FILE.md", help="of a study: write its report, with the picture"
    )
    parser.add_argument(
        "--seeds", metavar="N|A-B", help="of a study: judge these alone, such as 6-12"
    )
    parser.add_argument(
        "--margin", type=float, metavar="POINTS", help="of a study (default: that it began with)"
    )


def run(args: argparse.Namespace) -> int:
    from parity.report.console import standard_output
    from parity.study.plan import STUDY
    from parity.study.writing import values
    from parity.training.table import curves, picture, table

    for path in (args.picture, args.json, args.markdown):
        if path is not None:
            check_writable(path)
    studies = [Path(path) for path in args.runs if (Path(path) / STUDY).exists()]
    if studies and args.picture is not None and len(args.runs) > 1:
        raise InputError(f"--picture {args.picture}: draws one study, or runs, not several studies")
    if args.markdown is not None and (not studies or len(args.runs) > 1):
        raise InputError(f"--markdown {args.markdown}: expected one study")
    if not studies and (args.margin, args.seeds) != (None, None):
        raise InputError(f"--seeds and --margin are of a study; {args.runs[0]} holds none")
    entries: list[Any] = [reported(args, out) for out in studies]
    runs = curves([path for path in args.runs if Path(path) not in studies])
    curve = None if args.picture is None or not runs else picture(runs).encode()
    if runs:
        standard_output().print(table(runs))
    if curve is not None:
        write_atomically(args.picture, curve)
    if args.json is not None:
        entries += [values(dataclasses.asdict(run)) for run in runs]
        write_atomically(args.json, json.dumps(entries, indent=1).encode())
    return 0


def reported(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Print a study, write what is asked for, and return it as JSON values."""
    from parity.cli.commands.study import check_margin
    from parity.report.console import standard_output
    from parity.study.analysis import study
    from parity.study.plan import Plan, parse_seeds
    from parity.study.writing import markdown, picture, print_study, to_dict

    seeds = None if args.seeds is None else parse_seeds(args.seeds)
    found = study(Plan.read(out), out, (), check_margin(args.margin), seeds)
    print_study(found, standard_output())
    if args.picture is not None:
        write_atomically(args.picture, picture(found).encode())
    if args.markdown is not None:
        drawn = None if args.picture is None else _beside(args.picture, args.markdown)
        write_atomically(args.markdown, markdown(found, drawn).encode())
    return to_dict(found)


def _beside(path: str, page: str) -> str:
    """Return a path as a page refers to it."""
    return Path(os.path.relpath(path, os.path.dirname(page) or ".")).as_posix()
