"""Every block of code on every page: it runs, or it is looked at as far as that is quick.

`HANDLED` says of each block who runs it, or why nobody does. All commands, in blocks and in
sentences, are parsed by the real parsers besides.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from typing import NamedTuple

import pytest
import yaml

from parity.cli import checkout, parser
from parity.trace import schema
from tests.pages import ROOT, Block, blocks, commands, inline, pages
from tests.understood import understood
from tests.unit.docs import test_followed

SHELL = {"sh", "bash", "console", "indented"}
BEGINNINGS = ("parity ", "python ", "pytest ", "pip ", "mkdocs ", "torchrun ", "ruff ")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
FORMULA = re.compile(r"<=|limit =")


class Handled(NamedTuple):
    """What is done with blocks of a page.

    Attributes:
        page: As `pages` names it.
        language: Of the blocks.
        start: With what their text begins; "" if all of that language on the page are meant.
        by: The test that runs them, as `FILE::FUNCTION`; or why none does.
        how: `run`, `parsed` (nobody runs it), or `shown` (it is no code but what something prints).
    """

    page: str
    language: str
    start: str
    by: str
    how: str = "run"


def parsed(page: str, start: str, why: str, language: str = "sh") -> Handled:
    return Handled(page, language, start, why, "parsed")


HERE = "tests/unit/docs"
TUTORIAL = f"{HERE}/test_tutorial.py::test_the_tutorial_leads_to_a_faithful_port"
PAGE = "tests/unit/ladder/test_checking_page.py"
RULES = f"{PAGE}::test_the_rules_on_the_page_are_rules"
TWIN = "tests/unit/trace/test_real_mindspore_trace.py"
DATA = "it needs a public data set; tests/unit/docs/test_followed.py trains on drawn images"
LONG = "minutes to hours, on the project's own networks; its results are on a page of results"
DEVICES = "several machines or GPUs; tests/unit/training/test_devices.py starts processes"
OTHERS = "tests/benchmarks has a test of its own that runs it in small"

HANDLED = (
    Handled("tutorial.md", "python", "", TUTORIAL),
    Handled("tutorial.md", "diff", "", TUTORIAL),
    Handled("tutorial.md", "console", "", TUTORIAL),
    Handled("checking.md", "python", "", f"{PAGE}::test_the_examples_run"),
    parsed(
        "checking.md",
        "parity check path/to/file.py:make_port --layers",
        "tests/unit/ladder/test_bounds_options.py gives these options to a port of its own",
    ),
    Handled("rules.md", "python", "", f"{PAGE}::test_the_examples_run"),
    Handled("rules.md", "toml", "", RULES),
    Handled(
        "README.md",
        "python",
        "import torch",
        "tests/unit/cli/test_port_command.py::test_the_readmes_example",
    ),
    Handled(
        "data.md", "python", "from pathlib", "tests/unit/training/test_own_data.py::test_the_page"
    ),
    Handled(
        "data.md",
        "sh",
        "parity statistics shapes",
        "tests/unit/training/test_own_data.py::test_the_page",
    ),
    Handled(
        "traces.md", "json", "", f"{HERE}/test_snippets.py::test_the_index_of_a_trace", "shown"
    ),
    parsed("traces.md", "import mindspore", f"it needs MindSpore; {TWIN} runs the same", "python"),
    parsed("traces.md", "pyenv install", "test_old_torch.py, beside it, is what it runs"),
    parsed("traces.md", "python3.11 -m venv ms", f"it needs MindSpore; {TWIN} does the same"),
    parsed("README.md", "pip install .", ".ci/run installs so, and runs the demo and the tests"),
    parsed("README.md", "parity faults --", LONG),
    parsed("README.md", "python -m tests.benchmarks.other_tools_rules", OTHERS),
    parsed("README.md", "python -m tests.fuzz", "hours; tests/fuzz/test_fuzz.py runs every suite"),
    parsed("README.md", "parity recipes", "training.md's commands are followed, and data.md's"),
    parsed("README.md", "parity predict", "the block of data.md predicts so"),
    parsed("README.md", "parity train enet-cityscapes", DEVICES),
    parsed("README.md", "parity bench", "tests/unit/bench/test_bench.py times a small network"),
    parsed("CONTRIBUTING.md", "", "how developers install and test; .ci/run does it"),
    parsed("index.md", "pip install .", ".ci/run installs so, and runs the demo"),
    parsed("index.md", "pip install path/to", ".ci/run installs the checkout and the wheel"),
    parsed("continuous-integration.md", "", "for GitHub and for pre-commit", "yaml"),
    parsed("contract.md", "$ parity faults --spec", LONG, "console"),
    parsed("devices.md", "#!/bin/bash", DEVICES, "bash"),
    parsed("devices.md", "parity train", DEVICES, "indented"),
    parsed("devices.md", "torchrun", DEVICES, "indented"),
    parsed("devices.md", "python -m tests", OTHERS, "indented"),
    parsed("devices.md", "parity check enet --devices", "pytest -m devices does it", "indented"),
    parsed("tolerances.md", "parity check enet --json", "the README's commands do", "indented"),
    parsed("devices.md", "parity eval", DEVICES, "indented"),
    parsed(
        "data.md", "parity pack", "tests/unit/data/test_records.py packs drawn images", "indented"
    ),
    parsed("data.md", "python -m tests", OTHERS, "indented"),
    parsed("data.md", "parity statistics DATA", DATA, "indented"),
    parsed("evaluating.md", "parity miou", DATA, "indented"),
    parsed("predicting.md", "", "the block of data.md predicts so", "indented"),
    parsed(
        "study.md", "", "hours; tests/unit/study/test_running.py trains a small study", "indented"
    ),
    parsed("training.md", "parity train erfnet", DATA, "indented"),
    parsed(
        "training.md",
        "python -m tests.fuzz",
        "tests/fuzz/test_fuzz.py kills a run",
        "indented",
    ),
    parsed("rules.md", "python -m tests.benchmarks", LONG),
    *(
        parsed(f"results/{name}.md", "", "how the numbers of the page were measured", "indented")
        for name in (
            "camvid",
            "causes",
            "check-scaling",
            "checkpoints",
            "devices",
            "devices-choices",
            "drift",
            "jax2onnx",
            "published_pairs",
            "speed",
            "study-enet-camvid",
            "study-genet-cifar10",
        )
    ),
    *(Handled(page, "text", "", "", "shown") for page in pages()),
    Handled("tolerances.md", "indented", "", "formulas", "shown"),
    *(
        Handled(page, language, start, f"{HERE}/test_followed.py::{test}")
        for test, of in test_followed.FOLLOWED.items()
        for page, language, start in of
    ),
)


def fits(entry: Handled, page: str, block: Block) -> bool:
    return (entry.page, entry.language) == (page, block.language) and block.text.startswith(
        entry.start
    )


def handled_by(page: str, block: Block) -> list[Handled]:
    """The entries of a block; one that names how it starts comes before one for all."""
    found = [entry for entry in HANDLED if fits(entry, page, block)]
    return [entry for entry in found if entry.start] or found


def test_every_block_is_handled_once() -> None:
    """Catches a block of a page that nobody runs or looks at, and one that two entries claim."""
    loose = {
        f"{page}: {block.language}: {block.text.splitlines()[0]}": len(found)
        for page in pages()
        for block in blocks(page)
        if len(found := handled_by(page, block)) != 1
    }
    assert loose == {}


def test_every_entry_handles_something() -> None:
    """Catches an entry for a block that is gone, and a test that runs none."""
    used = {
        entry for page in pages() for block in blocks(page) for entry in handled_by(page, block)
    }
    assert [entry for entry in HANDLED if entry not in used and entry.language != "text"] == []
    for entry in HANDLED:
        if entry.how == "run":
            file, _, test = entry.by.partition("::")
            assert f"def {test}(" in (ROOT / file).read_text(), entry
        for path in re.findall(r"tests/[\w/.]+", entry.by):
            assert (ROOT / path.rstrip(".")).exists(), entry


def lines_of(page: str) -> list[tuple[list[str], bool]]:
    """Every command of a page, and whether it must have all that it needs."""
    found = []
    for block in blocks(page):
        text = block.text
        if block.language == "console":
            text = text.partition("\n")[0]
        if block.language == "yaml":
            text = "\n".join(steps(yaml.safe_load(text)))
        elif block.language not in SHELL or FORMULA.search(text):
            continue
        found += [(command, True) for command in commands(text)]
    for code in inline(page):
        if code.startswith(BEGINNINGS):
            found += [(command, False) for command in commands(code)]
    return found


def test_options_in_comments_are_there() -> None:
    """Catches an option that a comment beside a command names, and the command has not."""
    checked = 0
    for page in pages():
        for block in blocks(page):
            for line in block.text.splitlines() if block.language in SHELL else ():
                words, _, comment = line.removeprefix("$ ").partition(" # ")
                if words.startswith("parity ") and (options := OPTION.findall(comment)):
                    verb = re.search(r"parity (\w+)", comment + words)
                    assert verb
                    checked += len(options)
                    assert set(options) <= options_of(verb[1]), line
    assert checked > 5


def options_of(verb: str) -> set[str]:
    """The options of a command, those of the checkout's programs among them."""
    (commands_of,) = (a for a in parser([verb])._actions if a.dest == "command")
    assert isinstance(commands_of.choices, dict)
    own = {name for a in commands_of.choices[verb]._actions for name in a.option_strings}
    return own | checkout.OPTIONS.get(verb, {}).keys()


