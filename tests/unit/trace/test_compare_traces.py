"""Two recordings compared: of any frameworks, under any names, in any order of axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from parity.cli import main
from parity.ladder import recorded_steps
from parity.ladder.comparison import Comparison, Layouts, renames
from parity.ladder.recordings import compare
from parity.spec import draw
from parity.spec.errors import InputError
from parity.trace import recorder
from parity.trace.reading import TraceFile

X = draw.generator(0, "test").standard_normal((2, 3, 4, 5))


def written(
    path: Path,
    prefix: str = "",
    last: bool = False,
    wrong: float = 0.0,
    kernel: str = "weight",
    precision: str = "float64",
    moved: bool = False,
    nameless: bool = False,
) -> TraceFile:
    """Record two layers, a kernel's gradient and a loss; `last`: channels are on the last axis."""
    axes = (0, 2, 3, 1) if last else (0, 1, 2, 3)
    x = X.astype(precision)
    first, second = np.tanh(x), np.tanh(np.tanh(x)) * (1 + wrong)
    names = ("one", "two") if nameless else (f"{prefix}first", f"{prefix}second")
    with recorder.Trace(path) as trace:
        trace.state(f"{prefix}second.{kernel}", np.ones(3), trained=True)
        runs = [(precision, None)]
        if moved:
            runs = [("float32", None), ("float64", None), ("float64", 0)]
        for dtype, disturbance in runs:
            scale = (1 + 2.0**-15) if disturbance is not None else 1
            a, b = (array.transpose(axes).astype(dtype) * scale for array in (first, second))
            trace.run("train", dtype, disturbance)
            trace.input("x", x.transpose(axes).astype(dtype) * scale)
            trace.tap(names[0], a)
            trace.tap(names[1], b, inputs=[a])
            trace.output("", b)
            trace.loss(b.sum())
            gradient = b.sum((0, 2, 3) if not last else (0, 1, 2))
            trace.gradient(f"{prefix}second.{kernel}", gradient)
    return TraceFile(path)


def found(tmp_path: Path, one: dict, other: dict, *rename: str) -> Comparison:
    traces = written(tmp_path / "one", **one), written(tmp_path / "other", **other)
    return compare(*traces, renames(rename))


def test_other_axes_and_names(tmp_path: Path) -> None:
    """Catches equal networks that are called different for the way they are laid out or named."""
    other = {"prefix": "net.", "last": True, "kernel": "kernel"}
    result = found(tmp_path, {}, other, r"^(first|second)=net.\1")
    assert result.ok, result.first()
    assert not result.left_out
    assert len(result.compared) == 6
    assert {c.note for c in result.compared} == {"", "axes (0, 2, 3, 1)"}


def test_pairs_by_value(tmp_path: Path) -> None:
    """Catches layers of other names that are left out, though they hold the same numbers."""
    result = found(tmp_path, {}, {"nameless": True, "last": True})
    assert result.ok
    assert [(c.one, c.other) for c in result.compared if c.what == "output 0"][:2] == [
        ("first", "one"),
        ("second", "two"),
    ]


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_the_first_that_differs(tmp_path: Path, precision: str) -> None:
    """Catches a fault that is named where it shows, and not where it begins; or not at all."""
    wrong = 1e-9 if precision == "float64" else 1e-3
    result = found(tmp_path, {"precision": precision}, {"precision": precision, "wrong": wrong})
    first = result.first()
    assert not result.ok
    assert first is not None
    assert (first.one, first.what) == ("second", "output 0")
    assert first.error == pytest.approx(wrong, rel=1e-3)


def test_a_known_rounding_is_the_limit(tmp_path: Path) -> None:
    """Catches a limit in float32 that does not follow from how far rounding moves the network."""
    one = {"moved": True}
    other = {"precision": "float32", "wrong": 6e-4}
    first = found(tmp_path, one, other).first()
    assert first is not None
    # The disturbance moves an output by 2^-15 of it, the rounding by some 3e-8.
    assert first.limit == pytest.approx(16 * (2.0**-15 + 3e-8) + 8 * 2.0**-24, rel=0.1)
    assert found(tmp_path, one, {"precision": "float32", "wrong": 4e-4}).ok


def test_what_has_no_counterpart_is_said(tmp_path: Path) -> None:
    """Catches a comparison of less than half that says only that all is equal."""
    result = found(tmp_path, {}, {"nameless": True, "wrong": 0.5})
    assert not result.ok
    assert any("1 layer only in the first: second" in line for line in result.left_out)
    assert any("1 layer only in the second: two" in line for line in result.left_out)


