"""Data sets of the user's: their file, their masks, their splits, and what is refused."""

from __future__ import annotations

import pickle
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parity import cli
from parity.data import dataset
from parity.data.own import files
from parity.data.own.description import drawn, find, read
from parity.data.pack import pack
from parity.data.sources import described, for_data, open_data, open_source
from parity.data.statistics import count
from parity.spec.errors import InputError
from parity.spec.recipes import RECIPES
from parity.spec.training.losses import ClassWeights
from parity.spec.training.written import recipe_of, to_toml
from tests.scenes import save

NAMES = ("a", "b", "c", "d")
BY_ID = """
name = "shapes"
images = "images"
masks = "masks"
ignored = [255]
splits = {train = "train.txt", val = "val.txt"}

[[classes]]
name = "background"
id = 0
color = "#000000"

[[classes]]
name = "round"
id = [3, 4]

[[classes]]
name = "square"
id = 7
color = [255, 0, 0]
"""
BY_COLOUR = """
images = "images"
masks = "masks"
ignored = ["#ffffff"]
splits = {train = "train.txt", val = "val.txt"}
classes = [{name = "sea", color = "#0000ff"}, {name = "land", color = [0, 128, 0]}]
"""
IDS = np.array([[0, 3, 4], [7, 255, 0]], np.uint8).repeat(4, 0).repeat(4, 1)
COLOURS = np.array([(0, 0, 255), (0, 128, 0), (255, 255, 255)], np.uint8)
SEEN = np.array([[0, 1, 2], [1, 0, 1]]).repeat(4, 0).repeat(4, 1)  # of the colours


def written(root: Path, text: str, mask: Image.Image | None = None) -> Path:
    """A data set with this file and four images of 8x12, each with the same mask."""
    mask = mask or Image.fromarray(IDS)
    for i, name in enumerate(NAMES):
        save(root / "images" / f"{name}.png", np.full((8, 12, 3), 10 * i, np.uint8))
        (root / "masks").mkdir(exist_ok=True)
        mask.save(root / "masks" / f"{name}.png")
    (root / "train.txt").write_text("# half of them\na\nc.png\n\n")
    (root / "val.txt").write_text("b\nd\n")
    (root / "dataset.toml").write_text(text)
    return root


def indexed(colours: np.ndarray) -> Image.Image:
    """The mask of `SEEN` as a PNG with a palette whose order is not that of the classes."""
    image = Image.fromarray((2 - SEEN).astype(np.uint8))
    image.putpalette(colours[::-1].tobytes())
    return image


def test_ids_become_classes(tmp_path: Path) -> None:
    """Catches an id of another class, ignored pixels that count, and a mask resized between ids."""
    root = written(tmp_path, BY_ID)
    data = dataset(root)
    assert data.classes == ("background", "round", "square")
    assert data.palette[0] == (0, 0, 0)
    assert data.palette[2] == (255, 0, 0)
    assert len(set(data.palette)) == 4
    image, labels = data.load(data.samples(root, "val")[0], 8, 12)
    expected = np.array([[0, 1, 1], [2, 3, 0]], np.uint8).repeat(4, 0).repeat(4, 1)
    np.testing.assert_array_equal(labels, expected)
    assert image.max() == 10
    small = data.load(data.samples(root, "val")[0], 2, 3)[1]
    np.testing.assert_array_equal(small, expected[::4, ::4])


@pytest.mark.parametrize("kind", ["rgb", "palette"])
def test_colours_become_classes(tmp_path: Path, kind: str) -> None:
    """Catches a palette's index taken for a class, and red taken for blue."""
    mask = Image.fromarray(COLOURS[SEEN]) if kind == "rgb" else indexed(COLOURS)
    root = written(tmp_path / "sea-and-land", BY_COLOUR, mask)
    data = dataset(root / "dataset.toml")
    assert (data.name, data.classes) == ("sea-and-land", ("sea", "land"))
    _, labels = data.whole(data.samples(root, "train")[1])
    np.testing.assert_array_equal(labels, SEEN)


def test_a_palettes_index_is_an_id_where_classes_have_ids(tmp_path: Path) -> None:
    """Catches colours of a mask that only show its ids, taken for what it says."""
    mask = Image.fromarray(IDS)
    mask.putpalette(bytes(range(256)) * 3)
    data = dataset(root := written(tmp_path, BY_ID, mask))
    assert data.whole(data.samples(root, "val")[0])[1].max() == 3


