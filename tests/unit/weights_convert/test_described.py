"""What `inspect` describes though no network here has it, and the true reason of a refusal."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import msgpack
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from flax import serialization
from torch import nn

from parity.cli import main
from parity.spec.draw import weights
from parity.spec.errors import InputError
from parity.spec.networks.genet import GENetConfig
from tests.checkpoints import equal, refusal
from tests.fuzz.hostile import mindspore_files
from weights_convert import formats, load, to_jax
from weights_convert.formats.base import Foreign
from weights_convert.inspection import inspect

Capture = pytest.CaptureFixture[str]

CONFIG = GENetConfig(depth=10, width=1)
PLAIN = weights(CONFIG, 0)
TENSORS = {k: torch.from_numpy(np.array(v)) for k, v in PLAIN.items()}

# Tensors that no network here has -> what is said of them.
STRANGE = {
    "a.float8": (torch.zeros(2, 3).to(torch.float8_e4m3fn), "float8_e4m3fn"),
    "a.int8": (torch.zeros(2, 3, dtype=torch.int8), "int8"),
    "a.uint8": (torch.zeros(2, 3, dtype=torch.uint8), "uint8"),
    "a.uint32": (torch.zeros(2, 3, dtype=torch.uint32), "uint32"),
    "a.complex": (torch.zeros(2, 3, dtype=torch.complex64), "complex64"),
    "a.sparse": (torch.eye(2, 3).to_sparse(), "not dense (sparse_coo of float32)"),
}


def described(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> dtype and shape, as `inspect` gives them."""
    found = inspect(path)
    assert found.checkpoint is None
    return found.tensors


def test_torch_tensors_of_every_kind(tmp_path: Path, capsys: Capture) -> None:
    """Catches a file that PyTorch opens and `inspect` refuses, or a tensor said to be another."""
    content = {name: tensor for name, (tensor, _) in STRANGE.items()}
    torch.save(content | {"a.text": "b", "version": "1.0"}, tmp_path / "x.pth")
    found = described(tmp_path / "x.pth")
    assert found == {name: (dtype, (2, 3)) for name, (_, dtype) in STRANGE.items()}
    assert main(["inspect", str(tmp_path / "x.pth"), "--tensors"]) == 0
    out = capsys.readouterr().out
    assert "beside    a.text, version" in out
    assert "a.float8" in out
    assert main(["convert", str(tmp_path / "x.pth"), str(tmp_path / "y.npz")]) == 2
    err = capsys.readouterr().err
    assert "no name of a known network" in err
    assert "it has a.float8, a.int8, a.uint8, a.uint32, a.complex and 1 more" in err


def test_quantised_tensors(tmp_path: Path) -> None:
    """Catches a quantised tensor refused as unsafe, or taken for its integers."""
    with pytest.warns(UserWarning, match="quantize"):
        tensor = torch.quantize_per_tensor(torch.zeros(2, 3), 0.1, 0, torch.qint8)
    torch.save({"a.weight": tensor}, tmp_path / "x.pth")
    assert described(tmp_path / "x.pth") == {"a.weight": ("quantised (qint8)", (2, 3))}


