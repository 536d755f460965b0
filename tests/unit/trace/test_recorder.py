"""The recorder: one file that works alone, in old environments, and what it writes."""

from __future__ import annotations

import ast
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.capture.torch_draws import Watch
from parity.capture.torch_threads import one_thread
from parity.ladder import tolerances
from parity.ladder.l4_update import STEPS
from parity.spec import draw
from parity.spec.errors import InputError
from parity.trace import recorder
from parity.trace.reading import TraceFile

SOURCE = Path(recorder.__file__)
# Methods and functions that Python 3.7 lacks, and that no syntax shows.
LATER = {"removeprefix", "removesuffix", "prod", "cache", "cached_property", "batched", "pairwise"}

ALONE = """
import importlib.util, json, sys
import numpy as np
import recorder
with recorder.Trace("plain.trace", framework="plain 1") as trace:
    x, w = np.arange(6.0).reshape(2, 3), np.ones((3, 1))
    trace.state("linear.weight", w, trained=True)
    trace.run("train")
    trace.input("x", x)
    trace.tap("linear", x @ w, inputs=[x])
    trace.output("", x @ w)
    trace.loss((x @ w).sum())
    trace.gradient("linear", np.ones((2, 1)))
    trace.gradient("linear.weight", x.sum(0)[:, None])
    trace.gradient("x", np.ones((2, 3)))
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A folder in which a copy of the recorder wrote a trace, and what it imported."""
    folder = tmp_path_factory.mktemp("alone")
    shutil.copy(SOURCE, folder)
    # -I and -S: nothing but the standard library; then NumPy's folder by a link of its own.
    (folder / "packages").mkdir()
    for name in Path(np.__file__).parents[1].glob("numpy*"):
        (folder / "packages" / name.name).symlink_to(name)
    paths = [str(folder), str(folder / "packages")]
    code = f"import sys; sys.path += {paths!r}\n{ALONE}"
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=folder, capture_output=True, text=True
    )
    assert not found.returncode, found.stderr
    return folder, set(json.loads(found.stdout.splitlines()[-1]))


def test_its_syntax_is_that_of_python_3_7() -> None:
    """Catches a recorder that an old environment cannot even read."""
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 7))
    names = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    assert not names & LATER
    # `a | b` of mappings, and of types that are not in annotations, came with 3.9 and 3.10.
    unions = [n for n in ast.walk(tree) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.BitOr)]
    assert not [ast.unparse(n) for n in unions]


