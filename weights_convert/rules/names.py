"""Patterns of names and what becomes of them: regular expressions that can be inverted."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping

from parity.spec.errors import InputError

NUMBER = r"\d+"  # what an axis that runs over tensors has in their names
WHOLE = "0"  # the whole name, as if it were a group
NO_PATTERN = (
    re.error,
    OverflowError,
    RecursionError,
)  # what `re` raises of one, or of a{9999999999}
OPEN = set(".*+?[]|{}^$")  # outside of groups these stand for many texts, so nothing can be derived


@dataclasses.dataclass(frozen=True)
class Group:
    """A group of a pattern, or what refers to it.

    Attributes:
        key: Its name, or else its number.
        regex: What it matches; empty in a template and where it repeats another one.
    """

    key: str
    regex: str = ""


Parts = tuple[str | Group, ...]


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A regular expression for whole names.

    Attributes:
        text: As it was written.
        parts: Texts and groups it consists of; None if these do not say it all.
    """

    text: str
    parts: Parts | None

    @functools.cached_property
    def regex(self) -> re.Pattern[str]:
        """Return it compiled."""
        return re.compile(self.text)

    @functools.cached_property
    def groups(self) -> dict[int, str]:
        """Return the key of each group: its name, or else its number."""
        names = {number: name for name, number in self.regex.groupindex.items()}
        return {i: names.get(i, str(i)) for i in range(1, self.regex.groups + 1)}

    def match(self, name: str) -> dict[str, str] | None:
        """Return the texts of the groups, if the whole name fits."""
        found = self.regex.fullmatch(name)
        if found is None:
            return None
        return {key: found[number] or "" for number, key in self.groups.items()}


@dataclasses.dataclass(frozen=True)
class Template:
    """A name made of texts and groups, written as for `re.sub`.

    Attributes:
        text: As it was written.
        parts: Texts and groups it consists of.
    """

    text: str
    parts: Parts

    def expand(self, values: Mapping[str, str]) -> str:
        """Return the name with the groups' texts put in."""
        return "".join(p if isinstance(p, str) else values[p.key] for p in self.parts)

    def groups(self) -> list[str]:
        """Return the keys of the groups it refers to, each once."""
        return list(dict.fromkeys(p.key for p in self.parts if isinstance(p, Group)))


def pattern(text: str) -> Pattern:
    """Parse a pattern.

    Raises:
        InputError: It is none.
    """
    try:
        compiled = re.compile(text)
    except NO_PATTERN as error:
        raise InputError(f"{text!r} is no pattern: {error}") from error
    named = {number: name for name, number in compiled.groupindex.items()}
    return Pattern(text, _parts(text, named))


def template(text: str, groups: Mapping[int, str]) -> Template:
    r"""Parse a template.

    Args:
        text: `\1`, `\g<1>` and `\g<name>` stand for groups.
        groups: The pattern's groups: number -> key.

    Raises:
        InputError: It refers to a group that the pattern lacks by number, or ends in a backslash.
    """
    parts: list[str | Group] = []
    for escape, number, name, plain in re.findall(
        r"(\\(?:(\d{1,2})|g<(\w+)>|[^\w]))|([^\\]+|\\)", text
    ):
        found = number or name
        if found:
            key = (dict(groups) | {0: WHOLE}).get(int(found)) if found.isdigit() else found
            if key is None:
                raise InputError(f"{text!r} is no template: invalid group reference {found}")
            parts.append(Group(key))
        elif plain == "\\":
            raise InputError(f"{text!r} is no template: bad escape")
        else:
            parts.append(plain or escape.removeprefix("\\"))
    return Template(text, _joined(parts))


def invert(made_of: Pattern, to: Template) -> tuple[str, str]:
    """Return the pattern and the template of the way back.

    Args:
        made_of: The pattern, with `parts`.
        to: The template. A group that it has and the pattern lacks is a number.
    """
    assert made_of.parts is not None
    regexes = {p.key: p.regex for p in made_of.parts if isinstance(p, Group) and p.regex}
    seen: set[str] = set()
    back = []
    for part in to.parts:
        if isinstance(part, str):
            back.append(re.escape(part).replace(r"\-", "-"))
        elif part.key in seen:
            back.append(f"(?P={_identifier(part.key)})")
        else:
            regex = regexes.get(part.key, NUMBER)
            back.append(f"(?P<{_identifier(part.key)}>{regex})")
            seen.add(part.key)
    forth = [
        p.replace("\\", r"\\") if isinstance(p, str) else rf"\g<{_identifier(p.key)}>"
        for p in made_of.parts
    ]
    return "".join(back), "".join(forth)


def _identifier(key: str) -> str:
    return f"group{key}" if key.isdigit() else key


def _joined(parts: list[str | Group]) -> Parts:
    found: list[str | Group] = []
    for part in parts:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return tuple(found)


def _parts(text: str, named: Mapping[int, str]) -> Parts | None:
    """Return what a valid pattern consists of; None if something in it stands for many texts."""
    parts: list[str | Group] = []
    at = count = 0
    while at < len(text):
        char = text[at]
        if char == "(":
            end = _closing(text, at)
            inner = text[at + 1 : end]
            at = end + 1
            if again := re.fullmatch(r"\?P=(\w+)", inner):
                parts.append(Group(again[1]))
                continue
            if inner.startswith("?") and not inner.startswith("?P<"):
                return None
            count += 1
            regex = re.sub(r"^\?P<\w+>", "", inner)
            if not _is_free(regex):
                return None
            parts.append(Group(named.get(count, str(count)), regex))
        elif char == "\\":
            if again := re.match(r"[1-9]\d?(?!\d)", text[at + 1 :]):
                parts.append(Group(named.get(int(again[0]), again[0])))
                at += 1 + again.end()
                continue
            following = text[at + 1]
            at += 2
            if following.isalnum():
                return None
            parts.append(following)
        elif char in OPEN:
            return None
        else:
            parts.append(char)
            at += 1
    return _joined(parts)


def _is_free(regex: str) -> bool:
    """Return whether the inside of a group stands alone: no group in it, and none is repeated."""
    try:
        return not re.compile(regex).groups
    except re.error:  # it refers to a group that is outside of it
        return False


def _closing(text: str, start: int) -> int:
    """Return where the parenthesis closes that opens at `start`, in a valid pattern."""
    depth, at, inside = 0, start, False
    while True:
        char = text[at]
        if char == "\\":
            at += 1
        elif inside:
            inside = char != "]"
        elif char == "[":
            inside = True
            at += text[at + 1] == "^"
            at += text[at + 1] == "]"
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
            if not depth:
                return at
        at += 1
