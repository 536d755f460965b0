"""Networks among what others saved with them: `--key`, `--prefix`, averages, wrappers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import torch_impl.state
from parity import cli
from parity.cli import main
from parity.cli.arguments import choice_of
from parity.evaluation import checkpoints as evaluation
from parity.spec.draw import weights
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.spec.networks.genet import GENetConfig
from parity.training.overrides import find
from parity.training.stage_start import StageStart
from tests.checkpoints import equal
from tests.registered import module
from weights_convert import formats, load, to_jax
from weights_convert.numbering import parameters
from weights_convert.wrapping import Choice

Capture = pytest.CaptureFixture[str]

CONFIG = GENetConfig(depth=10, width=1)
PLAIN, OTHER = weights(CONFIG, 0), weights(CONFIG, 1)
STATISTICS = ("mean", "var", "num_batches_tracked")  # as JAX names what is not trained


def state(arrays: dict[str, np.ndarray], prefix: str = "") -> dict[str, torch.Tensor]:
    """As a network's `state_dict()` inside of another module."""
    return {prefix + k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}


def saved(folder: Path, content: object) -> Path:
    torch.save(content, folder / "x.pth")
    return folder / "x.pth"


def inner(arrays: dict[str, np.ndarray], part: str) -> dict[str, torch.Tensor]:
    """With a wrapper around each block: `block1.PART.layer...`, as FSDP and torch.compile name."""
    return {k.replace(".", f".{part}.", 1): v for k, v in state(arrays).items()}


BESIDE = {"criterion.weight": torch.ones(3)}
COUNT = {"n_averaged": torch.tensor(5)}
MANY = {f"projector.{i}": torch.zeros(1, 1) for i in range(8)}

