"""What the programs of a checkout have in common: how they parse, and how they refuse bad input."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from parity.cli import Parser
from parity.io import compilation_cache, garbage, interrupts, openmp, xla_convolutions
from parity.io.files import check_writable, write_atomically
from parity.spec.errors import InputError, printable

Arguments = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], int]


def start(module: str, add_arguments: Arguments, run: Run, argv: Sequence[str] | None) -> int:
    """Run a program as the command line of `parity` runs a command.

    Args:
        module: The program is `python -m MODULE`; its docstring is the help.
        add_arguments: Adds its arguments to the parser.
        run: Runs it, and returns the exit status.
        argv: The arguments; those of the process if None.

    Returns:
        The exit status; 2 after one line on standard error where `run` raises `InputError`.
    """
    parser = Parser(
        prog=f"python -m {module}", description=inspect.getdoc(sys.modules[run.__module__])
    )
    add_arguments(parser)
    args = parser.parse_args(argv)
    compilation_cache.keep_compiled(compilation_cache.of_user())
    xla_convolutions.by_eigen()
    openmp.wait_asleep_if_busy()
    if argv is None:
        garbage.collect_rarely()
    try:
        with interrupts.watched(f"{module}: interrupted"):
            if getattr(args, "json", None) is not None:
                check_writable(args.json)
            return run(args)
    except InputError as error:
        print(f"{module}: error: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def save(path: str | None, entries: Any) -> None:
    """Write JSON, where it was asked for by `--json`."""
    if path is not None:
        write_atomically(path, json.dumps(entries, indent=1).encode())
