"""Print the accuracies of several runs of `parity train` side by side."""

from __future__ import annotations

import argparse
import dataclasses
import json

from parity.io.files import check_writable, write_atomically


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help="what parity train --out wrote")
    parser.add_argument("--picture", metavar="FILE.svg", help="draw their curves into this file")
    parser.add_argument("--json", metavar="FILE", help="write everything to this file")


def run(args: argparse.Namespace) -> int:
    from parity.report.console import standard_output
    from parity.training.table import curves, picture, table

    for path in (args.picture, args.json):
        if path is not None:
            check_writable(path)
    found = curves(args.runs)
    drawn = None if args.picture is None else picture(found).encode()
    standard_output().print(table(found))
    if drawn is not None:
        write_atomically(args.picture, drawn)
    if args.json is not None:
        entries = [dataclasses.asdict(curve) for curve in found]
        write_atomically(args.json, json.dumps(entries, indent=1).encode())
    return 0
