"""Whether a command of a page could be run: verbs, options, values and files, nothing is run."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import pytest

from parity.cli import COMMANDS, checkout, parser
from parity.cli.arguments import parse_input_size, parse_size
from parity.cli.commands import train
from parity.ladder.factory import is_factory
from parity.report.report import PRECISIONS, RUNGS
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.spec.recipes import RECIPES
from parity.training import overrides
from tests.pages import ROOT, commands

MORE = "..."  # stands for arguments that a page leaves out
FOREIGN = {"find", "export", "pyenv"}  # of the shell; arguments are not looked at
RUNNERS = {"python", "python3.11", "ms/bin/python"}
INSTALLERS = {"pip", "ms/bin/pip", "%pip"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


class Parsed(BaseException):  # not an error: the program must not catch it
    """The arguments of a program were parsed; the program goes no further."""


def understood(command: Sequence[str], whole: bool = True) -> None:
    """Check that a command could be run.

    Args:
        command: Its words.
        whole: Required arguments must be there; not of a command in a sentence, and not of one
            that ends in `...`.

    Raises:
        AssertionError: Something of it does not exist, or nobody knows what the command is.
    """
    words = [re.sub(r"^(\$\w+|N)$", "1", word) for word in command if word != MORE]
    whole = whole and len(words) == len(command)
    first = words[0]
    if first == "parity":
        of_parity(words[1:], whole)
    elif first in RUNNERS:
        of_python(words[1:], whole)
    elif first in INSTALLERS:
        of_pip(words[1:])
    elif first == "pytest":
        of_pytest(words[1:])
    elif first == "torchrun":
        understood(["python", *words[words.index("-m") :]], whole)
    elif first == "chrt":
        understood(words[3:], whole)
    elif first == "srun":
        for inner in commands(words[-1]):
            understood(inner, whole)
    elif first in ("ruff", "mypy", "pre-commit", "mkdocs"):
        of_tool(words)
    elif first == ".ci/run":
        assert (ROOT / first).is_file()
    else:
        assert first in FOREIGN, f"nobody knows the command {first}"
    exist(words)


def exist(words: Sequence[str]) -> None:
    """Check that files of the project that a command names are there."""
    for word in words:
        path = word.partition("::")[0].partition(":")[0]
        if path.partition("/")[0] in ("tests", "docs") and path not in ("tests", "docs"):
            assert (ROOT / path).exists(), f"{word} is not there"


def of_parity(words: list[str], whole: bool) -> None:
    """Check arguments of `parity`: by its parser, and then names and sizes as commands do."""
    if program := checkout.program(words):
        of_python(["-m", program[0], *program[1]], whole)
        return
    if not words or words[0].startswith("-"):
        assert set(words) <= {"--help", "--version"}, words
        return
    assert words[0] in COMMANDS, f"parity has no command {words[0]}"
    meant(parsed(lambda: parser(words).parse_args(words), words, whole), words)


def of_python(words: list[str], whole: bool) -> None:
    """Check what an interpreter is given: a module of ours, or a file."""
    if words[0] != "-m":
        assert (ROOT / words[0]).is_file(), f"{words[0]} is not there"
        return
    module, rest = words[1], words[2:]
    if module in ("venv", "build"):
        return
    if module == "parity":
        of_parity(rest, whole)
        return
    if found := re.fullmatch(r"(torch|jax)_impl\.train", module):
        of_parity(["train", "--framework", found[1], *rest], whole)
        return
    name = f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *rest])
        parsed(importlib.import_module(name).main, words, whole)


def parsed(run: Callable[[], Any], words: Sequence[str], whole: bool) -> argparse.Namespace:
    """Run something up to its parsed arguments, and return these.

    Raises:
        AssertionError: The parser refuses them.
    """
    ask = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, *args: Any, **options: Any) -> NoReturn:
        if not whole:
            optional(self)
        raise Parsed(ask(self, *args, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        patch.setattr(argparse.ArgumentParser, "exit", refused)
        try:
            run()
        except Parsed as done:
            return done.args[0]
    raise AssertionError(f"{' '.join(words)}: no arguments were parsed")


def refused(self: argparse.ArgumentParser, status: int = 0, message: str | None = None) -> NoReturn:
    """What a parser does in place of ending the process."""
    raise AssertionError(message)


def optional(given: argparse.ArgumentParser) -> None:
    """Let every argument of a parser, and of its commands, be left out, and options' values."""
    for action in given._actions:
        action.required = action.dest == "command"
        if action.option_strings and action.nargs is None:
            action.nargs = "?"
        if isinstance(action, argparse._SubParsersAction):
            for choice in action.choices.values():
                optional(choice)


