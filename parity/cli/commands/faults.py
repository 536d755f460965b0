"""Plant the faults of the catalogue in the port, and see whether the ladder finds and names them.

Each mutant is a small but complete network with one fault. Exit status 1 where one survives that
some input can tell apart, or where a clean run is called faulty. With --spec the faults are planted
in what both sides read and share, where the ladder sees nothing: each must be found by a test that
holds it against a third party. That needs a checkout of the project with its tests.
"""

from __future__ import annotations

import argparse
from pathlib import Path

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
        help="one mutant per fault, in the smallest networks; of --spec, one fault of each kind",
    )
    parser.add_argument(
        "--clean",
        type=int,
        metavar="N",
        help="instead of mutants, N runs without a fault, over seeds, sizes and networks",
    )
    parser.add_argument(
        "--spec",
        action="store_true",
        help="faults of the contract itself instead, found by tests against third parties",
    )
    parser.add_argument("--json", metavar="FILE", help="write everything to this file")


def run(args: argparse.Namespace) -> int:
    if args.model is not None and args.model not in MODELS:
        raise InputError(f"model {args.model!r}, expected one of {', '.join(MODELS)}")
    if args.clean is not None and args.clean < 1:
        raise InputError(f"clean {args.clean}, expected 1 or more")
    if args.spec and (args.model is not None or args.clean is not None):
        raise InputError("--spec plants its faults in the contract: no --model, no --clean")
    if args.json is not None:
        check_writable(args.json)
    if args.spec:
        return _spec(args)

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


def _spec(args: argparse.Namespace) -> int:
    from parity.report.console import standard_output, working
    from tests.mutation import campaign, catalogue, fault

    root = Path(__file__).resolve().parents[2]
    fault.check_checkout(root)
    with working() as progress:
        faults = catalogue.fast() if args.fast else catalogue.FAULTS
        found = campaign.run(faults, root, progress=progress, quick=args.fast)
    found.print(standard_output())
    if args.json is not None:
        found.to_json(args.json)
    return 0 if found.ok else 1
