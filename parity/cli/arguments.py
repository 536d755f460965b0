"""Arguments that several commands take."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from parity.report.lines import say
from parity.spec.errors import InputError, printable
from parity.spec.labels import ORDERS
from parity.spec.models import LANGUAGE, USUAL, USUAL_OF, Config, check_input, usual_size
from parity.spec.training.recipe import DATA
from weights_convert.wrapping import Choice

if TYPE_CHECKING:
    from weights_convert.assumptions import Assumptions

FRAMEWORKS = ("torch", "jax")


def _defaults(texts: dict[str, str]) -> str:
    return f"(default: {'; '.join(f'{name} {text}'.strip() for name, text in texts.items())})"


# What help says of sizes and of numbers of images that are not given.
SIZES = _defaults({n: "x".join(map(str, size)) for n, (size, _) in {"": USUAL, **USUAL_OF}.items()})
BATCHES = _defaults({n: str(count) for n, (_, count) in {"": USUAL, **USUAL_OF}.items()})


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add `--key` and `--prefix`, which select tensors in a file with several networks."""
    parser.add_argument(
        "--key",
        metavar="PATH",
        help="which entry of the file holds the weights, such as state_dict_ema or ema.model"
        " (default: the plain weights, not an average of them)",
    )
    parser.add_argument(
        "--prefix",
        metavar="TEXT",
        help="what stands before the network's names, such as model., or '' if nothing does; what"
        " lies beside it is left out and named (default: the one after which the whole network is"
        " found)",
    )


def add_compile(parser: argparse.ArgumentParser) -> None:
    """Add `--compile` to a command in which networks compute."""
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile PyTorch's network by torch.compile, once for each size of a batch, for steps"
        " and for predictions: each takes a minute or more and needs a C++ compiler; results are"
        " equal but for rounding (JAX always compiles)",
    )


def check_compile(args: argparse.Namespace, parts: int) -> None:
    """Refuse `--compile` on several devices, before their processes start.

    Raises:
        InputError: There are several.
    """
    if args.compile and parts > 1:
        raise InputError(f"--compile with {parts} devices, expected one")


def choice_of(args: argparse.Namespace) -> Choice:
    """Return the options that `add_choice` defined, as a `Choice`."""
    return Choice(args.key, args.prefix)


def no_folder(text: str) -> str:
    """Check the value of `--labels`: an order of outputs, not a folder of label maps.

    Raises:
        argparse.ArgumentTypeError: It is a folder or a path; the message says which option takes
        folders.
    """
    if text not in ORDERS and (os.path.isdir(text) or os.sep in text):
        raise argparse.ArgumentTypeError(
            f"{text} is a folder, expected {' or '.join(ORDERS)}, the order of the outputs; labels"
            " are found in the folder of the data set (--data), and by parity infer in --label-dir"
        )
    return text


def parse_size(text: str) -> tuple[int, int]:
    """Parse `512x1024` to (512, 1024).

    Raises:
        InputError: Anything else.
    """
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text, re.ASCII)
    if not match:
        raise InputError(f"size {text!r}, expected HEIGHTxWIDTH such as 512x1024")
    return int(match[1]), int(match[2])


def parse_input_size(text: str, config: Config) -> tuple[int, ...]:
    """Parse the size of a network's inputs: as `parse_size` does, or a number of tokens.

    Raises:
        InputError: Anything else.
    """
    if config.family not in LANGUAGE:
        return parse_size(text)
    if not re.fullmatch(r"[1-9]\d{0,4}", text, re.ASCII):
        raise InputError(f"size {text!r}, expected a number of tokens such as 12")
    return (int(text),)


def size_for(config: Config, text: str | None) -> tuple[int, ...]:
    """Return the size of a network's inputs that `--size` gives, or the usual one.

    Raises:
        InputError: It is no size, or one that the network cannot process.
    """
    size = usual_size(config) if text is None else parse_input_size(text, config)
    try:
        check_input(config, size)
    except ValueError as error:
        raise InputError(str(error)) from None
    return size


def optional_size(text: str | None) -> tuple[int, int] | None:
    """Parse a size as `parse_size` does; None if the option is left out."""
    return None if text is None else parse_size(text)


def add_count_size(parser: argparse.ArgumentParser) -> None:
    """Add `--count-size` to a command that counts predictions."""
    parser.add_argument(
        "--count-size",
        metavar="HxW",
        help="enlarge predictions to this height and width, the nearest pixel of each place, and"
        " count them against the labels at that size, such as 1024x2048 for the whole labels of"
        " Cityscapes (default: count at the size of the predictions)",
    )


def reporter(command: str) -> Callable[[object, Assumptions], None]:
    """Return a function that prints the assumptions about a checkpoint, each line once.

    Warnings go to standard error.
    """
    shown: set[str] = set()

    def report(where: object, assumed: Assumptions) -> None:
        for line in assumed.lines():
            if line not in shown:
                shown.add(line)
                say(printable(line))
        for warning in assumed.warnings(where):
            say(printable(f"parity {command}: warning: {warning}"), sys.stderr)

    return report


def add_dataset(
    parser: argparse.ArgumentParser, known: Iterable[str], required: bool = False
) -> None:
    """Add `--dataset NAME` to a command that takes the data set's folder as another argument.

    Args:
        parser: The command's parser.
        known: The names of the data sets.
        required: Whether the data set cannot be detected from the folder.
    """
    default = "" if required else " (default: detected from the layout)"
    names = " or ".join(known)
    parser.add_argument("--dataset", metavar="NAME", help=f"which data set it is: {names}{default}")
    parser.add_argument("--data", help=argparse.SUPPRESS)  # as it was called


def dataset_of(args: argparse.Namespace, known: Iterable[str]) -> str | None:
    """Return the name given by `--dataset`, or by its former name `--data`.

    Raises:
        InputError: It is none of the known ones, or both are given.
    """
    name = args.dataset
    if args.data is not None:
        if name is not None:
            raise InputError(f"--data {args.data} and --dataset {name}, expected --dataset alone")
        name = args.data
        hint(args.command, f"--data is a folder in other commands; the name is --dataset {name}")
    if name not in (None, *known):
        raise InputError(f"unknown data set {name!r}, expected {' or '.join(known)}")
    return name


def check_data(folder: str) -> None:
    """Refuse a data set's name where its folder is meant.

    Raises:
        InputError: It is a name, and there is no such folder.
    """
    if folder in DATA and not os.path.exists(folder):
        raise InputError(
            f"--data {folder}: no such folder; --data is the folder of the data set, not its name"
        )


def hint(command: str, text: str) -> None:
    """Print a hint about a better way to call a command, to standard error."""
    say(printable(f"parity {command}: hint: {text}"), sys.stderr)


def parse_devices(text: str) -> int:
    """Parse a number of devices, which divide the batch of `parity.model_checks.devices.plan`.

    Raises:
        InputError: Anything but 1, 2, 4, 8 or 16.
    """
    if text not in ("1", "2", "4", "8", "16"):
        raise InputError(f"devices {text!r}, expected some of 1, 2, 4, 8, 16")
    return int(text)
