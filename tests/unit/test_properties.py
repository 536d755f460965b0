"""Round trips of anything that can be written: files, recipes, rules of names."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import hypothesis
import hypothesis.extra.numpy as arrays
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parity.ladder.weights import assign
from parity.spec import recipes
from parity.spec.models import MODELS
from parity.spec.training.written import plain, recipe_of, to_toml
from weights_convert import formats, naming

# A file per example in one folder, and no deadline: the first example loads a framework.
SETTINGS = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
DTYPES = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.int32, np.bool_)
PART = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=8)


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """Names of one depth, none of which is a prefix of another, and arrays of any dtype."""
    names = draw(st.lists(st.tuples(PART, PART), min_size=1, max_size=5, unique=True))
    found = {}
    for layer, leaf in names:
        shape = draw(arrays.array_shapes(min_dims=0, max_dims=4, max_side=4))
        bits = draw(st.binary(min_size=8 * int(np.prod(shape)), max_size=8 * int(np.prod(shape))))
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        raw = np.frombuffer(bits, np.uint8)[: dtype.itemsize * int(np.prod(shape))]
        raw = raw % 2 if dtype == np.bool_ else raw
        found[f"{layer}.{leaf}"] = raw.copy().view(dtype).reshape(shape)
    return found


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth", ".msgpack"])
@SETTINGS
@given(made=tensors())
def test_a_file_gives_back_every_bit(
    tmp_path: Path, suffix: str, made: dict[str, np.ndarray]
) -> None:
    """Catches a name, dtype, shape or bit pattern (NaN, -0, subnormal) that a format loses."""
    if suffix == ".npz":  # NumPy's files hold no bfloat16, which is refused
        made = {k: a for k, a in made.items() if a.dtype != ml_dtypes.bfloat16}
    hypothesis.assume(made)
    path = tmp_path / f"x{suffix}"
    formats.write(path, formats.format_for(path), made, {})
    back = formats.read(path).arrays
    assert back.keys() == made.keys()
    for name, array in made.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape), name
        assert back[name].tobytes() == array.tobytes(), name


rates = st.floats(1e-8, 1.0, allow_nan=False)


@SETTINGS
@given(
    name=st.sampled_from(sorted(recipes.RECIPES)),
    lr=rates,
    decay=rates,
    epochs=st.integers(1, 10_000),
    seed=st.integers(0, 2**31),
)
def test_a_recipe_is_read_back_as_it_was_written(
    name: str, lr: float, decay: float, epochs: int, seed: int
) -> None:
    """Catches a number that TOML or JSON rounds, and a field that is not written."""
    recipe = recipes.recipe(name)
    stages = tuple(
        dataclasses.replace(
            stage,
            optimizer=dataclasses.replace(stage.optimizer, lr=lr, weight_decay=decay),
            epochs=max(epochs, stage.epochs),
        )
        for stage in recipe.stages
    )
    changed = dataclasses.replace(recipe, stages=stages, seed=seed)
    assert recipe_of(tomllib.loads(to_toml(changed)), "toml") == changed
    assert recipe_of(plain(changed), "json") == changed


CASES = [(m, s) for m in sorted(MODELS) for s in ("torch", "jax", "mindspore")]
NAMED = [(m, s) for m, s in CASES if s != "mindspore" or MODELS[m].family in naming.MINDSPORE]


@pytest.mark.parametrize(("model", "scheme"), NAMED)
def test_names_go_there_and_back(model: str, scheme: str) -> None:
    """Catches a name that two tensors share, and axes that are not turned back."""
    config = MODELS[model]
    shapes = {key: tensor.shape for key, tensor in config.tensors()}
    made = {
        key: np.arange(np.prod(shape), dtype=np.float32).reshape(shape) if shape else np.int64(3)
        for key, shape in shapes.items()
    }
    made = {key: np.asarray(array) for key, array in made.items()}
    there = naming.to_naming_scheme(config, made, scheme)
    back = naming.to_canonical(config, there, scheme, "here")
    kept = naming.carried(config, made, scheme)  # what has no name there comes back as 0
    for key in back:
        np.testing.assert_array_equal(back[key], kept[key], key)


@SETTINGS
@given(
    layers=st.lists(PART, min_size=1, max_size=4, unique=True),
    axes=st.permutations([0, 1, 2, 3]),
    shape=st.lists(st.integers(1, 4), min_size=4, max_size=4),
)
def test_rules_fill_every_target_from_its_source(
    layers: list[str], axes: list[int], shape: list[int]
) -> None:
    """Catches a rule of weights that loses a tensor, takes one twice, or turns axes otherwise."""
    rng = np.random.default_rng(0)
    source = {f"{layer}.weight": rng.normal(size=shape) for layer in layers}
    target = {
        f"net.{layer}.kernel": np.zeros_like(source[f"{layer}.weight"].transpose(axes))
        for layer in layers
    }
    rules = [(r"(.*)\.weight", r"net.\1.kernel", tuple(axes))]
    found = assign(rules, source, target, True)
    assert {key for key, _ in found.map.values()} == source.keys()
    for name, (key, turned) in found.map.items():
        filled = source[key].transpose(turned) if turned else source[key]
        assert filled.shape == target[name].shape
        expected = source[f"{name.split('.')[1]}.weight"].transpose(axes)
        np.testing.assert_array_equal(filled, expected)
