"""Recipes written or changed by the user: TOML files, and `--set KEY=VALUE`.

A file may name the recipe that it changes, `base = "enet-camvid"`, and contain the changes; or be a
whole recipe, as `parity recipes NAME --toml` prints it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from parity.io.files import read_toml
from parity.spec import recipes
from parity.spec.augmentation import Resize
from parity.spec.errors import InputError
from parity.spec.training.recipe import Recipe
from parity.spec.training.written import recipe_of

SUFFIX = ".toml"


def find(name: str | None, file: str | Path | None = None) -> Recipe:
    """Return the recipe of a name, of a file, or of a name with what a file changes in it.

    Args:
        name: A key of `parity.spec.recipes.RECIPES`, or the path of a file.
        file: The path of a file; its `base` may be left out where there is a name.

    Raises:
        InputError: There is none, or the file cannot be used.
    """
    if name is not None and file is None and name.endswith(SUFFIX):
        return from_file(Path(name))
    if file is not None:
        return from_file(Path(file), name)
    if name is None:
        raise InputError(f"no recipe, expected one of {', '.join(recipes.RECIPES)}, or a file")
    return recipes.recipe(name)


def from_file(path: Path, name: str | None = None) -> Recipe:
    """Read a recipe from a TOML file.

    Args:
        path: The file.
        name: Name of the recipe that it changes; if not given, the file names it or is a whole
            recipe.

    Raises:
        InputError: It cannot be read or is not TOML, or has an unknown key or an invalid value.
    """
    entries = read_toml(path)
    base = entries.pop("base", name)
    if name is not None and base != name:
        raise InputError(f"{path}: base is {base!r}, but the recipe asked for is {name}")
    if base is not None and base not in list(recipes.RECIPES):  # it may be no text
        raise InputError(f"{path}: base: {base!r}, expected one of {', '.join(recipes.RECIPES)}")
    return recipe_of(entries, str(path), None if base is None else recipes.RECIPES[base])


def with_settings(recipe: Recipe, settings: Iterable[str], where: str = "--set") -> Recipe:
    """Return a recipe with some values replaced, all at once.

    Args:
        recipe: The recipe; not modified.
        settings: `KEY=VALUE`: a key's parts joined by dots, such as `stages.all.optimizer.lr`, and
            a value in TOML; a value that is not TOML is taken as text.
        where: For messages.

    Raises:
        InputError: A malformed setting, an unknown key, or an invalid value.
    """
    entries: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not all(key.split(".")):
            raise InputError(f"{where} {setting!r}, expected KEY=VALUE such as seed=2")
        *path, last = key.strip().split(".")
        table = entries
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise InputError(f"{where} {setting!r}: {part} is set as a whole, too")
        table[last] = value_of(text)
    return recipe_of(entries, where, recipe) if entries else recipe


def with_options(
    recipe: Recipe,
    batch: int | None = None,
    size: tuple[int, int] | None = None,
    **fields: Any,
) -> Recipe:
    """Return a recipe with the values of short options; an option of None changes nothing.

    Args:
        recipe: The recipe; not modified.
        batch: Batch size of all stages, on any number of devices; the rate is scaled as
            `Recipe.parallel` says.
        size: Height and width, in pixels, of validation images and of every `Resize`.
        **fields: Other fields of the recipe, such as `seed`.

    Raises:
        InputError: An invalid value.
    """
    for name, value in fields.items():
        if value is not None:
            recipe = recipe_of({name: value}, f"--{name.replace('_', '-')}", recipe)
    if batch is not None:
        recipe = recipe_of({"stages": _batches(recipe, batch)}, "--batch-size", recipe)
    if size is not None:
        recipe = recipe_of(_sizes(recipe, list(size)), "--size", recipe)
    return recipe


def _batches(recipe: Recipe, batch: int) -> dict[str, Any]:
    if batch < 1:
        raise InputError(f"--batch-size {batch}, expected 1 or more")
    return {
        stage.name: {
            "batch": batch,
            "optimizer": {"lr": recipe.parallel.scaled(stage.optimizer.lr, batch, stage.batch)},
            "distributed": {"batch_per_device": "none"} | _rate(recipe),
        }
        for stage in recipe.stages
    }


def _rate(recipe: Recipe) -> dict[str, Any]:
    """Remove the separate rate for several devices where the rate scales with the batch."""
    return {} if recipe.parallel.rate == "none" else {"lr": "none"}


def _sizes(recipe: Recipe, size: list[int]) -> dict[str, Any]:
    entries: dict[str, Any] = {"size": size}
    stages = {
        stage.name: {"augmentation": {"resize": {"size": size}}}
        for stage in recipe.stages
        if any(isinstance(operation, Resize) for operation in stage.augmentation)
    }
    return entries | ({"stages": stages} if stages else {})


def value_of(text: str) -> Any:
    """Return a value that is written in TOML; the text itself where it is not."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
