"""Pages of the site that are made of other files: one per fault, and those at the top."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from parity.diagnosis.catalogue import CATALOGUE, PROVED_AS, Fault
from parity.diagnosis.remedies import remedies
from parity.report.findings import RUNGS

ROOT = Path(__file__).resolve().parents[1]
TOP = {"CONTRIBUTING.md": "contributing.md", "ARCHITECTURE.md": "architecture.md"}
TOP |= {"CHANGELOG.md": "changelog.md"}
RUNG_NAMES = {**RUNGS, "L6": "data and scores"}
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that no file of `docs/` holds; MkDocs calls this."""
    for name, text in (*faults(), *from_top()):
        files.append(File.generated(config, name, content=text))
    return files


def faults() -> Iterator[tuple[str, str]]:
    """Yield the page of each fault of the catalogue, and the table of all."""
    rows = []
    for fault, entry in CATALOGUE.items():
        texts, rung = remedies()[fault], f"{entry.rung}, {RUNG_NAMES[entry.rung]}"
        title = entry.title[0].upper() + entry.title[1:]
        rows.append(f"| {entry.number} | [{title}]({fault}.md) | {rung} | {texts.size} |")
        page = f"""# {title}

**What you see.** {texts.symptom}

**Why.** {texts.why}

**What to change.** {texts.fix}

| | |
|---|---|
| size, as a relative L2 change | {texts.size} |
| lowest rung that finds it | {rung} |
| number in the catalogue | {entry.number} |
| name in reports | {names(fault)} |

How a cause is proved: [experiments on the reference](../causes.md).
"""
        yield f"failures/{fault}.md", page
    table = "\n".join(rows)
    yield (
        "failures/index.md",
        f"""# What a failure means

Mistakes that are made when networks are carried from one framework to another. `parity faults`
plants each of them, and counts how many the checks find. If `parity check` says `proved:`, its page
here says why the mistake happens and what to change.

| | fault | lowest rung that finds it | size, as a relative L2 change |
|---|---|---|---|
{table}
""",
    )


def names(fault: Fault) -> str:
    """Return the names under which a proof of a fault appears in JSON."""
    return ", ".join(f"`{name}`" for name in (fault, *sorted(PROVED_AS.get(fault, ()))))


def from_top() -> Iterator[tuple[str, str]]:
    """Yield the pages at the top of the repository, with their links as the site has them."""
    for name, page in TOP.items():
        yield page, LINK.sub(_on_site, (ROOT / name).read_text(encoding="utf-8"))


def _on_site(link: re.Match[str]) -> str:
    text, target, anchor = link[1], link[2], link[3] or ""
    if target in TOP:
        return f"[{text}]({TOP[target]}{anchor})"
    if target.startswith("docs/"):
        return f"[{text}]({target.removeprefix('docs/')}{anchor})"
    return f"`{target}`"
