"""The result of comparing two traces, and what a user says of names and axes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from parity.ladder.orders import Order
from parity.spec.errors import InputError

Rename = tuple[re.Pattern[str], str]


@dataclasses.dataclass(frozen=True)
class Layouts:
    """What a network takes or returns in another order of axes than the rest, on purpose.

    Attributes:
        inputs: The number of an input -> the first's axes, as they stand in the second.
        outputs: The same of outputs, by number, or by the name in either trace.
    """

    inputs: Mapping[str, Order] = dataclasses.field(default_factory=dict)
    outputs: Mapping[str, Order] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Compared:
    """One quantity of both traces.

    Attributes:
        run: The run, such as `train float64`.
        what: What was compared, such as `output 0` or `gradient`.
        one: Its layer or tensor in the first trace.
        other: The same in the second.
        error: The relative difference in the Euclidean norm, over the best order of axes.
        limit: How large it may be.
        note: Why it cannot be compared; or the order of axes, where it is another one.
        fed: Whether the networks were given it: an input, or a weight, that nobody computed.
        returned: Whether the network returns it, or it is the loss: what users take from it.
    """

    run: str
    what: str
    one: str
    other: str
    error: float
    limit: float
    note: str = ""
    fed: bool = False
    returned: bool = False

    @property
    def mode(self) -> str:
        """Return what runs in all precisions have in common, such as `train`."""
        return self.run.rpartition(" ")[0]

    @property
    def ok(self) -> bool:
        """Return whether the difference is within the limit."""
        return self.error <= self.limit

    def __str__(self) -> str:
        name = self.one if self.one == self.other else f"{self.one} ({self.other})"
        note = f": {self.note}" if self.note else ""
        found = f"difference {self.error:.1e}, limit {self.limit:.1e}"
        return f"{self.run}, {name}, {self.what}: {found}{note}"


@dataclasses.dataclass
class Comparison:
    """What two traces have in common.

    Attributes:
        compared: What was compared, run by run, a layer after the other as the first ran them.
        left_out: Lines on what has no counterpart.
        drowned: What is within a limit that is too wide to tell anything.
    """

    compared: list[Compared]
    left_out: list[str]
    drowned: list[Compared] = dataclasses.field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Return whether nothing differs, and all that tells so was judged.

        That is something that was computed, and all that the networks return.
        """
        computed = not all(c.fed for c in self.compared)
        return computed and not self.unjudged() and all(c.ok for c in self.compared)

    def unjudged(self) -> list[Compared]:
        """Return the outputs of the network, and losses, that no run of their mode judges."""
        judged = {(c.mode, c.what) for c in self.compared if c.returned}
        return [c for c in self.drowned if c.returned and (c.mode, c.what) not in judged]

    def first(self) -> Compared | None:
        """Return the first that differs, layers before what follows from them."""
        return next((c for c in self.compared if not c.ok), None)


def renames(texts: Sequence[str]) -> list[Rename]:
    """Return what `PATTERN=REPLACEMENT` says; the last `=` counts.

    Raises:
        InputError: There is no `=`, or the pattern is none.
    """
    found = []
    for text in texts:
        pattern, sign, replacement = text.rpartition("=")
        if not sign:
            raise InputError(f"--rename {text!r}, expected PATTERN=REPLACEMENT")
        try:
            compiled = re.compile(pattern)
            compiled.sub(replacement, "")
            re.compile(f"(?:{pattern})|").sub(
                replacement, ""
            )  # does it name groups that there are?
        except (re.error, IndexError, OverflowError, RecursionError) as error:
            raise InputError(f"--rename {text!r}: {error}") from error
        found.append((compiled, replacement))
    return found


def orders(texts: Sequence[str], option: str) -> dict[str, Order]:
    """Return what `NAME=AXES` says, such as `0=0,2,3,1`; the last `=` counts.

    Args:
        texts: As they were given.
        option: The option, for messages.

    Raises:
        InputError: One is none, or two are of one name.
    """
    found: dict[str, Order] = {}
    for text in texts:
        name, sign, axes = text.rpartition("=")
        numbers = axes.split(",")
        if not sign or not all(n.isascii() and n.isdigit() for n in numbers):
            raise InputError(f"{option} {text!r}, expected NAME=AXES, such as 0=0,2,3,1")
        if name in found:
            raise InputError(f"{option} says {name!r} twice")
        found[name] = tuple(map(int, numbers))
    return found
