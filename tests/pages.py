"""Pages of the documentation, followed as a reader would follow them: files, edits, commands."""

from __future__ import annotations

import importlib.util
import re
import shlex
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TOP = ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md")
BLOCK = re.compile(r"^```(\w*)(?: +([^\n]*))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?<=\n\n)((?: {4}[^\n]+\n)+)")
HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
OPTION = re.compile(r'(\w+)="([^"]*)"')


class Block(NamedTuple):
    """A block of code of a page.

    Attributes:
        language: Such as `python` or `console`; `indented` if four spaces make it a block.
        options: `title`, the file that a reader writes, or changes if the language is `diff`.
        text: What the block holds.
    """

    language: str
    options: dict[str, str]
    text: str


def pages() -> list[str]:
    """Every page that a reader is given, those at the top by their names alone."""
    return [*TOP, *sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))]


def text_of(page: str) -> str:
    """What a page holds; see `pages`."""
    return (ROOT / page if page in TOP else DOCS / page).read_text()


def program(name: str) -> Any:
    """Import a Python file of the documentation's folder, such as `site_hooks`."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of code of a page, those between fences first."""
    yield from blocks_in(text_of(page))


def blocks_in(text: str) -> Iterator[Block]:
    """Yield the blocks of code of a page's text; see `blocks`."""
    for language, options, body in BLOCK.findall(text):
        yield Block(language, dict(OPTION.findall(options)), body)
    for body in INDENTED.findall(BLOCK.sub("", text)):
        yield Block("indented", {}, textwrap.dedent(body))


class Section(NamedTuple):
    """A heading of a page, and what stands between it and the next one.

    Attributes:
        heading: Without its signs.
        level: 1 for the page's title.
        text: What follows, blocks of code among it.
    """

    heading: str
    level: int
    text: str


def sections(page: str) -> Iterator[Section]:
    """Yield the sections of a page in their order."""
    text = text_of(page)
    hidden = BLOCK.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)
    heads = list(HEADING.finditer(hidden))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    for head, end in zip(heads, ends, strict=True):
        yield Section(head[2], len(head[1]), text[head.end() : end])


def prose(text: str) -> str:
    """What is left of a page's text without its blocks of code."""
    return INDENTED.sub("", BLOCK.sub("", text))


def inline(page: str) -> list[str]:
    """The code in the sentences and tables of a page."""
    return inline_in(text_of(page))


def inline_in(text: str) -> list[str]:
    """The code in the sentences and tables of a page's text."""
    return [" ".join(code.split()) for code in INLINE.findall(prose(text))]


def commands(text: str) -> Iterator[list[str]]:
    """Yield the commands of a shell's lines, word by word.

    What stands in `[--option VALUE]` counts as given. Comments, pipes and where output goes to are
    left out.
    """
    for line in re.sub(r"\\\n *", " ", text).splitlines():
        line = re.sub(r"\[(--[^]]*)\]", r"\1", re.sub(r"\$\(.*?\)", "$X", line.removeprefix("$ ")))
        command: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word not in ("&&", "|"):
                command.append(word)
                continue
            if ">" in command:
                del command[command.index(">") :]
            if command:
                yield command
            command = []


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
            write(folder / title, block)
        elif block.language == "console":
            command, _, expected = block.text.partition("\n")
            commands += 1
            printed(expected, run(shlex.split(command.removeprefix("$ parity "))))
    return commands


def write(file: Path, block: Block) -> None:
    """Write the file that a block is, or change the lines of it that the block changes."""
    if block.language != "diff":
        file.write_text(block.text)
        return
    lines = [(line[:1], line[1:]) for line in block.text.splitlines()]
    assert {sign for sign, _ in lines} <= {"+", "-", " "}
    old, new = ("\n".join(text for sign, text in lines if sign != other) for other in "+-")
    text = file.read_text()
    assert text.count(old) == 1, f"{file.name} has {old!r} {text.count(old)} times"
    file.write_text(text.replace(old, new))


def printed(expected: str, found: str) -> None:
    """Check that a command printed what a page shows; see `follow`."""
    at = 0
    for line in expected.splitlines():
        if not line.strip(".│ "):  # a line, or a row of a table, for any number of them
            continue
        parts = [r"\s+".join(map(re.escape, part.split(" "))) for part in re.split("\\.{3}", line)]
        match = re.compile(".*".join(re.sub(r"(\\s\+)+", r"\\s+", p) for p in parts)).search(
            found, at
        )
        assert match, f"not printed, or not in this order: {line!r}\n{found}"
        at = match.end()
