"""The recipes, held against what the published training programs say."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import torch

import jax_impl.optim
import torch_impl.optim
from parity.data import pipeline
from parity.spec import recipes
from parity.spec.augmentation import Blur, Crop, Flip, PadCrop, RatioCrop, ShortSide
from parity.spec.models import MODELS
from parity.spec.tensors import tensors
from parity.spec.training.optimizers import Optimizer, parameters
from parity.spec.training.recipe import Recipe, Stage
from parity.training.progress import TrainProgress
from parity.training.run import TrainingRun
from tests.published_training import TAKEN, Entry, document, holds, passed_over
from weights_convert import naming

CITYSCAPES, CIFAR10 = 2975, 50000  # training images
MINDSPORE = ("enet-mindspore", "erfnet-mindspore")
EXACT = 1e-14


def test_every_number_of_the_published_programs_is_compared() -> None:
    """Catches a number of the file that no test holds our contract against."""
    for path in Path(__file__).parent.glob("test_published_*.py"):
        importlib.import_module(f"{__package__}.{path.stem}")
    unread = passed_over(document(), TAKEN)
    assert not unread, f"{len(unread)} are compared by no test, such as {unread[:5]}"


def test_what_is_passed_over_is_found() -> None:
    """Catches an account that counts what nobody reads."""
    found = document() | {"new": {"key": [1, None]}}
    assert passed_over(found, TAKEN | {("enet",)})[-2:] == [("new", "key", 0), ("new", "key", 1)]

    @holds("genet/optimizer")
    def careless(entry: Entry) -> None:
        for key in ("name", "lr", "momentum", "dampening", "nesterov"):
            assert entry[key] is not None

    with pytest.raises(AssertionError, match=r"not compared: .*weight_decay"):
        careless()


def of(name: str) -> Recipe:
    return recipes.recipe(name)


def named(prefix: str) -> list[Recipe]:
    return [r for name, r in recipes.RECIPES.items() if name.startswith(prefix)]


def rate(stage: Stage, epoch: int, step: int = 0, steps: int = 10) -> float:
    """What the loop of a run trains with; epoch and step counted from 0, in the stage."""
    loop: Any = SimpleNamespace(progress=TrainProgress(epoch=epoch, step=step))
    return TrainingRun._rate(loop, stage, steps)


def groups(stage: Stage, at: float, step: int = 1) -> dict[str, dict[str, float]]:
    """Published key of each parameter -> what PyTorch's optimizer trains it with at a rate."""
    keys = parameters(stage.config)
    built = torch_impl.optim.build(
        stage.config, stage.optimizer, {key: torch.zeros(1, requires_grad=True) for key in keys}
    )
    told = torch_impl.optim.hyperparameters(stage.optimizer, built, at, step)
    named = [(group, key) for group in told.param_groups for key in group["param_names"]]
    return {key: group for group, key in named}


def jax_step(stage: Stage, at: float, weight: float, gradient: float) -> dict[str, float]:
    """Published key of each parameter -> what JAX's optimizer takes away from it, first."""
    return _jax_step(stage.model, stage.optimizer, at, weight, gradient)


@functools.cache
def _jax_step(
    model: str, optimizer: Optimizer, at: float, weight: float, gradient: float
) -> dict[str, float]:
    config, names = MODELS[model], naming.names(MODELS[model], "jax")
    keys = {name: key for name, (key, _) in names.items() if key in parameters(config)}
    with jax.enable_x64(True):
        values = {name: np.full((), weight) for name in keys}
        built = jax_impl.optim.build(config, optimizer, list(keys))
        told = jax_impl.optim.hyperparameters(optimizer, "float64", at, 1)
        given = {name: np.full((), gradient) for name in keys}
        made, _ = built.update(given, built.init(values), values, **told)
        return {keys[name]: -float(value) for name, value in made.items()}


def check_adam(entry: Entry, stages: tuple[Stage, ...], betas: bool = True) -> None:
    """Adam of the published program, in the recipe and in the optimizers of both sides."""
    assert entry["name"] == "Adam"
    lr, decay, eps = entry["lr"], entry["weight_decay"], entry["eps"]
    b1, b2 = tuple(entry["betas"].plain()) if betas else (0.9, 0.999)
    for stage in stages:
        optimizer = stage.optimizer
        assert (optimizer.kind, optimizer.lr, optimizer.groups) == ("adam", lr, ())
        assert (optimizer.weight_decay, optimizer.eps) == (decay, eps)
        assert optimizer.betas == (b1, b2)
        torchs, jaxs = groups(stage, lr), jax_step(stage, lr, 2.0, 1e-9)
        for key, group in torchs.items():
            assert group["betas"] == (b1, b2)
            assert group["lr"] == lr
            decayed = 1e-9 + group["weight_decay"] * 2.0
            small = abs(decayed) + group["eps"]
            np.testing.assert_allclose(jaxs[key], lr * decayed / small, rtol=1e-12, err_msg=key)
        bare = [key for key, group in torchs.items() if group["weight_decay"] != decay]
        assert bool(bare) == (optimizer.decay == "not-norms")
        assert all(torchs[key]["weight_decay"] == 0 for key in bare)