def test_other_weights_are_named_first(tmp_path: Path) -> None:
    """Catches layers at fault because the two recordings hold other weights, and no word of it."""
    traces = [written(tmp_path / name) for name in ("one", "other")]
    equal = recorded_steps.compare(*traces)
    assert equal.ok
    assert equal.compared[0].run == "before"
    with recorder.Trace(tmp_path / "moved") as made:
        trace = traces[0]
        for name in trace.index["arrays"]:
            made.array(trace.array(name))
        weight = made.array(np.ones(3) * (1 + 1e-9))
        state = {"second.weight": weight}
        made.index = trace.index | {"arrays": made.index["arrays"], "state": state}
    first = recorded_steps.compare(trace, TraceFile(tmp_path / "moved")).first()
    assert first is not None
    assert str(first).startswith("before, second.weight, values: difference 1.0e-09")


def test_nothing_in_common(tmp_path: Path) -> None:
    """Catches a pass of two recordings that share no run."""
    with pytest.raises(InputError, match="hold no run of one mode and precision"):
        found(tmp_path, {}, {"precision": "float32"})


SQUARE = draw.generator(1, "square").standard_normal((2, 3, 4, 4))


def squares(path: Path, output: tuple = (0, 1, 2, 3), **other: tuple) -> TraceFile:
    """Record arrays whose height is their width, each in its own order of axes."""
    axes = dict.fromkeys(("x", "layer", "weight"), (0, 1, 2, 3)) | other
    upstream = axes.get("gradient", axes["layer"])
    with recorder.Trace(path) as trace:
        trace.state("conv.weight", np.tanh(SQUARE), trained=True)
        trace.run("train")
        trace.input("x", SQUARE.transpose(axes["x"]))
        trace.tap("conv", (2 * SQUARE).transpose(axes["layer"]))
        trace.gradient("conv", (5 * SQUARE).transpose(upstream))
        trace.gradient("conv.weight", (6 * SQUARE).transpose(axes["weight"]))
        trace.gradient("x", (7 * SQUARE).transpose(axes.get("gradient", axes["x"])))
        trace.output("", (3 * SQUARE).transpose(output))
    return TraceFile(path)


def test_outputs_in_another_order_than_the_inputs(tmp_path: Path) -> None:
    """Catches a network called equal that returns its picture with height and width swapped."""
    one = squares(tmp_path / "one")
    result = recorded_steps.compare(one, squares(tmp_path / "other", (0, 1, 3, 2)))
    (wrong,) = (c for c in result.compared if not c.ok)
    assert (wrong.one, wrong.what) == ("(network)", "output 0")
    assert wrong.note == "nearer with axes (0, 1, 3, 2), expected (0, 1, 2, 3)"
    last = {"x": (0, 2, 3, 1), "layer": (0, 2, 3, 1)}
    assert not compare(one, squares(tmp_path / "unlike", **last)).ok
    # A layer may work in an order of its own, as long as the network does not show it.
    assert compare(one, squares(tmp_path / "inside", layer=(0, 2, 3, 1))).ok


def test_an_input_that_tells_no_order(tmp_path: Path) -> None:
    """Catches equal networks called different where the input is the same in any order of axes."""
    traces = []
    for name, axes in (("first", (0, 1, 2, 3)), ("last", (0, 2, 3, 1))):
        with recorder.Trace(tmp_path / name) as trace:
            trace.run("eval")
            trace.input("x", np.ones((2, 4, 4, 4)))
            trace.output("", SQUARE.transpose(axes))
        traces.append(TraceFile(tmp_path / name))
    result = compare(*traces)
    assert result.ok, result.first()


def test_gradients_in_another_order_than_their_arrays(tmp_path: Path) -> None:
    """Catches a gradient called equal that is the transposed one of what it belongs to."""
    one = squares(tmp_path / "one")
    result = compare(one, squares(tmp_path / "other", gradient=(0, 1, 3, 2), weight=(0, 1, 3, 2)))
    assert {c.what for c in result.compared if not c.ok} == {
        "gradient of output 0",
        "gradient of input 0",
        "gradient of weight",
    }


def bare(path: Path, *parts: str, precision: str = "float64") -> TraceFile:
    """Record a train run without what is not among the parts."""
    with recorder.Trace(path) as trace:
        if "state" in parts:
            trace.state("w", np.ones(3))
        for mode in ("train", "eval")[: 1 + ("eval" in parts)]:
            trace.run(mode)
            trace.input("x", X)
            trace.tap("layer", X)
            trace.output("", X)
            if mode == "train" and "loss" in parts:
                trace.loss(1.0)
            if mode == "train" and "gradient" in parts:
                trace.gradient("layer", X)
                trace.gradient("x", X)
        if "trajectory" in parts:
            trace.training("trajectory", precision, before={"w": np.ones(3)})
            trace.step({"w": np.ones(3)})
    return TraceFile(path)


