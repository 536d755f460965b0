"""Print a network's layers on both sides: names, output shapes, parameters.

Exit status 1: the two sides differ.
"""

from __future__ import annotations

import argparse

from parity.cli.arguments import SIZES, size_for
from parity.io.files import check_writable, write_atomically
from parity.report.console import standard_output, working
from parity.spec.errors import InputError
from parity.spec.models import MODELS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=f"the network: {', '.join(MODELS)}")
    parser.add_argument("--size", metavar="HxW", help=SIZES)
    parser.add_argument("--json", metavar="FILE", help="write the layers to this file")


def run(args: argparse.Namespace) -> int:
    import json

    if args.model not in MODELS:
        raise InputError(f"model {args.model!r}, expected one of {', '.join(MODELS)}")
    config = MODELS[args.model]
    size = size_for(config, args.size)
    if args.json is not None:
        check_writable(args.json)

    with working() as progress:
        from parity.model_checks.summary import summary, table

        progress(f"running {args.model} on both sides")
        found = summary(args.model, config, size)
    standard_output().print(table(found))
    if args.json is not None:
        write_atomically(args.json, json.dumps(found.to_dict(), indent=1).encode())
    print(verdict(found.ok, len(found.rows), found.totals[0]))
    return 0 if found.ok else 1


def verdict(ok: bool, rows: int, parameters: int) -> str:
    """Return the last line."""
    if ok:
        return f"PASSED: {rows} layers and {parameters:,} parameters alike on both sides"
    return "FAILED: the two sides differ; see the layers in red, or where they show two values"
