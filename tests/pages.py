"""Pages of the documentation, followed as a reader would follow them: files, edits, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"^```(\w+)(?: +([^\n]*))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OPTION = re.compile(r'(\w+)="([^"]*)"')


class Block(NamedTuple):
    """A block of code of a page.

    Attributes:
        language: Such as `python` or `console`.
        options: `title`, the file that a reader writes; `replace`, what of it the block replaces.
        text: What the block holds.
    """

    language: str
    options: dict[str, str]
    text: str


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of code of a page of `docs/`."""
    for language, options, text in BLOCK.findall((DOCS / page).read_text()):
        yield Block(language, dict(OPTION.findall(options)), text)


def follow(page: str, folder: Path, run: Callable[[list[str]], str]) -> int:
    """Do what a page says, in its order.

    Args:
        page: A page of `docs/`.
        folder: Where its files are written; commands must run there.
        run: Runs the arguments of one `parity` command, and returns what it printed.

    Returns:
        How many commands were run.

    Raises:
        AssertionError: A command did not print what the page shows: each line, in order, where
            `...` stands for anything.
    """
    commands = 0
    for block in blocks(page):
        if title := block.options.get("title"):
            _write(folder / title, block)
        elif block.language == "console":
            command, _, expected = block.text.partition("\n")
            commands += 1
            _compare(expected, run(shlex.split(command.removeprefix("$ parity "))))
    return commands


def _write(file: Path, block: Block) -> None:
    old = block.options.get("replace")
    if old is None:
        file.write_text(block.text)
        return
    text = file.read_text()
    assert text.count(old) == 1, f"{file.name} has {old!r} {text.count(old)} times"
    file.write_text(text.replace(old, block.text.removesuffix("\n")))


def _compare(expected: str, found: str) -> None:
    at = 0
    for line in expected.splitlines():
        parts = [r"\s+".join(map(re.escape, part.split(" "))) for part in re.split("\\.{3}", line)]
        match = re.compile(".*".join(re.sub(r"(\\s\+)+", r"\\s+", p) for p in parts)).search(
            found, at
        )
        assert match, f"not printed, or not in this order: {line!r}\n{found}"
        at = match.end()
