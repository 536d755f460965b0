"""Measure, on clean ports, how close they come to the limits, and so what K must exceed.

A port may be no less exact than its reference: error(port) <= K * (error(reference) + response) +
floor. K is one number for all networks; this prints what it is derived from.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

from parity.io.files import check_writable, write_atomically
from parity.report.report import PRECISIONS
from parity.spec.errors import InputError
from parity.spec.models import MODELS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models", default="enet", help="with a comma between, or all (default: %(default)s)"
    )
    parser.add_argument(
        "--precisions",
        default=",".join(PRECISIONS),
        help="working precisions, with a comma between (default: %(default)s)",
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the rows to this file")


def run(args: argparse.Namespace) -> int:
    models = list(MODELS) if args.models == "all" else args.models.split(",")
    precisions = args.precisions.split(",")
    for name, given, known in (("model", models, MODELS), ("precision", precisions, PRECISIONS)):
        if unknown := [value for value in given if value not in known]:
            raise InputError(f"{name} {unknown[0]!r}, expected some of {','.join(known)}")
    if args.seeds < 1:
        raise InputError(f"seeds {args.seeds}, expected 1 or more")
    if args.json is not None:
        check_writable(args.json)

    from parity.report.console import standard_output, working
    from tests.benchmarks.calibrate import calibrate, table

    with working() as progress:
        rows = calibrate(models, precisions, range(args.seeds), progress)
    standard_output().print(table(rows))
    if args.json is not None:
        entries = [dataclasses.asdict(row) for row in rows]
        write_atomically(args.json, json.dumps(entries, indent=1).encode())
    return 1 if any(row.failed for row in rows) else 0
