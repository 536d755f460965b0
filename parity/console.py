"""Where commands print to."""

from __future__ import annotations

from rich.console import Console

WIDTH = 140  # of what has no width of its own, such as a file


def standard_output() -> Console:
    """Standard output; tables are as wide as the terminal, and wide enough in a file."""
    found = Console()
    return found if found.is_terminal else Console(width=WIDTH)
