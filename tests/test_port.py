"""The public interface: ports of every sort, however weights are given and layers are called."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from resnet import Norm, ResNet
from torch import nn

from parity import Port, Report, check
from parity.cli import main
from parity.ladder import Ladder
from parity.sides import ForwardError
from parity.spec.errors import InputError
from parity.testing import ladder
from parity.vision import torchvision

Capture = pytest.CaptureFixture[str]

SIZE = (2, 8, 10, 3)
STATISTICS = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


class Reference(nn.Module):
    """Two branches, a dropout of PyTorch's own, nested outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> dict:
        x = self.act(self.norm(self.stem(x)))
        x = self.drop(x.mean((2, 3)))
        if scale is not None:
            x = x * scale[:, None]
        return {"logits": self.head(x), "parts": (x, x.sum(1))}


class Ported(nnx.Module):
    """The same under other names."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(3, 8, (3, 3), padding=((1, 1), (1, 1)), rngs=rngs)
        self.second = Norm(8, rngs=rngs)
        self.quiet = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x: jax.Array, scale: jax.Array | None = None) -> dict:
        x = self.quiet(jax.nn.relu(self.second(self.first(x))).mean((1, 2)))
        if scale is not None:
            x = x * scale[:, None]
        return {"parts": (x, x.sum(1)), "logits": self.last(x)}


MAP = {
    "first.kernel": ("stem.weight", (2, 3, 1, 0)),
    "first.bias": ("stem.bias", None),
    **{f"second.{ours}": (f"norm.{theirs}", None) for theirs, ours in STATISTICS.items()},
    "last.kernel": ("head.weight", (1, 0)),
    "last.bias": ("head.bias", None),
}


def reference() -> Reference:
    torch.manual_seed(0)
    module = Reference()
    with torch.no_grad():
        for tensor in (module.norm.weight, module.norm.running_var):
            tensor.uniform_(0.5, 1.5)
        for tensor in (module.norm.bias, module.norm.running_mean):
            tensor.normal_(0, 0.1)
    return module


def ported() -> Ported:
    return Ported(rngs=nnx.Rngs(0))


def port(**changes: object) -> Port:
    made = Port(reference(), ported(), inputs=SIZE, weights=MAP)
    return dataclasses.replace(made, **changes)


def by_function(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n: arrays[k].transpose(a) if a else arrays[k] for n, (k, a) in MAP.items()}


def rules() -> list:
    found = [(r"num_batches_tracked", None)]
    for name, (key, axes) in MAP.items():
        found.append((key.replace(".", r"\."), name, axes))
    return found


@pytest.mark.parametrize("weights", [MAP, by_function, rules()], ids=["map", "function", "rules"])
def test_weights_however_given(weights: object) -> None:
    """Catches a way of giving weights that loses, mixes or does not load them."""
    report = check(port(weights=weights))
    report.assert_faithful()
    assert len([c for c in report.checks if c.rung == "L0"]) == len(MAP)
    gradients = {(c.layer, c.quantity) for c in report.checks if c.rung == "L3"}
    assert ("first", "gradient of kernel") in gradients
    assert ("last", "gradient of bias") in gradients


def test_weights_found_by_value() -> None:
    """Catches equal tensors that are not recognised, whatever their names and layouts."""
    p = port()
    state = reference().state_dict()
    flat = nnx.to_flat_state(nnx.state(p.port, nnx.Any(nnx.Param, nnx.BatchStat)))
    for path, leaf in flat:
        key, axes = MAP[".".join(map(str, path))]
        array = state[key].numpy()
        leaf.set_value(jnp.asarray(array.transpose(axes) if axes else array))
    report = check(dataclasses.replace(p, weights=None))
    report.assert_faithful()
    names = {c.layer: c.reference for c in report.checks if c.rung == "L0"}
    assert names == {name: key for name, (key, _) in MAP.items()}


def test_a_tensor_that_nothing_equals_is_shown_with_what_fits() -> None:
    """Catches a wrong value that the search by value hides by pairing it with nothing."""
    p = port()
    state = reference().state_dict()
    flat = nnx.to_flat_state(nnx.state(p.port, nnx.Any(nnx.Param, nnx.BatchStat)))
    for path, leaf in flat:
        key, axes = MAP[".".join(map(str, path))]
        array = state[key].numpy() * (2 if key == "head.bias" else 1)
        leaf.set_value(jnp.asarray(array.transpose(axes) if axes else array))
    failed = check(dataclasses.replace(p, weights=None), levels=("L0",)).failures()
    assert [(c.layer, c.reference) for c in failed] == [("last.bias", "head.bias")]
    assert "5 of 5 values differ" in failed[0].sentence()


def test_layers_are_paired_and_the_others_listed() -> None:
    """Catches a layer that is silently not compared, and one that is paired wrongly."""
    report = check(port(), levels=("L1", "L2"))
    pairs = {c.layer: c.reference for c in report.checks if c.rung == "L1"}
    assert pairs == {"first": "stem", "second": "norm", "last": "head"}
    assert "not paired, reference: act" in report.notes
    assert "switched off on both sides: drop" in report.notes


def test_layers_are_paired_by_value() -> None:
    """Catches a search by value that misses an activation without weights, or its layout."""

    class Named(Ported):
        def __init__(self, *, rngs: nnx.Rngs) -> None:
            super().__init__(rngs=rngs)
            self.bend = Bend()

        def __call__(self, x: jax.Array) -> dict:
            x = self.bend(self.second(self.first(x))).mean((2, 3))
            return {"parts": (x, x.sum(1)), "logits": self.last(x)}

    class Bend(nnx.Module):
        def __call__(self, x: jax.Array) -> jax.Array:
            return jax.nn.relu(x).transpose(0, 3, 1, 2)  # back to PyTorch's layout

    report = check(port(port=Named(rngs=nnx.Rngs(0))), levels=("L2",))
    report.assert_faithful()
    pairs = {c.layer: c.reference for c in report.checks}
    assert pairs["bend"] == "act"


def test_a_given_pair_that_does_not_exist_is_refused() -> None:
    """Catches a typing error in a mapping of layers that silently pairs nothing."""
    with pytest.raises(InputError, match="the port calls no layer 'frist'"):
        check(port(layers={"frist": "stem"}))


def test_several_inputs_integers_and_nested_outputs() -> None:
    """Catches an input that is cast, lost or swapped, and outputs matched in the wrong order."""
    images = np.random.default_rng(0).random(SIZE, np.float32)
    scale = np.array([2, 3])
    report = check(port(inputs=(images, scale), eval_inputs=(images, scale)))
    report.assert_faithful()
    outputs = {c.quantity for c in report.checks if c.layer == "(network)" and c.rung == "L2"}
    assert {f"output {i} in eval mode" for i in range(3)} <= outputs


# Flax's batch norm computes its statistics in float32 and stores them as they are given.
@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types")
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_other_precisions(precision: str) -> None:
    """Catches a working precision that is float32 in truth, or that clean ports fail in."""
    report = check(port(), precision=precision)
    report.assert_faithful()
    error = max(c.error for c in report.checks if c.rung == "L2" and c.kind == "numerics")
    assert error > 1e-4


class LinenPort(linen.Module):
    """The reference as a compact Linen module."""

    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> dict:
        x = linen.Conv(8, (3, 3), padding=((1, 1), (1, 1)))(x)
        x = jax.nn.relu(linen.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = linen.Dropout(0.5, deterministic=not train)(x.mean((1, 2)))
        return {"logits": linen.Dense(5)(x), "parts": (x, x.sum(1))}


def test_linen() -> None:
    """Catches a Linen module whose layers or statistics are not compared.

    Flax's batch norm stores the biased variance: that, and only that, must be found.
    """
    renamed = {"first": "Conv_0", "second": "BatchNorm_0", "last": "Dense_0"}
    weights = {
        f"{renamed[name.partition('.')[0]]}.{name.partition('.')[2]}": source
        for name, source in MAP.items()
    }
    variables = LinenPort().init(jax.random.key(0), jnp.zeros(SIZE))
    report = check(
        port(
            port=LinenPort(),
            params=variables,
            weights=weights,
            modes=({"train": False}, {"train": True}),
        )
    )
    assert {c.layer for c in report.checks if c.rung == "L1"} == set(renamed.values())
    assert {(c.layer, c.quantity) for c in report.failures()} == {
        ("BatchNorm_0", "var after"),
        ("BatchNorm_0", "var after a step"),
    }


def plain(params: dict, x: jax.Array) -> jax.Array:
    """A linear map, then a ReLU."""
    return jax.nn.relu(x @ params["w"] + params["b"])


@pytest.mark.parametrize("slip", [0.0, 1e-3])
def test_function(slip: float) -> None:
    """Catches a plain function that cannot be checked, or whose fault is not seen."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    params = {"w": np.zeros((6, 4), np.float32), "b": np.zeros(4, np.float32)}
    report = check(
        Port(
            module,
            lambda p, x: plain(p, x) * (1 + slip),
            inputs=(3, 6),
            params=params,
            weights={"w": ("0.weight", (1, 0)), "b": ("0.bias", None)},
        )
    )
    assert report.ok == (slip == 0)
    assert {c.rung for c in report.checks} == {"L0", "L1", "L2", "L3"}


