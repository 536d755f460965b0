"""Print what of a port answers what of its reference: every tensor and layer, and how it was found.

Pairs found by order alone, and what has no counterpart, are marked. Nothing is compared.
"""

from __future__ import annotations

import argparse

from parity.io.files import check_writable, write_atomically
from parity.ladder.factory import is_factory, make_port
from parity.report.console import standard_output, working
from parity.spec.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("port", help="FILE.py:FUNCTION, a function that makes a parity.Port")
    parser.add_argument("--json", metavar="FILE", help="write the pairs to this file")


def run(args: argparse.Namespace) -> int:
    import dataclasses
    import json

    if not is_factory(args.port):
        raise InputError(f"{args.port!r}, expected FILE.py:FUNCTION")
    if args.json is not None:
        check_writable(args.json)

    from parity.report.pairs import table

    with working() as progress:
        from parity.ladder.paired import pairs

        progress("running both sides")
        found = pairs(make_port(args.port))
    standard_output().print(table(found))
    if args.json is not None:
        rows = [dataclasses.asdict(pair) for pair in found]
        write_atomically(args.json, json.dumps(rows, indent=1).encode())
    alone = [p for p in found if "(none)" in (p.reference, p.port)]
    print(f"{len(found) - len(alone)} pairs, {len(alone)} without a counterpart")
    return 0
