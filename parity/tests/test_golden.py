"""Both sides against the published reference implementations, float64, within 1e-9 relative."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import jax_impl.state
import torch_impl.state
from parity.capture.jax_side import JaxSide
from parity.capture.records import RunRecord, count_name
from parity.capture.torch_side import TorchSide
from parity.ladder.verdicts import per_tap
from parity.model_checks.networks import CROSS_ENTROPY, ICNET_LOSS, Task, weight_map
from parity.spec.models import Config
from parity.spec.networks.enet import ENetConfig
from parity.spec.networks.erfnet import ERFNetConfig
from parity.spec.networks.erfnet_imagenet import ERFNetImageNetConfig
from parity.spec.networks.genet import GENetConfig
from parity.spec.networks.icnet import ICNetConfig
from tests.golden_vectors import Golden, parametrize, probe, without_dropout
from weights_convert import to_jax

LIMIT = 1e-9
CASES: dict[str, Config] = {
    "enet_c20": ENetConfig(),
    "enet_c12": ENetConfig(num_classes=12),
    "erfnet_c20": ERFNetConfig(),
    "erfnet_encoder_c20": ERFNetConfig(encoder_only=True),
    "erfnet_imagenet_c1000": ERFNetImageNetConfig(),
    "icnet_c19": ICNetConfig(),
    "genet_wrn16_2_extent2_avg_mlp": GENetConfig(width=2, extent=2, mlp=True),
    "genet_wrn16_2_extent4_params": GENetConfig(width=2, extent=4, extra_params=True),
    "genet_wrn16_2_extent8_params_mlp": GENetConfig(width=2, extent=8, extra_params=True, mlp=True),
    "genet_wrn16_2_global_avg": GENetConfig(width=2),
    "genet_wrn16_2_global_params_mlp": GENetConfig(width=2, extra_params=True, mlp=True),
    "genet_wrn16_8_global_avg": GENetConfig(),
}

# Of these JAX compiles nothing that another case does not compile: ENet with other numbers of
# classes, ERFNet's encoder without its decoder, GENet's means with more channels.
TORCH_ALONE = ("enet_c12", "erfnet_encoder_c20", "genet_wrn16_8_global_avg")
RUNS = [(c, f) for c in CASES for f in ("torch", "jax") if f == "torch" or c not in TORCH_ALONE]

# Of the others JAX computes eval mode alone, if not `-m long`: whole backward passes take longest
# to compile. Their gradients, losses and statistics are held against PyTorch's, in float64 too, by
# the ladders of test_ladder.py and test_erfnet.py (each block once), test_icnet.py, test_genet.py;
# and PyTorch's against the published ones, here.
TRAINED = ("genet_wrn16_2_extent2_avg_mlp", "genet_wrn16_2_global_params_mlp")
FORWARD = tuple((case, "jax") for case in CASES if case not in TRAINED)

# Layers without weights that the published code calls otherwise.
OURS = {
    "features.extralayer1": "features.max_pool",
    "features.extralayer2": "features.mean_pool",
}


def task(case: Golden, config: Config) -> Task:
    """What the case was trained on."""
    if isinstance(config, ICNetConfig):
        return ICNET_LOSS, tuple(case[f"target_sub{n}"] for n in (4, 8, 16))
    if isinstance(config, GENetConfig | ERFNetImageNetConfig):
        return CROSS_ENTROPY, (case.labels(),)
    return CROSS_ENTROPY, (case.labels(), case.class_weights())


class Answer:
    """What one side answers to a golden case, in the published names and layouts."""

    def __init__(self, case: Golden, config: Config, framework: str) -> None:
        self.case = case
        weights = case.weights()
        network: TorchSide | JaxSide
        if framework == "torch":
            network = TorchSide(torch_impl.state.build(config, weights, "float64"), "float64")
        else:
            import jax

            with jax.enable_x64(True):
                model = jax_impl.state.build(config, to_jax(config, weights), "float64")
            network = JaxSide(model, "float64")
            self.map = weight_map(config)
        self.network, self.config, self.framework = network, config, framework
        self.eval = network.run((case.images(),), train=False)

    @functools.cached_property
    def train(self) -> RunRecord:
        losses, targets = task(self.case, self.config)
        loss = losses[self.framework == "jax"]
        return self.network.run((self.case.images(),), True, loss, targets)

    def published(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.framework == "torch":
            return arrays
        found = {}
        for name, array in arrays.items():
            key, axes = self.map[name]
            found[key] = array.transpose(np.argsort(axes)) if axes else array
        return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, RUNS, FORWARD, ("test_eval_output", "test_eval_layers"))


@pytest.fixture(scope="module")
def answer(request: pytest.FixtureRequest, golden: Path) -> Answer:
    case, framework = request.param
    config = without_dropout(CASES[case])
    return Answer(Golden(golden / f"{case}.npz"), config, framework)


def assert_near(
    found: np.ndarray,
    expected: np.ndarray,
    names: list[str] | None = None,
    least: np.ndarray | float = 0.0,
) -> None:
    """Relative, element by element, naming the first that is off; what is below `least` to that."""
    apart = np.atleast_1d(abs(np.asarray(found) - expected) / np.maximum(abs(expected), least))
    first = int(np.argmin(apart <= LIMIT))  # a NaN is not
    name = names[first] if names else f"element {first}"
    assert apart[first] <= LIMIT, f"{name} is off by {apart[first]:.2g}, limit {LIMIT}"


def test_eval_output(answer: Answer) -> None:
    """Catches any difference of the function computed in eval mode."""
    case, outputs = answer.case, answer.eval.outputs
    names = ["eval_logits", *(f"eval_logits_{i}" for i in range(1, len(outputs)))]
    assert {k for k in case.arrays if k.startswith("eval_logits") and k.endswith("_at")} == {
        f"{name}_at" for name in names
    }
    for name, logits in zip(names, outputs, strict=True):
        logits = logits.transpose(0, 3, 1, 2) if logits.ndim == 4 else logits
        assert logits.shape == tuple(case[f"{name}_shape"])
        assert logits.dtype == np.float64
        assert_near(logits.ravel()[case[f"{name}_at"]], case[name])
        assert_near(np.linalg.norm(logits), case[f"{name}_l2"])


def test_eval_layers(answer: Answer) -> None:
    """Catches a layer that is missing, extra, misnamed, or wrong although the network is right."""
    case, names = answer.case, recorded(answer.case)
    calls = answer.eval.calls
    outputs = [calls[OURS.get(name, name)].outputs[0] for name in names]
    assert_near(np.array([np.linalg.norm(o) for o in outputs]), case["eval_l2"], names)
    # A mean may nearly cancel: it is measured against the root of the mean square.
    for name, output, mean in zip(names, outputs, case["eval_mean"], strict=True):
        assert abs(output.mean() - mean) <= LIMIT * np.sqrt(np.square(output).mean()), name


def recorded(case: Golden) -> list[str]:
    """Return the call whose output each entry holds.

    ICNet's reference adds and rectifies in place: where it does, the entry of a batch norm holds,
    number for number, what the ReLU soon after it made of the norm's output.
    """
    calls: dict[str, None] = {}
    for name in case.names("eval_names"):
        calls[count_name(name, calls)] = None
    names, norms = (
        list(calls),
        {key.removesuffix(".running_var") for key in case.names("stat_names")},
    )
    values = list(zip(case["eval_l2"], case["eval_mean"], strict=True))
    same = [[j for j in range(i, i + 4) if values[j : j + 1] == [v]] for i, v in enumerate(values)]
    return [
        names[js[-1] if n.partition("#")[0] in norms else js[0]]
        for n, js in zip(names, same, strict=True)
    ]


def test_train_loss(answer: Answer) -> None:
    """Catches a wrong loss, weighting or batch normalisation in train mode."""
    assert answer.train.loss.dtype == np.float64
    assert_near(answer.train.loss, answer.case["train_loss"])


def test_gradients(answer: Answer) -> None:
    """Catches a wrong backward pass, and by the product a gradient in the wrong layout."""
    case, names = answer.case, answer.case.names("grad_names")
    gradients = answer.published(answer.train.parameter_gradients)
    # Of a parameter that does not take part, PyTorch has no gradient and JAX zeros.
    gradients = {name: gradients[name] for name in gradients if gradients[name].any()}
    assert set(gradients) == set(names)
    norms = np.array([np.linalg.norm(gradients[name]) for name in names])
    least = per_taps(gradients, dict(zip(names, case["grad_l2"], strict=True)))
    assert_near(norms, case["grad_l2"], names, least)
    dots = np.array([probe(gradients[name]) for name in names])
    assert_near(dots, case["grad_dot"], names, least)


def per_taps(gradients: dict[str, np.ndarray], sizes: dict[str, float]) -> np.ndarray:
    """Return the least that each bias's gradient is measured against, as `tolerances` has it."""
    least = []
    for name in sizes:
        kernel = f"{name.removesuffix('bias')}weight"
        beside = name.endswith(".bias") and kernel in gradients
        elements = (gradients[kernel].size, gradients[name].size) if beside else (0, 0)
        least.append(per_tap(sizes[kernel], *elements) if beside else 0.0)
    return np.array(least)


