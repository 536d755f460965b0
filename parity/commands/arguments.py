"""Arguments that several commands take."""

from __future__ import annotations

import argparse
import re

from parity.spec.errors import InputError
from parity.spec.models import USUAL, USUAL_OF
from weights_convert.wrapping import Choice


def _defaults(texts: dict[str, str]) -> str:
    return f"(default: {'; '.join(f'{name} {text}'.strip() for name, text in texts.items())})"


# What help says of sizes and of numbers of images that are not given.
SIZES = _defaults({n: f"{h}x{w}" for n, ((h, w), _) in {"": USUAL, **USUAL_OF}.items()})
BATCHES = _defaults({n: str(count) for n, (_, count) in {"": USUAL, **USUAL_OF}.items()})


def add_choice(parser: argparse.ArgumentParser) -> None:
    """`--key` and `--prefix`: which of a file's tensors are meant, where it holds more."""
    parser.add_argument(
        "--key",
        metavar="PATH",
        help="which entry of the file holds the weights, such as state_dict_ema or ema.model"
        " (default: the plain weights, not an average of them)",
    )
    parser.add_argument(
        "--prefix",
        metavar="TEXT",
        help="what stands before the network's names, such as model.; what lies beside it is left"
        " out and named (default: the one after which the whole network is found)",
    )


def choice_of(args: argparse.Namespace) -> Choice:
    """What `add_choice` was given."""
    return Choice(args.key, args.prefix)


def parse_size(text: str) -> tuple[int, int]:
    """`512x1024` to (512, 1024).

    Raises:
        InputError: Anything else.
    """
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text, re.ASCII)
    if not match:
        raise InputError(f"size {text!r}, expected HEIGHTxWIDTH such as 512x1024")
    return int(match[1]), int(match[2])


def parse_devices(text: str) -> int:
    """How many devices; they divide the batch of `parity.devices.plan`.

    Raises:
        InputError: Anything but 1, 2, 4, 8 or 16.
    """
    if text not in ("1", "2", "4", "8", "16"):
        raise InputError(f"devices {text!r}, expected some of 1, 2, 4, 8, 16")
    return int(text)