@pytest.fixture(scope="module")
def resnets() -> Callable[[], Port]:
    """Torchvision's ResNet-18 beside one of unrelated names and nesting."""
    torch.manual_seed(0)
    module = torchvision().models.resnet18()
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for tensor in (layer.weight, layer.running_var):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (layer.bias, layer.running_mean):
                    tensor.normal_(0, 0.1)

    def make() -> Port:
        return Port(module, ResNet(rngs=nnx.Rngs(0)), inputs=(2, 40, 48, 3), weights=resnet_rules())

    return make


def resnet_rules() -> list:
    found: list = [
        (r"conv1\.weight", "stem.project.kernel", (2, 3, 1, 0)),
        (r"fc\.weight", "classify.kernel", (1, 0)),
        (r"fc\.bias", "classify.bias"),
    ]
    norms = {r"bn1\.": "stem.normalise"}
    for i in range(8):
        block, unit = rf"layer{i // 2 + 1}\.{i % 2}\.", f"units.{i}"
        for theirs, ours in (("conv1", "first"), ("conv2", "second")):
            found.append((rf"{block}{theirs}\.weight", f"{unit}.{ours}.kernel", (2, 3, 1, 0)))
        skip = f"{unit}.skip.layers"
        found.append((rf"{block}downsample\.0\.weight", f"{skip}.0.kernel", (2, 3, 1, 0)))
        norms |= {rf"{block}bn1\.": f"{unit}.first_norm", rf"{block}bn2\.": f"{unit}.second_norm"}
        norms[rf"{block}downsample\.1\."] = f"{skip}.1"
    return found + [
        (prefix + theirs, f"{layer}.{ours}")
        for prefix, layer in norms.items()
        for theirs, ours in STATISTICS.items()
    ]


