"""The TOML file that describes a data set of the user's, `dataset.toml`."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from parity.data.segmentation import PICTURES, folders, visible
from parity.io.files import read_toml
from parity.spec.datasets import BLACK, BUILT_IN, LEAST, MOST, Colour, DataSet
from parity.spec.errors import InputError, listed

FILE = "dataset.toml"
SUFFIX = ".toml"
TASKS = ("segmentation", "classification")
KEYS = ("name", "task", "images", "masks", "classes", "ignored", "splits", "mean", "std")
CLASS_KEYS = ("name", "id", "color", "folder")
SPLIT = "{split}"
UNKNOWN = "unknown"  # the name of a data set of which only the classes' names are known
USUAL_SPLITS = ("train", "val", "test")

Splits = dict[str, float] | dict[str, str]


@dataclasses.dataclass(frozen=True)
class Description:
    """A data set as its file describes it.

    Attributes:
        file: The TOML file; the folder where there is none.
        root: The folder that paths are relative to.
        data: Its name, classes and colours.
        images: A folder of images, or a pattern with `*` or `**`; `{split}` stands for the split's
            folder.
        masks: The same of masks; empty for whole images.
        splits: Split -> its share, its list file (`.txt`) or its folder.
        ids: The ids of each class in the masks; empty where masks hold colours, and for whole
            images.
        ignored: The ids, or colours, of pixels that do not count.
        folders: The folder of each class, for whole images; empty where folders are the classes.
    """

    file: Path
    root: Path
    data: DataSet
    images: str
    masks: str
    splits: Splits
    ids: tuple[tuple[int, ...], ...] = ()
    ignored: tuple[int, ...] | tuple[Colour, ...] = ()
    folders: tuple[str, ...] = ()


def read(path: Path) -> Description:
    """Read a data set's file; nothing else is opened.

    Raises:
        InputError: It cannot be read or is not TOML, or has an unknown key or an invalid value.
    """
    entries = read_toml(path)
    return Parser(path, path.parent, entries).description()


def is_described(root: Path) -> bool:
    """Return whether this is the file of a data set, or a folder that holds one."""
    # os.path's are false, unlike Path's, for names too long to exist.
    return root.suffix == SUFFIX if not os.path.isdir(root) else os.path.isfile(root / FILE)


def find(root: Path) -> Description | None:
    """Return the data set that a file, or a folder, describes; None where there is none.

    Args:
        root: A TOML file, a folder with `dataset.toml`, or a folder of classes, `train/CLASS/`.

    Raises:
        InputError: As for `read`.
    """
    if is_described(root):
        return read(root / FILE if os.path.isdir(root) else root)
    return of_folders(root) if os.path.isdir(root) else None


def of_folders(root: Path) -> Description | None:
    """Describe a folder without such a file that holds `train/CLASS/` with images; None if not.

    Raises:
        InputError: The name of a folder cannot be used.
    """
    classes = folders(root / USUAL_SPLITS[0])
    pictures = (any(p.suffix.lower() in PICTURES for p in visible(c.iterdir())) for c in classes)
    if not classes or not all(pictures):
        return None
    if len(classes) < LEAST:
        if any(p.suffix.lower() in PICTURES for p in visible((root / USUAL_SPLITS[0]).iterdir())):
            return None  # of another layout, with a folder beside the images
        raise InputError(
            f"{root / USUAL_SPLITS[0]}: the folder of 1 class, expected {LEAST} or more"
        )
    return Parser(root, root, {"task": TASKS[1]}).description()


class Parser:
    """Checks the entries of a data set's file.

    Args:
        path: The file, for messages.
        root: The folder that paths are relative to.
        entries: Its entries.
    """

    def __init__(self, path: Path, root: Path, entries: dict[str, Any]) -> None:
        self.path, self.root, self.entries = path, root, entries

    def description(self) -> Description:
        """Return the data set.

        Raises:
            InputError: An entry is unknown, missing or invalid; the message names its key.
        """
        self.known(self.entries, KEYS, "")
        task = self.entry("task", _one_of(TASKS), " or ".join(TASKS), TASKS[0])
        pixels = task == "segmentation"
        images, masks = self.places(pixels)
        splits = self.splits(images)
        rows = self.rows(pixels) if pixels or "classes" in self.entries else []
        rows = rows or self.subfolders(images, splits)
        colours = pixels and not any("id" in row for row in rows)
        ignored = self.ignored(colours) if pixels else ()
        names = tuple(row["name"] for row in rows)
        palette = self.palette(rows, ignored if colours else ()) if pixels else ()
        ids = () if colours or not pixels else self.ids(rows, ignored)
        first = tuple(one[0] for one in ids)
        data = DataSet(
            self.name(),
            names,
            palette,
            (*first, *ignored[:1]) if first else (),
            pixels,
            self.numbers("mean", 0.0),
            self.numbers("std", 5e-324),
        )
        places = () if pixels else tuple(row.get("folder", row["name"]) for row in rows)
        facts = (self.path, self.root, data, images, masks, splits, ids, ignored)
        return Description(*facts, places)

    def name(self) -> str:
        default = re.sub(r"[^\w.-]+", "-", self.root.absolute().name).lstrip(".-") or "own"
        default = f"own-{default}" if default in BUILT_IN else default
        name = self.entry("name", _is_text, "a text", default)
        if not re.fullmatch(r"\w[\w.-]*", name) or name in BUILT_IN:
            raise self.wrong("name", name, f"a word other than {', '.join(BUILT_IN)}")
        return name

    def rows(self, pixels: bool) -> list[dict[str, Any]]:
        """Return the classes, each as a table; a mere name has its position for an id."""
        said = self.entries.get("classes")
        if not isinstance(said, list):
            raise self.wrong("classes", said, "a list of names, or tables [[classes]]")
        rows = []
        for i, row in enumerate(said):
            plain = {"name": row} | ({"id": i} if pixels else {})
            row = plain if isinstance(row, str) else row
            if not isinstance(row, dict):
                raise self.wrong(f"classes.{i}", row, "a name or a table")
            self.known(row, CLASS_KEYS, f"classes.{i}.")
            if not _is_text(row.get("name")):
                raise self.wrong(f"classes.{i}.name", row.get("name"), "a text")
            rows.append(row)
        self.count(rows)
        self.once(((row["name"], f"name {row['name']!r}") for row in rows), rows)
        needless = ("folder",) if pixels else ("id", "color")
        for row in rows:
            if found := [key for key in needless if key in row]:
                task = TASKS[0] if pixels else TASKS[1]
                raise InputError(
                    f"{self.path}: class {row['name']} has {found[0]}, which {task} does not need"
                )
        keys = {"id", "color"} & set().union(*rows)
        for key in sorted(keys if "id" not in keys else {"id"}):
            if missing := [row["name"] for row in rows if key not in row]:
                raise InputError(
                    f"{self.path}: class {listed(missing)} has no {key}, but others have one"
                )
        if pixels and not keys:
            raise InputError(
                f"{self.path}: classes have neither id nor color, expected one of them: what masks"
                " hold"
            )
        return rows

    def subfolders(self, images: str, splits: Splits) -> list[dict[str, Any]]:
        """Return the classes of whole images, of which each has a folder."""
        first = next(iter(splits.values()), "")
        place = self.root / images.replace(SPLIT, str(first))
        rows = [{"name": path.name} for path in folders(place)]
        if len(rows) < LEAST:
            raise InputError(f"{place}: {len(rows)} folders, expected one for each class")
        self.count(rows)
        return rows

    def count(self, rows: list[dict[str, Any]]) -> None:
        if not LEAST <= len(rows) <= MOST:
            raise InputError(f"{self.path}: {len(rows)} classes, expected {LEAST} to {MOST}")

    def ids(
        self, rows: list[dict[str, Any]], ignored: Iterable[Any]
    ) -> tuple[tuple[int, ...], ...]:
        """Return the ids of each class, of which none may be another's, or ignored."""
        made = []
        for row in rows:
            said = row["id"]
            several = tuple(said) if isinstance(said, list) else (said,)
            if not several or not all(map(_is_byte, several)):
                where = f"id of class {row['name']}"
                raise self.wrong(where, said, "a number from 0 to 255, or a list of such")
            made.append(several)
        owners = [(i, f"id {i}") for several in made for i in several]
        names = [row for row, several in zip(rows, made, strict=True) for _ in several]
        names += [{"name": "ignored"} for _ in ignored]
        self.once([*owners, *((i, f"id {i}") for i in ignored)], names)
        return tuple(made)

    def palette(self, rows: list[dict[str, Any]], ignored: Iterable[Any]) -> tuple[Colour, ...]:
        """Return the colour of each class and of void; what has none is given one."""
        found = [
            self.colour(row["color"], f"color of class {row['name']}") if "color" in row else None
            for row in rows
        ]
        named = [(c, row) for c, row in zip(found, rows, strict=True) if c is not None]
        named += [(colour, {"name": "ignored"}) for colour in ignored]
        self.once([(c, f"color {hexadecimal(c)}") for c, _ in named], [row for _, row in named])
        used = {c for c, _ in named}
        void = next(iter(ignored), None) or next(c for c in (BLACK, *drawn(256)) if c not in used)
        free = (c for c in drawn(1024) if c not in {*used, void})
        return (*(next(free) if c is None else c for c in found), void)

    def ignored(self, colours: bool) -> tuple[Any, ...]:
        said = self.entries.get("ignored", [])
        expected = "a list of colors" if colours else "a list of ids from 0 to 255"
        if not isinstance(said, list) or not (colours or all(map(_is_byte, said))):
            raise self.wrong("ignored", said, expected)
        return tuple(self.colour(one, "ignored") for one in said) if colours else tuple(said)

    def colour(self, said: Any, where: str) -> Colour:
        if isinstance(said, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", said):
            red, green, blue = bytes.fromhex(said[1:])
            return red, green, blue
        if isinstance(said, list) and len(said) == 3 and all(map(_is_byte, said)):
            return said[0], said[1], said[2]
        raise self.wrong(where, said, '"#rrggbb" or three numbers from 0 to 255')

    def places(self, pixels: bool) -> tuple[str, str]:
        """Return where images and masks are."""
        usual = None if pixels else SPLIT
        images = self.entry("images", _is_text, "a folder or a pattern", usual)
        if not pixels:
            if "masks" in self.entries or "ignored" in self.entries:
                raise InputError(f"{self.path}: masks and ignored are not for {TASKS[1]}")
            if "*" in images:
                raise self.wrong("images", images, "the folder that holds one for each class")
            return images, ""
        masks = self.entry("masks", _is_text, "a folder or a pattern", None)
        if (SPLIT in images) != (SPLIT in masks):
            raise InputError(f"{self.path}: {SPLIT} is in images or in masks, not in both")
        return images, masks

    def splits(self, images: str) -> Splits:
        said = self.entries.get("splits")
        by_folder = SPLIT in images
        if said is None and by_folder:
            start = images.partition(SPLIT)[0]
            there = [n for n in USUAL_SPLITS if (self.root / f"{start}{n}").is_dir()]
            return {name: name for name in there}
        if isinstance(said, list) and by_folder and all(map(_is_text, said)):
            said = {name: name for name in said}
        if not isinstance(said, dict) or not said:
            raise self.wrong("splits", said, "a table such as {train = 0.8, val = 0.2}")
        if bad := [name for name in said if not re.fullmatch(r"\w[\w.-]*", name)]:
            raise self.wrong("splits", bad[0], "a word for each split")
        if all(_is_share(share) for share in said.values()) and not by_folder:
            if (total := math.fsum(said.values())) > 1 + 1e-9:
                raise InputError(f"{self.path}: the shares of splits add up to {total:g}, above 1")
            return {name: float(share) for name, share in said.items()}
        lists = [_is_text(one) and one.endswith(".txt") for one in said.values()]
        if by_folder and all(map(_is_text, said.values())) and not any(lists):
            return said
        if not by_folder and all(lists):
            return said
        expected = (
            f"the folder that {SPLIT} stands for, of each"
            if by_folder
            else f"all of them shares above 0, or all of them list files (.txt); folders need"
            f" {SPLIT} in images and masks"
        )
        raise self.wrong("splits", said, expected)

    def numbers(self, key: str, least: float) -> tuple[float, float, float] | None:
        said = self.entries.get(key)
        if said is None:
            return None
        right = isinstance(said, list) and len(said) == 3
        right = right and all(type(x) in (int, float) and least <= x < math.inf for x in said)
        if not right:
            raise self.wrong(key, said, "three numbers, of pixels in [0, 1]")
        return float(said[0]), float(said[1]), float(said[2])

    def entry(
        self, key: str, fits: Callable[[Any], bool], expected: str, default: str | None
    ) -> Any:
        value = self.entries.get(key, default)
        if value is None:
            raise InputError(f"{self.path}: {key} is missing, expected {expected}")
        if not fits(value):
            raise self.wrong(key, value, expected)
        return value

    def known(self, entries: dict[str, Any], keys: tuple[str, ...], where: str) -> None:
        if unknown := [key for key in entries if key not in keys]:
            raise InputError(
                f"{self.path}: unknown key {f'{where}{unknown[0]}'!r}, expected {', '.join(keys)}"
            )

    def once(self, values: Iterable[tuple[Any, str]], rows: list[dict[str, Any]]) -> None:
        """Refuse two classes of one value."""
        owners: dict[Any, str] = {}
        for (value, said), row in zip(values, rows, strict=True):
            if value in owners:
                raise InputError(
                    f"{self.path}: {owners[value]} and {row['name']} have the same {said}"
                )
            owners[value] = row["name"]

    def wrong(self, key: str, value: Any, expected: str) -> InputError:
        return InputError(f"{self.path}: {key} is {value!r}, expected {expected}")


def drawn(count: int) -> list[Colour]:
    """Return so many different colours, such as a class without one is shown in.

    The bits of a number go to the highest bits of red, green and blue in turn, so that colours of
    small numbers are far from each other; the order is that of PASCAL VOC's colour map.
    """
    made = []
    for number in range(1, count + 1):
        colour = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                colour[channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
        made.append((colour[0], colour[1], colour[2]))
    return made


def named(classes: tuple[str, ...], pixels: bool) -> DataSet | None:
    """Return a data set of which only the names are known; its colours are drawn.

    Args:
        classes: The names, without void.
        pixels: Whether each pixel has a class, not the image.

    Returns:
        None if there are too few or too many names.
    """
    if not LEAST <= len(classes) <= MOST:
        return None
    return DataSet(UNKNOWN, classes, (*drawn(len(classes)), BLACK) if pixels else (), pixels=pixels)


def hexadecimal(colour: Iterable[int]) -> str:
    """Return a colour as `#rrggbb`."""
    return f"#{bytes(colour).hex()}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_byte(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 255


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= 1


def _one_of(choices: tuple[str, ...]) -> Callable[[Any], bool]:
    return lambda value: value in choices
