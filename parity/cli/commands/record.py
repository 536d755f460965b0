"""Record what a reference computes into one file, a trace, to compare with it elsewhere.

The function returns (module, inputs), a mapping with these and more of what the recorder takes,
or a parity.Port, whose reference is recorded: then every run that `parity check` makes of it is in
the trace. --side port records the port instead, without layers alone, their upstream gradients and
single steps of the optimizer. Where the suite cannot be installed, copy its file
parity/trace/recorder.py alone: see docs/traces.md.
"""

from __future__ import annotations

import argparse

from parity.io.files import check_writable
from parity.ladder.factory import is_factory, made
from parity.report.console import working
from parity.report.lines import say
from parity.report.report import PRECISIONS
from parity.spec.errors import InputError

PARTS = ("alone", "numerics", "update", "trajectory")
SIDES = ("reference", "port")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("factory", help="FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION")
    parser.add_argument("trace", help="the file to write")
    parser.add_argument("--side", default=SIDES[0], help="reference or port (default: %(default)s)")
    parser.add_argument(
        "--precision",
        default=PRECISIONS[0],
        help=f"the working precision: {', '.join(PRECISIONS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--without",
        metavar="LIST",
        help="what is left out, with a comma between: alone (layers alone), numerics (the working"
        " precision and disturbed runs), update (steps of the optimizer), trajectory",
    )
    parser.add_argument("--eval", action="store_true", help="record eval mode only")


def run(args: argparse.Namespace) -> int:
    if not is_factory(args.factory):
        raise InputError(f"{args.factory!r}, expected FILE.py:FUNCTION")
    if args.side not in SIDES:
        raise InputError(f"side {args.side!r}, expected one of {', '.join(SIDES)}")
    if args.precision not in PRECISIONS:
        raise InputError(f"precision {args.precision!r}, expected one of {', '.join(PRECISIONS)}")
    without = args.without.split(",") if args.without is not None else []
    if unknown := [part for part in without if part not in PARTS]:
        raise InputError(f"--without {unknown[0]!r}, expected some of {', '.join(PARTS)}")
    if without and args.side == "port":
        raise InputError(
            "--without is for the reference's side: of a port, layers alone, layers' upstream"
            " gradients and single steps of the optimizer are never recorded"
        )
    check_writable(args.trace)
    with working() as progress:
        from parity.ladder import recording
        from parity.ladder.port import Port
        from parity.trace.reading import TraceFile

        found = made(args.factory)
        progress(f"recording the {args.side}")
        if args.side == "port":
            if not isinstance(found, Port):
                raise InputError(f"{args.factory} returned no parity.Port, expected one")
            recording.record_port(found, args.trace, args.precision, not args.eval)
        else:
            parts = [part for part in PARTS if part not in without]
            recording.record(found, args.trace, args.precision, parts, not args.eval)
    trace = TraceFile(args.trace)
    say(
        f"{args.trace}: {len(trace.index['runs'])} runs, {len(trace.index['arrays']):,} arrays,"
        f" {trace.size:,} bytes, SHA-256 of its index {trace.sha256}"
    )
    if args.side == "port":
        say(
            "not recorded of a port: layers alone, layers' upstream gradients, single steps of the"
            " optimizer"
        )
    return 0