def test_bilevel_masks(tmp_path: Path) -> None:
    """Catches a mask of one bit read as ids 0 and 255."""
    text = 'images = "images"\nmasks = "masks"\nclasses = ["no", "yes"]\nsplits = {val = 1.0}\n'
    data = dataset(root := written(tmp_path, text, Image.fromarray(SEEN > 0)))
    assert np.unique(data.whole(data.samples(root, "val")[0])[1]).tolist() == [0, 1]


def test_lists(tmp_path: Path) -> None:
    """Catches a comment or an empty line taken for an image, and a suffix not understood.

    The second list begins with the mark that some editors write at the beginning of UTF-8.
    """
    root = written(tmp_path, BY_ID)
    names = (root / "val.txt").read_text()
    (root / "val.txt").write_text("\ufeff" + names, encoding="utf-8")
    found = read(root / "dataset.toml")
    assert [s.name for s in files.samples(found, "train")] == ["a", "c"]
    (tmp_path / "masks" / "a.png").unlink()  # of the other split
    assert [s.name for s in files.samples(found, "val")] == ["b", "d"]


def test_lists_of_files_that_a_pattern_finds(tmp_path: Path) -> None:
    """Catches a list of the files that are there refused, since a `*` stands for less."""
    for name in ("a", "b", "a_i"):
        save(tmp_path / "p" / "x" / f"{name}_i.png", np.zeros((4, 4, 3), np.uint8))
        save(tmp_path / "p" / "x" / f"{name}_m.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "dataset.toml").write_text(
        'images = "p/*/*_i.png"\nmasks = "p/*/*_m.png"\nclasses = ["no", "yes"]\n'
        'splits = {train = "train.txt", val = "val.txt"}\n'
    )
    (tmp_path / "train.txt").write_text("x/b_i.png\nx/a\n")
    found = read(tmp_path / "dataset.toml")
    assert [s.image.name for s in files.samples(found, "train")] == ["a_i.png", "b_i.png"]
    for text, name in (("x/b_i", "b_i.png"), ("x/a_i.png", "a_i.png"), ("x/b.png", "b_i.png")):
        (tmp_path / "val.txt").write_text(text)
        assert [s.image.name for s in files.samples(found, "val")] == [name]
    (tmp_path / "val.txt").write_text("x/b\nx/b_i.png")
    with pytest.raises(InputError, match=r"line 2: 'x/b_i\.png' is there twice, in line 1"):
        files.samples(found, "val")
    (tmp_path / "val.txt").write_text("x/a_i")
    with pytest.raises(InputError, match=r"line 1: 'x/a_i' may be .*a_i\.png or .*a_i_i\.png"):
        files.samples(found, "val")


def test_shares_depend_on_the_name_alone(tmp_path: Path) -> None:
    """Catches images that change their split when others come, overlap, or fall out of both."""
    text = BY_ID.replace('{train = "train.txt", val = "val.txt"}', "{train = 0.75, val = 0.25}")
    root = written(tmp_path, text)
    mask = Image.fromarray(IDS)

    def members() -> dict[str, list[str]]:
        found = read(root / "dataset.toml")
        return {s: [x.name for x in files.samples(found, s)] for s in ("train", "val")}

    for i in range(100):
        save(root / "images" / f"{i}.jpg", np.zeros((8, 12, 3), np.uint8))
        mask.save(root / "masks" / f"{i}.png")
    before = members()
    assert len(before["train"]) + len(before["val"]) == 104
    assert not set(before["train"]) & set(before["val"])
    assert 65 < len(before["train"]) < 90
    assert files.place("a") == pytest.approx(0xCA978112 / 2**32)  # SHA-256 of 'a'
    for i in range(100, 120):
        save(root / "images" / f"{i}.jpg", np.zeros((8, 12, 3), np.uint8))
        mask.save(root / "masks" / f"{i}.png")
    after = members()
    assert all(set(before[split]) <= set(after[split]) for split in before)


