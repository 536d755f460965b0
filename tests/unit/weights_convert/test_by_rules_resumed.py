"""Conversions by rules that are killed, fail or are watched: what is left, and what goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from parity.io.resuming import PREFIX, resuming
from parity.spec.errors import InputError
from tests.by_rules import bits, carry, drawn, rules_file, write_shards
from weights_convert.streaming import orbax_writer, shard_writer
from weights_convert.streaming.conversion import convert
from weights_convert.streaming.plan import Plan, Step, Tensor, units
from weights_convert.streaming.source import Source
from weights_convert.streaming.work import Budget, Work, sha256

# Converts the shards, and is killed when it makes one of the tensors.
KILLED = """
import os, signal, sys
from pathlib import Path
from weights_convert import rules
from weights_convert.streaming import work
from weights_convert.streaming.by_rules import planner
from weights_convert.streaming.conversion import convert
if {size} is None:
    from weights_convert.streaming import orbax_writer
    orbax_writer.PART = 300
apply = work.Work._apply
def applied(self, step):
    if {name} in step.made:
        os.kill(os.getpid(), signal.SIGKILL)
    return apply(self, step)
work.Work._apply = applied
source, target, table = map(Path, sys.argv[1:])
convert(source, target, planner(rules.load(table)), shard_size={size}, workers=1)
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("made") / "shards", drawn())