@holds("enet/optimizer")
def test_enet_optimizer(entry: Entry) -> None:
    """Catches a rate, a decay, betas or eps of ENet's Adam that are not the published ones."""
    check_adam(entry, of("enet-cityscapes").stages + of("enet-camvid").stages)
    assert all(s.optimizer.decay == "all" for r in named("enet-c") for s in r.stages)
    assert all(g["eps"] == 1e-8 for g in groups(of("enet-camvid").stages[0], 1.0, 7).values())


@holds("erfnet/optimizer")
def test_erfnet_optimizer(entry: Entry) -> None:
    """Catches a rate, a decay, betas or eps of ERFNet's Adam that are not the published ones."""
    for recipe in named("erfnet-cityscapes"):
        check_adam(entry, recipe.stages)
        assert all(stage.optimizer.decay == "all" for stage in recipe.stages)
        assert all(g["eps"] == 1e-8 for s in recipe.stages for g in groups(s, 1.0, 7).values())


@holds("enet_mindspore/optimizer", "erfnet_mindspore/optimizer")
def test_mindspore_optimizer(*entries: Entry) -> None:
    """Catches decay of batch norms, and eps added as PyTorch adds it, on either side."""
    for name, entry in zip(MINDSPORE, entries, strict=True):
        check_adam(entry, of(name).stages, betas=False)
        assert entry["eps_added"].startswith("to the root without bias correction")
        assert entry["decay_leaves_out"] == "names with beta or gamma"
        for stage in of(name).stages:
            config, eps = stage.config, entry["eps"]
            for step in (1, 7, 5000):
                found = {group["eps"] for group in groups(stage, 1.0, step).values()}
                expected = eps / np.sqrt(1 - 0.999**step)
                np.testing.assert_allclose(list(found), expected, rtol=EXACT)
                told = jax_impl.optim.hyperparameters(stage.optimizer, "float64", 1.0, step)
                np.testing.assert_allclose(told["eps"], expected, rtol=EXACT)
            norms = {k.rpartition(".")[0] for k in tensors(config) if k.endswith("running_mean")}
            for key, group in groups(stage, 1.0).items():
                gamma_or_beta = key.rpartition(".")[0] in norms
                assert group["weight_decay"] == (0 if gamma_or_beta else 1e-4), key


@holds("genet/optimizer")
def test_genet_optimizer(entry: Entry) -> None:
    """Catches a momentum, a decay or Nesterov's step that GENet's SGD does not have."""
    assert (entry["name"], entry["dampening"]) == ("SGD", 0)
    for stage in (s for r in named("genet") for s in r.stages):
        optimizer, lr = stage.optimizer, entry["lr"]
        assert (optimizer.kind, optimizer.lr, optimizer.groups) == ("sgd", lr, ())
        for group in groups(stage, lr).values():
            assert (group["momentum"], group["lr"]) == (entry["momentum"], lr)
            assert (group["dampening"], group["nesterov"]) == (0, entry["nesterov"])
            assert group["weight_decay"] == entry["weight_decay"]
        steps = jax_step(stage, lr, 2.0, 1.0).values()
        np.testing.assert_allclose(list(steps), lr * (1 + 2 * entry["weight_decay"]), rtol=EXACT)
        assert (optimizer.momentum, optimizer.nesterov) == (entry["momentum"], entry["nesterov"])


@holds("icnet/optimizer", "icnet/lr_at_iteration_from_1_of_85000_[backbone,head]")
def test_icnet_optimizer(entry: Entry, rates: Entry) -> None:
    """Catches a head that learns at the backbone's rate, and a rate of the epoch or step before.

    What the loop gives at each iteration is looked up in the optimizers of both sides.
    """
    assert entry["name"] == "SGD"
    base = entry["lr_of_backbone"], entry["lr_of_conv_sub1_and_head"]
    for name in ("icnet-cityscapes", "icnet-cityscapes-corrected"):
        (stage,) = of(name).stages
        steps = pipeline.steps(of(name), stage, CITYSCAPES)
        assert stage.epochs * steps == 85000
        for iteration, expected in rates.items():
            epoch, step = divmod(int(iteration) - 1, steps)
            found = rate(stage, epoch, step, steps)
            for key, group in groups(stage, found).items():
                head = key.startswith(("conv_sub1.", "head."))
                np.testing.assert_allclose(group["lr"], expected[int(head)], rtol=1e-10, atol=1e-18)
                assert group["momentum"] == entry["momentum"]
                assert group["weight_decay"] == entry["weight_decay"]
                assert (group["nesterov"], group["dampening"]) == (False, 0)
        for key, moved in jax_step(stage, base[0], 2.0, 1.0).items():
            lr = base[key.startswith(("conv_sub1.", "head."))]
            np.testing.assert_allclose(moved, lr * (1 + 2 * entry["weight_decay"]), rtol=EXACT)


