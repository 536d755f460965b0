"""Damage, kill and refuse checkpoints in every way, and print what became of them.

flips, truncations, appended: checkpoints with a manifest, changed; none may be accepted. hostile,
mutants: files made to do harm, read in a watched child process; each must be refused in one line
and do nothing else. kills, steps: writing that is killed, at random and before every change to the
file system; the old or the new file must be there, whole. disk-errors: a full disk, a read-only
folder, no permission. pairs: from every format to every other, bit by bit. training: runs of
`parity train` that are killed and go on; they must end as if nobody had killed them. Exit status 1
where one of them fails. Linux only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from parity.report.console import standard_output, working
from parity.spec.errors import InputError
from tests import program
from tests.fuzz import campaign


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        *("--suite", "--ordeal"), metavar="NAME,...", help="only these of the above (default: all)"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="how many of each kind and format (default: 1000 changes, 10000 mutants, 100 kills of"
        " conversions, 50 of training)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument(
        "--whole", action="store_true", help="pairs: the networks as they are, not narrow ones"
    )
    parser.add_argument("--json", metavar="FILE", help="write everything to this file")


def run(args: argparse.Namespace) -> int:
    if sys.platform != "linux":
        raise InputError(f"fuzz watches with what only Linux has; this is {sys.platform}")
    if args.rounds is not None and args.rounds < 1:
        raise InputError(f"rounds {args.rounds}, expected 1 or more")
    if args.seed < 0:
        raise InputError(f"seed {args.seed}, expected 0 or more")

    names = list(campaign.SUITES) if args.suite is None else args.suite.split(",")
    names = ["disk-errors" if name == "refusals" else name for name in names]  # its former name
    if unknown := [name for name in names if name not in campaign.SUITES]:
        known = ", ".join(campaign.SUITES)
        raise InputError(f"suite {unknown[0]!r}, expected one of {known}")
    out = standard_output()
    with working() as progress:
        result = campaign.run(names, args.rounds, args.seed, args.whole, progress)
    result.print(out)
    program.save(args.json, result.to_dict())
    return 0 if result.ok else 1


def main(argv: Sequence[str] | None = None) -> int:
    return program.start("tests.fuzz", add_arguments, run, argv)


if __name__ == "__main__":
    sys.exit(main())
