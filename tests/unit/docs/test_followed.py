"""Pages that are followed: their commands and programs run, on what is drawn here."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flax import nnx

import weights_convert
from parity.cli import main
from parity.data import dataset
from parity.spec import draw
from parity.spec.initial import initial
from parity.spec.models import MODELS
from parity.spec.recipes import RECIPES
from parity.study.plan import Plan, StudyRun
from parity.study.running import Child, Ended
from parity.trace.recorder import Trace
from parity.training import overrides
from tests import by_rules, tiny_data
from tests.pages import blocks, blocks_in, commands, follow, printed, text_of, write
from tests.scenes import save
from tests.small_recipe import BLOCKS
from tests.study_folders import write_run
from tests.unit.cli.test_port_command import MyNet, MyPort
from weights_convert.rules import Rules

# Test -> page, language, and with what the block begins; `test_snippets.py` reads it.
FOLLOWED: dict[str, list[tuple[str, str, str]]] = {}
Test = Callable[..., None]


def follows(page: str, language: str, start: str) -> Callable[[Test], Test]:
    """Say of a test that it runs a block."""

    def noted(test: Test) -> Test:
        FOLLOWED.setdefault(test.__name__, []).insert(0, (page, language, start))
        return test

    return noted


def followed(test: Test) -> list[str]:
    """The blocks that a test says it runs, in that order."""
    found = []
    for page, language, start in FOLLOWED[test.__name__]:
        here = [b for b in blocks(page) if b.language == language and b.text.startswith(start)]
        assert len(here) == 1, (page, start)
        found.append(here[0].text)
    return found


def run(text: str, *more: str) -> None:
    """Run the commands of a block, each with more arguments."""
    for _, *arguments in commands(text):
        assert main([*arguments, *more]) == 0, arguments


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are followed in a folder of their own."""
    monkeypatch.chdir(tmp_path)


def own_pair() -> None:
    """Write the README's pair, `path/to/file.py`, with a reference and a pair for traces."""
    (example,) = (b.text for b in blocks("README.md") if b.text.startswith("import torch"))
    names = "from tests.unit.cli.test_port_command import MyNet, MyPort\n"
    text = names + example.partition("report = ")[0].replace("(2, 64, 64, 3)", "(2, 16, 16, 3)")
    text += "\n\ndef make_reference():\n    return MyNet().eval(), torch.rand(2, 3, 16, 16)\n"
    Path("path/to").mkdir(parents=True)
    for file in ("path/to/file.py", "file.py", "port.py"):
        Path(file).write_text(text)
    traced = text.replace("MyNet().eval(),  #", '"ref.trace",  #').replace("inputs=", "# inputs=")
    Path("my_port.py").write_text(traced)


@follows("README.md", "sh", "parity check path/to/file.py:make_port")
@follows("checking.md", "sh", "parity pairs path/to/file.py:make_port")
@follows("checking.md", "sh", "parity faults path/to/file.py:make_port")
def test_a_pair_of_ones_own() -> None:
    """Catches a command on a reader's pair that does not do what its page says."""
    own_pair()
    asked = {tuple(words) for text in followed(test_a_pair_of_ones_own) for words in commands(text)}
    assert len(asked) == 5
    for _, *arguments in sorted(asked):
        few = ["--count", "3"] if arguments[0] == "faults" else []
        own = ["first" if word == "encoder.*" else word for word in arguments]  # no encoder here
        assert main([*own, *few]) == 0, arguments


def write_tutorial(checks: int) -> None:
    """Write the port of the tutorial, as it is after so many of its checks."""
    for block in blocks("tutorial.md"):
        if block.language == "console":
            checks -= 1
            if checks < 0:
                return
        elif title := block.options.get("title"):
            write(Path(title), block)


