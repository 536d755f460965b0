"""What else lies in the folder of a user's data set: hidden folders, packed files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from parity.data.own.description import find
from parity.data.pack import pack
from parity.data.sources import for_data, open_source
from parity.spec.errors import InputError
from parity.spec.recipes import RECIPES
from tests.scenes import save
from tests.unit.data.test_own_data import BY_ID, change, written


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    """Catches a folder that a notebook leaves behind, taken for a class, or refused."""
    for kind in ("ant", "bee", ".ipynb_checkpoints"):
        save(tmp_path / "train" / kind / "1.png", np.zeros((4, 6, 3), np.uint8))
    (tmp_path / "train" / ".empty").mkdir()
    found = find(tmp_path)
    assert found is not None
    assert found.data.classes == ("ant", "bee")


def test_packed_before_the_description_changed(tmp_path: Path) -> None:
    """Catches a packed file that hides what the file beside it says by now."""
    root = written(tmp_path, BY_ID)
    pack(root, root / "train.array_record", None, "train")
    recipe = for_data(RECIPES["enet-camvid"], root)
    assert len(open_source(recipe, root, "train")) == 2
    (root / "train.txt").write_text("a\nc\nd\n")
    anew = "parity pack --split train writes it anew"
    with pytest.raises(InputError, match=f"holds 2 images, .*toml now says 3: {anew}"):
        open_source(recipe, root, "train")
    assert len(open_source(recipe, root / "train.array_record", "train")) == 2  # asked for by name
    (root / "images" / "d.png").unlink()  # now the list is wrong, but the file is whole
    assert len(open_source(recipe, root, "train")) == 2
    change("id = 7", "id = 9")(root)
    changed = for_data(RECIPES["enet-camvid"], root)
    with pytest.raises(InputError, match=f"was packed when .*toml said something else: {anew}"):
        open_source(changed, root, "train")
