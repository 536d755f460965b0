"""The progress of a run at a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from parity.training import progress_bar

STEP = "loss 2.4818  lr 0.0005  71.60 images/s  waiting 37%  left 12:34:56"


GONE = {
    60: ("waiting", "lr", "images/s", "left"),
    70: ("waiting", "lr", "images/s"),
    80: ("waiting", "lr"),
}


@pytest.mark.parametrize(("width", "gone"), GONE.items())
def test_values_are_whole_or_left_out(
    width: int, gone: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a time or a rate that is cut at a narrow terminal: `left 0:00:…`."""
    said = shown(width, monkeypatch)
    assert "…" not in said
    assert ("12:34:56" in said) == ("left" not in gone)
    for word in ("loss 2.4818", "lr", "images/s", "waiting", "left", "passed 0:00:00"):
        assert (word in said) == (word not in gone), word


def test_a_wide_terminal_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a wide terminal without a bar, or without what narrow ones leave out."""
    said = shown(140, monkeypatch)
    assert STEP in said
    assert "━" in said


def shown(width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """The line of a step, at a terminal of so many columns."""
    text = io.StringIO()
    text.isatty = lambda: True  # type: ignore[method-assign]
    made = Console(file=text, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr("sys.stderr", text)
    monkeypatch.setattr(progress_bar, "Console", lambda **_: made)
    with progress_bar.display() as display:
        display.begin("whole 1/300", 0, 743)
        display.show(124, STEP)
    return next(line for line in reversed(text.getvalue().split("\r")) if "loss" in line)