def check_rates(entry: Entry, stage: Stage, first: int = 0) -> None:
    """The rate of the loop at every step of an epoch; epochs of the file counted from `first`."""
    for epoch, expected in entry.items():
        for step in (0, 9):
            found = rate(stage, int(epoch) - first, step)
            np.testing.assert_allclose(found, expected, rtol=1e-12, err_msg=f"epoch {epoch}")


@holds("enet/lr_at_epoch_from_0")
def test_enet_rates(entry: Entry) -> None:
    """Catches a fall of the rate one epoch off, by another factor, or with every step."""
    for name in ("enet-cityscapes", "enet-camvid"):
        check_rates(entry, of(name).stages[0])


@holds("erfnet/lr_at_epoch_from_1_of_150")
def test_erfnet_rates(entry: Entry) -> None:
    """Catches another power, another length, and a count of epochs from 1."""
    for stage in (s for r in named("erfnet-cityscapes") for s in r.stages):
        assert stage.epochs == 150
        check_rates(entry, stage, first=1)


@holds("genet/lr_at_epoch_from_0")
def test_genet_rates(entry: Entry) -> None:
    """Catches a milestone one epoch off, and another factor."""
    for recipe in named("genet"):
        check_rates(entry, recipe.stages[0])


@holds("enet_mindspore/lr_at_epoch_of_stage", "erfnet_mindspore/lr_at_epoch_of_stage")
def test_mindspore_rates(*entries: Entry) -> None:
    """Catches a second stage whose rate begins at the top, and a stage of another base length."""
    for name, entry in zip(MINDSPORE, entries, strict=True):
        stages = of(name).stages
        assert len(entry) == len(stages)
        for number, rates in entry.items():
            check_rates(rates, stages[int(number) - 1])


@holds("enet_mindspore/epochs", "erfnet_mindspore/epochs")
def test_mindspore_epochs(*entries: Entry) -> None:
    """Catches a stage of another length."""
    for name, entry in zip(MINDSPORE, entries, strict=True):
        assert [stage.epochs for stage in of(name).stages] == entry.plain()


@holds("enet/batch_default", "enet/epochs_default")
def test_enet_defaults(batch: int, epochs: int) -> None:
    """Catches another batch or length of ENet's; Cityscapes was trained with a batch of 4."""
    (camvid,), (cityscapes,) = of("enet-camvid").stages, of("enet-cityscapes").stages
    assert (camvid.batch, cityscapes.batch) == (batch, 4)
    assert camvid.epochs == cityscapes.epochs == epochs


@holds("icnet/batch", "icnet/epochs", "icnet/train_loader_drops_last", "icnet/loss")
def test_icnet_loop(batch: int, epochs: int, drops: bool, loss: Entry) -> None:
    """Catches another batch or length, a batch that is not full, an auxiliary weight, a void."""
    for name in ("icnet-cityscapes", "icnet-cityscapes-corrected"):
        recipe = of(name)
        (stage,) = recipe.stages
        assert (stage.batch, stage.epochs, stage.drop_last) == (batch, epochs, drops)
        main, *auxiliary = loss["weights_[1/4,1/8,1/16]"].plain()
        assert (main, set(auxiliary)) == (1, {stage.loss.auxiliary})
        assert stage.loss.ignore_index == loss["ignore"]
        # 2,975 images fill 425 batches of 7; one image less, and a batch is not full.
        assert pipeline.steps(recipe, stage, CITYSCAPES - 1) == 424


