"""The folder that a run writes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.io.replacing import PREFIX
from parity.spec.errors import InputError
from parity.training.folder import Folder


def test_a_run_that_was_killed_before_it_began_is_no_obstacle(tmp_path: Path) -> None:
    """Catches a folder that nobody can use because a process died in its first write there."""
    left = [tmp_path / f"{PREFIX}abcd_123", tmp_path / "checkpoints" / f"{PREFIX}efgh4567"]
    left[0].mkdir()
    (left[0] / "environment.json").write_text("{")
    with Folder(tmp_path).claimed(resume=False):
        assert not left[0].exists()
        left[1].mkdir()
    (tmp_path / "environment.json").write_text('{"starts": []}')
    with Folder(tmp_path).claimed(resume=True):
        assert not left[1].exists()


def test_what_is_not_ours_is_kept(tmp_path: Path) -> None:
    """Catches a folder of the user's that is taken for what a killed process left."""
    (tmp_path / f"{PREFIX}mine").mkdir()
    with pytest.raises(InputError, match="is not empty"), Folder(tmp_path).claimed(resume=False):
        pass