def steps(given: object) -> list[str]:
    """The commands of a workflow, or of a file of hooks."""
    if isinstance(given, dict):
        own = [str(given[key]) for key in ("run", "entry") if key in given]
        return own + [line for value in given.values() for line in steps(value)]
    return [line for item in given for line in steps(item)] if isinstance(given, list) else []


@pytest.mark.parametrize("page", [page for page in pages() if lines_of(page)])
def test_every_command_is_understood(page: str) -> None:
    """Catches a verb, an option, a value, a recipe, a network or a file that does not exist."""
    for command, whole in lines_of(page):
        understood(command, whole)


@pytest.mark.parametrize(
    "command",
    [
        "parity chek enet",
        "parity check enet --levles L1",
        "parity check enett",
        "parity check enet --size 100",
        "parity train enet-camvid --framework tourch --data D --out O",
        "parity train enet-camvid --framework torch --data D --out O --set stages.al.batch=2",
        "parity train enet-camvid --framework torch --data D",
        "python -m tests.fuzz --suites flips",
        "pytest -m longer",
        "pytest tests/gone.py",
        "pip install -e '.[tests]'",
        "pip install parity-suite",
        "pip install parity_suite-0.9.0-py3-none-any.whl",
        "conda install parity-suite",
    ],
)
def test_what_does_not_exist_is_not_understood(command: str) -> None:
    """Catches the test above understanding everything."""
    (words,) = commands(command)
    with pytest.raises(AssertionError):
        understood(words)


def test_all_python_is_python() -> None:
    """Catches an example with a syntax error, also among those that nobody runs."""
    for page in pages():
        for block in blocks(page):
            if block.language == "python":
                ast.parse(block.text)


def test_the_index_of_a_trace() -> None:
    """Catches a page on the format that shows what the reader refuses."""
    (block,) = (block for block in blocks("traces.md") if block.language == "json")
    assert schema.checked(json.loads(block.text.replace("...", "0" * 64)), "the page")


def test_all_toml_is_toml() -> None:
    """Catches an example that no program can read."""
    for page in pages():
        for block in blocks(page):
            if block.language == "toml":
                tomllib.loads(block.text)