@holds("genet/scripts", "genet/several_devices")
def test_genet_scripts(scripts: Entry, several: Entry) -> None:
    """Catches a batch, loss scale, level or seed of either script, and a last batch that stays."""
    for name, script in scripts.items():
        devices = int(name.removesuffix("p"))
        recipe = of("genet-cifar10" if devices == 1 else f"genet-cifar10-{name}")
        assert recipe.devices == devices
        (stage,) = recipe.on(devices).stages
        assert stage.batch == script["batch"]
        assert (recipe.loss_scale, recipe.level) == (script["loss_scale"], script["amp"])
        assert (recipe.precision, recipe.seed) == ("fp16", script["seed"])
        assert recipe.parallel.gradients == "mean"
        assert (stage.repeat, stage.optimizer.lr) == (1, 0.1)
    assert several["batch_is"] == "of all devices together, divided by their number"
    assert "(drop_last=True); one device keeps it" in several["last_batch"]
    for recipe in named("genet"):
        (stage,) = recipe.stages
        full, rest = divmod(CIFAR10, stage.batch)
        assert rest
        assert pipeline.steps(recipe, stage.on(1), CIFAR10) == full + 1
        for devices in (2, 4, 8):
            each = CIFAR10 // devices // (stage.batch // devices)
            assert pipeline.steps(recipe, stage.on(devices), CIFAR10, devices) == each == full
            assert stage.on(devices).batch == stage.batch


@holds("enet_mindspore/several_devices", "erfnet_mindspore/several_devices")
def test_mindspore_on_several_devices(*entries: Entry) -> None:
    """Catches one device's rate, batch or passes through the data set on several devices."""
    for name, entry in zip(MINDSPORE, entries, strict=True):
        assert entry["steps_of_an_epoch"] == "int(2 * 496 / devices)"
        assert (entry["lr"], entry["repeat_of_the_data_set_per_epoch"]) == (1e-3, 2)
        assert entry["batch_on_each_device"] == 6
        recipe = of(name)
        for devices in (2, 3, 4, 5, 6, 7, 8, 16):
            for one, stage in zip(recipe.stages, recipe.on(devices).stages, strict=True):
                assert stage.batch == 6 * devices
                count = pipeline.steps(recipe, stage, CITYSCAPES, devices)
                assert count == int(2 * 496 / devices), devices
                for epoch in (0, one.epochs - 1):
                    np.testing.assert_allclose(rate(stage, epoch), 2 * rate(one, epoch))
        assert [pipeline.steps(recipe, s, CITYSCAPES) for s in recipe.stages] == [
            495 for _ in recipe.stages
        ]
        assert {stage.batch for stage in recipe.stages} == {6}


@holds("enet_mindspore/gradients_over_devices", "erfnet_mindspore/gradients_over_devices")
def test_gradients_over_devices(enet: str, erfnet: str) -> None:
    """Catches gradients averaged where the program sums them, and the reverse."""
    for name, said in zip(MINDSPORE, (enet, erfnet), strict=True):
        assert said.startswith(of(name).parallel.gradients)
    assert (enet, erfnet) == ("sum (gradients_mean=False)", "mean (gradients_mean=True)")


@holds("enet_mindspore/crop_ratio", "enet_mindspore/crop_p")
def test_enet_mindspore_crops(ratios: Entry, p: float) -> None:
    """Catches a stage of E-NET cropped as another, or always."""
    check_crops("enet-mindspore", {k: [int(k)] for k in ("1", "2", "3")}, ratios, p)


@holds("erfnet_mindspore/crop_ratio", "erfnet_mindspore/crop_p")
def test_erfnet_mindspore_crops(ratios: Entry, p: float) -> None:
    """Catches a stage of MindSpore's ERFNet cropped as another, or always."""
    check_crops("erfnet-mindspore", {"1": [1], "2-4": [2, 3, 4]}, ratios, p)


def check_crops(name: str, where: dict[str, list[int]], ratios: Entry, p: float) -> None:
    found = {}
    for stage in of(name).stages:
        (crop,) = (x for x in stage.augmentation if isinstance(x, RatioCrop))
        fixed = crop.low == crop.high
        said = f"{crop.low:g}" if fixed else f"U({crop.low:g}, {crop.high:g})"
        found[len(found) + 1] = said
        assert crop.p == p
    expected = {stage: ratios[key] for key, stages in where.items() for stage in stages}
    assert found == expected


@holds("icnet/short_side", "icnet/crop", "icnet/blur_p")
def test_icnet_augmentation(short: Entry, crop: int, blur: float) -> None:
    """Catches another range of scales, another crop, another order, or a blur of all images."""
    for recipe in named("icnet"):
        (stage,) = recipe.stages
        flip, scale, cut, blurred = stage.augmentation
        assert flip == Flip(0.5)
        assert scale == ShortSide(*short.plain())
        assert cut == Crop((crop, crop))
        assert blurred == Blur(0.0, 1.0, p=blur)


@holds("genet/augmentation")
def test_genet_augmentation(said: str) -> None:
    """Catches a crop of another padding, and operations in another order."""
    assert said == "RandomCrop(32, padding=4), RandomHorizontalFlip, ToTensor, Normalize"
    for recipe in named("genet"):
        (stage,) = recipe.stages
        assert stage.augmentation == (PadCrop(4), Flip(0.5))
        assert recipe.size == (32, 32)