def test_nested_tensors(tmp_path: Path) -> None:
    """Catches a whole file called damaged because a tensor in it has no one shape."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a prototype of PyTorch's
        nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    torch.save({"a.weight": nested}, tmp_path / "x.pth")
    assert described(tmp_path / "x.pth") == {"a.weight": ("not dense (nested of float32)", ())}


def test_no_tensor_under_a_name_of_the_network(tmp_path: Path) -> None:
    """Catches a tensor called missing where something else has its name."""
    content = TENSORS | {"conv1.weight": "text", "fc.bias": np.zeros(10)}
    torch.save({"state_dict": content}, tmp_path / "x.pth")
    told = "in the file, but no tensors: state_dict.conv1.weight, state_dict.fc.bias; nearest"
    with pytest.raises(InputError, match=re.escape(told)):
        load(tmp_path / "x.pth")


def test_one_strange_tensor_in_a_network(tmp_path: Path) -> None:
    """Catches a network of which a part is quantised read without it, or another reason given."""
    content = {**TENSORS, "conv1.weight": TENSORS["conv1.weight"].to(torch.float8_e5m2)}
    torch.save(content, tmp_path / "x.pth")
    found = inspect(tmp_path / "x.pth")
    assert "conv1.weight is float8_e5m2; expected float64" in found.reason
    assert len(found.tensors) == len(PLAIN)
    torch.save(
        {f"model.{k}": v for k, v in TENSORS.items()} | {"q.weight": content["conv1.weight"]},
        tmp_path / "y.pth",
    )
    assert equal(load(tmp_path / "y.pth").arrays, PLAIN)


def test_safetensors_of_every_kind(tmp_path: Path) -> None:
    """Catches a dtype of the format that is refused rather than described."""
    content = {k: t for k, (t, _) in STRANGE.items() if k not in ("a.sparse", "a.complex")}
    safetensors.torch.save_file(content, tmp_path / "x")
    names = {"a.float8": "F8_E4M3", "a.int8": "I8", "a.uint8": "U8", "a.uint32": "U32"}
    assert described(tmp_path / "x") == {k: (name, (2, 3)) for k, name in names.items()}


def test_numpy_arrays_of_every_kind(tmp_path: Path) -> None:
    """Catches big-endian numbers, texts and integers refused as damage, or read as others."""
    arrays = {"a": np.ones((2, 3), ">f4"), "b": np.zeros(2, np.uint8), "c": np.array("text")}
    np.savez(tmp_path / "x.npz", **arrays)
    assert described(tmp_path / "x.npz") == {
        "a": (">f4", (2, 3)),
        "b": ("uint8", (2,)),
        "c": ("<U4", ()),
    }


def test_flax_leaves_of_every_kind(tmp_path: Path) -> None:
    """Catches a text, a complex number or a small float in Flax's formats refused."""
    tree = {
        "a": {"f8": jnp.zeros(2, jnp.float8_e4m3fn), "i8": np.zeros((2, 3), np.int8)},
        "c": np.zeros(1, np.complex64),
        "s": "text",
        "n": 1.5,
    }
    expected = {"a.f8": ("float8_e4m3fn", (2,)), "a.i8": ("int8", (2, 3)), "c": ("complex64", (1,))}
    (tmp_path / "x").write_bytes(serialization.to_bytes(tree))
    assert described(tmp_path / "x") == expected
    assert inspect(tmp_path / "x").skipped == ("s (str)", "n (float)")
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "y", tree)
    found = inspect(tmp_path / "y")
    assert {k: v for k, v in found.tensors.items() if k != "n"} == expected
    assert found.skipped == ("s (str)",)


@pytest.mark.parametrize(
    ("kind", "size"), [("Int8", 24), ("UInt8", 24), ("UInt32", 96), ("Complex64", 192)]
)
def test_mindspore_tensors_of_every_kind(kind: str, size: int, tmp_path: Path) -> None:
    """Catches a whole MindSpore file called damaged for its dtype, and half a one believed."""
    good = mindspore_files.value((24,), kind=kind.encode(), content=bytes(size))
    (tmp_path / "x.ckpt").write_bytes(good)
    assert list(described(tmp_path / "x.ckpt").values()) == [(kind, (24,))]
    bad = mindspore_files.value((25,), kind=kind.encode(), content=bytes(size))
    (tmp_path / "y.ckpt").write_bytes(bad)
    assert f"25 of {kind}, but has {size} bytes" in refusal(tmp_path / "y.ckpt")


def test_what_append_dict_of_mindspore_adds(tmp_path: Path) -> None:
    """Catches an epoch or a rate beside a network's tensors that makes it unreadable."""
    config = GENetConfig(depth=10, width=1)
    arrays = weights(config, 0)
    extra = {"epoch": np.array(3), "lr": np.array([0.1]), "best": np.array(True)}
    formats.write(tmp_path / "x.ckpt", "mindspore", {**arrays, **extra}, {})
    found = load(tmp_path / "x.ckpt", naming_scheme="torch")
    assert equal(found.arrays, arrays)
    assert found.skipped == ("epoch", "lr", "best")