def test_it_imports_numpy_and_the_standard_library_alone() -> None:
    """Catches an import of the suite, or of a framework where none is needed."""
    tree = ast.parse(SOURCE.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level
            found.add(str(node.module).partition(".")[0])
    frameworks = {"torch", "mindspore"}
    assert found - frameworks <= {"numpy", *sys.stdlib_module_names}
    top = {n.names[0].name for n in tree.body if isinstance(n, ast.Import)}
    assert not top & frameworks


def test_a_copied_file_records(alone: tuple[Path, set[str]]) -> None:
    """Catches a recorder that needs what does not lie beside it."""
    folder, modules = alone
    assert not {"parity", "torch", "jax"} & modules
    with np.load(folder / "plain.trace") as file:
        index = json.loads(file["index"].tobytes())
        run = index["runs"][0]
        assert (index["format"], index["version"]) == ("parity-trace", 1)
        assert run["calls"][0]["layer"] == "linear"
        y = file[run["calls"][0]["outputs"][0]]
        np.testing.assert_array_equal(y, [[3.0], [12.0]])
        np.testing.assert_array_equal(
            file[run["parameter_gradients"]["linear.weight"]], [[3.0], [5.0], [7.0]]
        )
        assert run["outputs"][0]["array"] == run["calls"][0]["outputs"][0]  # stored once
    assert {p.name for p in folder.iterdir()} <= {
        "plain.trace", "recorder.py", "packages", "__pycache__"
    }  # fmt: skip


def test_its_draws_and_numbers_are_the_ladders() -> None:
    """Catches disturbances that differ from those of a live comparison."""
    for args in ((0, "stir", 0), (3, "probe", 1), (0, "rounding/conv#2")):
        ours = draw.generator(*args).standard_normal(5)
        np.testing.assert_array_equal(recorder.generator(*args).standard_normal(5), ours)
    assert recorder.ROUNDING == tolerances.ROUNDING
    assert recorder.DISTURBANCE == tolerances.DISTURBANCE
    assert recorder.LARGEST_DISTURBANCE == tolerances.LARGEST_DISTURBANCE
    assert recorder.UPDATES == STEPS


def test_before_pytorch_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches hooks that PyTorch lacks before 2.0: arguments by keyword are not seen then."""
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())

    def without(kind: str) -> None:
        current = getattr(torch.nn.Module, kind)
        monkeypatch.setattr(torch.nn.Module, kind, lambda self, hook: current(self, hook))

    x = torch.ones(1, 3, 5, 5)
    with one_thread():
        recorder.record_torch(tmp_path / "new", module, [x], parts=("alone",))
        without("register_forward_pre_hook")
        without("register_forward_hook")
        recorder.record_torch(tmp_path / "old", module, [x], parts=("alone",))
    assert (tmp_path / "old").read_bytes() == (tmp_path / "new").read_bytes()


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    """Catches a half-written trace, or one that took the place of a good one."""
    path = tmp_path / "ref.trace"
    path.write_bytes(b"old")
    trace = recorder.Trace(path)
    trace.run("train")
    with pytest.raises(recorder.TraceError, match="no tap, state or input"), trace:
        trace.gradient("nowhere", np.ones(3))
    with pytest.raises(recorder.TraceError, match="no run was begun"), recorder.Trace(path) as t:
        t.tap("conv", np.ones(3))
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


def record_numbers(path: Path, count: int) -> None:
    with recorder.Trace(path) as trace:
        for n in range(count):
            trace.array(np.arange(n))


def test_a_full_disk_is_the_callers_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a failure in the thread that writes: lost, or a trace without what it was about."""
    monkeypatch.setattr(recorder.Members, "_write", full_disk)
    for more in (0, 99):
        with pytest.raises(OSError, match="No space"):
            record_numbers(tmp_path / "x", 1 + more)
    assert not list(tmp_path.iterdir())


def test_what_is_given_may_change_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an array that is written as it is later, such as weights after a step."""
    begin = threading.Event()
    write = recorder.Members._write

    def late(self: recorder.Members, name: str, array: np.ndarray) -> None:
        assert begin.wait(60)
        write(self, name, array)

    monkeypatch.setattr(recorder.Members, "_write", late)
    with recorder.Trace(tmp_path / "x") as trace:
        weights = [np.ones(5), np.ones((3, 2)).T, torch.ones(4)]
        for name, array in zip("abc", weights, strict=True):
            trace.state(name, np.asarray(array))
            array += 1
        begin.set()
    file = TraceFile(tmp_path / "x")
    file.verify()
    for name, array in zip("abc", weights, strict=True):
        np.testing.assert_array_equal(file.array(file.index["state"][name]), np.asarray(array) - 1)


def test_little_waits_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a slow disk before which a whole recording piles up in memory."""
    monkeypatch.setattr(recorder, "WAITING", 1000)
    most, write = [], recorder.Members._write

    def watched(self: recorder.Members, name: str, array: np.ndarray) -> None:
        time.sleep(0.002)
        most.append(self.waiting)
        write(self, name, array)

    monkeypatch.setattr(recorder.Members, "_write", watched)
    with recorder.Trace(tmp_path / "x") as trace:
        for n in range(50):
            trace.array(np.full(50, float(n)))
    assert len(most) == 51  # and the index
    assert max(most) <= 1000 + 400
    assert most[-1] == 0  # the index is written when nothing waits


def test_equal_recordings_are_equal_files(tmp_path: Path) -> None:
    """Catches a date or an order by chance in the file."""
    for name in ("a", "b"):
        with recorder.Trace(tmp_path / name) as trace:
            trace.run("eval")
            trace.tap(
                "conv", (np.ones(3), np.float32(2)), inputs=[{"a": np.ones(3), "n": float("inf")}]
            )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_text_that_is_spelt_like_an_array_stays_text(tmp_path: Path) -> None:
    """Catches a layer or setting called `a1` that is renamed as arrays are in the end."""
    path, words = tmp_path / "x", ["a0", "a1", "a2", "not yet named 1"]
    with recorder.Trace(path) as trace:
        trace.run("eval")
        for word in words:
            trace.layer(word, word, {word: word})
            trace.tap(word, np.ones(3), inputs=[word, np.ones(3)])  # all are one array
    index = TraceFile(path).index
    assert list(index["arrays"]) == ["a0"]
    for word, call in zip(words, index["runs"][0]["calls"], strict=True):
        assert index["layers"][word]["settings"] == {word: word}
        assert call["layer"] == index["layers"][word]["kind"] == word
        assert call["args"] == {"list": [word, {"array": "a0"}]}
        assert call["outputs"] == ["a0"]


def test_a_name_made_text_is_no_other_arrays(tmp_path: Path) -> None:
    """Catches another array read for one, whose name before the file was closed came as text."""
    for kept in (str, "{}".format):
        with recorder.Trace(tmp_path / "x") as trace:
            trace.array(np.ones(3))
            trace.array(np.ones(3))  # the names that follow move by one
            run, name = trace.run("eval"), trace.array(np.zeros(3))
            trace.array(np.full(3, 7.0))
            run["statistics"]["mean"] = kept(name)
        with pytest.raises(InputError, match="expected the name of an array"):
            TraceFile(tmp_path / "x")


class Masked(torch.nn.Module):
    """A dropout of one's own, which takes its mask as an input."""

    p = 0.5

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return x * mask / (1 - self.p)


class WithMask(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mine = Masked()
        self.mine.p = 0.5
        self.theirs = torch.nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.theirs(self.mine(x, mask))


def test_a_dropout_that_takes_its_mask_stays_on(tmp_path: Path) -> None:
    """Catches a dropout that is switched off for its name, though it draws nothing."""
    Masked.__name__ = "MaskedDropout"
    x, mask = torch.ones(1, 4), torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    with one_thread():
        recorder.record_torch(tmp_path / "t", WithMask(), [x], keywords={"mask": mask}, parts=())
    with np.load(tmp_path / "t") as file:
        index = json.loads(file["index"].tobytes())
        outputs = [file[run["outputs"][0]["array"]] for run in index["runs"]]
    assert index["notes"]["switched_off"] == ["theirs"]
    assert len(outputs) == 2
    for output in outputs:
        np.testing.assert_array_equal(output, [[2.0, 0.0, 2.0, 2.0]])


def test_a_loss_is_one_number(tmp_path: Path) -> None:
    """Catches a loss of shape (1,), as some frameworks give, that no check can read; or several."""
    with recorder.Trace(tmp_path / "x.trace") as trace:
        trace.run("train")
        trace.loss(np.ones(1))
        trace.training("trajectory")
        trace.step({}, loss=[[2.0]])
        arrays, step = trace.index["arrays"], trace.current["steps"][0]
        found = [arrays[name]["shape"] for name in (trace.index["runs"][0]["loss"], step["loss"])]
        with pytest.raises(recorder.TraceError, match=r"a loss of shape \(2,\), expected a single"):
            trace.step({}, loss=np.ones(2))
    assert found == [[], []]


def test_what_a_reader_would_refuse_is_not_written(tmp_path: Path) -> None:
    """Catches a slip that shows only where the trace is read, or a gradient of something else."""
    with recorder.Trace(tmp_path / "x.trace") as trace:
        for begin in (lambda p: trace.run("eval", p), lambda p: trace.training("update", p)):
            with pytest.raises(recorder.TraceError, match="expected float64 or float32"):
                begin("float16")
        with pytest.raises(recorder.TraceError, match="steps of 'updates', expected one of update"):
            trace.training("updates")
        trace.state("x", np.ones(3), trained=True)
        trace.run("train")
        trace.input("x", np.ones(3))
        trace.tap("y", np.ones(3))
        with pytest.raises(recorder.TraceError, match="must not share a name"):
            trace.gradient("x", np.ones(3))
        for place in (1, -1):
            with pytest.raises(recorder.TraceError, match=f"output {place} of 'y', which has 1"):
                trace.gradient("y", np.ones(3), output=place)
    assert trace.index["runs"][0]["parameter_gradients"] == {}


class Noisy(torch.nn.Module):
    """Draws by a generator that is not PyTorch's."""

    def __init__(self, draw_: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw_

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.draw()


@pytest.mark.parametrize(
    "draw_",
    [
        lambda: random.random(),
        lambda: np.random.rand(),  # noqa: NPY002 - networks do draw from it
        lambda: float(torch.rand(())),
    ],
)
def test_draws_of_any_generator_are_refused(draw_: Callable[[], float], tmp_path: Path) -> None:
    """Catches a network recorded whose numbers are others the next time."""
    with one_thread(), pytest.raises(recorder.TraceError, match="draws random numbers in eval"):
        recorder.record_torch(tmp_path / "x", Noisy(draw_), [torch.ones(2)], parts=())
    assert not list(tmp_path.iterdir())


@pytest.fixture
def numpys() -> Iterator[None]:
    """Give NumPy's global generator back as it was."""
    before = np.random.get_bit_generator()
    state = np.random.get_state(legacy=False)  # noqa: NPY002 - networks do draw from it
    yield
    np.random.set_bit_generator(before)
    np.random.set_state(state)  # noqa: NPY002 - networks do draw from it


def refused_and_seen(draw_: Callable[[], float], path: Path) -> bool:
    """Return whether the check sees a draw, once the recorder has refused it."""
    with Watch() as watch:
        draw_()
    with one_thread(), pytest.raises(recorder.TraceError, match="draws random numbers in eval"):
        recorder.record_torch(path / "x", Noisy(draw_), [torch.ones(2)], parts=())
    return watch.drawn


def test_a_number_that_was_kept_is_a_draw(tmp_path: Path, numpys: None) -> None:
    """Catches a draw of a normal number that NumPy had made together with the one before."""
    np.random.seed(0)  # noqa: NPY002 - networks do draw from it
    np.random.randn()  # noqa: NPY002 - makes two
    noisy = Noisy(lambda: np.random.randn())  # noqa: NPY002 - networks do draw from it
    with one_thread(), pytest.raises(recorder.TraceError, match="draws random numbers in eval"):
        recorder.record_torch(tmp_path / "x", noisy, [torch.ones(2)], parts=())


def test_another_bit_generator_is_watched(tmp_path: Path, numpys: None) -> None:
    """Catches draws unseen, or a traceback, where NumPy draws by another generator than MT19937."""
    np.random.set_bit_generator(np.random.PCG64(0))
    assert refused_and_seen(lambda: np.random.rand(), tmp_path)  # noqa: NPY002 - networks do draw from it


def test_draws_on_a_gpu_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a network recorded that draws by the generator of a GPU; a list stands for it."""
    state = torch.zeros(1, dtype=torch.uint8)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [state])
    assert refused_and_seen(lambda: float(state.add_(1)), tmp_path)
