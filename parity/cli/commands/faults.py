"""Inject faults in a port, and test whether the ladder finds them.

Without a port: the faults of the catalogue in our own networks, and whether their causes are named;
each mutant is a small but complete network with one fault. With FILE.py:FUNCTION, a function that
makes a parity.Port: faults in the operations of that port, which fit whatever it is made of, and
how many of them a check of it finds. Exit status 1 if a mutant that some input can reveal is not
found, or if a clean run is reported as faulty.
"""

from __future__ import annotations

import argparse

from parity.io.files import check_writable
from parity.ladder.factory import is_factory, make_port
from parity.report.console import standard_output, working
from parity.spec.errors import InputError
from parity.spec.models import MODELS

MOST = 60  # mutants of a port of the user's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "port", nargs="?", metavar="FILE.py:FUNCTION", help="a port of your own that passes"
    )
    parser.add_argument(
        "--count", type=int, metavar="N", help=f"of your own port: how many (default: {MOST})"
    )
    parser.add_argument("--seed", type=int, help="of your own port: chooses them (default: 0)")
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
    if args.port is not None:
        return theirs(args)
    if args.count is not None or args.seed is not None:
        raise InputError("--count and --seed are for a port of your own: give FILE.py:FUNCTION")

    with working() as progress:
        from parity.faults.campaign import clean, mutants

        if args.clean is not None:
            result = clean(args.clean, args.model, progress)
        else:
            result = mutants(args.model, args.fast, progress)
    result.print(standard_output())
    if args.json is not None:
        result.to_json(args.json)
    return 0 if result.ok else 1


def theirs(args: argparse.Namespace) -> int:
    """Inject faults in the operations of a user's port."""
    if not is_factory(args.port):
        raise InputError(f"{args.port!r}, expected FILE.py:FUNCTION, or --model NAME")
    if args.model is not None or args.fast or args.clean is not None:
        raise InputError("--model, --fast and --clean are for our own networks, not for a port")
    count = MOST if args.count is None else args.count
    if count < 1:
        raise InputError(f"count {count}, expected 1 or more")

    with working() as progress:
        from parity.faults.operations import campaign

        power = campaign(make_port(args.port), count, args.seed or 0, progress)
    power.print(standard_output())
    if args.json is not None:
        power.to_json(args.json)
    return 0 if power.ok else 1
