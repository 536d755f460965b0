"""Pages as the site shows them."""

from __future__ import annotations

import re

import markdown
import pytest
import yaml

from parity.diagnosis.remedies import remedies
from tests.pages import DOCS, ROOT, pages, program, sections, text_of


def rendered(text: str) -> str:
    """A page's HTML, made with the extensions that the site has."""
    given = yaml.safe_load((ROOT / ".mkdocs.yml").read_text())["markdown_extensions"]
    named = [next(iter(e.items())) if isinstance(e, dict) else (e, {}) for e in given]
    return markdown.markdown(
        text, extensions=[name for name, _ in named], extension_configs=dict(named)
    )


@pytest.mark.parametrize("page", pages())
def test_blocks_and_headings_are_shown_as_such(page: str) -> None:
    """Catches a block with options that the site does not know: all up to the next one is lost.

    `mkdocs build --strict` says nothing of it.
    """
    assert lost(text_of(page), len(list(sections(page)))) == []


def lost(text: str, headings: int) -> list[str]:
    """What of a page is not shown as it is meant."""
    html = rendered(text)
    found = len(re.findall(r"<h[1-6] ", html))
    return ["a block"] * ("```" in html) + ["headings"] * (found != headings)


def test_a_block_that_the_site_does_not_know_is_found() -> None:
    """Catches the test above accepting everything."""
    rest = "\n## Next\n\n```console\n$ parity\n```\n"
    assert lost('```python title="a.py" replace="x"\ny\n```\n' + rest, 1) != []
    assert lost('```diff title="a.py"\n-x\n+y\n```\n' + rest, 1) == []


def test_own_styles_are_there() -> None:
    """Catches a style sheet that the site names and that is gone."""
    config = yaml.safe_load((ROOT / ".mkdocs.yml").read_text())
    assert all((DOCS / file).is_file() for file in config["extra_css"])


def test_every_cause_has_its_page_and_a_link_to_it() -> None:
    """Catches a cause that can be proved and that *What a failure means* does not explain."""
    made = dict(program("site_hooks").faults())
    index = made.pop("failures/index.md")
    assert sorted(made) == sorted(f"failures/{name}.md" for name in remedies())
    assert sorted(re.findall(r"\]\((.*?)\.md\)", index)) == sorted(remedies())
    assert all(texts.fix in made[f"failures/{name}.md"] for name, texts in remedies().items())