def test_what_one_trace_lacks_is_said(tmp_path: Path) -> None:
    """Catches a comparison that leaves out without a word what one trace does not hold."""
    parts = ("state", "eval", "loss", "gradient", "trajectory")
    full, least = bare(tmp_path / "full", *parts), bare(tmp_path / "least")
    for traces, side in (((full, least), "first"), ((least, full), "second")):
        assert set(recorded_steps.compare(*traces).left_out) == {
            f"before, state: only the {side} holds one",
            f"eval float64: only the {side} holds this run",
            f"train float64, loss: only the {side} has it",
            f"train float64, gradient of input 0: only the {side} has it",
            f"train float64, gradients of outputs of 1 layer only in the {side}: layer",
            f"trajectory: only the {side} holds one",
        }
    assert not recorded_steps.compare(full, full).left_out
    steps = bare(tmp_path / "narrow", "trajectory", precision="float32")
    said = recorded_steps.compare(steps, steps).left_out
    assert len(said) == 2
    assert "holds one in float32 alone, without disturbed runs" in said[0]


def test_equal_empty_arrays(tmp_path: Path) -> None:
    """Catches equal empty outputs called different, or a network of nothing else called equal."""

    def empty(name: str, *more: np.ndarray) -> TraceFile:
        with recorder.Trace(tmp_path / name) as trace:
            trace.run("eval")
            trace.input("x", X)
            for array in (*more, np.zeros((0, 4))):
                trace.output("", array)
        return TraceFile(tmp_path / name)

    assert compare(empty("a", X), empty("b", X)).ok
    assert not compare(empty("c"), empty("d")).ok


LAST = (0, 2, 3, 1)


def test_another_order_on_purpose(tmp_path: Path) -> None:
    """Catches a network that cannot be called equal for the order in which it returns its picture.

    And one called equal that returns it in another order than the one that was said.
    """
    one = squares(tmp_path / "one")
    last = squares(tmp_path / "last", LAST)
    assert not recorded_steps.compare(one, last).ok
    for name in ("0", ""):
        said = Layouts(outputs={name: LAST})
        result = recorded_steps.compare(one, last, layouts=said)
        assert result.ok, result.first()
        assert [c.note for c in result.compared if c.note] == [f"axes {LAST}"]
    wrong = squares(tmp_path / "wrong", (0, 3, 2, 1))
    assert not recorded_steps.compare(one, wrong, layouts=Layouts(outputs={"0": LAST})).ok
    fed = squares(tmp_path / "fed", x=LAST)
    assert not compare(one, fed).ok
    result = compare(one, fed, layouts=Layouts(inputs={"0": LAST}))
    assert result.ok, result.first()  # its gradient, too, is in the order of the input
    fed = squares(tmp_path / "turned", x=(0, 3, 2, 1), layer=LAST, gradient=LAST)
    assert not compare(one, fed, layouts=Layouts(inputs={"0": (0, 3, 2, 1)})).ok


def test_orders_of_nothing(tmp_path: Path) -> None:
    """Catches an order of axes that is silently without effect, or that is none."""
    one = squares(tmp_path / "one")
    for layouts, message in (
        (Layouts(outputs={"logits": LAST}), "--output-layout: there is no output logits"),
        (Layouts(inputs={"1": LAST}), "--input-layout: there is no input 1"),
        (Layouts(outputs={"0": (0, 1)}), r"--output-layout 0: \(0, 1\) is no permutation of 4"),
    ):
        with pytest.raises(InputError, match=message):
            compare(one, one, layouts=layouts)


def test_orders_of_the_same_output(tmp_path: Path) -> None:
    """Catches the order that was given last, or by chance, of two that contradict each other.

    And an order of the output that is called `1`, taken for that of the one at place 1.
    """

    def outputs(name: str, axes: tuple, *names: str) -> TraceFile:
        with recorder.Trace(tmp_path / name) as trace:
            trace.run("eval")
            trace.input("x", SQUARE)
            for i, output in enumerate(names):
                trace.output(output, (SQUARE * (i + 1)).transpose(axes if i == 0 else range(4)))
        return TraceFile(tmp_path / name)

    one, other = (outputs(str(i), axes, "1", "logits") for i, axes in enumerate((range(4), LAST)))
    result = compare(one, other, layouts=Layouts(outputs={"1": LAST}))
    assert result.ok, result.first()
    assert compare(one, other, layouts=Layouts(outputs={"1": LAST, "logits": tuple(range(4))})).ok
    for names in (("0", "1"), ("1", "0")):
        layouts = Layouts(outputs=dict(zip(names, (LAST, (0, 3, 2, 1)), strict=True)))
        with pytest.raises(InputError, match=f"{' and '.join(names)} are the same output"):
            compare(one, other, layouts=layouts)


