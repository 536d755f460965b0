"""Pairing what the reference returns with what the port returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from parity.capture.records import Returned
from parity.ladder.axes import Axes, refuse_axes
from parity.spec.errors import InputError, listed

# The port's output, or what stands above it -> the reference's; None: it has none.
Names = Mapping[str, str | None]


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The outputs of both sides.

    Attributes:
        pairs: The reference's and the port's, in the reference's order.
        reference: Names of the reference's that the port lacks.
        port: Names of the port's that the reference lacks.
    """

    pairs: tuple[tuple[Returned, Returned], ...]
    reference: tuple[str, ...] = ()
    port: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """Return a line on which output is which, where they have names."""
        named = [f"{i} is {a.name}" for i, (a, _) in enumerate(self.pairs) if a.name]
        keyed = any(not _is_number(a.name) for a, _ in self.pairs if a.name)
        return [f"outputs: {listed(named)}"] if keyed and len(named) > 1 else []


def pair_outputs(
    reference: Sequence[Returned], port: Sequence[Returned], given: Names | None
) -> Outputs:
    """Pair outputs by the given names, by their names where both sides have some, else by order.

    Args:
        reference: Everything that the reference returned.
        port: Everything that the port returned.
        given: Names of the port's outputs, or of what holds them -> the reference's.

    Raises:
        InputError: A given name does not exist, one side gives no array, or other numbers of them
            without names.
    """
    ours = [r for r in reference if not r.kind]
    theirs = _renamed(port, reference, given or {})
    arrays = [r for r in theirs if not r.kind]
    for side, found, every in (("reference", ours, reference), ("port", arrays, port)):
        if not found and not (given and every):
            what = f"a {every[0].kind}" if every else "nothing"
            raise InputError(f"the {side} returned {what}, expected arrays")
    by_name = {r.name: r for r in theirs}
    for r in ours:
        if r.name in by_name and by_name[r.name].kind:
            kind, place = by_name[r.name].kind, f"output {r.name}".strip()
            raise InputError(f"{place}: the port returned a {kind}, expected an array")
    common = [r for r in ours if r.name in by_name]
    keyed = all(_is_keyed(found) for found in (ours, arrays))
    if given and not common:
        raise InputError("outputs: by these names no output of one side is one of the other's")
    if given or (keyed and common):
        names = {r.name for r in common}
        return Outputs(
            tuple((r, by_name[r.name]) for r in common),
            tuple(r.name for r in ours if r.name not in names),
            _left(port, theirs, names),
        )
    if len(ours) != len(arrays):
        raise InputError(
            f"the reference returns {_number(ours)}, the port {_number(arrays)}: say which is"
            " which with Port(outputs={the port's: the reference's})"
        )
    return Outputs(tuple(zip(ours, arrays, strict=True)))


def output_axes(
    outputs: Outputs, layouts: Mapping[str | int, Axes], dims: Mapping[int, int]
) -> dict[int, Axes]:
    """Return the axes of the reference's outputs, by place.

    Args:
        outputs: The pairs.
        layouts: The number of an output, or its name on either side -> its axes.
        dims: How many axes each of the reference's has, by place.

    Raises:
        InputError: There is no such output.
    """
    found: dict[int, Axes] = {}
    for key, axes in layouts.items():
        name = str(key)
        places = [
            a.place
            for i, (a, b) in enumerate(outputs.pairs)
            if str(i) == name or any(_below(r.name, name) for r in (a, b))
        ]
        if not places:
            raise InputError(f"output_layouts: there is no output {name}")
        for place in places:
            refuse_axes(f"output_layouts: {name}", axes, dims[place])
        found |= dict.fromkeys(places, axes)
    return found


def _renamed(
    port: Sequence[Returned], reference: Sequence[Returned], given: Names
) -> list[Returned]:
    """Return the port's under the reference's names; those that it lacks get none of its names."""
    for name, other in given.items():
        sides = (("port", name, port), ("reference", other, reference))
        lacking = [
            (side, wanted, known)
            for side, wanted, known in sides
            if wanted is not None and not any(_below(r.name, wanted) for r in known)
        ]
        if len(lacking) == 1 + (other is not None):
            continue  # an output of the other mode
        for side, wanted, known in lacking:
            raise InputError(
                f"outputs: the {side} has no output {wanted!r}, it has"
                f" {listed([r.name or '(one without a name)' for r in known])}"
            )
    found = []
    taken = {other for other in given.values() if other is not None}
    for r in port:
        above = next((n for n in given if _below(r.name, n)), None)
        if above is not None:
            below = r.name[len(above) :]
            renamed = None if given[above] is None else f"{given[above]}{below}"
        else:
            renamed = None if any(_below(r.name, other) for other in taken) else r.name
        found.append(r._replace(name=f"({r.name})" if renamed is None else renamed))
    return found


def _left(
    port: Sequence[Returned], renamed: Sequence[Returned], names: set[str]
) -> tuple[str, ...]:
    pairs = zip(port, renamed, strict=True)
    return tuple(r.name for r, other in pairs if not r.kind and other.name not in names)


def _below(name: str, above: str) -> bool:
    return name == above or name.startswith(f"{above}.")


def _is_keyed(found: Sequence[Returned]) -> bool:
    return all(r.name and not _is_number(r.name) for r in found)


def _is_number(name: str) -> bool:
    return name.partition(".")[0].isdigit()


def _number(found: Sequence[Returned]) -> str:
    names = listed([r.name for r in found]) if _is_keyed(found) else ""
    return f"{len(found)} output{'s' * (len(found) != 1)}" + (f" ({names})" if names else "")
