"""The tutorial as a notebook."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pages import DOCS, program


def notebook() -> Any:
    """What the page of the tutorial is as a notebook."""
    return program("notebook").notebook((DOCS / "tutorial.md").read_text())


def test_the_notebook_is_the_page() -> None:
    """Catches a page that was changed without its notebook: run `python docs/notebook.py`."""
    assert json.loads((DOCS / "tutorial.ipynb").read_text()) == notebook()


@pytest.mark.notebook
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a cell that raises, and a report that is not shown as a page."""
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    found = nbformat.from_dict(notebook())
    found.cells = [cell for cell in found.cells if not cell.source.startswith("%pip")]
    ran = NotebookClient(found, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    ran.execute()
    outputs = ["".join(o.get("text", "") for o in cell.get("outputs", ())) for cell in found.cells]
    checks = [text for text in outputs if "FAILED" in text or "PASSED" in text]
    assert ["PASSED" in text for text in checks] == [False] * 4 + [True]
    assert "<iframe" in found.cells[-1].outputs[-1].data["text/html"]
