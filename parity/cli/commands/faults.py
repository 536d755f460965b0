"""Inject the faults of the catalogue in the port, and test whether the ladder finds and names them.

Each mutant is a small but complete network with one fault. Exit status 1 if a mutant that some
input can reveal is not detected, or if a clean run is reported as faulty.
"""

from __future__ import annotations

import argparse

from parity.io.files import check_writable
from parity.spec.errors import InputError
from parity.spec.models import MODELS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="NAME", help=f"only this network, of {', '.join(MODELS)} (default: all)"
    )
    parser.add_argument(
        "--fast",
        action="store_true",
        help="one mutant per fault, in the smallest networks",
    )
    parser.add_argument(
        "--clean",
        type=int,
        metavar="N",
        help="instead of mutants, N runs without a fault, over seeds, sizes and networks",
    )
    parser.add_argument("--json", metavar="FILE", help="write everything to this file")


def run(args: argparse.Namespace) -> int:
    if args.model is not None and args.model not in MODELS:
        raise InputError(f"model {args.model!r}, expected one of {', '.join(MODELS)}")
    if args.clean is not None and args.clean < 1:
        raise InputError(f"clean {args.clean}, expected 1 or more")
    if args.json is not None:
        check_writable(args.json)

    from parity.faults.campaign import clean, mutants
    from parity.report.console import standard_output, working

    out = standard_output()
    with working() as progress:
        if args.clean is not None:
            result = clean(args.clean, args.model, progress)
        else:
            result = mutants(args.model, args.fast, progress)
    result.print(out)
    if args.json is not None:
        result.to_json(args.json)
    return 0 if result.ok else 1