def test_many_keys(tmp_path: Path) -> None:
    """Catches a file of 20,000 tensors called damaged."""
    all_ = torch.arange(20_000.0)  # each a view: a storage for each would take a minute
    torch.save({f"layer{i}.weight": all_[i : i + 1] for i in range(20_000)}, tmp_path / "x.pth")
    assert len(formats.read(tmp_path / "x.pth").arrays) == 20_000
    many = {f"layer{i}.weight": np.zeros(0, np.float32) for i in range(50_001)}
    formats.write(tmp_path / "x.safetensors", "safetensors", many, {})
    message = refusal(tmp_path / "x.safetensors")
    assert "is not read: it holds 50,001 tensors, expected at most 50,000" in message


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_distributed_checkpoints(tmp_path: Path) -> None:
    """Catches a shard called damaged, a folder of them no checkpoint, and a remedy that fails."""
    dcp.save({"model": TENSORS}, checkpoint_id=tmp_path / "run", no_dist=True)
    remedy = f"`python -m torch.distributed.checkpoint.format_utils dcp_to_torch {tmp_path}/run"
    (shard,) = (tmp_path / "run").glob("*.distcp")
    assert "is a shard of torch.distributed.checkpoint" in refusal(shard)
    for path in (shard, tmp_path / "run"):
        assert remedy in refusal(path)
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp_to_torch_save(tmp_path / "run", tmp_path / "x.pth")
    assert equal(load(tmp_path / "x.pth").arrays, PLAIN)


def test_folders_of_other_programs(tmp_path: Path) -> None:
    """Catches a user told that a folder is no Orbax checkpoint, and not what to name instead."""
    safetensors.torch.save_file(TENSORS, tmp_path / "model.safetensors")
    torch.save({}, tmp_path / "optimizer.bin")
    (tmp_path / "random_states_0.pkl").touch()
    assert refusal(tmp_path).endswith("; name a file in it: model.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    shards = {k: f"model-0000{i % 2}-of-2.safetensors" for i, k in enumerate(TENSORS)}
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    for path in (index, tmp_path):
        assert "load the shards (model-00000-of-2.safetensors, model-00001" in refusal(path)


def test_folders_of_folders(tmp_path: Path) -> None:
    """Catches a folder of TensorFlow's called one of Orbax, or said to lack a file that is there.

    And files one or two folders down, as DeepSpeed and Megatron write them, that are not named.
    """
    tensorflow = tmp_path / "runs" / "tf"
    tensorflow.mkdir(parents=True)
    (tensorflow / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1"\n')
    for _ in range(2):
        assert refusal(tensorflow).endswith(
            "it holds a checkpoint of TensorFlow, which is not read"
        )
        assert "but" not in refusal(tensorflow.parent).partition("is a directory, but")[2]
        (tensorflow / "checkpoint").unlink(missing_ok=True)
        for name in ("model.ckpt-1.index", "model.ckpt-1.data-00000-of-00001"):
            (tensorflow / name).touch()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "checkpoint").write_text("something else")
    assert "(its checkpoint is not Orbax's)" in refusal(tmp_path / "old")
    (tmp_path / "flax").mkdir()
    (tmp_path / "flax" / "checkpoint_100").touch()
    assert refusal(tmp_path / "flax").endswith("; name a file in it: checkpoint_100")
    rank = tmp_path / "run" / "global_step10"
    rank.mkdir(parents=True)
    (rank / "mp_rank_00_model_states.pt").touch()
    for folder, above in ((rank, ""), (rank.parent, "global_step10/")):
        assert refusal(folder).endswith(f"; name a file in it: {above}mp_rank_00_model_states.pt")


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS"),
        (b"<!DOCTYPE html><html></html>", "a page of HTML"),
        (b"\x89HDF\r\n\x1a\n" + bytes(8), "an HDF5 file"),
        (b"\x1f\x8b\x08" + bytes(8), "compressed by gzip"),
    ],
)
def test_files_that_are_something_else(head: bytes, what: str, tmp_path: Path) -> None:
    """Catches a pointer, a page or another format's file called damaged or unknown."""
    (tmp_path / "x.pth").write_bytes(head)
    assert what in refusal(tmp_path / "x.pth")