@pytest.mark.parametrize(
    ("images", "masks", "image", "mask"),
    [
        ("images/{split}", "masks/{split}", "images/val/x/1.jpg", "masks/val/x/1.png"),
        ("{split}/*_i.png", "{split}_gt/*_m.png", "val/1_i.png", "val_gt/1_m.png"),
        ("{split}", "{split}annot", "val/1.png", "valannot/1.png"),
        (
            "left/{split}/*/*_l.png",
            "gt/{split}/*/*_ids.png",
            "left/val/ulm/1_l.png",
            "gt/val/ulm/1_ids.png",
        ),
        ("{split}/**/i/*.png", "{split}/**/m/*.png", "val/p/q/i/1.png", "val/p/q/m/1.png"),
    ],
)
def test_patterns(tmp_path: Path, images: str, masks: str, image: str, mask: str) -> None:
    """Catches images that are not found, or paired with the mask of another."""
    text = f'images = "{images}"\nmasks = "{masks}"\nclasses = ["a", "b"]\nsplits = ["val"]\n'
    for name in ("1", "2"):
        save(tmp_path / image.replace("1", name), np.zeros((4, 4, 3), np.uint8))
        save(tmp_path / mask.replace("1", name), np.zeros((4, 4), np.uint8))
    (tmp_path / "dataset.toml").write_text(text)
    (tmp_path / image).with_name("notes.md").write_text("not an image")
    found = files.samples(read(tmp_path / "dataset.toml"), "val")
    assert [s.image for s in found] == [tmp_path / image.replace("1", n) for n in ("1", "2")]
    assert [s.label for s in found] == [tmp_path / mask.replace("1", n) for n in ("1", "2")]


def change(old: str, new: str) -> Callable[[Path], None]:
    def break_it(root: Path) -> None:
        path = root / "dataset.toml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return break_it


def draw(name: str, pixels: np.ndarray) -> Callable[[Path], None]:
    return lambda root: save(root / name, pixels)


ODD = IDS.copy()
ODD[5, 2] = 9

BAD_IDS = [
    (change('"#000000"', '"#ff0000"'), "background and square have the same color #ff0000"),
    (change("[3, 4]", "[3, 7]"), "round and square have the same id 7"),
    (change("ignored = [255]", "ignored = [3]"), "round and ignored have the same id 3"),
    (change('"round"', '"square"'), "square and square have the same name 'square'"),
    (change("ignored", "ingored"), "unknown key 'ingored', expected name, task"),
    (change("id = 7", "idd = 7"), r"unknown key 'classes.2.idd', expected name, id, color"),
    (change("id = 7\n", ""), "class square has no id, but others have one"),
    (change("id = 7", "id = 256"), "id of class square is 256, expected a number from 0 to 255"),
    (change("[255, 0, 0]", '"red"'), "color of class square is 'red', expected \"#rrggbb\""),
    (change('"shapes"', '"camvid"'), "name is 'camvid', expected a word other than cityscapes"),
    (change('masks = "masks"\n', ""), "masks is missing, expected a folder or a pattern"),
    (change('"masks"', '"nowhere"'), "nowhere: no such folder, expected that of 'nowhere'"),
    (change('"train.txt"', "0.5"), "splits is .*expected all of them shares"),
    (change("splits", "mean = [1, 2]\nsplits"), "mean is .1, 2., expected three numbers"),
    (change("splits", "std = [1, 2, 0]\nsplits"), "std is .1, 2, 0., expected three numbers"),
    (change("[[classes]]", "[classes]"), "is not TOML"),
    (draw("masks/b.png", ODD), r"masks/b.png: pixel x 2, y 5 has id 9, .* 0, 3, 4, 7, 255$"),
    (draw("masks/b.png", IDS[:4]), r"masks/b.png: 4x12, but its image .*b.png is 8x12"),
    (draw("masks/b.png", COLOURS[SEEN]), "masks/b.png: mode RGB, but classes have ids"),
    (lambda root: (root / "masks/b.png").unlink(), "images/b.png has no mask, expected masks"),
    (
        lambda root: (root / "val.txt").write_text("#\n"),
        "split val holds no images, of 4 in images",
    ),
    (lambda root: (root / "val.txt").write_text("b\ne"), r"val.txt: line 2: no image 'e' in "),
    (
        lambda root: (root / "val.txt").write_text("b\nb.png"),
        r"line 2: 'b.png' is there twice, in line 1",
    ),
    (lambda root: (root / "val.txt").unlink(), "val.txt: No such file"),
    (lambda root: save(root / "images/b.jpg", ODD), "two files of one name, 'b'"),
]


