"""PyTorch's files: of any age and nesting, never executed, never half."""

from __future__ import annotations

import argparse
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.checkpoints import SMALL, equal, refusal
from weights_convert import formats


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"mkdir {self.path}",)


@pytest.fixture
def torch_file(tmp_path: Path) -> Path:
    torch.save({k: torch.tensor(v) for k, v in SMALL.items()}, tmp_path / "small.pth")
    return tmp_path / "small.pth"


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_of_both_ages(tmp_path: Path, legacy: bool) -> None:
    """Catches files from before PyTorch 1.6 refused."""
    state = OrderedDict((k, torch.tensor(v)) for k, v in SMALL.items())
    torch.save(state, tmp_path / "x", _use_new_zipfile_serialization=not legacy)
    assert equal(formats.read(tmp_path / "x").arrays, SMALL)


@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict", "model"])
def test_nested_state_dict(tmp_path: Path, nest: str) -> None:
    """Catches a training checkpoint refused, and what it holds besides dropped unsaid."""
    state = {k: torch.nn.Parameter(torch.tensor(v), v.dtype != int) for k, v in SMALL.items()}
    others = {"epoch": 3, "miou": np.float64(0.5), "best": np.float32(0.25), "optimizer": {"a": []}}
    torch.save({"epoch": 3, nest: state, **others}, tmp_path / "x")
    found = formats.read(tmp_path / "x")
    assert equal(found.arrays, SMALL)
    why = "it is no state of an optimizer of PyTorch's"
    assert found.skipped == ("epoch", "miou", "best", f"optimizer ({why})")


@pytest.mark.parametrize("legacy", [False, True])
def test_what_scripts_leave_beside(tmp_path: Path, legacy: bool) -> None:
    """Catches weights refused because of a NumPy array, or of the arguments of a command."""
    others = {
        "confusion": np.eye(3),
        "generator": np.random.default_rng(0).bit_generator.state,
        "legacy": np.random.RandomState(0).get_state(),
        "args": argparse.Namespace(lr=0.1, out=Path("x"), sizes=np.arange(3)),
    }
    state = {k: torch.tensor(v) for k, v in SMALL.items()}
    content = others | {"state_dict": state}
    torch.save(content, tmp_path / "x", _use_new_zipfile_serialization=not legacy)
    found = formats.read(tmp_path / "x")
    assert equal(found.arrays, SMALL)
    assert found.skipped == tuple(others)
    torch.save({k: np.array(v) for k, v in SMALL.items()}, tmp_path / "y")
    assert "'a.weight' (NumPy), 'a.count' (NumPy)" in refusal(tmp_path / "y")


def test_views_of_one_storage(tmp_path: Path) -> None:
    """Catches a view read by its storage instead of its strides."""
    base = torch.arange(24.0).reshape(4, 6)
    torch.save({"a": base.T, "b": base[1:3, ::2], "c": base}, tmp_path / "x")
    found = formats.read(tmp_path / "x").arrays
    assert equal(found, {k: v.numpy() for k, v in torch.load(tmp_path / "x").items()})


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ([1, 2], "holds a list"),
        (5, "holds a int"),
        ({"a": "b", "c": "d"}, "'a' (str), 'c' (str)"),
        ({"state_dict": {"a": 1}}, "'a' (int)"),
        ({"epoch": 1, "optimizer": {}}, "'epoch' (int), 'optimizer' (dict)"),
        ({0: torch.zeros(1)}, "the key 0"),
        ({}, "holds nothing"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "a is complex64"),
        ({"a": torch.eye(2).to_sparse()}, "a is not dense"),
        ({"a": torch.zeros(1, device="meta")}, "a is not dense (on meta"),
        ({"a": torch.zeros(1, dtype=torch.uint8)}, "a is uint8; expected float64"),
        ({"net": [torch.zeros(1)]}, "'net' (list)"),
        ({"a\nb": torch.zeros(1)}, r"'a\\nb'"),
    ],
)
def test_torch_files_of_something_else(tmp_path: Path, content: object, what: str) -> None:
    """Catches anything but named tensors taken for a state dict."""
    torch.save(content, tmp_path / "x.pth")
    assert what.replace("\\\\", "\\") in refusal(tmp_path / "x.pth")


@pytest.mark.parametrize("way", ["bare", "nested", "legacy", "plain pickle"])
def test_nothing_in_a_file_is_executed(tmp_path: Path, way: str) -> None:
    """Catches a file that runs a command when it is read."""
    path, trace = tmp_path / "x.pth", tmp_path / "executed"
    if way == "plain pickle":
        path.write_bytes(pickle.dumps(Harmful(trace)))
    else:
        content = {"state_dict": {}, "x": Harmful(trace)} if way == "nested" else Harmful(trace)
        torch.save(content, path, _use_new_zipfile_serialization=way != "legacy")
        assert "system" in refusal(path)
    refusal(path)
    assert not trace.exists()
    os.system(f"mkdir {trace}")  # or the test could not fail
    assert trace.exists()


@pytest.mark.parametrize("keep", [10, 100, -200, -1])
def test_truncated_torch_file(torch_file: Path, keep: int) -> None:
    """Catches half a file read as a whole one."""
    torch_file.write_bytes(torch_file.read_bytes()[:keep])
    assert "truncated or damaged" in refusal(torch_file)


def test_checksums_of_torch_files(torch_file: Path) -> None:
    """Catches flipped bits, which torch.load does not see."""
    data = torch_file.read_bytes()
    numbers = SMALL["a.weight"].tobytes()
    assert data.count(numbers) == 1
    torch_file.write_bytes(data.replace(numbers, numbers[:-1] + b"\x00"))
    assert torch.load(torch_file)["a.weight"][1, 2] != 5
    assert "damaged: Bad CRC-32" in refusal(torch_file)


def test_torch_files_without_checksums(tmp_path: Path) -> None:
    """Catches files whose checksums PyTorch was told not to compute taken for damaged."""
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({k: torch.tensor(v) for k, v in SMALL.items()}, tmp_path / "x")
    finally:
        torch.serialization.set_crc32_options(True)
    assert equal(formats.read(tmp_path / "x").arrays, SMALL)