def killed(shards: Path, target: Path, name: str, size: int | None) -> Path:
    """Kill a conversion, and return what it left."""
    code = KILLED.format(name=repr(name), size=size)
    table = rules_file(target.parent)
    command = [sys.executable, "-c", code, str(shards), str(target), str(table)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not target.exists()
    return target.with_name(PREFIX + target.name) / "work"


def test_shards_of_a_killed_process_are_kept(shards: Path, tmp_path: Path) -> None:
    """Catches a shard written again that was there, a damaged one kept, and a half one used."""
    target, stages = tmp_path / "out", list[str]()
    left = killed(shards, target, "fp8_of_port", 700) / "out"
    whole = sorted(left.glob("*.safetensors"))
    assert len(whole) >= 2
    numbers = {p.name: p.stat().st_ino for p in whole}
    data = bytearray(whole[0].read_bytes())
    data[-1] ^= 1
    whole[0].write_bytes(data)
    carry(shards, target, shard_size=700, progress=stages.append)
    # Several shards are read at once, so that either may be told of first.
    assert sorted(s for s in stages if s.startswith("verifying")) == [
        f"verifying {p.name}, which is there" for p in whole
    ]
    for path in whole[1:]:
        assert (target / path.name).stat().st_ino == numbers[path.name]
    assert f"writing {whole[0].name}" in stages
    carry(shards, tmp_path / "other.safetensors")
    assert bits(target) == bits(tmp_path / "other.safetensors")
    assert not list(tmp_path.glob(".*"))


def interrupted(shards: Path, target: Path, name: str, size: int | None) -> Path:
    """Do what `killed` does without a process of its own, by an interrupt."""
    apply = Work._apply

    def applied(self: Work, step: Step) -> dict[str, np.ndarray]:
        if name in step.made:
            raise KeyboardInterrupt
        return apply(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Work, "_apply", applied)
        with pytest.raises(KeyboardInterrupt):
            carry(shards, target, shard_size=size, workers=1)
    return target.with_name(PREFIX + target.name) / "work"


def test_tensors_of_a_killed_process_are_kept(shards: Path, tmp_path: Path) -> None:
    """Catches a single file, or the shard that was being written, begun anew after a kill.

    Also one of which a damaged tensor is kept.
    """
    carry(shards, tmp_path / "whole.safetensors")
    whole = bits(tmp_path / "whole.safetensors")
    for name, size in (("out.safetensors", None), ("out", 10**6)):
        stop = killed if size is None else interrupted
        left = stop(shards, tmp_path / name, "fp8_of_port", size) / name
        file = left if size is None else next(left.glob("*.unfinished"))
        data = bytearray(file.read_bytes())
        at = data.index(whole["head.kernel"][2])
        data[at] ^= 1
        file.write_bytes(data)
        found = [n for n, (*_, raw) in whole.items() if raw in data and n != "head.kernel"]
        assert 2 < len(found) < len(whole) - 1
        number, stages = file.stat().st_ino, list[str]()
        carry(shards, tmp_path / name, shard_size=size, progress=stages.append)
        assert f"kept {len(found)} of {len(whole)} tensors, which were there" in stages
        made = tmp_path / name if size is None else tmp_path / name / "model.safetensors"
        assert made.stat().st_ino == number
        assert bits(tmp_path / name) == whole
    assert not list(tmp_path.glob(".*"))


def test_parts_of_a_killed_process_are_kept(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches parts of an Orbax directory written again, or kept though they are damaged."""
    monkeypatch.setattr(orbax_writer, "PART", 300)
    target, stages = tmp_path / "out", list[str]()
    left = killed(shards, target, "fp8_of_port", None) / "parts.partial_save"
    parts = sorted(left.iterdir())
    assert len(parts) >= 3
    largest = max((p for p in parts[0].rglob("d/*")), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 255
    largest.write_bytes(data)
    (parts[1] / "commit_success.txt").unlink()
    done = carry(shards, target, progress=stages.append)
    # A part whose arrays cannot even be opened is not compared.
    assert sum(s.startswith("verifying") for s in stages) in (len(parts) - 1, len(parts) - 2)
    kept = len(parts) - 2
    assert f"writing part 1 of {len(units(done.plan, 300)) - kept}" in stages
    carry(shards, tmp_path / "other.safetensors")
    assert bits(target) == bits(tmp_path / "other.safetensors")
    assert not list(tmp_path.glob(".*"))


def test_another_conversion_is_not_gone_on_with(shards: Path, tmp_path: Path) -> None:
    """Catches shards of other rules, sizes or sources taken for those of this conversion."""
    copy = tmp_path / "in"
    shutil.copytree(shards, copy)
    target = tmp_path / "out"

    def interrupted(stage: str) -> None:
        if "-00003-" in stage:
            raise KeyboardInterrupt

    for change in ("size", "source"):
        with pytest.raises(KeyboardInterrupt):
            carry(copy, target, shard_size=700, workers=1, progress=interrupted)
        assert list(tmp_path.glob(f"{PREFIX}out/**/*.safetensors"))
        if change == "source":
            next(copy.glob("*00001*")).touch()
        stages: list[str] = []
        carry(copy, target, shard_size=800 if change == "size" else 700, progress=stages.append)
        assert not [s for s in stages if s.startswith("verifying")]
        shutil.rmtree(target)


def test_a_wrong_byte_on_the_disk_is_seen(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a shard that is not read back, and what a failure leaves."""
    write = shard_writer.write_file

    def faulty(work: Work, path: Path, *args: object) -> dict[str, str]:
        made = write(work, path, *args)  # type: ignore[arg-type]  # as it was called
        with path.open("rb+") as file:
            file.seek(-1, 2)
            last = file.read(1)
            file.seek(-1, 2)
            file.write(bytes([last[0] ^ 1]))
        return made

    monkeypatch.setattr(shard_writer, "write_file", faulty)
    monkeypatch.setattr("weights_convert.streaming.conversion.write_file", faulty)
    for target, size in ((tmp_path / "out", 700), (tmp_path / "out.safetensors", None)):
        with pytest.raises(InputError, match=f"cannot write {target}.*read back"):
            carry(shards, target, shard_size=size)
    assert [p.name for p in tmp_path.iterdir()] == ["rules.toml"]


def test_a_wrong_number_in_orbax_is_seen(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a directory that is not read back."""
    save = orbax_writer.orbax_arrays.save_part

    def faulty(folder: Path, arrays: dict[str, np.ndarray]) -> None:
        save(folder, {n: np.zeros_like(a) if n == "head.kernel" else a for n, a in arrays.items()})

    monkeypatch.setattr(orbax_writer.orbax_arrays, "save_part", faulty)
    with pytest.raises(InputError, match=r"read back, head\.kernel differ"):
        carry(shards, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["rules.toml"]


def test_wrong_parts_are_not_kept(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches parts taken for whole because they can be read: they hold other numbers."""
    monkeypatch.setattr(orbax_writer, "PART", 300)
    save = orbax_writer.orbax_arrays.save_part

    def faulty(folder: Path, arrays: dict[str, np.ndarray]) -> None:
        save(folder, {name: np.zeros_like(array) for name, array in arrays.items()})

    def interrupted(stage: str) -> None:
        if stage.startswith("writing part 3"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(orbax_writer.orbax_arrays, "save_part", faulty)
        with pytest.raises(KeyboardInterrupt):
            carry(shards, tmp_path / "out", progress=interrupted)
    stages: list[str] = []
    done = carry(shards, tmp_path / "out", progress=stages.append)
    assert sum(s.startswith("verifying") for s in stages) == 2
    assert f"writing part 1 of {len(units(done.plan, 300))}" in stages


class Watched:
    """A source of arrays that counts how many bytes of them are alive."""

    def __init__(self, count: int, size: int) -> None:
        self.tensors = {f"a{i}": Tensor((size // 8,), "int64") for i in range(count)}
        self.alive = self.most = 0
        self._lock = threading.Lock()

    def load(self, name: str) -> np.ndarray:
        array = np.full(self.tensors[name].shape, int(name[1:]))
        self._add(array.nbytes)
        weakref.finalize(array, self._add, -array.nbytes)
        return array

    def _add(self, count: int) -> None:
        with self._lock:
            self.alive += count
            self.most = max(self.most, self.alive)


@pytest.mark.parametrize("name", ["out.safetensors", "shards", "out.orbax"])
def test_memory_is_that_of_a_few_tensors(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a conversion that holds more tensors the larger the checkpoint is."""
    count, size = 24, 80_000
    watched = Watched(count, size)
    file = tmp_path / "source"
    file.write_bytes(b"\x81")
    source = Source(file, "watched", watched.tensors, watched.load, (file,))
    monkeypatch.setattr("weights_convert.streaming.conversion.open_source", lambda path: source)
    monkeypatch.setattr(orbax_writer, "PART", 2 * size)
    steps = tuple(Step((n,), {n: t}, lambda a: a) for n, t in watched.tensors.items())
    shard_size = 5 * size if name == "shards" else None
    if name == "shards":  # read back by what is patched
        monkeypatch.setattr("weights_convert.streaming.conversion._shards", only_written)
    convert(file, tmp_path / name, lambda _: Plan(steps), shard_size=shard_size, memory=4 * size)
    assert size <= watched.most <= 8 * size


def only_written(work: Work, folder: Path, size: int, hashing: object) -> None:
    folder.mkdir()
    shard_writer.write_shards(work, folder, size)


def test_a_tensor_is_let_go_before_the_next_is_read(tmp_path: Path) -> None:
    """Catches two of the largest tensors in memory where one is enough."""
    watched = Watched(5, 80_000)
    source = Source(tmp_path, "watched", watched.tensors, watched.load, ())
    steps = tuple(Step((n,), {n: t}, lambda a: {**a}) for n, t in watched.tensors.items())
    work = Work(source, Plan(steps), 1, Budget(1), print)
    (unit,) = units(work.plan, 10**6)
    shard_writer.write_file(work, tmp_path / "x", unit, {})
    work.sha256s(unit)
    assert watched.most == 80_000


def test_budget_is_kept() -> None:
    """Catches threads that together take more memory than they may, and one that waits forever."""
    budget, used, most = Budget(10), [0], [0]
    lock = threading.Lock()

    def take(count: int) -> None:
        with budget.taken(count):
            with lock:
                used[0] += count
                most[0] = max(most[0], used[0])
            time.sleep(0.001)
            with lock:
                used[0] -= count

    threads = [threading.Thread(target=take, args=(n,)) for n in (4, 5, 6, 3, 10, 2) * 20]
    for thread in threads:
        thread.start()
    take(99)  # more than there is: alone
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert most[0] == 99 or most[0] <= 10


@pytest.mark.parametrize("shape", [(), (7,), (300, 40), (1, 1, 500, 3), (3, 700, 5)])
def test_hash_block_by_block(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches bytes of a view that are left out, doubled, or in the order of its memory."""
    from weights_convert.hashes import tensor_sha256s
    from weights_convert.streaming import safetensors_shards

    monkeypatch.setattr(safetensors_shards, "BLOCK", 64)
    array = np.random.default_rng(0).integers(0, 1000, shape)
    for view in (array, array.T, array[..., ::2] if array.ndim else array):
        assert sha256(view) == tensor_sha256s({"x": np.array(view)})["x"]


def test_units_hold_no_more_than_they_may() -> None:
    """Catches a shard over the size, a tensor that is in none, or in two."""
    step = Step((), {f"a{i}": Tensor((i,), "int8") for i in range(1, 30)}, dict)
    other = Step((), {"b": Tensor((100,), "int8"), "c": Tensor((1,), "int8")}, dict)
    parts = units(Plan((step, other)), 40)
    names = [n for unit in parts for _, held in unit for n in held]
    assert names == [*step.made, *other.made]
    sizes = [sum(s.made[n].nbytes for s, held in unit for n in held) for unit in parts]
    assert all(size <= 40 or size == 100 for size in sizes)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    """Catches two processes that write one checkpoint at once."""
    again = resuming(tmp_path / "x", "work")
    with resuming(tmp_path / "x", "work"), pytest.raises(InputError, match="another process"):
        again.__enter__()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["a link", "no folder"])
def test_what_stands_in_the_folders_place_is_named(tmp_path: Path, kind: str) -> None:
    """Catches another's folder written to, or an error that does not name what is in the way."""
    place = tmp_path / f"{PREFIX}out"
    (tmp_path / "mine").mkdir()
    place.write_text("mine") if kind == "no folder" else place.symlink_to(tmp_path / "mine")
    with (
        pytest.raises(InputError, match=rf"{place} is {kind}, expected a folder of out's own"),
        resuming(tmp_path / "out", "work"),
    ):
        pass
    assert os.path.lexists(place)
    assert not list((tmp_path / "mine").iterdir())
