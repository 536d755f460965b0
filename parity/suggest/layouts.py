"""How the axes of one tensor become those of another, as far as shapes and customs tell."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from weights_convert.rules.axes import MisfitError, parse, solve

# What kernels of either framework look like, in the order in which a port is likely to have them.
# A kernel's height and width are in the same order everywhere.
CUSTOMS = {
    2: ("o i -> i o", "o i -> o i"),
    3: ("o i l -> l i o", "o i l -> o i l", "o i l -> l o i", "o i l -> o l i"),
    4: (
        "o i h w -> h w i o",
        "o i h w -> h w o i",
        "o i h w -> o i h w",
        "o i h w -> i o h w",
        "o i h w -> o h w i",
    ),
    5: ("o i d h w -> d h w i o", "o i d h w -> o i d h w", "o i d h w -> d h w o i"),
}
# Kernels whose axes are apart on one side: heads, or a convolution of size 1.
SPLIT = (
    "(h d) i -> i h d",
    "o (h d) -> h d o",
    "(n h d) i -> i n h d",
    "(h d) -> h d",
    "(n h d) -> n h d",
    "o i 1 -> i o",
    "o i 1 1 -> i o",
    "o i 1 1 -> o i",
    "1 n d -> n d",
    "n d -> 1 n d",
    "1 1 d -> d",
    "c -> 1 c",
    "c -> 1 1 1 c",
    "c 1 1 -> c",
)
AS_IT_IS = ""


def fits(formula: str, source: Sequence[int], target: Sequence[int]) -> bool:
    """Return whether a formula makes one shape of another."""
    made = parse(formula)
    pairs = [(made.left[0], source), (made.right[0], target)]
    if any(len(e.items) != len(shape) for e, shape in pairs):
        return False
    sizes: dict[str, int] = {}
    try:
        solve(pairs, sizes)
    except MisfitError:
        return False
    return set(sizes) == made.names()


def options(source: Sequence[int], target: Sequence[int], role: str) -> list[str]:
    """Return the formulas that make one shape of another, the likeliest first.

    Args:
        source: The reference's shape.
        target: The port's.
        role: What the tensor is in its layer; axes of what is no weight are not exchanged.
    """
    if len(source) == len(target) and (len(source) < 2 or role != "weight"):
        return [AS_IT_IS] if tuple(source) == tuple(target) else []
    tried: Iterator[str] = itertools.chain(CUSTOMS.get(len(source), ()), SPLIT)
    found = [f for f in tried if fits(f, source, target)]
    return [_short(f) for f in found]


def joins(whole: Sequence[int], parts: Sequence[Sequence[int]], splits: bool) -> list[str]:
    """Return the formulas by which one tensor becomes several (`splits`), or they become one."""
    count = len(parts)
    if len({tuple(p) for p in parts}) > 1:
        names = "abc"[:count]
        joint = " + ".join(names)
        if len(whole) == 1:
            return [_way(f"({joint})", ", ".join(names), splits)]
        found = []
        # A kernel is likelier turned than not between the two frameworks.
        for along, inside in ((0, 1), (1, 0), (0, 0), (1, 1)):
            if {len(shape) for shape in (whole, *parts)} != {2}:
                continue
            others = {part[1 - inside] for part in parts}
            if others == {whole[1 - along]} and sum(p[inside] for p in parts) == whole[along]:
                many = ", ".join(f"i {n}" if inside else f"{n} i" for n in names)
                found.append(_way(f"i ({joint})" if along else f"({joint}) i", many, splits))
        return found
    part = parts[0]
    tried = (
        ("(n o) i", "n i o"),
        ("(n o) i", "n o i"),
        ("(n h d) i", "n i h d"),
        ("(n o)", "n o"),
        ("(n h d)", "n h d"),
        ("i n o", "n o i"),
        ("i (n o)", "n o i"),
        ("i (n o)", "n i o"),
        ("i n h d", "n (h d) i"),
        ("n o", "n o"),
        ("n h d", "n (h d)"),
    )
    return [_way(a, b, splits) for a, b in tried if fits(f"{a} -> {b}", whole, (count, *part))]


def _way(whole: str, parts: str, splits: bool) -> str:
    return f"{whole} -> {parts}" if splits else f"{parts} -> {whole}"


def _short(formula: str) -> str:
    left, right = formula.split(" -> ")
    return AS_IT_IS if left == right else formula