def is_placeholder(text: str) -> bool:
    """Whether a page means that a reader writes something else there."""
    return text.isupper()


def meant(args: argparse.Namespace, words: Sequence[str]) -> None:
    """Check names, rungs and sizes, which are looked at when a command runs.

    Raises:
        AssertionError: One of them is unknown.
    """
    try:
        _names(vars(args))
    except InputError as error:
        raise AssertionError(f"parity {' '.join(words)}: {error}") from None


def _names(given: dict[str, Any]) -> None:
    model, recipe = given.get("model"), given.get("recipe")
    if model is not None:
        known = model in MODELS or is_factory(model) or is_placeholder(model)
        assert known, f"no network {model}"
    for key, known in (("levels", RUNGS), ("precision", (*PRECISIONS, "fp32", "fp16", "bf16"))):
        if (values := given.get(key)) is not None:
            assert set(values.split(",")) <= set(known), f"{key} {values}"
    if (size := given.get("size")) is not None and size != "HxW":
        if model in MODELS:
            parse_input_size(size, MODELS[model])
        else:
            parse_size(size)
    if recipe is None or is_placeholder(recipe) or recipe.endswith(overrides.SUFFIX):
        return
    assert recipe in RECIPES, f"no recipe {recipe}"
    if given["command"] == "train":
        train.changed(overrides.find(recipe), argparse.Namespace(**given))
        stages = [stage.name for stage in RECIPES[recipe].stages]
        assert given["from_stage"] in (None, *stages), f"no stage {given['from_stage']}"


def of_pip(words: Sequence[str]) -> None:
    """Check that what is installed is this project, with extras it has, or pinned.

    This project is a checkout or its wheel, of the version that is here: no index has it, and
    somebody else might take its name there.
    """
    if words == ["check"]:
        return
    assert words[0] == "install"
    name, version = (PROJECT["project"][key] for key in ("name", "version"))
    wheel = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    extras = PROJECT["project"]["optional-dependencies"]
    for word in words[1:]:
        if word.startswith("-") or word in (".", f"path/to/{name}"):
            continue
        if re.fullmatch(r"(vendor/)?" + re.escape(wheel), word):
            continue
        if found := re.fullmatch(r"\.\[([\w,]+)\]", word):
            assert set(found[1].split(",")) <= set(extras), word
        else:
            assert re.fullmatch(r"[\w-]+(==|<)[\w.]+", word), f"{word} is not pinned"


def of_pytest(words: Sequence[str]) -> None:
    """Check markers and files that tests are chosen by."""
    markers = {m.partition(":")[0] for m in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    rest = iter(words)
    for word in rest:
        if word == "-m":
            expression = next(rest)
            assert set(re.findall(r"\w+", expression)) - {"or", "and", "not"} <= markers, expression
        elif word in ("-n", "-k"):
            next(rest)
        elif word == "-p":
            plugin = next(rest).replace(".", "/")
            assert (ROOT / f"{plugin}.py").exists(), f"{plugin} is not there"
        elif word == "--cov":
            tested = PROJECT["project"]["optional-dependencies"]["test"]
            assert any(package.startswith("pytest-cov") for package in tested)
        else:
            assert (ROOT / word.partition("::")[0]).exists(), f"{word} is not there"


def of_tool(words: Sequence[str]) -> None:
    """Check that a tool is among what developers install, and that its files are there."""
    extras = PROJECT["project"]["optional-dependencies"]
    names = [re.split(r"[\[=<>]", entry)[0] for entry in (*extras["dev"], *extras["docs"])]
    assert any(name.startswith(words[0]) for name in names), f"{words[0]} is not installed"
    if "-f" in words:
        assert (ROOT / words[words.index("-f") + 1]).is_file()