def test_running_statistics(answer: Answer) -> None:
    """Catches a wrong momentum, and biased for unbiased variance."""
    case, names = answer.case, answer.case.names("stat_names")
    statistics = answer.published(answer.train.statistics)
    norms = np.array([np.linalg.norm(statistics[name]) for name in names])
    assert_near(norms, case["stat_l2"], names)


def test_every_batch_is_counted(answer: Answer) -> None:
    """Catches a counter that training does not move, which the golden norms leave out."""
    result: RunRecord = answer.train
    ran = answer.case.names("eval_names")
    suffix = ".num_batches_tracked"
    counters = {k: v for k, v in result.statistics.items() if k.endswith(suffix)}
    assert len(counters) == len(answer.case.names("stat_names")) // 2
    assert all(int(c) == ran.count(k.removesuffix(suffix)) for k, c in counters.items())


@pytest.mark.parametrize("name", TORCH_ALONE)
def test_weights_fit(name: str, golden: Path) -> None:
    """Catches a JAX network of other layers or shapes, in the cases that JAX does not compute."""
    config = without_dropout(CASES[name])
    arrays = to_jax(config, Golden(golden / f"{name}.npz").weights())
    held = jax_impl.state.state(jax_impl.state.build(config, arrays))  # which refuses others
    assert {k: a.shape for k, a in held.items()} == {k: a.shape for k, a in arrays.items()}


