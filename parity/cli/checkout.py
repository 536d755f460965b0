"""Former commands of `parity` that are now programs of the project's checkout.

They measure and attack the project itself, so they stay with its tests and are not installed. In a
checkout, where the package `tests` is next to `parity`, their names still run them, each in a
separate process.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from parity.spec.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "fuzz": "tests.fuzz",
    "calibrate": "tests.benchmarks.calibrate",
    "unpack": "tests.unpack_cifar10",
}
# Command -> option -> the program, and whether the program takes the option itself.
OPTIONS = {
    "faults": {"--spec": ("tests.mutation", False)},
    "bench": {
        "--convert": ("tests.benchmarks.conversion_speed", False),
        "--data": ("tests.benchmarks.loading_speed", True),
    },
}
HELP = f"In a checkout of the project also {', '.join(COMMANDS)}."


def program(argv: Sequence[str]) -> tuple[str, list[str]] | None:
    """Return the module and arguments for a command line; None for a command of `parity`.

    Args:
        argv: The arguments of `parity`.
    """
    if not argv:
        return None
    command, *rest = argv
    if command in COMMANDS:
        return COMMANDS[command], rest
    for option, (module, kept) in OPTIONS.get(command, {}).items():
        if any(word.partition("=")[0] == option for word in rest):
            return module, rest if kept else [word for word in rest if word != option]
    return None


def run(module: str, arguments: Sequence[str]) -> int:
    """Run a program of the checkout in a separate process.

    Args:
        module: Its dotted name.
        arguments: Its arguments.

    Returns:
        Its exit status; 128 plus the number of a signal that ended it.

    Raises:
        InputError: This `parity` is not in a checkout.
    """
    import subprocess  # `parity --help` imports this module, too

    path = ROOT.joinpath(*module.split("."))
    if not path.with_suffix(".py").is_file() and not (path / "__main__.py").is_file():
        command = " ".join(["python -m", module, *arguments])
        raise InputError(f"only a checkout of the project has this program; there, run {command}")
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    # -P: not the working directory, whose `tests` would come first.
    with subprocess.Popen([sys.executable, "-P", "-m", module, *arguments], env=environment) as own:
        while own.poll() is None:
            with contextlib.suppress(KeyboardInterrupt):  # a terminal sends it to the program, too
                own.wait()
    return own.returncode if own.returncode >= 0 else 128 - own.returncode