# What was saved -> how, the prefix that is found, and what is named as left out.
WRAPPED: dict[str, tuple[Callable[[], Any], str, tuple[str, ...]]] = {
    "a loss beside": (lambda: state(PLAIN, "model.") | BESIDE, "model.", ("criterion.weight",)),
    "Lightning": (
        lambda: {"state_dict": state(PLAIN, "net.") | BESIDE, "epoch": 1, "callbacks": {}},
        "net.",
        ("epoch", "callbacks", "criterion.weight"),
    ),
    "a backbone": (lambda: state(PLAIN, "backbone.") | MANY, "backbone.", tuple(MANY)),
    "FSDP": (
        lambda: state(PLAIN, "_fsdp_wrapped_module."),
        "_fsdp_wrapped_module.",
        (),
    ),
    "FSDP inside": (lambda: inner(PLAIN, "_fsdp_wrapped_module"), "", ()),
    "compiled inside": (lambda: inner(PLAIN, "_orig_mod"), "", ()),
    "compiled blocks": (lambda: state(PLAIN, "network._orig_mod."), "network._orig_mod.", ()),
    "two deep": (lambda: state(PLAIN, "student.net.") | BESIDE, "student.net.", tuple(BESIDE)),
    "averaged": (lambda: state(PLAIN, "module.") | COUNT, "module.", ("n_averaged",)),
    "an average beside": (
        lambda: state(PLAIN, "model.") | state(OTHER, "model_ema.module."),
        "model.",
        tuple(state(OTHER, "model_ema.module.")),
    ),
    "a whole average in it": (
        lambda: state(PLAIN) | state(OTHER, "ema."),
        "",
        tuple(state(OTHER, "ema.")),
    ),
    "numbers at the top": (
        lambda: state(PLAIN) | {"epoch": torch.tensor(3), "lr": torch.tensor([0.1])},
        "",
        ("epoch", "lr"),
    ),
    "text among them": (lambda: state(PLAIN) | {"version": "1.0"}, "", ("version",)),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_what_others_put_before_and_beside(name: str, tmp_path: Path) -> None:
    """Catches a network refused for one more key, another's numbers, something left out unsaid."""
    content, prefix, beside = WRAPPED[name]
    found = load(saved(tmp_path, content()))
    assert equal(found.arrays, PLAIN)
    assert found.prefix == prefix
    assert set(found.skipped) == set(beside)


@pytest.mark.parametrize(
    "key",
    [
        *("net", "model_state", "weights", "params", "network", "checkpoint.model", "module"),
        *("model.net", "state_dict.generator", "model.model"),  # below a usual key
    ],
)
def test_states_under_other_keys(key: str, tmp_path: Path) -> None:
    """Catches a state dict found only under three names, or one of an optimizer taken for it."""
    content: Any = state(PLAIN)
    for part in reversed(key.split(".")):
        content = {part: content, "epoch": 3, "loss": torch.tensor(0.5)}
    content["optimizer"] = {"state": {0: {"exp_avg": torch.zeros(1)}}, "param_groups": []}
    found = load(saved(tmp_path, content))
    assert equal(found.arrays, PLAIN)
    assert found.key == key
    assert "epoch" in found.skipped
    assert any(name.startswith("optimizer (it holds nothing of any") for name in found.skipped)


AVERAGES: dict[str, tuple[Callable[[], Any], Choice, str]] = {
    "timm": (
        lambda: {"state_dict": state(PLAIN), "state_dict_ema": state(OTHER)},
        Choice(key="state_dict_ema"),
        "--key state_dict_ema",
    ),
    "torchvision": (
        lambda: {"model": state(PLAIN), "model_ema": COUNT | state(OTHER, "module.")},
        Choice(key="model_ema"),
        "--key model_ema",
    ),
    "other names": (
        lambda: {"net": state(PLAIN), "ema": {"shadow": state(OTHER), "decay": 0.9}},
        Choice(key="ema.shadow"),
        "--key ema.shadow",
    ),
    "by prefix": (
        lambda: state(PLAIN, "model.") | state(OTHER, "ema_model."),
        Choice(prefix="ema_model"),
        "--prefix ema_model.",
    ),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_averages_are_named_and_chosen(name: str, tmp_path: Path) -> None:
    """Catches an average taken for the weights unsaid, one that cannot be had, or is not told."""
    content, choice, told = AVERAGES[name]
    path = saved(tmp_path, content())
    found = load(path)
    assert equal(found.arrays, PLAIN)
    assert any(told in note and "averaged weights" in note for note in found.remarks)
    found = load(path, choice=choice)
    assert equal(found.arrays, OTHER)
    assert any("these are averaged weights" in note for note in found.remarks)


def test_an_average_beside_says_nothing_of_the_weights(tmp_path: Path) -> None:
    """Catches plain weights called averaged ones because of the counter of those beside them."""
    average = {"ema." + k: v for k, v in (COUNT | state(OTHER, "module.")).items()}
    path = saved(tmp_path, {"state_dict": state(PLAIN, "model.") | average})
    found = load(path)
    assert equal(found.arrays, PLAIN)
    assert not any("these are averaged" in note for note in found.remarks)
    for prefix in ("ema.", "ema.module."):
        taken = load(path, choice=Choice(prefix=prefix))
        assert equal(taken.arrays, OTHER)
        assert any("these are averaged" in note for note in taken.remarks)


def test_an_average_has_no_optimizer(tmp_path: Path) -> None:
    """Catches averaged weights that go on with the moments of the plain ones, unsaid."""
    network = module({k: a.shape for k, a in PLAIN.items()})
    optimizer = torch.optim.Adam(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    content = {
        "model": state(PLAIN),
        "model_ema": state(OTHER),
        "optimizer": optimizer.state_dict(),
    }
    path = saved(tmp_path, content)
    assert load(path).optimizer is not None
    taken = load(path, choice=Choice(key="model_ema"))
    assert taken.optimizer is None
    assert any("optimizer (it trained the plain weights" in name for name in taken.skipped)


def test_averaged_model_of_pytorch(tmp_path: Path) -> None:
    """Catches what AveragedModel itself saves refused, or taken without a word."""
    model = AveragedModel(torch_impl.state.build(CONFIG, PLAIN))
    found = load(saved(tmp_path, model.state_dict()))
    assert equal(found.arrays, PLAIN)
    assert "these are averaged weights (an EMA or SWA)" in found.remarks
    assert any("n_averaged" in note for note in found.remarks)


def test_compiled_and_parallel_modules(tmp_path: Path) -> None:
    """Catches the names that PyTorch's own wrappers give."""
    network = torch_impl.state.build(CONFIG, PLAIN)
    holder = nn.ModuleDict({"net": torch.compile(nn.DataParallel(network), backend="eager")})
    found = load(saved(tmp_path, holder.state_dict()))
    assert equal(found.arrays, PLAIN)
    assert found.prefix == "net._orig_mod.module."


def test_two_networks_are_not_guessed(tmp_path: Path) -> None:
    """Catches the first of two networks taken, and one that cannot be chosen."""
    path = saved(tmp_path, {"student": state(PLAIN), "teacher": state(OTHER)})
    with pytest.raises(InputError, match=r"2 whole networks: genet after 'student.', genet after"):
        load(path)
    assert equal(load(path, choice=Choice(prefix="teacher.")).arrays, OTHER)
    assert equal(load(path, choice=Choice(key="student")).arrays, PLAIN)


def test_what_is_not_there(tmp_path: Path) -> None:
    """Catches a traceback, or another entry read, for a key or prefix that is wrong."""
    path = saved(tmp_path, {"net": state(PLAIN, "a."), "epoch": 3})
    with pytest.raises(InputError, match=r"no key 'nets'; it has net, epoch"):
        load(path, choice=Choice(key="nets"))
    with pytest.raises(InputError, match=r"holds a int under 'epoch'"):
        load(path, choice=Choice(key="epoch"))
    with pytest.raises(InputError, match=r"no name starts with 'b.'; they start with a \(\d+\)"):
        load(path, choice=Choice(prefix="b"))
    assert equal(load(path, choice=Choice("net", "a")).arrays, PLAIN)


def test_the_nearest_network_is_named(tmp_path: Path) -> None:
    """Catches a refusal that does not say how near the file came, and after which prefix."""
    content = state(PLAIN, "model.") | BESIDE
    del content["model.conv1.weight"]
    with pytest.raises(InputError) as caught:
        load(saved(tmp_path, content))
    message = str(caught.value)
    assert "1 tensor does not match (1 missing): conv1.weight is missing; nearest is" in message
    assert f"genet (num_classes 10, {'depth 10, width 1'}" in message
    assert f"{len(PLAIN) - 1} of its {len(PLAIN)} names" in message
    assert "after the prefix 'model.', beside criterion.weight" in message


def test_other_formats(tmp_path: Path) -> None:
    """Catches a choice that only torch files have."""
    nested = {f"net.{k}": v for k, v in to_jax(CONFIG, PLAIN).items()}
    nested |= {f"ema.{k}": v for k, v in to_jax(CONFIG, OTHER).items()}
    for name in ("x.npz", "x.msgpack", "x.safetensors", "x.orbax"):
        formats.write(tmp_path / name, formats.format_for(Path(name)), nested, {})
        found = load(tmp_path / name)
        assert equal(found.arrays, PLAIN)
        assert any("--prefix ema." in note for note in found.remarks)
        for choice in (Choice(key="ema"), Choice(prefix="ema")):
            assert equal(load(tmp_path / name, choice=choice).arrays, OTHER)
        with pytest.raises(InputError, match=r"no key 'swa'; it has net, ema|has ema, net"):
            load(tmp_path / name, choice=Choice(key="swa"))


def test_the_commands_take_it(tmp_path: Path, capsys: Capture) -> None:
    """Catches a command without the options, and what is left out not printed."""
    path = saved(tmp_path, {"net": state(PLAIN, "a.") | BESIDE, "ema": state(OTHER, "a.")})
    assert main(["convert", str(path), str(tmp_path / "y.npz"), "--key", "ema"]) == 0
    out = capsys.readouterr().out
    assert "torch names, under the key 'ema', each after 'a.'" in out
    assert "note      these are averaged weights" in out
    assert equal(load(tmp_path / "y.npz").arrays, OTHER)
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "torch, under the key 'net'" in out
    assert "note      left out, beside the prefix 'a.': criterion.weight" in out
    assert "note      averaged weights (an EMA) are there too: --key ema" in out
    assert main(["inspect", str(path), "--key", "nothing"]) == 2
    assert "no key 'nothing'; it has net, ema" in capsys.readouterr().err


# Command -> its other arguments, where FILE is the checkpoint.
COMMANDS = {
    "convert": ("FILE", "y.npz"),
    "inspect": ("FILE",),
    "check": ("genet", "--weights", "FILE"),
    "miou": ("--weights", "FILE", "--data", "d"),
    "export": ("genet", "y.onnx", "--weights", "FILE"),
    "train": ("genet-cifar10", "--framework", "torch", "--data", "d", "--out", "o"),
    "eval": ("FILE", "--data", "d"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_a_choice(command: str) -> None:
    """Catches a command that reads a checkpoint and lacks the options, or drops what they say."""
    argv = [command, *COMMANDS[command], "--key", "ema.model", "--prefix", "net."]
    assert choice_of(cli.parser().parse_args(argv)) == Choice("ema.model", "net.")


def test_training_and_evaluation_choose(tmp_path: Path) -> None:
    """Catches a choice that the command takes and its work does not."""
    recipe = find("genet-cifar10")
    stages = tuple(dataclasses.replace(s, model="genet") for s in recipe.stages)
    recipe = dataclasses.replace(recipe, stages=stages)
    plain, other = weights(MODELS["genet"], 0), weights(MODELS["genet"], 1)
    path = saved(tmp_path, {"net": state(plain), "ema": state(other)})
    begin = StageStart(recipe, path, Choice(key="ema"))
    begin.check()
    assert any("averaged weights" in note for note in begin.notes)
    assert equal(begin(recipe.stages[0], None).arrays, other)
    held = evaluation.read(path, recipe, None, Choice(key="ema"))
    assert equal(held.checkpoint.arrays, other)
    assert equal(evaluation.read(path, recipe, None).checkpoint.arrays, plain)


def test_the_network_that_is_exported_or_checked(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches the plain weights exported for the chosen ones, or a choice ignored."""
    plain, other = weights(MODELS["genet"], 0), weights(MODELS["genet"], 1)
    path = saved(tmp_path, {"net": state(plain), "ema": state(other)})
    seen: list[dict[str, np.ndarray]] = []

    def network(config: object, arrays: dict[str, np.ndarray], *_: object) -> None:
        seen.append(arrays)
        raise InputError("seen")

    monkeypatch.setattr("parity.export.network", network)
    argv = ["export", "genet", str(tmp_path / "y.onnx"), "--weights", str(path)]
    assert main([*argv, "--key", "ema"]) == main(argv) == 2
    assert equal(seen[0], other)
    assert equal(seen[1], plain)
    assert main(["check", "genet", "--weights", str(path), "--key", "nets"]) == 2
    assert "no key 'nets'; it has net, ema" in capsys.readouterr().err


def moments(names: list[str] | None = None) -> dict[str, Any]:
    """The state of an Adam that trained one network for a step, perhaps with names."""
    network = module({k: a.shape for k, a in PLAIN.items()})
    optimizer = torch.optim.Adam(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    made = optimizer.state_dict()
    if names is not None:
        made["param_groups"][0]["param_names"] = names
    return made


def parameter_names(prefix: str) -> list[str]:
    return [prefix + key for key in parameters(CONFIG)]


# How a file with two networks is laid out -> what it holds beside the state.
TWO: dict[str, Callable[[], dict[str, Any]]] = {
    "open": lambda: state(PLAIN, "student.") | state(OTHER, "teacher."),
    "in one state dict": lambda: {
        "state_dict": state(PLAIN, "student.net.") | state(OTHER, "teacher.net.")
    },
    "under two keys": lambda: {"student": state(PLAIN), "teacher": state(OTHER)},
    "under a usual key": lambda: {"model": state(PLAIN), "teacher": state(OTHER, "module.")},
    "one inside": lambda: state(PLAIN) | state(OTHER, "teacher."),
}
CHOSEN = {
    "open": (Choice(prefix="student"), Choice(prefix="teacher")),
    "in one state dict": (Choice(prefix="student.net"), Choice(prefix="teacher.net")),
    "under two keys": (Choice(prefix="student"), Choice(key="teacher"), Choice(key="student")),
    "under a usual key": (Choice(), Choice(key="teacher"), Choice(key="model")),
    "one inside": (Choice(prefix=""), Choice(prefix="teacher")),
}


@pytest.mark.parametrize("name", TWO)
def test_one_state_beside_two_networks_is_nobodys(name: str, tmp_path: Path) -> None:
    """Catches the one state carried with whichever network was chosen."""
    path = saved(tmp_path, {**TWO[name](), "optimizer": moments()})
    for choice in CHOSEN[name]:
        found = load(path, choice=choice)
        assert found.optimizer is None
        assert any("optimizer (nobody can know whose it is" in line for line in found.skipped)


def test_a_state_whose_names_show_whose_it_is(tmp_path: Path) -> None:
    """Catches a state refused to its own network, or given to the other, against its names."""
    for place, own, other in (("student.", 0, 1), ("teacher.", 1, 0)):
        content = {**TWO["open"](), "optimizer": moments(parameter_names(f"module.{place}"))}
        path = saved(tmp_path, content)
        assert load(path, choice=CHOSEN["open"][own]).optimizer is not None
        left = load(path, choice=CHOSEN["open"][other])
        assert left.optimizer is None
        assert any(f"it is that of the network after '{place}'" in s for s in left.skipped)
    path = saved(tmp_path, {**TWO["open"](), "optimizer": moments(parameter_names(""))})
    assert load(path, choice=CHOSEN["open"][0]).optimizer is None


def test_a_state_beside_what_it_cannot_be_of(tmp_path: Path) -> None:
    """Catches a state left behind because of an average, a copy, or a network of other shapes."""
    small = weights(dataclasses.replace(CONFIG, num_classes=3), 0)
    for other in (state(OTHER, "ema."), state(PLAIN, "same."), state(small, "teacher.")):
        path = saved(tmp_path, {**state(PLAIN, "student."), **other, "optimizer": moments()})
        assert load(path, choice=Choice(prefix="student")).optimizer is not None


def test_named_states_of_other_formats(tmp_path: Path) -> None:
    """Catches optax's moments of one network carried with another."""
    two = {f"{p}.{k}": v for p in ("student", "teacher") for k, v in to_jax(CONFIG, PLAIN).items()}
    two["teacher.fc.bias"] = two["teacher.fc.bias"] + 1
    names = {k: a for k, a in to_jax(CONFIG, PLAIN).items() if k.split(".")[-1] not in STATISTICS}
    for lead, carried in (("", None), ("student.", "student"), ("teacher.", "teacher")):
        slots = {f"opt_state.{s}.{lead}{k}": v for s in ("mu", "nu") for k, v in names.items()}
        path = tmp_path / "x.npz"
        path.unlink(missing_ok=True)
        formats.write(path, "npz", {**two, **slots, "opt_state.count": np.int32(1)}, {})
        for prefix in ("student", "teacher"):
            found = load(path, choice=Choice(prefix=prefix))
            assert (found.optimizer is not None) == (prefix == carried), found.skipped


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_key_is_refused(command: str, capsys: Capture) -> None:
    """Catches an option that is given and ignored."""
    assert main([command, *COMMANDS[command], "--key", ""]) == 2
    assert "the key is empty, expected the name of an entry" in capsys.readouterr().err


def test_an_empty_prefix_is_the_network_at_the_top(tmp_path: Path, capsys: Capture) -> None:
    """Catches a network that the message offers and no option can choose."""
    path = saved(tmp_path, TWO["one inside"]())
    with pytest.raises(InputError, match=r"genet after '', genet after 'teacher.'; --prefix choo"):
        load(path)
    assert equal(load(path, choice=Choice(prefix="")).arrays, PLAIN)
    assert main(["inspect", str(path), "--prefix", ""]) == 0
    assert "genet" in capsys.readouterr().out
    path = saved(tmp_path, state(PLAIN, "net."))
    with pytest.raises(InputError, match=r"every name has a prefix; they start with net \(\d+\)"):
        load(path, choice=Choice(prefix=""))


STRANGE = {f"layer{i}.w": torch.ones(2) for i in range(8)}  # `w` is also MindSpore's


@pytest.mark.parametrize("prefix", ["", "net."])
def test_no_network_is_named_whose_names_are_not_there(prefix: str, tmp_path: Path) -> None:
    """Catches ENet called the nearest network of a file that has none of its names."""
    path = saved(tmp_path, {prefix + name: tensor for name, tensor in STRANGE.items()})
    with pytest.raises(InputError) as caught:
        load(path)
    message = str(caught.value)
    assert "x.pth has no name of a known network (enet, erfnet, " in message
    assert f"it has {', '.join(f'{prefix}layer{i}.w' for i in range(5))} and 3 more" in message
    assert "missing" not in message
    assert "nearest" not in message
    with pytest.raises(InputError, match=r"all \d+ tensors of genet are missing"):
        load(path, "genet")
    with pytest.raises(InputError, match="genet has no mindspore names, only enet, erfnet do"):
        load(path, "genet", "mindspore")


def test_names_of_another_framework_are_not_denied(tmp_path: Path) -> None:
    """Catches names that are there called absent, because most others look like MindSpore's."""
    path = saved(tmp_path, STRANGE | {"fc.weight": torch.ones(2)})
    with pytest.raises(InputError, match="read as names of mindspore: 1 are torch names of genet"):
        load(path)


@pytest.mark.parametrize("command", ["convert", "inspect"])
def test_what_is_left_out_is_said_once(command: str, tmp_path: Path, capsys: Capture) -> None:
    """Catches what lies beside a prefix named in a note, and once more among the rest."""
    path = saved(tmp_path, {"state_dict": state(PLAIN, "net.") | BESIDE, "epoch": 1})
    assert main([command, str(path), *([str(tmp_path / "x.npz")] * (command == "convert"))]) == 0
    out = capsys.readouterr().out
    assert out.count("criterion.weight") == 1
    assert out.count("epoch") == 1