def doubled_bias(network: torch.nn.Module) -> None:
    network.asymmetric2_3.ext_conv2[1].bias.data *= 2


def changed_padding(network: torch.nn.Module) -> None:
    network.initial_block.ext_branch.padding = 0
    network.initial_block.ext_branch.ceil_mode = True


def swapped_activation(network: torch.nn.Module) -> None:
    network.regular4_1.ext_conv2[2] = torch.nn.LeakyReLU(0.1)


@pytest.mark.parametrize(
    ("inject", "named"),
    [
        (doubled_bias, "asymmetric2_3.ext_conv2.1 is off"),
        (changed_padding, "initial_block.ext_branch is off"),
        (swapped_activation, "regular4_1.ext_conv2.2 is off"),
    ],
)
def test_a_wrong_reference_is_named(
    golden: Path, monkeypatch: pytest.MonkeyPatch, inject: Callable, named: str
) -> None:
    """Catches golden vectors that a fault in the reference itself would get past."""
    build = torch_impl.state.build

    def wrong(*args: object) -> torch.nn.Module:
        network = build(*args)
        inject(network)
        return network

    monkeypatch.setattr(torch_impl.state, "build", wrong)
    config = without_dropout(CASES["enet_c12"])
    answer = Answer(Golden(golden / "enet_c12.npz"), config, "torch")
    with pytest.raises(AssertionError, match=named):
        test_eval_layers(answer)
    with pytest.raises(AssertionError, match="is off"):
        test_gradients(answer)