def test_resnet18(resnets: Callable[[], Port], tmp_path: Path) -> None:
    """Catches a referee that can only compare networks which mirror each other."""
    report = check(resnets())
    report.assert_faithful()
    pairs = {c.layer: c.reference for c in report.checks if c.rung in ("L1", "L2")}
    assert pairs["units.4.skip.layers.0"] == "layer3.0.downsample.0"
    assert pairs["units.7"] == "layer4.1"  # a block: nothing but its value says so
    assert len({c.layer for c in report.checks if c.rung == "L1"}) == 41  # all with weights
    report.to_html(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "units.4.skip.layers.0" in page
    assert page.count("<polyline") == 4  # either precision in either mode


@pytest.mark.parametrize(
    ("plant", "named"),
    [
        (lambda n: setattr(n.units[3].first_norm, "epsilon", 1e-3), "units.3.first_norm"),
        (lambda n: setattr(n.units[4].second, "padding", "SAME"), None),  # is the same at stride 1
        (lambda n: setattr(n.units[4].first, "padding", "SAME"), "units.4.first"),
    ],
)
def test_resnet18_with_a_fault(
    resnets: Callable[[], Port], plant: Callable, named: str | None
) -> None:
    """Catches a fault in a network of other names that is not found where it is."""
    p = resnets()
    plant(p.port)
    fault = check(p, levels=("L1",)).fault()
    assert (fault.layer if fault else None) == named


class Raises(Ported):
    """Fails inside a layer."""

    def __call__(self, x: jax.Array) -> dict:
        return super().__call__(x[:, :, :, :2])


class Silent(Ported):
    """Returns nothing."""

    def __call__(self, x: jax.Array) -> tuple:
        super().__call__(x)
        return ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": "images"}, "expected an array or a shape"),
        ({"inputs": (3.5,)}, "input 0 is 3.5, expected an array, a shape"),
        ({"weights": {**MAP, "third.bias": ("stem.bias", None)}}, "the port has no third.bias"),
        ({"weights": {**MAP, "last.bias": ("tail.bias", None)}}, "the reference has no tail.bias"),
        (
            {"weights": {k: v for k, v in MAP.items() if k != "last.bias"}},
            "nothing fills last.bias",
        ),
        ({"weights": {**MAP, "last.bias": ("norm.bias", None)}}, "nothing uses head.bias"),
        ({"weights": {**MAP, "first.kernel": ("stem.weight", None)}}, "first.kernel would be"),
        ({"weights": {**MAP, "first.kernel": ("stem.weight", (0, 1))}}, "no permutation"),
        ({"weights": rules()[:-1]}, "no rule for head.bias"),
        ({"weights": lambda arrays: {}}, "does not read stem.weight, stem.bias"),
        ({"weights": lambda arrays: 3}, "gave a int, expected a dict"),
        ({"reference": "a module"}, "the reference is a str, expected a torch.nn.Module"),
        ({"port": 3}, "the port is a int, expected an NNX module"),
        ({"port": plain}, "function and needs its parameters"),
        ({"reference": Reference().to("meta")}, "is on meta, expected the cpu"),
        ({"port": Raises(rngs=nnx.Rngs(0))}, "the port raised .* in first"),
        ({"inputs": (2, 8, 10, 4)}, "the reference raised RuntimeError in stem"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes: dict, message: str) -> None:
    """Catches bad input that ends in a traceback, or in a verdict."""
    with pytest.raises(InputError, match=message) as caught:
        check(port(**changes))
    assert "\n" not in str(caught.value)


def test_no_outputs_is_no_agreement() -> None:
    """Catches a comparison of nothing that passes."""
    with pytest.raises(ForwardError, match="0 floating-point outputs, the reference has 3"):
        check(port(port=Silent(rngs=nnx.Rngs(0))))


def test_the_oracle_is_not_quietly_float32() -> None:
    """Catches a float64 run that JAX made in float32 because nobody enabled it."""
    p = port()

    class Narrow(Ported):
        def __call__(self, x: jax.Array) -> dict:
            return jax.tree.map(lambda y: y.astype(jnp.float32), super().__call__(x))

    report = check(dataclasses.replace(p, port=Narrow(rngs=nnx.Rngs(0))), levels=("L2",))
    assert any("dtype float32, reference float64" in c.sentence() for c in report.failures())


def test_shapes_are_not_broadcast() -> None:
    """Catches an output of the wrong shape that NumPy would have broadcast."""

    class Narrow(Ported):
        def __call__(self, x: jax.Array) -> dict:
            out = super().__call__(x)
            return {**out, "logits": out["logits"][:1]}

    report = check(port(port=Narrow(rngs=nnx.Rngs(0))), levels=("L2",))
    assert any("shape (1, 5), reference (2, 5)" in c.sentence() for c in report.failures())


test_generated = ladder(port)


def test_ladder_names_its_tests(tmp_path: Path) -> None:
    """Catches generated tests that pass over a fault, or do not say where it is."""
    (tmp_path / "test_mine.py").write_text(
        "import test_port\nfrom parity.testing import ladder\n\n"
        "def make():\n"
        "    port = test_port.port()\n"
        "    port.port.second.epsilon = 1e-3\n"
        "    return port\n\n"
        "test_it = ladder(make, levels=('L0', 'L1'))\n"
    )
    here = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {here!r}); import pytest; pytest.main(['-q', '-rf'])"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    ).stdout
    assert "FAILED test_mine.py::test_it[L1-norm]" in out
    assert "1 failed" in out
    assert "[L1-stem]" not in out