@pytest.mark.parametrize(("break_it", "message"), BAD_IDS)
def test_refused(tmp_path: Path, break_it: Callable[[Path], None], message: str) -> None:
    """Catches a class that is read as another, and an image that is left out silently."""
    root = written(tmp_path / "data", BY_ID)
    break_it(root)
    with pytest.raises(InputError, match=message) as caught:
        pack(root, tmp_path / "val.array_record", None, "val")
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


def test_names_that_look_like_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a class whose name ends the command, or of which a part is not printed."""
    root = written(tmp_path, BY_ID.replace('"round"', '"[/car]"').replace('"square"', '"a [b]"'))
    assert cli.main(["statistics", str(root)]) == 0
    said = capsys.readouterr().out
    assert "[/car]" in said
    assert "a [b]" in said


def test_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback, or a file or folder that is written before the data set is read."""
    root = written(tmp_path / "data", BY_ID)
    change('"#000000"', '"#ff0000"')(root)
    common = ["--data", str(root), "--out", str(tmp_path / "out")]
    for command in (
        ["train", "enet-camvid", "--framework", "torch", *common],
        ["statistics", str(root)],
        ["pack", str(root), str(tmp_path / "val.array_record")],
    ):
        assert cli.main(command) == 2
        said = capsys.readouterr().err
        assert f"{root / 'dataset.toml'}: background and square have the same color" in said
        assert said.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]
    change('"#ff0000"', '"#000000"')(root)
    assert cli.main(["train", "enet-camvid", "--framework", "torch", *common, "--labels",
                     "void-first"]) == 2  # fmt: skip
    assert "a network of shapes has no output for void" in capsys.readouterr().err


def test_an_unlisted_colour_is_named(tmp_path: Path) -> None:
    """Catches a colour that is near a class's and taken for it, such as JPEG leaves."""
    pixels = COLOURS[SEEN].copy()
    pixels[3, 5] = (0, 129, 0)
    data = dataset(root := written(tmp_path, BY_COLOUR, Image.fromarray(pixels)))
    with pytest.raises(InputError, match=r"a.png: pixel x 5, y 3 has color #008100 \(0, 129, 0\)"):
        data.whole(data.samples(root, "train")[0])


def test_an_unknown_split(tmp_path: Path) -> None:
    """Catches a split that is not in the file, or lies outside of the data set."""
    found = read(written(tmp_path, BY_ID) / "dataset.toml")
    with pytest.raises(InputError, match=r"no split '\.\./x', found train, val"):
        files.samples(found, "../x")


def test_colours_of_classes_without_one_differ() -> None:
    """Catches two classes drawn in one colour."""
    assert len(set(drawn(1024))) == 1024
    assert drawn(2) == [(128, 0, 0), (0, 128, 0)]


