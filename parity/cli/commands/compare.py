"""Compare two traces: recordings of two networks, of any frameworks, on equal inputs.

Layers are paired by name (after --rename), the others by value, whatever the order of axes. The
first that differs is named. See docs/traces.md.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from parity.io.files import check_writable, write_atomically
from parity.report.console import working
from parity.report.lines import say
from parity.spec.errors import InputError, listed

if TYPE_CHECKING:
    from parity.ladder.comparison import Comparison

MOST = 20  # lines on what differs, or has no counterpart, that are shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("one", help="a trace; it is taken for the reference")
    parser.add_argument("other", help="another one")
    parser.add_argument(
        "--rename",
        action="append",
        default=[],
        metavar="PATTERN=REPLACEMENT",
        help="of the first's names, as Python's re.sub does; may be given several times",
    )
    parser.add_argument(
        "--limit", type=float, help="of relative differences, instead of the derived ones"
    )
    for what in ("input", "output"):
        parser.add_argument(
            f"--{what}-layout",
            action="append",
            default=[],
            metavar="NAME=AXES",
            help=f"an {what} whose axes are in another order on purpose, such as 0=0,2,3,1: its"
            f" number{' or name' if what == 'output' else ''}, and the first's axes as they stand"
            " in the second",
        )
    parser.add_argument("--json", metavar="FILE", help="write every comparison to this file")


def run(args: argparse.Namespace) -> int:
    if args.limit is not None and not 0 <= args.limit < 1:  # from 1 on zeros would pass
        raise InputError(f"--limit {args.limit}, expected a number from 0, and less than 1")
    if args.json is not None:
        check_writable(args.json)

    import dataclasses
    import json

    from parity.ladder.comparison import Layouts, orders, renames

    rename = renames(args.rename)
    layouts = Layouts(
        orders(args.input_layout, "--input-layout"), orders(args.output_layout, "--output-layout")
    )
    with working() as progress:
        from parity.ladder.recorded_steps import compare
        from parity.trace.reading import TraceFile

        progress(f"comparing {args.one} with {args.other}")
        traces = TraceFile(args.one), TraceFile(args.other)
        found = compare(*traces, rename, args.limit, layouts)
        progress("verifying what was not compared")
        for trace in traces:
            trace.verify()
    differing = [c for c in found.compared if not c.ok]
    most = max(len(differing), len(found.left_out)) if args.verbose else MOST
    for name in dict.fromkeys(c.run for c in found.compared):
        here = [c for c in found.compared if c.run == name]
        worst = max(here, key=lambda c: c.error / c.limit if c.limit else c.error)
        wrong = sum(not c.ok for c in here)
        say(f"{name}: {len(here)} compared, {wrong} differ; nearest to its limit: {worst}")
    for kind, lines in (("differs", differing), ("not compared", found.left_out)):
        for line in lines[:most]:
            say(f"{kind}: {line}")
        if len(lines) > most:
            print(f"{kind}: {len(lines) - most:,} more (--verbose prints all)")
    if args.json is not None:
        rows = [
            dataclasses.asdict(c)
            | {"ok": c.ok, "error": c.error if math.isfinite(c.error) else str(c.error)}
            for c in found.compared
        ]
        unjudged = [str(c) for c in found.unjudged()]
        data = {"ok": found.ok, "compared": rows, "left_out": found.left_out, "unjudged": unjudged}
        write_atomically(args.json, json.dumps(data, indent=1).encode())
    text, status = _verdict(found)
    say(text)
    return status


def _verdict(found: Comparison) -> tuple[str, int]:
    """Return the last line, and the exit status."""
    first, unjudged = found.first(), found.unjudged()
    if first is not None:
        return f"DIFFERENT look at {first.one} first: {first}", 1
    if unjudged:
        names = listed([f"{c.what} ({c.run})" for c in unjudged])
        advice = "record both in float64, too, or give a --limit"
        return f"UNDECIDED nothing judges what the network returns: {names}; {advice}", 2
    count = len(found.left_out)
    lines = f"{count:,} line{'s' * (count != 1)} not compared"
    return f"EQUAL {len(found.compared):,} comparisons, {lines}", 0
