"""Which layers of a network are compared one by one: all, those of some names, or a sample.

Bounds make a check of a large network cheaper. The whole networks still run, and every weight, all
that the networks return, the losses and the gradients of the inputs are always compared.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence

from parity.spec.errors import InputError

NEAREST = 3  # names that are shown where a pattern fits none
WILDCARDS = re.compile(r"[*?]|\[[^]]*\]")
SAMPLE = re.compile(r"0?\.\d{1,9}|\d{1,9}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What of a network is compared layer by layer; everything by default.

    Attributes:
        layers: Patterns of dotted names of either side, with `*`, `?` and `[...]` as in a shell; a
            `*` also stands for dots. A name stands for all that is inside of that layer, and the
            whole name of a tensor for that tensor. No pattern: all layers.
        sample: Of the layers that are alike but for their values, how many are compared, or which
            share of them, between 0 and 1; at least one of each kind. None: all.
        seed: Decides which ones.

    Raises:
        InputError: A pattern is empty, or `sample` is neither a number of layers nor a share.
    """

    layers: tuple[str, ...] = ()
    sample: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for pattern in self.layers:
            if not isinstance(pattern, str) or not pattern.strip():
                raise InputError(f"--layers {pattern!r}, expected a pattern of layers' names")
        if self.sample is not None and not _is_sample(self.sample):
            raise InputError(f"--sample {self.sample!r}, {EXPECTED}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise InputError(f"--sample-seed {self.seed!r}, expected a whole number")

    @classmethod
    def of(cls, layers: str | Sequence[str], sample: float | None, seed: int = 0) -> Bounds:
        """Return the bounds that arguments of a check ask for; a single pattern may be a string."""
        patterns = (layers,) if isinstance(layers, str) else tuple(layers)
        return cls(tuple(part.strip() for p in patterns for part in _parts(p)), sample, seed)

    def __bool__(self) -> bool:
        return bool(self.layers) or self.sample is not None

    @property
    def text(self) -> str:
        """Return the options, as they are given to the command."""
        return " ".join(filter(None, (self.by_name, self.by_sample)))

    @property
    def by_name(self) -> str:
        """Return the option of patterns with its value; empty where it is not given."""
        return f"--layers {','.join(self.layers)}" if self.layers else ""

    @property
    def by_sample(self) -> str:
        """Return the option of the sample with its value and seed; empty where it is not given."""
        return "" if self.sample is None else f"--sample {self.sample:g} --sample-seed {self.seed}"

    def fits(self, name: str) -> bool:
        """Return whether a dotted name, or the layer that it is inside of, fits a pattern."""
        return any(_is_inside(name, pattern) for pattern in self.layers)

    def refuse_unknown(self, names: Iterable[str]) -> None:
        """Refuse patterns that fit nothing.

        Args:
            names: The dotted names of all layers and tensors of both sides.

        Raises:
            InputError: It names the pattern and the nearest names.
        """
        known = list(dict.fromkeys(names))
        for pattern in self.layers:
            if not any(_is_inside(name, pattern) for name in known):
                near = nearest(pattern, known)
                found = f"the nearest are {', '.join(near)}" if near else "there are none"
                raise InputError(f"--layers {pattern!r} fits no layer of either side; {found}")


EVERYTHING = Bounds()
EXPECTED = "expected how many layers of each kind, such as 1, or which share of them, such as 0.25"


def _parts(pattern: str) -> Sequence[str]:
    return pattern.split(",") if isinstance(pattern, str) else (pattern,)


def _is_sample(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value >= 1 if isinstance(value, int) else 0 < value < 1


def parse_sample(text: str) -> float:
    """Parse what `--sample` gives: `2` to 2 layers of each kind, `0.25` to a quarter of them.

    Raises:
        InputError: Anything else.
    """
    found = (float(text) if "." in text else int(text)) if SAMPLE.fullmatch(text) else 0
    if not _is_sample(found):
        raise InputError(f"--sample {text!r}, {EXPECTED}")
    return found


def _is_inside(name: str, pattern: str) -> bool:
    parts = name.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:i]), pattern) for i in range(1, len(parts) + 1))


def nearest(pattern: str, names: Sequence[str]) -> list[str]:
    """Return the names, or what they begin with, that are most like a pattern."""
    plain = WILDCARDS.sub("", pattern).strip(".")
    depth = plain.count(".") + 1
    starts = dict.fromkeys(".".join(name.split(".")[:depth]) for name in names)
    matcher = difflib.SequenceMatcher(b=plain, autojunk=False)  # which knows its second text well

    def likeness(name: str) -> float:
        matcher.set_seq1(name)
        return matcher.ratio()

    return sorted((n for n in starts if n), key=lambda n: (-likeness(n), n))[:NEAREST]
