"""Traces that were cut off, altered, or are something else: one line, never another's numbers."""

from __future__ import annotations

import contextlib
import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.capture.records import NHWC
from parity.cli import main
from parity.spec.errors import InputError
from parity.trace import recorder
from parity.trace.reading import TraceFile
from parity.trace.side import RecordedSide, RecordedTraining, has_steps


def written(path: Path) -> Path:
    x, w = np.linspace(-1, 1, 60).reshape(2, 3, 10), np.ones((3, 4), np.float32)
    with recorder.Trace(path, "plain 1") as trace:
        trace.state("a.weight", w, trained=True)
        for mode in ("eval", "train"):
            trace.run(mode)
            trace.input("x", x)
            trace.tap("a", x * 2, inputs=[x])
            trace.tap("a", (x * 3, x[0] > 0), inputs=[x, {"scale": 3, "no": None}])
            trace.output("y", x * 3)
            trace.statistic("a.mean", x.mean())
        trace.loss(1.0)
        trace.gradient("a#2", x)
        trace.gradient("a.weight", w)
        trace.training("update", "float64")
        trace.step({"a.weight": w * 2}, {"a.weight": w}, rate=0.1)
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("good") / "good.trace")


def content(path: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """Read everything."""
    trace = TraceFile(path)
    arrays = {name: trace.array(name) for name in trace.index["arrays"]}
    lazy = {name: np.asarray(trace.lazy(name)) for name in trace.index["arrays"]}
    assert all(np.array_equal(arrays[name], lazy[name]) for name in arrays)
    return trace.index, arrays


def test_a_good_one_is_read(good: Path) -> None:
    """Catches a reader that refuses everything."""
    index, arrays = content(good)
    assert index["framework"] == "plain 1"
    calls = index["runs"][1]["calls"]
    assert [c["layer"] for c in calls] == ["a", "a#2"]
    np.testing.assert_array_equal(
        arrays[calls[1]["outputs"][0]], np.linspace(-1, 1, 60).reshape(2, 3, 10) * 3
    )
    assert arrays[calls[1]["outputs"][1]].dtype == bool


def test_arrays_are_read_when_they_are_wanted(good: Path) -> None:
    """Catches a trace that is held whole in memory."""
    trace = TraceFile(good)
    assert not trace.verified
    call = RecordedSide(trace, "float64", NHWC).run((), True).calls["a"]
    assert call.outputs[0].shape == (2, 3, 10)
    name = trace.runs["train", "float64", None]["calls"][0]["outputs"][0]
    assert name not in trace.verified
    np.testing.assert_array_equal(call.outputs[0], 2 * np.linspace(-1, 1, 60).reshape(2, 3, 10))
    assert name in trace.verified


def test_one_that_is_cut_off(good: Path, tmp_path: Path) -> None:
    """Catches a file that a full disk or a broken download left, read as if it were whole."""
    data = good.read_bytes()
    path = tmp_path / "cut.trace"
    for end in {0, 1, 10, len(data) - 1, *range(2, len(data), len(data) // 40)}:
        path.write_bytes(data[:end])
        with pytest.raises(InputError, match=r"cut\.trace"):
            content(path)


@pytest.mark.parametrize("end", [0, 1])
def test_one_with_something_before_or_behind(good: Path, tmp_path: Path, end: int) -> None:
    """Catches two files that were joined, of which `zipfile` finds one."""
    path = tmp_path / "joined.trace"
    path.write_bytes(b"more" * (1 - end) + good.read_bytes() + b"more" * end)
    with pytest.raises(InputError, match=r"joined\.trace was altered"):
        TraceFile(path)


def test_two_that_were_joined(good: Path, tmp_path: Path) -> None:
    """Catches two traces in one file, of which the second was read."""
    path = tmp_path / "joined.trace"
    path.write_bytes(good.read_bytes() * 2)
    with pytest.raises(InputError, match=r"joined\.trace was altered"):
        TraceFile(path)


def test_one_that_was_altered(good: Path, tmp_path: Path) -> None:
    """Catches a byte that was changed anywhere, and numbers that come out changed."""
    data, path = good.read_bytes(), tmp_path / "bad.trace"
    index, arrays = content(good)
    rng, refused = random.Random(0), 0
    for _ in range(300):
        place = rng.randrange(len(data))
        altered = bytearray(data)
        altered[place] ^= 1 << rng.randrange(8)
        path.write_bytes(altered)
        try:
            found = content(path)
        except InputError:
            refused += 1
            continue
        assert found[0] == index  # of what no number depends on, such as a date
        assert all(np.array_equal(found[1][name], a) for name, a in arrays.items())
    assert refused > 200


def used(path: Path) -> None:
    """Use everything as the ladder does."""
    trace = TraceFile(path)
    side = RecordedSide(trace, "float64", NHWC)
    side.state(), side.unsaved(), side.aliases(), side.constants(set())
    for train in (False, True):
        if side.has_run(train):
            for call in side.run((), train).calls.values():
                [np.asarray(a) for a in (*call.arrays(), *call.outputs)]
                side.run_layer(call, call.cotangents, train)
    if has_steps(side, "update"):
        training = RecordedTraining(side, "update")
        training.state(), training.rate, training.gradients(), training.update({})


def remade(good: Path, path: Path, change: Callable[[Any], Any]) -> Path:
    """Write a trace whose index was changed, with checksums that fit it."""
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == recorder.INDEX:
                index = change(json.loads(np.load(io.BytesIO(data)).tobytes()))
                text = index if isinstance(index, bytes) else json.dumps(index).encode()
                buffer = io.BytesIO()
                np.save(buffer, np.frombuffer(text, np.uint8))
                data = buffer.getvalue()
            new.writestr(name, data)
    return path


def with_value(*place: Any) -> Callable[[Any], Any]:
    """Return a function that puts the last argument at a place in an index."""

    def change(index: Any) -> Any:
        inner = index
        for key in place[:-2]:
            inner = inner[key]
        inner[place[-2]] = place[-1]
        return index

    return change


def with_two_runs(index: Any) -> Any:
    return index | {"runs": [*index["runs"], index["runs"][0]]}


CHANGES = {
    "foreign": (lambda _: {"weights": {}}, "its index says nothing of parity-trace"),
    "a list": (lambda _: [1], "its index says nothing of parity-trace"),
    "no JSON": (lambda _: b"{", "is not JSON"),
    "deep": (lambda _: b"[" * 100_000, "is not JSON"),
    "no text": (lambda _: b"\xff\xfe", "is not JSON"),
    "newer": (with_value("version", 2), "trace of version 2, expected 1"),
    "version true": (with_value("version", True), "trace of version True, expected 1"),
    "no runs": (lambda i: {k: v for k, v in i.items() if k != "runs"}, "has no 'runs'"),
    "mode": (with_value("runs", 0, "mode", "test"), "mode of runs of the index, item 0 is 'test'"),
    "twice": (with_two_runs, "two runs are eval float64"),
    "calls twice": (with_value("runs", 0, "calls", 1, "layer", "a"), "two calls are 'a'"),
    "unknown": (with_value("runs", 0, "calls", 0, "outputs", ["b7"]), "expected the name of"),
    "gradients": (
        with_value("runs", 1, "calls", 1, "cotangents", [None]),
        "'a#2' has 2 outputs and 1 cotangents",
    ),
    "another's gradient": (
        with_value("runs", 1, "calls", 1, "cotangents", ["a0", None]),
        "the gradient of output 0 of 'a#2' is of shape (3, 4), expected (2, 3, 10)",
    ),
    "an input's gradient": (
        with_value("runs", 1, "input_gradients", ["a0"]),
        "the gradient of input 0 is of shape (3, 4), expected (2, 3, 10)",
    ),
    "more gradients than inputs": (
        with_value("runs", 1, "input_gradients", [None, "a1"]),
        "2 gradients of inputs in train mode, expected at most 1",
    ),
    "a parameter's gradient": (
        with_value("runs", 1, "parameter_gradients", {"a.weight": "a1"}),
        "the gradient of 'a.weight' is of shape (2, 3, 10), expected (3, 4)",
    ),
    "a gradient of nothing": (
        with_value("runs", 1, "parameter_gradients", {"a.bias": "a0"}),
        "a gradient is one of 'a.bias', which is not in state",
    ),
    "loss": (
        with_value("runs", 1, "loss", "a0"),
        "the loss in train mode is of shape (3, 4), expected ()",
    ),
    "loss of a step": (
        with_value("training", 0, "steps", 0, "loss", "a0"),
        "in update, the loss is of shape (3, 4), expected ()",
    ),
    "no state before a step": (
        with_value("training", 0, "before", {}),
        "in update, 'a.weight' is after a step, not before it",
    ),
    "state after a step": (
        with_value("training", 0, "steps", 0, "state", {"a.weight": "a1"}),
        "in update, after a step, 'a.weight' is of shape (2, 3, 10), expected (3, 4)",
    ),
    "tree": (with_value("runs", 0, "args", {"set": []}), "expected a tree"),
    "shape": (with_value("arrays", "a4", "shape", [30]), "the index says bool (30,)"),
    "negative": (with_value("arrays", "a0", "shape", [-3, 4]), "expected a whole number from 0"),
    "dtype": (with_value("arrays", "a0", "dtype", "float16"), "the index says float16"),
    "object": (with_value("arrays", "a0", "dtype", "object"), "expected one of bfloat16"),
    "hash": (with_value("arrays", "a0", "sha256", "0" * 64), "a0.npy was altered"),
    "elsewhere": (with_value("arrays", "../x", {}), "has no 'dtype'"),
    "no member": (
        with_value("arrays", "b", {"dtype": "bool", "shape": [], "sha256": ""}),
        "no member b.npy",
    ),
    "trained": (with_value("trained", ["a.bias"]), "'a.bias' is trained, and not in state"),
    "number": (with_value("rates", ["fast"]), "expected a number"),
    "bool": (with_value("notes", {"probe": [True]}), "expected a whole number"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_index_that_is_none(good: Path, tmp_path: Path, name: str) -> None:
    """Catches an index whose mistakes come out as a traceback, or later as wrong numbers."""
    change, message = CHANGES[name]
    path = remade(good, tmp_path / "bad.trace", change)
    with pytest.raises(InputError) as caught:
        content(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_random_changes_of_the_index(good: Path, tmp_path: Path) -> None:
    """Catches any other exception than that of bad input."""
    rng = random.Random(1)
    values = [None, True, -1, 1e9, "", "a0", [], {}, [[]], {"list": 3}, float("inf")]

    def change(index: Any) -> Any:
        whole = {"root": index}
        node: Any = whole
        key: Any = "root"
        while isinstance(node[key], dict | list) and node[key] and rng.random() < 0.9:
            node = node[key]
            key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        node[key] = rng.choice(values)
        return whole["root"]

    for _ in range(150):
        path = remade(good, tmp_path / "bad.trace", change)
        with contextlib.suppress(InputError):
            content(path)
            used(path)


def test_an_output_that_is_no_array(good: Path, tmp_path: Path) -> None:
    """Catches a traceback where an output has no array, and no null in its place."""
    change = with_value("runs", 1, "outputs", [{"name": "aux"}, {"name": "y", "array": "a1"}])
    path = remade(good, tmp_path / "none.trace", change)
    found = RecordedSide(TraceFile(path), "float64", NHWC).run((), True)
    assert [(r.name, r.place) for r in found.returned] == [("aux", -1), ("y", 0)]


def test_a_foreign_file_of_records(tmp_path: Path) -> None:
    """Catches a traceback of an .npz file whose index is an array of records."""
    path = tmp_path / "records.npz"
    np.savez(path, index=np.zeros(3, [("a", "<f4"), ("b", "<i8")]))
    with pytest.raises(InputError, match="expected little-endian numbers"):
        TraceFile(path)


@pytest.mark.parametrize("name", ["more.npy", "a0", "notes/", "../a0.npy"])
def test_a_member_that_the_index_does_not_name(good: Path, tmp_path: Path, name: str) -> None:
    """Catches what no hash covers, carried in a trace that is said to be whole."""
    path = remade(good, tmp_path / "more.trace", lambda index: index)
    content(path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"")
    with pytest.raises(InputError, match=f"a member '{name}' that no index names"):
        TraceFile(path)


def test_members_that_are_compressed(good: Path, tmp_path: Path) -> None:
    """Catches a file that numpy.savez_compressed wrote: its arrays cannot be read one by one."""
    path = tmp_path / "bad.trace"
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(InputError, match="is compressed, expected it stored"):
        content(path)
    bomb = tmp_path / "bomb.trace"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr(recorder.INDEX, bytes(10**7))
    with pytest.raises(InputError, match=r"index\.npy is compressed, expected it stored"):
        TraceFile(bomb)


def test_compare_verifies_what_it_does_not_compare(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches two files called equal of which one was altered, in a part that nobody looks at."""
    path = tmp_path / "bad.trace"
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as new:
        step = TraceFile(good).training["update", "float64", None]["steps"][0]
        for name in old.namelist():
            data = old.read(name)
            of_step = name == f"{step['state']['a.weight']}.npy"
            new.writestr(name, data[:-1] + bytes([data[-1] ^ 1]) if of_step else data)
    assert main(["compare", str(good), str(good)]) == 0
    capsys.readouterr()
    assert main(["compare", str(good), str(path)]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "was altered: its SHA-256" in err


def test_commands_say_it_in_one_line(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a traceback, another exit status, or a file that was written."""
    folder = tmp_path / "here"
    folder.mkdir()
    other = folder / "x.npz"
    np.savez(other, a=np.ones(3))
    for arguments in (
        ["compare", str(good), str(other)],
        ["compare", str(good), str(good), "--rename", "a"],
        ["compare", str(good), str(good), "--rename", "(=b"],
        ["compare", str(good), str(good), "--rename", r"a=\1"],
        ["compare", str(good), str(good), "--rename", "a{99999999999}=b"],
        ["compare", str(good), str(good), "--limit", "nan"],
        ["compare", str(good), str(good), "--limit", "1"],
        ["compare", str(good), str(good), "--output-layout", "y"],
        ["compare", str(good), str(good), "--output-layout", "y=0,-1,2"],
        ["compare", str(good), str(good), "--output-layout", "z=0,1,2"],
        ["compare", str(good), str(good), "--input-layout", "0=0,1"],
        ["compare", str(good), str(good), *["--input-layout", "0=0,1,2"] * 2],
        ["compare", str(good), str(folder)],
        ["record", "x.py", str(folder / "new")],
        ["record", "x.py:f", str(folder / "no" / "new")],
    ):
        assert main(arguments) == 2, arguments
        out, err = capsys.readouterr()
        assert not out
        assert err.count("\n") == 1
    assert [p.name for p in folder.iterdir()] == ["x.npz"]
