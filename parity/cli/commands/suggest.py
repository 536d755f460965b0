"""Suggest the rules by which a port's weights come from its reference's.

The pair's own weights are not looked at, so that a new pair needs none. Tensors are matched by
their names, shapes and values, and by the order in which both sides use them. What these do not
decide is marked as in doubt in the table; --check runs both sides with each candidate, in float64,
and settles it where the outputs agree. Exit status 1 if with --check no candidate's outputs agree.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from parity.io.files import check_writable, write_atomically
from parity.ladder.factory import is_factory, make_port
from parity.report.console import working
from parity.spec.errors import InputError

if TYPE_CHECKING:
    from parity.suggest.settling import Settled
    from parity.suggest.suggestion import Suggestion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("port", help="FILE.py:FUNCTION, a function that makes a parity.Port")
    parser.add_argument(
        "--out", metavar="FILE", help="write the table, TOML, to this file instead of printing it"
    )
    parser.add_argument(
        "--check", action="store_true", help="run both sides to settle what is in doubt"
    )


def run(args: argparse.Namespace) -> int:
    if not is_factory(args.port):
        raise InputError(f"{args.port!r}, expected FILE.py:FUNCTION")
    if args.out is not None:
        check_writable(args.out)

    # What a network prints is not to be in the table.
    with working() as progress, contextlib.redirect_stdout(sys.stderr):
        made, settled = suggested(args, progress)
    text = made.text(f"Rules for {args.port}, suggested by `parity suggest`")
    if args.out is not None:
        write_atomically(args.out, text.encode())
    else:
        print(text, end="")
    doubted = sum(len(row.port) for row in made.rows if row.doubts)
    alone = sum(map(len, made.alone()))
    print(
        f"# {len(made.rules())} rules for {len(made.port)} tensors of the port:"
        f" {doubted} in doubt, {alone} tensors not found"
    )
    if settled is None:
        return 0
    verdict = settled.reason or f"outputs agree with {settled.agreed} of {settled.tried}"
    print(f"# checked: {verdict}" + ("" if settled.reason else " candidates, in float64"))
    return 0 if settled.agreed else 1


def suggested(
    args: argparse.Namespace, progress: Callable[[str], None]
) -> tuple[Suggestion, Settled | None]:
    """Load the pair; return the rules, and what running their candidates decided, if asked to."""
    from parity.capture.torch_threads import one_thread
    from parity.ladder.recorded import is_recorded
    from parity.suggest.settling import settle
    from parity.suggest.suggestion import Pair, suggest_pair

    with one_thread():
        port = make_port(args.port)
        if is_recorded(port):
            raise InputError(
                f"{args.port}: its reference is a trace, expected a module: both sides are run"
            )
        pair = Pair.of(port)
        made = suggest_pair(pair, progress)
        if not args.check:
            return made, None
        progress("running the candidates")
        settled = settle(pair, made)
        return settled.suggestion, settled
