"""The page on checking one's own port: its examples run."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "checking.md"


def test_the_examples_run() -> None:
    """Catches an example that a stranger copies and that does not pass."""
    blocks = PAGE.read_text().split("```python\n")[1:]
    program = "\n".join(block.partition("```")[0] for block in blocks)
    assert program.count("check(") >= 8
    exec(compile(program, str(PAGE), "exec"), {})
