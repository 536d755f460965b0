"""Inject faults in what both sides read and share, where the ladder sees nothing.

    python -m tests.mutation --fast

Each must be found by a test that holds the contract against a third party. Exit status 1 where one
survives.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from parity.report.console import standard_output, working
from tests import forking, program
from tests.mutation import campaign, catalogue


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fast", action="store_true", help="one fault of each kind")
    parser.add_argument("--json", metavar="FILE", help="write everything to this file")


def run(args: argparse.Namespace) -> int:
    with working() as progress:
        faults = catalogue.fast() if args.fast else catalogue.FAULTS
        found = campaign.run(faults, forking.ROOT, progress=progress, quick=args.fast)
    found.print(standard_output())
    program.save(args.json, found.to_dict())
    return 0 if found.ok else 1


def main(argv: Sequence[str] | None = None) -> int:
    return program.start("tests.mutation", add_arguments, run, argv)


if __name__ == "__main__":
    sys.exit(main())