@follows("agents.md", "console", "$ parity check my_port.py:make_port --format json")
@follows("continuous-integration.md", "console", "$ parity check my_port.py:make_port --format")
@follows("checking.md", "console", "$ parity check my_port.py:make_port")
def test_the_port_of_the_tutorial(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a report on a page that is not the one of the tutorial's port."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_port", raising=False)
    for text, checks in zip(followed(test_the_port_of_the_tutorial), (0, 0, 4), strict=True):
        write_tutorial(checks)
        (command,), shown = commands(text.partition("\n")[0]), text.partition("\n")[2]
        assert main(command[1:]) == (0 if checks else 1)
        printed(shown, capsys.readouterr().out)


@follows("continuous-integration.md", "python", "from my_port import")
@follows("README.md", "python", "# test_my_port.py")
def test_the_ladder_as_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a test file that a reader copies and in which pytest finds nothing."""
    own_pair()
    shutil.copy("file.py", "my_port.py")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.delitem(sys.modules, "my_port", raising=False)  # another test's
    given: dict[str, Any] = {}
    try:
        for text in followed(test_the_ladder_as_tests):
            exec(text, given)
            (mark,) = given.pop("test_port").pytestmark
            assert ("L1", "first.conv") in [case.values for case in mark.args[1]]
    finally:
        sys.modules.pop("my_port", None)


@follows("README.md", "sh", "parity record file.py:make_reference")
def test_a_reference_elsewhere() -> None:
    """Catches a recording that the next command of the README cannot use."""
    own_pair()
    record, check, compare = followed(test_a_reference_elsewhere)[0].splitlines()
    run(record)
    run(check)
    for name in "ab":
        shutil.copy("ref.trace", f"{name}.trace")
    run(compare)


TRACED = """
import optax, torch
from parity import Port
from tests import recorded

def make_reference():
    torch.manual_seed(0)
    adam = lambda network: torch.optim.Adam(network.parameters(), 1e-3)
    return {"module": recorded.Reference(), "inputs": torch.rand(2, 3, 8, 10),
            "loss": lambda y: (y**2).mean(), "optimizer": adam}

network, RULES = recorded.ported(), recorded.WEIGHTS
loss = lambda y: (y**2).mean()

def make_port():
    return """


@follows("traces.md", "python", "import torch")
@follows("traces.md", "python", "from flax import nnx")
@follows("traces.md", "console", "$ parity record reference.py")
@follows("traces.md", "console", "$ parity check port.py")
@follows("traces.md", "console", "$ parity record port.py")
@follows("traces.md", "console", "$ parity compare reference.trace")
def test_the_page_on_traces(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a pair on the page that is not recorded, checked and compared as it shows."""

    def output(arguments: list[str]) -> str:
        assert main(arguments) == 0, arguments
        return capsys.readouterr().out

    assert follow("traces.md", Path.cwd(), output) == 4


@follows("traces.md", "sh", "parity compare A.trace B.trace")
def test_orders_of_axes_on_purpose() -> None:
    """Catches options of the page that do not make equal what is laid out so on purpose."""
    lines = followed(test_orders_of_axes_on_purpose)[0].splitlines()
    x = draw.generator(0, "page").standard_normal((2, 3, 4, 5))

    def record(name: str, last: bool, second: bool) -> None:
        axes = [(0, 2, 3, 1) if each else (0, 1, 2, 3) for each in (last, second)]
        with Trace(f"{name}.trace") as trace:
            trace.run("eval")
            trace.input("x", x)
            trace.input("y", (2 * x).transpose(axes[1]))
            trace.output("logits", (3 * x).transpose(axes[0]))

    record("A", False, False)
    for line, second in zip(lines, (False, True), strict=True):
        record("B", True, second)
        assert main(["compare", "A.trace", "B.trace"]) == 1
        run(line)


@follows("traces.md", "sh", "parity record FILE.py")
@follows("traces.md", "python", "Port(")
@follows("traces.md", "python", "RULES = [")
def test_traces(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a recording of whose loss and optimizer the page's port makes nothing."""
    lines, port, rules = followed(test_traces)
    Path("FILE.py").write_text(TRACED + textwrap.indent(port, "    ").strip())
    record, check, compare = lines.splitlines()
    run(record)
    main(next(commands(check))[1:])
    out = capsys.readouterr().out
    assert "L3 gradients" in out
    assert "L4 update" in out
    for name in ("one", "other"):
        shutil.copy("reference.trace", f"{name}.trace")
    run(compare)
    given: dict[str, Any] = {}
    exec(rules, given)
    assert Rules.of(given["RULES"])


def write_enet() -> None:
    """Write `enet.pth`, drawn weights of ENet."""
    weights_convert.save("enet.pth", MODELS["enet"], initial(MODELS["enet"], "torch", 0))


@follows("README.md", "sh", "parity convert enet.pth")
def test_conversions() -> None:
    """Catches a format that cannot be written, or not read again."""
    write_enet()
    run(followed(test_conversions)[0])
    one, back = (weights_convert.load(name) for name in ("enet.pth", "back.pth"))
    assert all(np.array_equal(one.arrays[k], v) for k, v in back.arrays.items())


@follows("checkpoints.md", "console", "$ parity inspect enet.pth")
@follows("checkpoints.md", "console", "$ parity convert enet.pth enet.safetensors")
@follows("checkpoints.md", "console", "$ parity convert enet.safetensors back.pth")
def test_the_page_on_conversion(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a command that prints something else than its page shows."""
    arrays = initial(MODELS["enet"], "torch", 0)
    wrapped = {f"module.{name}": torch.tensor(array) for name, array in arrays.items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, "enet.pth")
    for text in followed(test_the_page_on_conversion):
        command, _, shown = text.partition("\n")
        run(command)
        printed(shown, capsys.readouterr().out)


@follows("rules.md", "console", "$ parity suggest path/to/file.py")
@follows("rules.md", "console", "$ parity convert --rules rules.toml in.pth")
def test_the_page_on_rules(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a suggested table that does not convert, or is told of otherwise."""
    own_pair()
    torch.save(MyNet().state_dict(), "in.pth")
    for text in followed(test_the_page_on_rules):
        command, _, shown = text.partition("\n")
        run(command)
        printed(shown, capsys.readouterr().out)
    stands = text_of("rules.md").partition("In `rules.toml` stands now")[2]
    table = next(block.text for block in blocks_in(stands) if block.language == "toml")
    assert tomllib.loads(Path("rules.toml").read_text()) == tomllib.loads(table)


@follows("README.md", "sh", "parity convert --rules rules.toml llama/")
@follows("checkpoints.md", "sh", "parity convert --rules rules.toml meta-llama/")
def test_conversions_by_rules() -> None:
    """Catches shards that the commands of a page do not read or write."""
    own_pair()
    for name in ("llama", "meta-llama", "IN"):
        by_rules.write_shards(Path(name), by_rules.drawn())
    Path("rules.toml").write_text(by_rules.RULES)
    torch.save(MyNet().state_dict(), "in.pth")
    for text in followed(test_conversions_by_rules):
        run(text)
        shutil.rmtree("llama.orbax")
        shutil.rmtree("back")
    assert not Path("OUT").exists()


@follows("data.md", "toml", 'name = "shapes"')
def test_a_description_of_data() -> None:
    """Catches a description of a data set that is refused."""
    Path("dataset.toml").write_text(followed(test_a_description_of_data)[0])
    for i in range(8):
        mask = np.full((8, 8), (0, 1, 2, 3, 255)[i % 5], np.uint8)
        save(Path(f"images/{i}.png"), np.zeros((8, 8, 3), np.uint8))
        save(Path(f"masks/{i}.png"), mask)
    assert list(dataset(Path.cwd()).classes) == ["background", "square", "circle"]


@follows("predicting.md", "console", "$ parity predict photos")
def test_predictions(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a command that prints something else than its page shows, or writes other files."""
    write_enet()
    for name in ("a.jpg", "b.png"):
        save(Path("photos") / name, np.zeros((50, 70, 3), np.uint8))
    command, _, shown = followed(test_predictions)[0].partition("\n")
    run(command, "--size", "64x128")  # of the network's images: quicker
    printed(shown, capsys.readouterr().out)
    for kind in ("color", "overlay", "ids"):
        assert sorted(path.name for path in Path("drawn", kind).iterdir()) == ["a.png", "b.png"]


@follows("study.md", "console", "$ parity study enet-camvid")
def test_a_study(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a report that is not that of the scores on the page of results.

    Nobody trains: each run's log is written from the scores on that page.
    """
    tiny_data.data(Path("CAMVID"), RECIPES["enet-camvid"])
    row = re.compile(r"^\| (\w+) seed (\d) \| finished \| ([\d.]+) \|", re.MULTILINE)
    page = text_of("results/study-enet-camvid.md")
    scores = {(side, int(seed)): float(score) for side, seed, score in row.findall(page)}

    def trained(child: object, plan: Plan, one: StudyRun, out: Path) -> Ended:
        del child
        write_run(plan, one, out, [scores[one.side, one.seed] / 100], state={})
        return Ended(0)

    monkeypatch.setattr(Child, "__call__", trained)
    command, _, shown = followed(test_a_study)[0].partition("\n")
    monkeypatch.setenv("COLUMNS", "200")
    run(command)
    printed(shown, capsys.readouterr().out)


@follows("training.md", "toml", "base =")
def test_a_recipe_of_ones_own() -> None:
    """Catches a file of changes that is refused, or of which something does nothing."""
    Path("mine.toml").write_text(followed(test_a_recipe_of_ones_own)[0])
    mine, base = overrides.find("mine.toml"), RECIPES["erfnet-mindspore"]
    assert (mine.seed, mine.loss_scale) == (7, None)
    assert {stage.batch for stage in mine.stages} == {2}
    pairs = {one.name: (one, other) for one, other in zip(mine.stages, base.stages, strict=True)}
    assert all(one.augmentation != other.augmentation for one, other in pairs.values())
    assert pairs["encoder-2"][0].optimizer != pairs["encoder-2"][1].optimizer


@follows("continuous-integration.md", "python", "import importlib.resources")
def test_the_schema_is_in_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a place from which the schema has moved."""
    exec(followed(test_the_schema_is_in_the_package)[0], {})
    assert capsys.readouterr().out.strip()


@follows("training.md", "console", "$ parity recipes enet-camvid")
def test_a_recipe_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a recipe that was changed, and its page was not."""
    command, _, shown = followed(test_a_recipe_is_shown)[0].partition("\n")
    run(command)
    printed(shown, capsys.readouterr().out)


@follows("agents.md", "python", "from parity import Port")
def test_the_port_of_the_page_for_agents() -> None:
    """Catches a `Port` that does not take what the page gives it."""
    given = {"network": MyNet(), "ported": MyPort(rngs=nnx.Rngs(0))}
    exec(followed(test_the_port_of_the_page_for_agents)[0], given)


@pytest.mark.long
@follows("README.md", "sh", "parity summary erfnet")
@follows("README.md", "sh", "parity check enet")
def test_our_own_networks(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a table that the README shows and the command prints otherwise."""
    summary, check = followed(test_our_own_networks)
    run(summary)
    shown = next(b.text for b in blocks("README.md") if b.text.lstrip().startswith("erfnet, image"))
    printed(shown, capsys.readouterr().out)
    run(check)
    table = next(b.text for b in blocks("README.md") if "enet: port against" in b.text)
    # How many numerics noise drowns depends on the processor.
    assert counts(table) == counts(capsys.readouterr().out) != set()


def counts(table: str) -> set[str]:
    """Rungs with how many structures were compared, of a report's table."""
    rows = (line.split() for line in table.splitlines() if " structure " in line)
    return {" ".join(row[: row.index("structure") + 3]) for row in rows}


@pytest.mark.long
@follows("README.md", "sh", "parity export enet")
@follows("export.md", "console", "$ parity export enet")
def test_exports(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an export, or a use of one, that a page shows and that fails or prints another."""
    write_enet()
    readme, page = followed(test_exports)
    command, _, shown = page.partition("\n")
    run(command)
    printed(shown, capsys.readouterr().out)
    image, label = np.zeros((64, 96, 3), np.uint8), np.zeros((64, 96), np.uint8)
    save(Path("DIR/a_leftImg8bit.png"), image)
    save(Path("DIR/a_gtFine_labelIds.png"), label)
    run(readme)
    assert Path("out/metric.txt").is_file()


@pytest.mark.long
@follows("README.md", "sh", "parity miou --weights")
@follows("evaluating.md", "console", "$ parity miou --weights")
def test_accuracy(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches accuracies of the published checkpoint that are not those which the README shows."""
    Path("CITYSCAPES").symlink_to(shared / "data" / "cityscapes_mini")
    name = "enet_cityscapes_20c.pth"
    Path(name).symlink_to(shared / "checkpoints" / name)
    readme, page = followed(test_accuracy)
    assert readme.split() == [*page.partition("\n")[0].split()[1:], "--html", "page"]
    run(readme)
    found = capsys.readouterr().out
    shown = next(b.text for b in blocks("README.md") if b.text.startswith("labels: void-last"))
    for text in (shown, page.partition("\n")[2]):
        assert "IoU in percent" in text
        printed("\n".join(map(on_any_processor, text.splitlines())), found)


def on_any_processor(line: str) -> str:
    """A line of `parity miou` as a page shows it, without what speed and rounding change."""
    if "━" in line or "images per second" in line or line.startswith("│ ..."):
        return "..."
    first, _, rest = line.partition(" of 2,621,440 pixels disagree")
    if rest:
        return f"{first.rpartition(' ')[0]} ... of 2,621,440 pixels disagree in float32"
    return "│".join(line.split("│")[:4])  # the class, both sides; not their difference


@pytest.mark.long
@follows("training.md", "indented", "parity train enet-camvid")
def test_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a line on training that stops the next one."""
    network: Any = MODELS["enet-camvid"]
    few = tuple(b for b in network.blocks if b.name in BLOCKS)
    monkeypatch.setitem(MODELS, "enet-camvid", dataclasses.replace(network, blocks=few))
    recipe = tiny_data.tiny("enet-camvid", epochs=2)
    monkeypatch.setitem(RECIPES, "enet-camvid", recipe)
    tiny_data.data(Path("CAMVID"), recipe)
    run(followed(test_training)[0], "--workers", "0")
    assert Path("runs/enet/checkpoints/last.metrics.txt").is_file()