def networks(
    path: Path,
    scale: float,
    disturbed: float = 0.0,
    layer: bool = True,
    narrow: float = 1.0,
    precision: str = "float16",
) -> TraceFile:
    """Record a network whose output is multiplied by `scale`, in the precision by `narrow`, too.

    `disturbed`: it is recorded in float64 as well, and moved so far. `layer`: its layer is, too.
    """
    stored = {"bfloat16": "float32"}.get(precision, precision)
    runs = [(precision, None, scale * narrow)]
    if disturbed:
        runs += [("float64", None, scale), ("float64", 0, scale + disturbed)]
    with recorder.Trace(path, precision=precision) as trace:
        for of_run, disturbance, times in runs:
            dtype = stored if of_run == precision else of_run
            trace.run("eval", of_run, disturbance)
            trace.input("x", X.astype(dtype))
            if layer:
                trace.tap("layer", X.astype(dtype))
            trace.output("", (X * times).astype(dtype))
    return TraceFile(path)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("scale", [0.5, 0.9, -1.0, 0.0])
def test_an_output_off_by_a_factor(
    scale: float, precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a network called equal whose output is halved, since limits are wide."""
    one = networks(tmp_path / "one", 1.0, precision=precision)
    other = networks(tmp_path / "other", scale, precision=precision)
    assert compare(one, one).ok
    result = compare(one, other)
    assert not result.ok
    differs = abs(1 - scale) > 0.6
    assert (result.first() is not None) == differs
    assert [c.what for c in result.unjudged()] == ([] if differs else ["output 0"])
    traces = [str(tmp_path / name) for name in ("one", "other")]
    assert main(["compare", *traces]) == (1 if differs else 2)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("DIFFERENT look at (network)" if differs else "UNDECIDED nothing judges")
    assert main(["compare", *traces, "--limit", "0.05"]) == 1


def test_limits_that_zeros_pass(tmp_path: Path) -> None:
    """Catches zeros called equal to a network's output where the limit lets all pass."""
    one, zeros = networks(tmp_path / "one", 1.0), networks(tmp_path / "zeros", 0.0)
    first = compare(one, zeros).first()
    assert first is not None
    assert first.what == "output 0"
    chaos = networks(tmp_path / "chaos", 1.0, 1.0)
    result = compare(chaos, zeros)
    assert result.first() is None
    assert not result.ok
    assert [(c.run, c.what) for c in result.unjudged()] == [("eval float16", "output 0")]
    assert any("tells too little, so it is not judged" in line for line in result.left_out)
    assert {c.what for c in result.compared} == {"input 0", "output 0"}  # of the layer
    assert compare(chaos, chaos).ok
    # Float64 judges the same output, where both hold it: there zeros differ, and only there.
    assert not compare(chaos, networks(tmp_path / "wrong", 0.0, 1.0)).ok
    half = compare(chaos, networks(tmp_path / "half", 1.0, 1.0, narrow=0.5))
    assert half.ok
    assert [c.run for c in half.drowned] == ["eval float16"]
    bare = networks(tmp_path / "bare", 1.0, 1.0, layer=False)
    with pytest.raises(InputError, match="nothing that both computed and that can be judged"):
        recorded_steps.compare(bare, zeros)


def test_inputs_alone_are_no_comparison(tmp_path: Path) -> None:
    """Catches two networks called equal because they were fed the same, and hold equal weights."""
    with pytest.raises(InputError, match="nothing that both computed"):
        recorded_steps.compare(stepped(tmp_path / "one"), stepped(tmp_path / "other"))


def stepped(path: Path, *after: float) -> TraceFile:
    """Record nothing but an input, a weight, and the weight after each step of training."""
    with recorder.Trace(path) as trace:
        trace.state("w", np.ones(3), trained=True)
        trace.run("train")
        trace.input("x", X)
        if after:
            trace.training("trajectory", "float64", before={"w": np.ones(3)})
        for value in after:
            trace.step({"w": np.full(3, value)})
    return TraceFile(path)


def test_steps_of_training_alone_are_compared(tmp_path: Path) -> None:
    """Catches trajectories that are refused, with an untrue reason, for runs that hold no layer."""
    one = stepped(tmp_path / "one", 0.9, 0.8)
    result = recorded_steps.compare(one, stepped(tmp_path / "same", 0.9, 0.8))
    assert result.ok
    runs = [c.run for c in result.compared]
    assert runs == ["before", "train float64", "trajectory, step 1", "trajectory, step 2"]
    first = recorded_steps.compare(one, stepped(tmp_path / "other", 0.9, 0.81)).first()
    assert first is not None
    assert first.run == "trajectory, step 2"