def test_folders_are_classes(tmp_path: Path) -> None:
    """Catches another order of classes than that of their names, and a folder of no class."""
    for split in ("train", "val"):
        for i, kind in enumerate(("cat", "ant", "bee")):
            save(tmp_path / split / kind / "1.png", np.full((4 + i, 6, 3), i, np.uint8))
    found = find(tmp_path)
    assert found is not None
    assert (found.data.classes, found.data.pixels) == (("ant", "bee", "cat"), False)
    source = open_data(found.data, tmp_path, "val", None)
    assert [int(source.label(i)) for i in range(3)] == [0, 1, 2]
    assert [int(source[i][0].max()) for i in range(3)] == [1, 2, 0]
    (tmp_path / "val" / "dog").mkdir()
    save(tmp_path / "val" / "dog" / "1.png", np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(InputError, match=r"dog/1.png lies in no class's folder, expected ant, bee"):
        open_data(found.data, tmp_path, "val", None)


def test_classes_of_images_by_a_file(tmp_path: Path) -> None:
    """Catches the folder of a class that is named otherwise, and shares within a class's folder."""
    for folder in ("n01", "n02"):
        for i in range(20):
            save(tmp_path / "photos" / folder / f"{i}.png", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "dataset.toml").write_text(
        'task = "classification"\nimages = "photos"\nsplits = {train = 0.5, val = 0.5}\n'
        'classes = [{name = "tench", folder = "n02"}, {name = "goldfish", folder = "n01"}]\n'
    )
    found = described(tmp_path)
    assert found is not None
    assert found[0].classes == ("tench", "goldfish")
    reader = open_data(found[0], tmp_path, "train", None).reader
    labels = {Path(reader.name(i)).parent.name: reader.label(i) for i in range(len(reader))}
    assert labels == {"n01": 1, "n02": 0}
    with pytest.raises(InputError, match="images have one class each"):
        dataset(tmp_path)


def test_packed_as_it_is_read(tmp_path: Path) -> None:
    """Catches a packed file that has other labels, or does not say its classes and colours."""
    root = written(tmp_path / "data", BY_ID)
    packed = tmp_path / "packed"
    packed.mkdir()
    for split in ("train", "val"):
        pack(root, packed / f"{split}.array_record", None, split)
    assert described(packed)[0] == described(root)[0]  # type: ignore[index]  # both are described
    recipe = for_data(RECIPES["enet-camvid"], root)
    assert for_data(RECIPES["enet-camvid"], packed) == recipe
    one, other = (open_source(recipe, where, "val") for where in (root, packed))
    assert len(one) == len(other) == 2
    for i in range(2):
        for a, b in zip(one[i], other[i], strict=True):
            np.testing.assert_array_equal(a, b)


def test_counted(tmp_path: Path) -> None:
    """Catches ignored pixels counted as a class, and counts kept for other classes."""
    root = written(tmp_path, BY_ID)
    recipe = for_data(RECIPES["enet-camvid"], root)
    source = open_source(recipe, root, "train")
    assert count(source).pixels.tolist() == [64, 64, 32, 32]
    before = source.reader.identity()
    assert pickle.loads(pickle.dumps(source)).reader.identity() == before
    change("[3, 4]", "3")(root)
    change("ignored = [255]", "ignored = [4, 255]")(root)
    assert open_source(recipe, root, "train").reader.identity() != before
    assert count(open_source(recipe, root, "train")).pixels.tolist() == [64, 32, 32, 64]


@pytest.mark.parametrize("name", ["enet-camvid", "erfnet-cityscapes", "icnet-cityscapes"])
def test_a_recipe_for_it(tmp_path: Path, name: str) -> None:
    """Catches outputs, class weights, classes or pixels of the published data set."""
    root = written(tmp_path, BY_ID.replace("splits", "mean = [0.5, 0.5, 0.5]\nsplits"))
    recipe = for_data(RECIPES[name], root)
    for stage, before in zip(recipe.stages, RECIPES[name].stages, strict=True):
        assert stage.config.num_classes == 3
        assert stage.loss.ignore_index == -1
        assert recipe.preprocessing(stage.config).mean == (0.5, 0.5, 0.5)
        assert recipe.preprocessing(stage.config).std == (
            RECIPES[name].preprocessing(before.config).std
        )
        assert recipe.preprocessing(stage.config).classes == ("background", "round", "square")
    if name == "erfnet-cityscapes":  # the rule that the published weights come from
        rules = [stage.loss.class_weights for stage in recipe.stages]
        assert rules == [ClassWeights("log", c=1.2), ClassWeights("log", c=1.1)]
    assert (recipe.labels, recipe.published, recipe.data) == (None, None, "shapes")
    assert for_data(recipe, root) == recipe
    assert recipe_of(tomllib.loads(to_toml(recipe)), "a") == recipe


def test_a_recipe_that_does_not_fit(tmp_path: Path) -> None:
    """Catches a network of pixels trained on images, and a run continued on other classes."""
    root = written(tmp_path, BY_ID)
    with pytest.raises(InputError, match="genet-cifar10 trains one class for each image, but data"):
        for_data(RECIPES["genet-cifar10"], root)
    recipe = for_data(RECIPES["enet-camvid"], root)
    change('"round"', '"oval"')(root)
    with pytest.raises(InputError, match="background, round, square, but shapes has background, o"):
        for_data(recipe, root)
    (root / "dataset.toml").unlink()
    with pytest.raises(InputError, match="data set shapes, expected a dataset"):
        for_data(recipe, root)
