"""The tutorial as a notebook: `python docs/notebook.py` writes `docs/tutorial.ipynb`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
BLOCK = re.compile(r"^```(\w+)(?: +([^\n]*))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OPTION = re.compile(r'(\w+)="([^"]*)"')
INSTALL = """%pip install --quiet parity_suite-*.whl
# On Colab, upload the wheel first; a checkout of parity-suite makes it: python -m build --wheel
# Skip this cell where the package is installed."""
LAST = """from my_port import make_port
from parity import check

check(make_port(), progress=print)  # a notebook shows the report as a page"""


def notebook(page: str) -> dict[str, Any]:
    """Return a page as a notebook.

    Args:
        page: The page's text. A block with a title becomes a cell that writes the file, or edits it
            if it is a `diff`; one of the console becomes a cell that runs the command.
    """
    cells = [_code(INSTALL), *_cells(page), _code(LAST)]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _cells(page: str) -> Iterator[dict[str, Any]]:
    at = 0
    for block in BLOCK.finditer(page):
        if text := page[at : block.start()].strip():
            yield {"cell_type": "markdown", "metadata": {}, "source": _linked(text)}
        yield _code(_source(block[1], dict(OPTION.findall(block[2] or "")), block[3]))
        at = block.end()
    if text := page[at:].strip():
        yield {"cell_type": "markdown", "metadata": {}, "source": _linked(text)}


def _code(source: str) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": source,
    }


def _source(language: str, options: dict[str, str], text: str) -> str:
    if language == "console":
        return "!" + text.partition("\n")[0].removeprefix("$ ")
    if language == "diff":
        old, new = changed(text)
        return (
            "from pathlib import Path\n\n"
            f'file = Path("{options["title"]}")\n'
            f"text = file.read_text()\nassert text.count({old!r}) == 1\n"
            f"file.write_text(text.replace({old!r}, {new!r}))"
        )
    return f"%%writefile {options['title']}\n{text}"


def changed(diff: str) -> tuple[str, str]:
    """Return the lines that a change is about, before and after it."""
    lines = [(line[:1], line[1:]) for line in diff.splitlines()]
    old, new = ([text for sign, text in lines if sign != other] for other in "+-")
    return "\n".join(old), "\n".join(new)


def _linked(text: str) -> str:
    """Links to other pages as text: a notebook has no pages beside it."""
    return re.sub(r"\[([^\]]+)\]\([^)]+\.md(#[^)]*)?\)", r"\1", text)


def main() -> None:
    """Write the notebook."""
    found = notebook((FOLDER / "tutorial.md").read_text(encoding="utf-8"))
    (FOLDER / "tutorial.ipynb").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
