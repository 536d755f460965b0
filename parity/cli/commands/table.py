"""Print the accuracies of several runs of `parity train`, or of a study, side by side.

A folder of `parity study` is printed as that command prints it, whether or not it has come to its
end. Of several runs a row is a validation, a column a run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
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
        "--seeds", metavar="N|A-B", help="of a study: judge these alone, such as 6-12"
    )
    parser.add_argument(
        "--margin", type=float, metavar="POINTS", help="of a study (default: that it began with)"
    )


def run(args: argparse.Namespace) -> int:
    from parity.cli.commands.study import check_margin
    from parity.report.console import standard_output
    from parity.study.plan import STUDY, Plan, parse_seeds
    from parity.study.writing import picture as picture_of
    from parity.study.writing import print_study, to_dict, values
    from parity.training.table import curves, picture, table

    for path in (args.picture, args.json):
        if path is not None:
            check_writable(path)
    studies = [Path(path) for path in args.runs if (Path(path) / STUDY).exists()]
    if studies and args.picture is not None and len(args.runs) > 1:
        raise InputError(f"--picture {args.picture}: draws one study, or runs, not several studies")
    margin = check_margin(args.margin)
    seeds = None if args.seeds is None else parse_seeds(args.seeds)
    if not studies and (margin, seeds) != (None, None):
        raise InputError(f"--seeds and --margin are of a study; {args.runs[0]} holds none")
    entries: list[Any] = []
    for out in studies:
        from parity.study.analysis import study

        found = study(Plan.read(out), out, (), margin, seeds)
        print_study(found, standard_output())
        entries.append(to_dict(found))
        if args.picture is not None:
            write_atomically(args.picture, picture_of(found).encode())
    runs = curves([path for path in args.runs if Path(path) not in studies])
    drawn = None if args.picture is None or not runs else picture(runs).encode()
    if runs:
        standard_output().print(table(runs))
    if drawn is not None:
        write_atomically(args.picture, drawn)
    if args.json is not None:
        entries += [values(dataclasses.asdict(curve)) for curve in runs]
        write_atomically(args.json, json.dumps(entries, indent=1).encode())
    return 0
