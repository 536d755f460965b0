"""What conversions by rules refuse: one line, exit status 2, and nothing written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from parity.cli import main
from parity.spec.errors import InputError
from tests.by_rules import RULES, carry, drawn, rules_file, write_shards

INDEX = "model.safetensors.index.json"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("made") / "shards", drawn())


def first(folder: Path) -> Path:
    return min(folder.glob("*.safetensors"))


def changed(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Return what changes an index."""

    def apply(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        change(index)
        (folder / INDEX).write_text(json.dumps(index))

    return apply


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Return what changes the tensors of the first shard."""

    def apply(folder: Path) -> None:
        held = load_file(first(folder))
        change(held)
        save_file(held, first(folder))

    return apply


def renamed(shard: str) -> Callable[[Path], None]:
    return changed(lambda index: index["weight_map"].update({"emb.weight": shard}))


def key_twice(folder: Path) -> None:
    text = (folder / INDEX).read_text()
    (folder / INDEX).write_text(text.replace('"emb.weight"', '"half"', 1))


def link(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    first(folder).rename(outside)
    (folder / outside.name).symlink_to(outside)
    (folder / outside.name).rename(folder / "model-00001-of-00004.safetensors")


def linked_twice(folder: Path) -> None:
    os.link(first(folder), folder / "again.safetensors")
    renamed("again.safetensors")(folder)


def linked_index(folder: Path) -> None:
    (folder / INDEX).rename(folder.parent / "index.json")
    (folder / INDEX).symlink_to(folder.parent / "index.json")


def truncated(folder: Path) -> None:
    os.truncate(first(folder), first(folder).stat().st_size - 1)


BAD_SHARDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda folder: first(folder).unlink(), "which is missing"),
    "folder": (
        lambda f: (first(f).unlink(), (f / "model-00001-of-00004.safetensors").mkdir()),
        "is not a file",
    ),
    "pipe": (
        lambda f: (first(f).unlink(), os.mkfifo(f / "model-00001-of-00004.safetensors")),
        "is not a file",
    ),
    "truncated": (truncated, "is not a whole safetensors file"),
    "twice": (key_twice, "it holds half more than once"),
    "one file twice": (linked_twice, "are the same file"),
    "lacks": (tensors(lambda held: held.pop("emb.weight")), "lacks emb.weight"),
    "more": (tensors(lambda held: held.update(more=torch.ones(2))), "holds more, of which"),
    "other shape": (tensors(lambda h: h.update({"emb.weight": torch.ones(41, 8)})), "total_size"),
    "other dtype": (tensors(lambda h: h.update({"emb.weight": torch.ones(40, 8)})), "total_size"),
    "above": (renamed("../x.safetensors"), "expected the name of a file beside it"),
    "absolute": (renamed("/etc/passwd"), "expected the name of a file beside it"),
    "dots": (renamed(".."), "names '..', expected the name of a file beside it"),
    "empty": (renamed(""), "names '', expected the name of a file beside it"),
    "line": (renamed("a\nb"), "expected the name of a file beside it"),
    "number": (changed(lambda i: i["weight_map"].update({"emb.weight": 3})), "expected texts"),
    "no map": (changed(lambda i: i.pop("weight_map")), "expected an object weight_map"),
    "list": (lambda folder: (folder / INDEX).write_text("[]"), "expected an object weight_map"),
    "size inf": (
        changed(lambda i: i["metadata"].update(total_size=float("inf"))),
        "total_size inf, expected a number of bytes",
    ),
    "size text": (
        changed(lambda i: i["metadata"].update(total_size="7")),
        "total_size '7', expected a number of bytes",
    ),
    "size true": (
        changed(lambda i: i["metadata"].update(total_size=True)),
        "total_size True, expected a number of bytes",
    ),
    "size huge": (
        changed(lambda i: i["metadata"].update(total_size=10**400)),
        "but its shards hold",
    ),
    "size nan": (
        changed(lambda i: i["metadata"].update(total_size=float("nan"))),
        "total_size nan, expected a number of bytes",
    ),
    "no JSON": (lambda folder: (folder / INDEX).write_text("{"), "is damaged"),
    "link": (link, "a link that leaves its folder"),
    "linked index": (linked_index, "a link that leaves its folder"),
}


@pytest.mark.parametrize("case", BAD_SHARDS)
def test_bad_shards(case: str, shards: Path, tmp_path: Path) -> None:
    """Catches shards read that are not what their index says, or lie elsewhere."""
    folder, (spoil, said) = tmp_path / "in", BAD_SHARDS[case]
    shutil.copytree(shards, folder)
    spoil(folder)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        carry(folder, tmp_path / "out.safetensors")
    assert said in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "rules.toml"])


def test_links_of_the_cache_are_followed(shards: Path, tmp_path: Path) -> None:
    """Catches a repository refused that lies as the cache of Hugging Face keeps it."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in shards.iterdir():
        shutil.copy(file, blobs / file.name.replace(".", "_"))
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name.replace('.', '_')}")
    out = tmp_path / "out.safetensors"
    assert main(["convert", "--rules", str(rules_file(tmp_path)), str(snapshot), str(out)]) == 0