class Holder(nn.Module):
    """Two names for one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 2, bias=False)
        self.b = nn.Linear(2, 2, bias=False)
        self.b.weight = self.a.weight


def test_tied_tensors_of_safetensors(tmp_path: Path) -> None:
    """Catches a tensor lost that `save_model` left out because another shares its memory."""
    model = Holder()
    safetensors.torch.save_model(model, str(tmp_path / "x.safetensors"))
    found = formats.read(tmp_path / "x.safetensors")
    assert equal(found.arrays, {k: v.numpy() for k, v in sorted(model.state_dict().items())})
    assert not set(found.metadata) & {"a.weight", "b.weight"}


@pytest.mark.parametrize("above", ["", "target.", "train.model."])
@pytest.mark.parametrize("separator", ["/", "."])
@pytest.mark.parametrize("name", ["x.npz", "x.safetensors"])
def test_flat_names_of_flax(separator: str, name: str, above: str, tmp_path: Path) -> None:
    """Catches `params/a/b` in a flat file refused, as `flatten_dict(variables, sep="/")` names."""
    flat = {}
    for key, array in to_jax(CONFIG, PLAIN).items():
        top = "batch_stats" if key.endswith((".mean", ".var", "tracked")) else "params"
        flat[f"{above}{top}.{key}".replace(".", separator)] = array
    if name == "x.npz":
        np.savez(tmp_path / name, **flat)
    else:
        formats.write(tmp_path / name, "safetensors", flat, {})
    assert equal(load(tmp_path / name).arrays, PLAIN)


def test_flat_names_that_become_one(tmp_path: Path) -> None:
    """Catches one of two tensors lost whose names are one without slashes."""
    np.savez(tmp_path / "x.npz", **{"params/a": np.zeros(1), "batch_stats/a": np.ones(1)})
    assert "a occurs 2 times" in refusal(tmp_path / "x.npz")


def old_orbax(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """A directory as Orbax 0.2.3 wrote: a folder per array, and a tree in msgpack."""
    tree: dict[str, Any] = {"params": {}}
    for name, array in arrays.items():
        node = tree["params"]
        *parts, last = name.split(".")
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = array
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(path, tree)

    def placed(node: Any, at: str) -> Any:
        if not isinstance(node, dict):
            return f"PLACEHOLDER://{at}"
        return {k: placed(v, f"{at}.{k}" if at else k) for k, v in node.items()}

    for name in ("_METADATA", "_CHECKPOINT_METADATA", "_sharding"):
        (path / name).unlink(missing_ok=True)
    shutil.rmtree(path / "array_metadatas", ignore_errors=True)
    (path / "checkpoint").write_bytes(msgpack.packb(placed(tree, "")))


def test_orbax_of_2023(tmp_path: Path) -> None:
    """Catches a directory that Orbax restores called no Orbax checkpoint."""
    old_orbax(tmp_path / "x", to_jax(CONFIG, PLAIN))
    assert equal(load(tmp_path / "x").arrays, PLAIN)
    shutil.rmtree(tmp_path / "x" / "params.conv1.kernel")
    assert "is not a readable Orbax checkpoint" in refusal(tmp_path / "x")


def test_unsafe_reading_is_never_advised(tmp_path: Path) -> None:
    """Catches PyTorch's own advice passed on: weights_only=False runs what a file says."""
    messages = []
    code = "import torch, sys; torch.jit.script(torch.nn.Linear(1, 1)).save(sys.argv[1])"
    script = tmp_path / "script.pt"
    quiet = [sys.executable, "-W", "ignore", "-c", code, str(script)]
    subprocess.run(quiet, check=True, capture_output=True)
    messages.append(refusal(script))
    assert "TorchScript" in messages[0]
    torch.save({"a.b": torch.zeros(1), "c": Fraction(1, 2)}, tmp_path / "x.pth")
    messages.append(refusal(tmp_path / "x.pth"))
    from weights_convert.formats.torch_file import reason

    for kind in ("Weights only load failed... weights_only=False", "set `weights_only=False` to"):
        messages.append(reason(RuntimeError(kind)))
    assert not [message for message in messages if "weights_only" in message]
    assert Foreign("int8", (2, 3)).size == 6