FACTORY = """
import pathlib, sys
sys.path.insert(0, {here!r})
from test_port import port

def make_port():
    return port()

def faulty():
    p = port()
    p.port.second.epsilon = 1e-3
    return p

def raises():
    raise RuntimeError("no such thing")

def nothing():
    return 3
"""


@pytest.fixture
def factory(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(FACTORY.format(here=str(Path(__file__).parent)))
    return str(path)


def test_command_line(factory: str, tmp_path: Path, capsys: Capture) -> None:
    """Catches a port of the user's own that the command does not check, or a wrong status."""
    found = tmp_path / "r.json"
    assert main(["check", f"{factory}:make_port", "--levels", "L0,L1", "--json", str(found)]) == 0
    assert "PASSED" in capsys.readouterr().out
    assert json.loads(found.read_text())["ok"] is True
    assert main(["check", f"{factory}:faulty", "--levels", "L0,L1"]) == 1
    assert "look at second first" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}:raises", "raised RuntimeError: no such thing"),
        ("{}:nothing", "returned a int, expected a parity.Port"),
        ("{}:missing", "has no function 'missing'"),
        ("{}x.py:make_port", "is not a file"),
        ("no.such.module:make_port", "raised ModuleNotFoundError"),
        (":make_port", "no module named before the colon"),
    ],
)
def test_bad_factories(factory: str, capsys: Capture, name: str, message: str) -> None:
    """Catches a factory whose failure is a traceback."""
    assert main(["check", name.format(factory)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_options_of_our_networks_are_refused(factory: str, capsys: Capture) -> None:
    """Catches an option that would be silently ignored."""
    assert main(["check", f"{factory}:make_port", "--size", "32x32"]) == 2
    assert "--size is for our own networks" in capsys.readouterr().err


def test_debug_shows_the_traceback(factory: str) -> None:
    """Catches a cause that nobody can get at."""
    with pytest.raises(RuntimeError, match="no such thing"):
        main(["check", f"{factory}:raises", "--debug"])


def test_public_names() -> None:
    """Catches a public name that cannot be imported lazily, and a module that hides mistakes."""
    import parity

    assert parity.Report is Report
    assert all(hasattr(parity, name) for name in parity.__all__)
    with pytest.raises(AttributeError, match="no attribute 'chekc'"):
        _ = parity.chekc
    assert hasattr(Ladder, "evidence")


class OneConv(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x))


class MyNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = OneConv()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x)


class OneConvPort(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 4, (3, 3), padding=1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.conv(x))


class MyPort(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = OneConvPort(rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.first(x)


def test_the_readmes_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Catches an example that a stranger copies and that does not run."""
    text = (Path(__file__).parent.parent / "README.md").read_text()
    (example,) = (part for part in text.split("```python\n") if part.startswith("import torch"))
    monkeypatch.chdir(tmp_path)
    exec(example.partition("```")[0], {"MyNet": MyNet, "MyPort": MyPort})
    assert "PASSED" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.html"}