def edited(old: str, new: str) -> str:
    assert old in RULES
    return RULES.replace(old, new)


BAD_RULES = {
    "left over": (edited(r"['emb\.weight', 'embed.embedding'],", ""), "no rule for emb.weight"),
    "twice": (edited("'embed.embedding'", "'head.kernel'"), "both become head.kernel"),
    "unused": (edited("rules = [", "rules = [ ['nothing', 'a'],"), "fits it"),
    "misfit": (edited("l (n h) i -> n l i h", "l (n h i) -> n l i h"), "qkv"),
    "size of nothing": ("sizes = {hh = 2}\n" + RULES, "sizes: no rule has an axis hh"),
    "no rule": ("rules = 3", "expected rules"),
    "no TOML": ("rules = [", "no TOML"),
}


@pytest.mark.parametrize("case", BAD_RULES)
def test_bad_rules(case: str, shards: Path, tmp_path: Path) -> None:
    """Catches rules that leave something over, fill something twice, or are none."""
    text, said = BAD_RULES[case]
    with pytest.raises(InputError) as caught:
        carry(shards, tmp_path / "out.safetensors", text)
    assert said in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["rules.toml"]


SAME = "rules = [['(.*)', '\\1']]"


def test_a_way_that_names_do_not_tell(shards: Path, tmp_path: Path, capsys: Capture) -> None:
    """Catches a direction that is guessed where both sides have the same names."""
    out = tmp_path / "out.safetensors"
    assert "say --forward or --reverse" in refused(tmp_path, shards, out, capsys, SAME)
    command = ["convert", "--rules", str(tmp_path / "rules.toml"), str(shards), str(out)]
    assert main([*command, "--reverse"]) == 0


LEAVES_OUT = "rules = [['kv', ['k', []], '(k + v) -> k, v', {k = 2}]]"


def test_a_table_without_a_way_back(tmp_path: Path, capsys: Capture) -> None:
    """Catches names of the port that fit no rule, and no word of why they were not looked for."""
    save_file({"k": torch.ones(2)}, tmp_path / "in.safetensors")
    out = tmp_path / "out.safetensors"
    said = refused(tmp_path, tmp_path / "in.safetensors", out, capsys, LEAVES_OUT)
    assert "fit neither side of the rules; " in said
    assert "has no way back: it leaves a part out" in said


def test_bad_targets_and_options(shards: Path, tmp_path: Path, capsys: Capture) -> None:
    """Catches a target replaced, or an option that is silently without effect."""
    there = tmp_path / "there.safetensors"
    there.write_text("old")
    assert "exists: not replaced" in refused(tmp_path, shards, there, capsys)
    assert there.read_text() == "old"
    out = tmp_path / "out.safetensors"
    first(shutil.copytree(shards, tmp_path / "in")).unlink()
    assert "which is missing" in refused(tmp_path, tmp_path / "in", out, capsys)
    shutil.rmtree(tmp_path / "in")
    assert "is not a folder" in refused(tmp_path, shards, tmp_path / "no" / "a.orbax", capsys)
    assert "by rules are written" in refused(tmp_path, shards, tmp_path / "a.pth", capsys)
    assert "lies in" in refused(tmp_path, shards, shards / "a.safetensors", capsys)
    assert "does not exist" in refused(tmp_path, tmp_path / "no", out, capsys)
    for options, said in (
        (["--shard-size", "5GB"], "shards need a folder"),
        (["--shard-size", "5 apples"], "expected such as 5GB"),
        (["--workers", "0"], "expected 1 or more"),
        (["--to", "jax"], "--to is for networks of this suite"),
        (["--key", ""], "--key is for networks of this suite"),
        (["--from", "jax"], "--from is for networks of this suite"),
    ):
        assert said in refused(tmp_path, shards, out, capsys, RULES, *options)
    for option in (["--dry-run"], ["--workers", "0"], ["--shard-size", ""]):
        assert main(["convert", *option, str(there), str(out)]) == 2
        assert f"{option[0]} is only for --rules" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rules.toml", "there.safetensors"]


def test_what_orbax_cannot_hold(tmp_path: Path, capsys: Capture) -> None:
    """Catches an empty tensor, or a name that is a folder too, found out halfway."""
    for held, said in (
        ({"a": torch.ones(2), "a.b": torch.ones(2)}, "has no place in an Orbax directory"),
        ({"a": torch.ones(0, 2)}, "empty, which Orbax does not save"),
    ):
        save_file(held, tmp_path / "in.safetensors")
        assert said in refused(
            tmp_path, tmp_path / "in.safetensors", tmp_path / "out", capsys, SAME, "--forward"
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.safetensors", "rules.toml"]


def test_a_full_disk(
    shards: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a conversion that begins though it cannot end."""
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "1,000 are free" in refused(tmp_path, shards, tmp_path / "out.safetensors", capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["rules.toml"]


def refused(
    folder: Path, source: Path, target: Path, capsys: Capture, text: str = RULES, *options: str
) -> str:
    """Return the one line with which a conversion is refused."""
    rules = rules_file(folder, text)
    assert main(["convert", "--rules", str(rules), str(source), str(target), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line
