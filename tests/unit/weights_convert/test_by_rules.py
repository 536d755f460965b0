"""Conversions by rules: there and back, what is written, and what of it others read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
from safetensors import safe_open

from parity.cli import main
from parity.spec.errors import InputError
from tests import pair
from tests.by_rules import bits, carry, drawn, rules_file, write_shards
from weights_convert import formats
from weights_convert.hashes import tensor_sha256s
from weights_convert.streaming import torch_shards
from weights_convert.streaming.opening import open_source
from weights_convert.streaming.plan import NARROW, WIDE, Tensor

TARGETS = {"out.safetensors": None, "out": 300, "out.orbax": None}
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("made") / "shards", drawn())


@pytest.fixture(scope="module")
def orbax(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("there") / "out.orbax"
    carry(shards, path)
    return path


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    """What the rules make of the tensors, computed here by hand."""

    def array(tensor: torch.Tensor) -> np.ndarray:
        if tensor.dtype is torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        if tensor.dtype is torch.float8_e4m3fn:
            return tensor.view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn)
        return tensor.numpy()

    held = {name: array(tensor) for name, tensor in drawn().items()}
    qkv = [held[f"layers.{i}.qkv"] for i in range(3)]
    found = {
        f"layers.{n}": np.stack([a[4 * i : 4 * i + 4].T for a in qkv]) for i, n in enumerate("qkv")
    }
    found["layers.scale"] = np.stack([held[f"layers.{i}.norm"] for i in range(3)])
    found |= {"embed.embedding": held["emb.weight"], "head.kernel": held["head.weight"].T}
    return found | {f"{name}_of_port": held[name] for name in ("fp8", "half", "count")}


@pytest.mark.parametrize("name", TARGETS)
def test_there_and_back(
    name: str, shards: Path, orbax: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Catches a tensor misplaced, cast or lost on either way, in any of the formats."""
    there = orbax if name == "out.orbax" else tmp_path / name
    if there != orbax:
        done = carry(shards, there, shard_size=TARGETS[name])
        assert not done.plan.reverse
    found = bits(there)
    assert found == {
        n: (a.dtype.name, a.shape, np.ascontiguousarray(a).tobytes()) for n, a in expected.items()
    }
    back = tmp_path / "back"
    assert carry(there, back, shard_size=700).plan.reverse
    assert bits(back) == bits(shards)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_shards_are_those_of_hugging_face(shards: Path, tmp_path: Path) -> None:
    """Catches names, an index or metadata that its libraries do not read, and shards too large."""
    carry(shards, tmp_path / "out", shard_size=600)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [
        f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)
    ]
    sizes = []
    for name in files:
        with safe_open(tmp_path / "out" / name, "pt") as file:
            assert file.metadata()["format"] in ("pt", "flax")
            assert all(index["weight_map"][key] == name for key in file.keys())  # noqa: SIM118 - it is no dict
            held = [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118 - it is no dict
        sizes.append(sum(t.numel() * t.element_size() for t in held))
        assert sizes[-1] <= 600 or len(held) == 1
    assert index["metadata"]["total_size"] == sum(sizes)


def test_torch_shards(shards: Path, tmp_path: Path) -> None:
    """Catches bits of dtypes that NumPy lacks changed when they come from PyTorch's files."""
    torch_shards = write_shards(tmp_path / "torch", drawn(), "bin")
    assert bits(torch_shards) == bits(shards)
    carry(torch_shards, tmp_path / "a.safetensors")
    carry(shards, tmp_path / "b.safetensors")
    assert bits(tmp_path / "a.safetensors") == bits(tmp_path / "b.safetensors")


def test_what_is_no_tensor_in_a_shard(tmp_path: Path) -> None:
    """Catches entries of shards that are left behind without a word."""
    folder = write_shards(tmp_path / "torch", drawn(), "bin")
    for shard in folder.glob("*.bin"):
        torch.save(torch.load(shard) | {"epoch": 3}, shard)
    assert open_source(folder).skipped == ("epoch",)
    assert bits(folder) == bits(write_shards(tmp_path / "plain", drawn(), "bin"))


def test_tied_tensors(tmp_path: Path) -> None:
    """Catches tensors that share memory taken for one too many, or other ones let go with them."""
    table = torch.arange(6.0).reshape(2, 3)
    rules = "rules = [['a', 'b']]"
    torch.save({"a": table, "head": table}, tmp_path / "in.pth")
    done = carry(tmp_path / "in.pth", tmp_path / "out.safetensors", rules)
    assert done.plan.unused == ("head",)
    torch.save({"a": table, "head": table.clone()}, tmp_path / "in.pth")
    with pytest.raises(InputError, match="no rule for head"):
        carry(tmp_path / "in.pth", tmp_path / "other.safetensors", rules)


def test_torch_shards_are_mapped_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a large torch file that stays in memory, or reads otherwise once it was let go."""
    monkeypatch.setattr(torch_shards, "MAPPED", 100)
    shard = torch_shards.TorchShard(
        next(write_shards(tmp_path / "torch", drawn(), "bin").glob("*00001*")), flat=True
    )
    before = weakref.ref(shard._state["emb.weight"])
    for _ in range(2):
        loaded = shard.load("emb.weight")
        assert before() is None
        assert loaded.tobytes() == drawn()["emb.weight"].view(torch.int16).numpy().tobytes()


def test_orbax_reads_what_is_written(orbax: Path, expected: dict[str, np.ndarray]) -> None:
    """Catches a directory that Orbax itself, or what reads our own, does not read."""
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(orbax)
    assert tree["layers"]["q"].tobytes() == expected["layers.q"].tobytes()
    assert set(formats.read(orbax, foreign=True).everything) == set(expected)


SHARDED = """
import sys, jax, numpy as np, orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec as P
assert len(jax.devices()) == 8
mesh = jax.make_mesh((4, 2), ("a", "b"))
def abstract(meta):
    spec = P("a", "b") if meta.shape == (40, 8) else P()
    return jax.ShapeDtypeStruct(meta.shape, meta.dtype, sharding=NamedSharding(mesh, spec))
with jax.enable_x64(), ocp.StandardCheckpointer() as checkpointer:
    target = jax.tree.map(abstract, checkpointer.metadata(sys.argv[1]).item_metadata.tree)
    tree = checkpointer.restore(sys.argv[1], target)
table = tree["embed"]["embedding"]
assert [s.data.shape for s in table.addressable_shards] == [(10, 4)] * 8
print(np.asarray(table).tobytes().hex())
"""


def test_orbax_restores_under_a_sharding(orbax: Path, expected: dict[str, np.ndarray]) -> None:
    """Catches a directory that several devices cannot restore, each its part."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED, str(orbax)],
        env=os.environ | flags,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert bytes.fromhex(done.stdout.strip()) == expected["embed.embedding"].tobytes()


def test_manifest(shards: Path, tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    """Catches an output that does not say what it holds, and a change of it that is not seen."""
    carry(shards, tmp_path / "out", shard_size=300)
    said = json.loads((tmp_path / "out" / "parity.json").read_text())["manifest"]
    assert said["tensors"] == tensor_sha256s({n: expected[n] for n in said["tensors"]})
    assert said["rules"].count("\n") == 4
    carry(shards, tmp_path / "out.safetensors")
    first = min((tmp_path / "out").glob("*.safetensors"))
    for file in (first, tmp_path / "out.safetensors"):
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    for source in (tmp_path / "out", tmp_path / "out.safetensors"):
        with pytest.raises(InputError, match="its manifest was written for"):
            carry(source, tmp_path / "back.safetensors")
        assert not (tmp_path / "back.safetensors").exists()


def test_all_dtypes_have_a_size() -> None:
    """Catches the name of a dtype that neither NumPy nor `ml_dtypes` knows."""
    assert all(Tensor((3,), name).nbytes >= 3 for name in (*WIDE, *NARROW))


def test_command(shards: Path, tmp_path: Path, capsys: Capture) -> None:
    """Catches a dry run that writes, a plan that is not printed, and a way that is not told."""
    command = ["convert", "--rules", str(rules_file(tmp_path)), str(shards), str(tmp_path / "o")]
    assert main([*command, "--shard-size", "1KB", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "head.kernel  bfloat16 8x40  <- head.weight" in out
    assert "would write" in out
    assert "to the port's" in out
    assert [p.name for p in tmp_path.iterdir()] == ["rules.toml"]
    assert main([*command, "--shard-size", "1KB"]) == 0
    assert "bitwise equal" in capsys.readouterr().out
    assert (tmp_path / "o" / "model.safetensors.index.json").is_file()


PORT = """
import dataclasses
from tests import pair

RULES = [
    (r"stem\\.weight", "first.kernel", (2, 3, 1, 0)),
    (r"stem\\.bias", "first.bias"),
    (r"head\\.weight", "last.kernel", "o i -> i o"),
    (r"head\\.bias", "last.bias"),
    (r"norm\\.weight", "second.scale"),
    (r"norm\\.bias", "second.bias"),
    (r"norm\\.running_(\\w+)", r"second.\\1"),
]

def make_port():
    return pair.port(weights=RULES)

def lacking():
    return pair.port(weights=RULES[1:])

def unfilled():
    return pair.port(weights=[(r"stem\\.weight", None), *RULES[1:]])

def by_function():
    return pair.port(weights=lambda arrays: arrays)
"""


@pytest.fixture(scope="module")
def port_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("port") / "ported_by_rules.py"
    path.write_text(PORT)
    return path


def test_rules_of_a_port(port_file: Path, tmp_path: Path, capsys: Capture) -> None:
    """Catches rules of a port that are not those of its check, or a way back that is another."""
    state = pair.reference().state_dict()
    torch.save(state, tmp_path / "in.pth")
    convert = ["convert", "--rules", f"{port_file}:make_port"]
    there, back = tmp_path / "out.safetensors", tmp_path / "back.safetensors"
    assert main([*convert, str(tmp_path / "in.pth"), str(there)]) == 0
    assert "not carried: 1 tensors, norm.num_batches_tracked" in capsys.readouterr().out
    kernel = open_source(there).load("first.kernel")
    np.testing.assert_array_equal(kernel, state["stem.weight"].numpy().transpose(2, 3, 1, 0))
    assert main([*convert, str(there), str(back)]) == 0
    found = bits(tmp_path / "in.pth")
    del found["norm.num_batches_tracked"]
    assert bits(back) == found


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lacking", "no rule for stem.weight"),
        ("unfilled", "nothing fills first.kernel of the port"),
        ("by_function", "its weights are no rules"),
        ("other", "has no function 'other'"),
    ],
)
def test_rules_of_a_bad_port(
    port_file: Path, tmp_path: Path, name: str, said: str, capsys: Capture
) -> None:
    """Catches a port whose rules leave something over, or that has none."""
    torch.save(pair.reference().state_dict(), tmp_path / "in.pth")
    out = tmp_path / "out.safetensors"
    command = ["convert", "--rules", f"{port_file}:{name}", str(tmp_path / "in.pth"), str(out)]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert [p.name for p in tmp_path.iterdir()] == ["in.pth"]
