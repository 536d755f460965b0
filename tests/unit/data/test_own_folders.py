"""What else lies in the folder of a user's data set: hidden folders, packed files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parity.data.own.description import find
from parity.data.own.packed import check
from parity.data.pack import pack
from parity.data.records import Records, parse
from parity.data.sources import for_data, open_source
from parity.spec.errors import InputError
from parity.spec.recipes import RECIPES
from tests.scenes import save
from tests.unit.data.test_own_data import BY_COLOUR, BY_ID, COLOURS, SEEN, change, written


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    """Catches a folder that a notebook leaves behind, taken for a class, or refused."""
    for kind in ("ant", "bee", ".ipynb_checkpoints"):
        save(tmp_path / "train" / kind / "1.png", np.zeros((4, 6, 3), np.uint8))
    (tmp_path / "train" / ".empty").mkdir()
    found = find(tmp_path)
    assert found is not None
    assert found.data.classes == ("ant", "bee")


def test_folders_that_are_not_there_are_named(tmp_path: Path) -> None:
    """Catches "no split 'train', found none" where the images' folder is misspelt."""
    text = 'images = "image/{split}"\nmasks = "masks/{split}"\nclasses = ["one", "two"]\n'
    save(tmp_path / "images" / "train" / "1.png", np.zeros((4, 6, 3), np.uint8))
    (tmp_path / "dataset.toml").write_text(text)
    with pytest.raises(InputError, match=r"images is .*image/{split}.* none of its folders train"):
        open_source(for_data(RECIPES["enet-camvid"], tmp_path), tmp_path, "train")


def test_the_folder_of_one_class_is_named(tmp_path: Path) -> None:
    """Catches folders of classes that are taken for another data set as there is only one."""
    save(tmp_path / "train" / "ant" / "1.png", np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(InputError, match=r"train: the folder of 1 class, expected 2 or more"):
        find(tmp_path)
    save(tmp_path / "train" / "2.png", np.zeros((4, 6, 3), np.uint8))  # as in CamVid's layout
    assert find(tmp_path) is None


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
    (root / "images" / "d.png").unlink()
    with pytest.raises(InputError, match=r"train.txt: line 3: no image 'd'"):
        open_source(recipe, root, "train")
    shutil.rmtree(root / "images")  # the file stands in for them
    assert len(open_source(recipe, root, "train")) == 2
    change("id = 7", "id = 9")(root)
    changed = for_data(RECIPES["enet-camvid"], root)
    with pytest.raises(InputError, match=f"was packed when .*toml said something else: {anew}"):
        open_source(changed, root, "train")


SOMETHING_ELSE = "was packed when .*toml said something else"
OTHERS = "holds other images or masks than .*toml now says"


@pytest.mark.parametrize(
    ("text", "alter", "message"),
    [
        (BY_ID, change("[3, 4]", "[3, 5]"), SOMETHING_ELSE),
        (BY_ID, change("[255]", "[255, 9]"), SOMETHING_ELSE),
        (BY_ID, change("[255, 0, 0]", "[255, 0, 1]"), ""),  # of no consequence for ids
        (BY_COLOUR, change('["#ffffff"]', '["#ffffff", "#123456"]'), SOMETHING_ELSE),
        (BY_COLOUR, change("[0, 128, 0]", "[0, 128, 1]"), SOMETHING_ELSE),
        (BY_ID, lambda root: (root / "train.txt").write_text("a\nd\n"), OTHERS),
        (BY_ID, lambda root: (root / "masks" / "c.png").unlink(), "c.png has no mask"),
        (BY_ID, lambda root: (root / "val.txt").unlink(), ""),
    ],
)
@pytest.mark.parametrize("by", ["", "dataset.toml"])
def test_packed_before_any_part_of_the_description_changed(
    tmp_path: Path, text: str, alter: Callable[[Path], object], message: str, by: str
) -> None:
    """Catches a change beyond a class's first id, and other images of the same number."""
    root = written(tmp_path, text, None if text == BY_ID else Image.fromarray(COLOURS[SEEN]))
    pack(root, root / "train.array_record", None, "train")
    recipe = for_data(RECIPES["enet-camvid"], root)
    assert len(open_source(recipe, root / by, "train")) == 2
    alter(root)
    changed = for_data(RECIPES["enet-camvid"], root)
    with pytest.raises(InputError, match=message) if message else contextlib.nullcontext():
        open_source(changed, root / by, "train")


def test_whole_images_in_other_folders_than_when_they_were_packed(tmp_path: Path) -> None:
    """Catches an image that became one of another class; a folder that is gone called a change."""
    for split in ("train", "val"):
        for kind in ("ant", "bee"):
            save(tmp_path / split / kind / f"{kind}.png", np.zeros((4, 6, 3), np.uint8))
        pack(tmp_path, tmp_path / f"{split}.array_record", None, split)
    recipe = for_data(RECIPES["genet-cifar10"], tmp_path)
    assert len(open_source(recipe, tmp_path, "train")) == 2
    shutil.rmtree(tmp_path / "val")
    assert len(open_source(recipe, tmp_path, "val")) == 2
    for one, other in (("ant", "bee"), ("bee", "ant")):
        (tmp_path / "train" / one / f"{one}.png").rename(tmp_path / "train" / other / f"{one}.png")
    with pytest.raises(InputError, match="holds other images or masks"):
        open_source(recipe, tmp_path, "train")


def test_a_packed_file_of_an_older_version(tmp_path: Path) -> None:
    """Catches a file without hashes refused, or one that is no longer compared at all."""
    root = written(tmp_path, BY_ID)
    pack(root, root / "train.array_record", None, "train")
    found = Records(root / "train.array_record").contents
    here = find(root)
    assert here is not None
    old = dataclasses.replace(found, read_as=None, names=None)
    entries = json.loads(old.to_bytes())
    assert not {"read_as", "names"} & entries.keys()
    assert parse(old.to_bytes(), 2, tmp_path) == old
    check(tmp_path, old, here)
    change("id = 7", "id = 9")(root)
    here = find(root)
    assert here is not None
    with pytest.raises(InputError, match=SOMETHING_ELSE):
        check(tmp_path, old, here)
