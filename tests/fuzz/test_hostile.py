"""Files made to do harm: each is refused in one line, and nothing else happens."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from parity.cli.commands import inspect
from parity.spec.errors import InputError
from tests import naive_reader
from tests.fuzz import campaign, cases, mutants, watch
from tests.fuzz.hostile import Kind, Place, all_kinds, manifests, orbax_directories
from tests.fuzz.sandbox import Sandbox
from weights_convert import load
from weights_convert.formats import sidecar

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="watched with Linux's means")


@pytest.fixture(scope="module")
def arena() -> Iterator[cases.Arena]:
    with cases.arena() as found:
        yield found


@pytest.mark.parametrize("kind", all_kinds(), ids=lambda kind: f"{kind.group}: {kind.name}")
def test_hostile(arena: cases.Arena, kind: Kind) -> None:
    """Catches a file that runs code, leaves its folder, takes memory or time, or is believed."""
    found = arena.read(kind)
    assert not found.faults
    assert found.verdict.outcome == ("loaded" if kind.harmless else "refused")


def test_there_are_many() -> None:
    """Catches kinds lost on the way, two of one name, and a format without any."""
    names = [(kind.group, kind.name) for kind in all_kinds()]
    assert len(set(names)) == len(names) >= 850
    groups = {"torch zip", "torch legacy", "torch tar", "pickle", "npz", "safetensors", "msgpack"}
    assert {group for group, _ in names} == groups | {"mindspore", "orbax", "manifest", "onnx"}


def test_a_manifest_has_one_lie(tmp_path: Path) -> None:
    """Catches manifests that all lack one field besides, so that no other check is ever asked."""
    path = tmp_path / "x.npz"
    path.write_bytes(manifests.whole()[0])
    incomplete = []
    for name, text in manifests.texts().items():
        sidecar.place(path).write_bytes(text)
        with pytest.raises(InputError) as caught:
            load(path)
        if "expected exactly" in str(caught.value):
            incomplete.append(name)
    assert incomplete == ["no network"]


def test_a_pipe_lies_where_a_file_was(tmp_path: Path) -> None:
    """Catches a pipe beside the files, in place of none, which nobody would open."""
    path = tmp_path / "x"
    orbax_directories.lay(path, orbax_directories.template())
    before = {file for file in path.rglob("*") if file.is_file()}
    place = Place(path, tmp_path, tmp_path / "canary")
    orbax_directories.piped(orbax_directories.PARTS["a file of the store"])(path, place)
    assert [file.is_fifo() for file in before if not file.is_file()] == [True]


def test_mutants(arena: cases.Arena) -> None:
    """Catches a change to a hostile file that makes it work; a hundred times as many: `long`."""
    stock = [k for k in all_kinds()[::9] if not any(b in k.name for b in campaign.BOMBS)]
    breeder = mutants.Breeder(arena, stock)
    assert len(breeder.kinds) > 40
    for number in range(100):
        found = breeder.read(1, number)
        assert not found.faults, found.kind.name


# --- The watch itself: each thing that it is to see, done once


@pytest.mark.parametrize(
    ("act", "verb"),
    [
        (lambda place: (place.outside / "secret").read_bytes(), "opened"),
        (lambda place: place.canary.touch(), "made"),
    ],
)
def test_the_canaries_are_watched(
    arena: cases.Arena, act: Callable[[Place], object], verb: str
) -> None:
    """Catches canaries that can be touched unseen."""
    place = arena.place()
    arena.canaries.touched()
    act(place)
    assert any(line.startswith(verb) for line in arena.canaries.touched())
    assert arena.canaries.touched() == []
    assert not place.canary.exists()


def test_all_that_the_command_says_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a refusal in one line that comes after others."""

    def run(args: object) -> int:
        print("by the way", file=sys.stderr)
        raise InputError("no")

    monkeypatch.setattr(inspect, "run", run)
    assert watch.command("x") == {"outcome": "refused", "line": "by the way\nno", "starved": False}


# What a file could do if a reader let it -> what the child must say of it.
DEEDS = {
    "__import__('os').system('true')": "did: os.system",
    "__import__('subprocess').run(['true'])": "did: subprocess.Popen",
    "__import__('socket').create_connection(('127.0.0.1', 9))": "did: socket",
    "open('/etc/hostname').read()": "did: open /etc/hostname",
    "open('x', 'w')": "to write",
    "eval('1')": "did: exec",
    "__import__('pickle').loads(b'cos\\nsystem\\n.')": "did: pickle.find_class",
    "__import__('antigravity_of_parity')": "did: import antigravity_of_parity",
    "bytearray(400 * 2**20)": "memory: 4",
    "bytearray(2**36)": "memory: asked for more",
    "__import__('os').write(2, b'printed')": "printed: printed",
    "__import__('os').abort()": "died",
    "__import__('time').sleep(60)": "late",
    "[][1]": "error: IndexError",
}


@pytest.fixture(scope="module")
def naive() -> Iterator[Sandbox]:
    """A child that does what files say."""
    with Sandbox(serve=naive_reader.serve, seconds=3.0) as sandbox:
        yield sandbox


@pytest.mark.parametrize("deed", DEEDS)
def test_the_child_is_watched(naive: Sandbox, tmp_path: Path, deed: str) -> None:
    """Catches a child that does something of which nothing is heard."""
    (tmp_path / "file").write_text(deed)
    found = naive.read(tmp_path / "file", "naive")
    assert any(DEEDS[deed] in fault for fault in found.faults), found
    assert not found.refused
