"""The command line. Each command is a module of `parity.cli.commands`, loaded when it runs.

Exit status: 0 all is well, 1 the check failed, 2 bad input or usage, with one line on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from parity.cli import checkout
from parity.io import compilation_cache, garbage, interrupts, openmp, xla_convolutions
from parity.report.lines import say
from parity.spec.errors import InputError, all_listed, printable
from parity.training.dist_env import started

VERBOSE = "list everything that a message names, not only the first five"
INTERRUPTED = "interrupted"  # what most commands say to Ctrl-C, and end
UNREAD = 141  # exit status if the reader of the output has gone: 128 + SIGPIPE

# Command -> what it does. `parity.cli.commands.NAME` has `add_arguments(parser)` and `run(args)`,
# and `ANSWER` if Ctrl-C does not end it at once; it imports no framework before `run`.
COMMANDS = {
    "check": "climb the ladder of parity checks for a network",
    "suggest": "suggest the rules by which a port's weights come from its reference's",
    "pairs": "show which tensors and layers of a port answer which of the reference",
    "record": "record what a reference computes into a file, to compare with it elsewhere",
    "compare": "compare two recordings, of any frameworks",
    "convert": "carry a checkpoint to another format or framework",
    "export": "write a network as an ONNX file, from either side",
    "inspect": "say what a checkpoint or ONNX file holds",
    "drift": "how fast both sides part in float32, beside how fast one parts from itself",
    "faults": "inject the faults of the catalogue, and count those that are found and named",
    "summary": "print the layers of both sides: shapes, parameters",
    "miou": "evaluate both sides on a data set and compare every pixel",
    "infer": "predict a folder of images with an ONNX file",
    "predict": "predict images with a checkpoint, in either framework, or with an ONNX file",
    "pack": "write a split of a data set into one file that is read faster",
    "statistics": "count the classes of a data set, and weigh them by each rule",
    "bench": "time a forward pass or a step of training on both sides",
    "train": "train a network by a recipe, on either side",
    "study": "train both sides from the same seeds: do their accuracies differ?",
    "eval": "evaluate every checkpoint in a folder",
    "table": "print the accuracies of several runs beside each other",
    "recipes": "list the training recipes, or print one whole",
    "demo": "the two-minute tour, on scenes it makes itself",
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; argparse would print the usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class Version(argparse.Action):
    """Prints the version, which is looked up only when asked for, since that takes long."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        import importlib.metadata

        print(f"parity-suite {importlib.metadata.version('parity-suite')}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments; those of the process if not given.

    Returns:
        The exit status. Of the process's own arguments it is that of the process: it ends here
        where what a library does at the usual end would be wrong, or be in the way.
    """
    try:
        status = _run(argv)
        sys.stdout.flush()
    except SystemExit:  # of the parser, perhaps after a long --help
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
            raise
        raise SystemExit(_unread()) from None
    except BrokenPipeError:
        return _unread()
    except KeyboardInterrupt:  # before the command runs, while its module is imported
        print(f"parity: {INTERRUPTED}", file=sys.stderr)
        status = 130
    interrupted = status in (128 + number for number in interrupts.SIGNALS)
    if argv is None and (interrupted or (status and started())):
        # Threads are at work, and the other processes wait, or do not answer.
        interrupts.leave(status)
    if argv is None:
        interrupts.end()
    return status


def _run(argv: Sequence[str] | None) -> int:
    given = sys.argv[1:] if argv is None else argv
    if program := checkout.program(given):
        return _of_checkout(given[0], *program)
    args = parser(given).parse_args(argv)
    # How to do the same in another process.
    own = ["-m", "parity", *argv] if argv is not None else sys.orig_argv[1:]
    args.invocation = [sys.executable, *own]
    compilation_cache.keep_compiled(compilation_cache.of_user())
    xla_convolutions.by_eigen()
    openmp.wait_asleep_if_busy()
    if argv is None:
        garbage.collect_rarely()
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be in its encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        # With several processes, the launcher acknowledges the signal.
        answer = "" if started() else args.answer
        with interrupts.watched(answer) as watch, all_listed(args.verbose):
            try:
                return args.run(args)
            except Exception as error:
                # Python and libraries make other exceptions of a KeyboardInterrupt that comes while
                # they are imported or call back.
                expected = isinstance(error, InputError | BrokenPipeError)
                if expected or INTERRUPTED not in answer or not watch.came():
                    raise
                return 130
    except InputError as error:
        if isinstance(error.__cause__, BrokenPipeError):  # a network printed, to nobody
            raise error.__cause__ from None
        say(f"parity {args.command}: error: {printable(str(error))}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _of_checkout(command: str, module: str, arguments: list[str]) -> int:
    try:
        return checkout.run(module, arguments)
    except InputError as error:
        say(f"parity {command}: error: {printable(str(error))}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _unread() -> int:
    """Handle a closed output pipe, such as that of `head`, silently; return the exit status."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # what is left would fail once more at the end
        os.close(nowhere)
    return UNREAD


def parser(given: Sequence[str] | None = None) -> Parser:
    """The parser of every command.

    Args:
        given: The arguments to be parsed. The module of the command among them alone is loaded,
            and the others' arguments are not known; None loads all.
    """
    purpose = "Carries networks between PyTorch and JAX, and proves that nothing was lost."
    top = Parser(prog="parity", description=purpose, epilog=checkout.HELP)
    top.add_argument("--version", action=Version, help="print the installed version")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, purpose in COMMANDS.items():
        if given is not None and name not in given:
            commands.add_parser(name, help=purpose)
            continue
        module = importlib.import_module(f"parity.cli.commands.{name}")
        sub = commands.add_parser(name, help=purpose, description=module.__doc__)
        module.add_arguments(sub)
        if not any(action.dest == "verbose" for action in sub._actions):
            sub.add_argument("--verbose", action="store_true", help=VERBOSE)
        answer = getattr(module, "ANSWER", f"parity {name}: {INTERRUPTED}")
        sub.set_defaults(run=module.run, answer=answer)
    return top
