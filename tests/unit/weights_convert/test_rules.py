"""Rules of weights: what they make, their way back, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from parity.spec.errors import InputError
from weights_convert.rules import ArraySpec, Rules, load

Shapes = dict[str, tuple[int, ...]]

HEADS = [rf"\1.{name}.kernel" for name in "qkv"]
EXPERT = r"layers\.(?P<layer>\d+)\.experts\.(?P<expert>\d+)\."
# A table, the shapes that it is applied to, and those that it makes.
TABLES: dict[str, tuple[list, Shapes, Shapes]] = {
    "fused projections apart": (
        [(r"(.*)\.qkv\.weight", HEADS, "(three h d) i -> three i h d", {"h": 2})],
        {"a.qkv.weight": (12, 5), "b.qkv.weight": (24, 5)},
        {f"{a}.{n}.kernel": (5, 2, d) for a, d in (("a", 2), ("b", 4)) for n in "qkv"},
    ),
    "grouped queries joined": (
        [
            (
                [r"(.*)\.q", r"(.*)\.k", r"(.*)\.v"],
                r"\1.qkv",
                "q i, k i, v i -> i (q + k + v)",
                {"q": 8, "k": 2},
            )
        ],
        {"a.q": (8, 5), "a.k": (2, 5), "a.v": (2, 5)},
        {"a.qkv": (5, 12)},
    ),
    "layers stacked": (
        [(r"layers\.(?P<layer>\d+)\.(.*)", r"layers.\2", "layer ... -> layer ...")],
        {f"layers.{i}.{n}": (3, 4)[:k] for i in range(11) for n, k in (("w", 2), ("b", 1))},
        {"layers.w": (11, 3, 4), "layers.b": (11, 3)},
    ),
    "experts of layers stacked": (
        [(rf"{EXPERT}w1\.weight", "w1.kernel", "layer expert o i -> layer expert i o")],
        {f"layers.{i}.experts.{j}.w1.weight": (3, 4) for j in range(3) for i in range(2)},
        {"w1.kernel": (2, 3, 4, 3)},
    ),
    "experts unstacked": (
        [(r"(.*)\.gate_up", [r"\1.\g<e>.gate", r"\1.\g<e>.up"], "e i (two o) -> two e o i")],
        {"moe.gate_up": (3, 4, 10)},
        {f"moe.{e}.{n}": (5, 4) for e in range(3) for n in ("gate", "up")},
    ),
    "gates in another order": (
        [(r"w_ih", "kernel", "(gate h) i -> i (gate h)", {"gate": "i f g o -> i o f g"})],
        {"w_ih": (8, 3)},
        {"kernel": (3, 8)},
    ),
    "one tensor twice": (
        [(r"wte\.weight", ["embed", "head.kernel"], "v d -> v d, d v")],
        {"wte.weight": (7, 3)},
        {"embed": (7, 3), "head.kernel": (3, 7)},
    ),
    "an axis of length one": (
        [("pos", "positions", "1 n d -> n d"), ("scale", "scale", "c -> 1 1 c")],
        {"pos": (1, 6, 3), "scale": (4,)},
        {"positions": (6, 3), "scale": (1, 1, 4)},
    ),
    "rules told apart by the number of axes": (
        [
            (r"(.*)\.weight", r"\1.kernel", "o i h w -> h w i o"),
            (r"(.*)\.weight", r"\1.kernel", (1, 0)),
            (r"(.*)\.weight", r"\1.scale"),
        ],
        {"a.weight": (2, 3, 4, 5), "b.weight": (4, 5), "n.weight": (3,)},
        {"a.kernel": (4, 5, 3, 2), "b.kernel": (5, 4), "n.scale": (3,)},
    ),
    "the first rule that fits": (
        [(r"a\.w", "b.kernel"), (r"(.*)\.w", r"\1.kernel"), (r"c\.(.*)", r"\1.kernel")],
        {"a.w": (1,), "d.w": (2,), "c.a": (3,)},
        {"b.kernel": (1,), "d.kernel": (2,), "a.kernel": (3,)},
    ),
}


def drawn(shapes: Shapes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {n: rng.standard_normal(s).astype(ml_dtypes.bfloat16) for n, s in shapes.items()}


def applied(table: Rules, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Apply a plan that was made without the values; what it says must come out."""
    specs = {name: ArraySpec(a.shape, "BF16") for name, a in arrays.items()}
    plan = table.plan(specs)
    made: dict[str, np.ndarray] = {}
    for step in plan.steps:
        made |= step.apply({name: arrays[name] for name in step.sources})
    assert {n: a.shape for n, a in made.items()} == {n: s.shape for n, s in plan.made.items()}
    assert {s.dtype for s in plan.made.values()} == {"BF16"}
    return made


@pytest.mark.parametrize("name", TABLES)
def test_there_and_back(name: str) -> None:
    """Catches a rule that makes other shapes than planned, or does not find its way back."""
    rules, shapes, expected = TABLES[name]
    table, arrays = Rules.of(rules), drawn(shapes)
    made = applied(table, arrays)
    assert {n: a.shape for n, a in made.items()} == expected
    back = applied(table.inverted(), made)
    assert back.keys() == arrays.keys()
    assert all(np.array_equal(back[n], arrays[n]) for n in arrays)
    assert table.inverted().inverted() is table


def test_what_is_made() -> None:
    """Catches parts that are exchanged, which shapes and a way back would not show."""
    fused = np.arange(24.0).reshape(6, 4)
    table = Rules.of([("qkv", ["q", "k", "v"], "(three o) i -> three i o")])
    made = applied_exactly(table, {"qkv": fused})
    assert np.array_equal(made["k"], fused[2:4].T)
    gates = Rules.of([("w", "k", "(gate h) -> (gate h)", {"gate": "i f g o -> i o f g"})])
    made = applied_exactly(gates, {"w": np.arange(8)})
    assert made["k"].tolist() == [0, 1, 6, 7, 2, 3, 4, 5]
    stack = Rules.of([(r"l\.(?P<n>\d+)", "l", "n i -> n i")])
    made = applied_exactly(stack, {f"l.{i}": np.array([i]) for i in (10, 9, *range(9))})
    assert made["l"].ravel().tolist() == list(range(11))
    joined = Rules.of([(["a", "b"], "c", "a i, b i -> (b + a) i")])
    made = applied_exactly(joined, {"a": np.zeros((1, 2)), "b": np.ones((2, 2))})
    assert made["c"][:, 0].tolist() == [1, 1, 0]


def test_the_whole_name() -> None:
    """Catches a name that repeats all of the other one, as `re` allows, and is refused."""
    assert set(applied_exactly(Rules.of([(r"\w+", r"net.\g<0>")]), {"ab": np.ones(1)})) == {
        "net.ab"
    }


def applied_exactly(table: Rules, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n: a for step in table.plan(arrays).steps for n, a in step.apply(arrays).items()}


def test_sizes_by_the_other_side() -> None:
    """Catches sizes that must be written down although the port's shapes tell them."""
    table = Rules.of([("w", "k", "(h d) i -> i h d")])
    plan = table.plan({"w": np.zeros((12, 5))}, {"k": np.zeros((5, 3, 4))})
    assert plan.made["k"].shape == (5, 3, 4)
    with pytest.raises(InputError, match="the size of h does not follow from w: give it"):
        table.plan({"w": np.zeros((12, 5))})


def test_left_out_on_either_side() -> None:
    """Catches a tensor that is left out unsaid, and a part that a way back would make up."""
    table = Rules.of([("a", "b"), ("mask", None), (None, "table")])
    plan = table.plan({"a": np.zeros(2), "mask": np.zeros(1)}, {"b": np.zeros(2), "table": 0})
    assert (plan.idle, plan.own) == ({"mask"}, {"table"})
    back = table.inverted().plan({"b": np.zeros(2), "table": np.zeros(1)})
    assert (set(back.made), back.idle) == ({"a"}, {"table"})
    part = Rules.of([("kv", ["k", None], "(k + v) -> k, v", {"k": 2})])
    assert set(part.plan({"kv": np.zeros(5)}).made) == {"k"}
    with pytest.raises(InputError, match=r"rule 1, .*no way back: it leaves a part out"):
        part.inverted()


def test_tied_tensors_must_be_equal() -> None:
    """Catches a tensor that is thrown away because another one should have equalled it."""
    table = Rules.of([("wte", ["a", "b"], "v d -> v d, d v")]).inverted()
    arrays = {"a": np.ones((2, 3)), "b": np.ones((3, 2))}
    assert applied_exactly(table, arrays)["wte"].shape == (2, 3)
    arrays["b"][2, 1] = -1
    with pytest.raises(InputError, match="a and b become one, but differ"):
        applied_exactly(table, arrays)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("a", "b"), ("c", "d")], r"rule 2, \('c', 'd'\): nothing of the reference fits it"),
        ([("b", "c")], "no rule for a of the reference"),
        ([("a", "b", "i j -> j i")], r"no rule for a .*rule 1, .* does not fit its 1 axes"),
        ([("a|b", "c")], "a and b both become c"),
        ([(r"(?P<n>\w)", "c", "n i -> n i")], "n of a is 'a', expected a number"),
        ([("a", "c", "(three i) -> three i", {"three": 4})], r"a \(6,\) does not fit: \(three i\)"),
        ([("a", ["c", "d"], "i -> i")], r"a \(6,\) does not fit: i is 2, not 6"),
        ([("a", ["c", "d"], "(n i) -> (n i)")], "the first axis of .* runs over the 2 names"),
        ([("a", ["c", "d", "e", "f"], "(n i) -> n i")], "is 6, expected a multiple of 4"),
        ([(["a", "b"], "c", "n i -> i")], "'i n' is not on the right"),
        ([("a", "c", "i -> j")], "'i' is not on the right"),
        ([("a", "c", "i i -> i i")], "i is there twice"),
        ([("a", "c", "3 i -> i 3")], "an axis of 3 needs a name"),
        ([("a", "c", "(i -> i")], "a parenthesis is not closed"),
        ([("a", "c", "i")], "expected one '->'"),
        ([("a", "c", "i ... -> i")], "not on the right"),
        ([("a", "c", "i -> i", {"h": 2})], "there is no axis h"),
        ([("a", "c", "i -> i", {"i": 0})], "the size of i is 0, expected 1 or more"),
        ([("a", "c", "i -> i", {"i": "x y -> x"})], "expected the same items on both sides"),
        ([("a", r"\g<n>", "i -> i")], r"refers to n, neither a group nor an axis"),
        ([("a", 3)], "is no rule"),
        ([(3, "a")], "is no rule"),
        ([("a", "c", 7)], "7 is no permutation of axes"),
        ([([r"(a)", "b"], "c", "i, j -> (i + j)")], "'b' has other groups than the first"),
    ],
)
def test_rules_that_are_refused(rules: list, message: str) -> None:
    """Catches a wrong rule that is applied, or a message without the rule and the tensor."""
    arrays = {"a": np.zeros(6), "b": np.zeros(2)}
    arrays = {"a": arrays["a"]} if rules[0][0] in ("a", "b", r"(?P<n>\w)", 3) else arrays
    with pytest.raises(InputError, match=message) as raised:
        Rules.of(rules).plan(arrays)
    assert "\n" not in str(raised.value)


def test_a_single_number() -> None:
    """Catches a PReLU's slope of one element that no rule can make the scalar of the port's."""
    table = Rules.of([("slope", "negative_slope", "1 -> ")])
    arrays = {"slope": np.array([0.25], np.float32)}
    (step,) = table.plan(arrays).steps
    made = step.apply(arrays)
    assert isinstance(made["negative_slope"], np.ndarray)
    assert made["negative_slope"].shape == ()
    (back,) = table.inverted().plan(made).steps
    np.testing.assert_array_equal(back.apply(made)["slope"], arrays["slope"])


def test_a_gap_among_stacked_layers() -> None:
    """Catches a stack with a layer missing, and a partner that is not there."""
    stack = Rules.of([(r"l\.(?P<layer>\d+)\.w", "w", "layer i -> layer i")])
    with pytest.raises(InputError, match="there is no layer 1, but a 2"):
        stack.plan({"l.0.w": np.zeros(1), "l.2.w": np.zeros(1)})
    for text in ("00", "\N{ARABIC-INDIC DIGIT ZERO}"):  # it would come back as l.0.w
        with pytest.raises(InputError, match="layer of l"):
            stack.plan({f"l.{text}.w": np.zeros(1), "l.1.w": np.zeros(1)})
    with pytest.raises(InputError, match=r"l\.1\.w is of float16, l\.0\.w of float64"):
        stack.plan({"l.0.w": np.zeros(1), "l.1.w": np.zeros(1, np.float16)})
    fused = Rules.of([([r"(.*)\.k", r"(.*)\.v"], r"\1.kv", "two i -> two i")])
    with pytest.raises(InputError, match=r"nothing fits '\(\.\*\)\\\\\.v' \(group 1 b\)"):
        fused.plan({"a.k": np.zeros(1), "a.v": np.zeros(1), "b.k": np.zeros(1)})


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ((r"a.b", "c"), r"a dot is written \\\."),
        ((r"(a|b)\d", r"\1"), "only groups may stand for many texts"),
        ((r"(a|b)\.(c)", r"\1"), "group 2 is in no name"),
        ((r"(\w)", r"net.\g<0>"), "it repeats a whole name"),
    ],
)
def test_no_way_back(rule: tuple, message: str) -> None:
    """Catches an inverse that guesses."""
    with pytest.raises(InputError, match=message):
        Rules.of([rule]).inverted()


def test_the_target_has_another_shape() -> None:
    """Catches a plan that the target cannot take."""
    table = Rules.of([("a", "b", "i j -> j i")])
    arrays = {"a": np.zeros((2, 3))}
    with pytest.raises(InputError, match="the port has no b"):
        table.plan(arrays, {})
    with pytest.raises(InputError, match=r"b would be \(3, 2\), but the port's is \(2, 3\)"):
        table.plan(arrays, {"b": np.zeros((2, 3))})


def test_a_file(tmp_path: Path) -> None:
    """Catches a file of rules that is read otherwise than the same list."""
    path = tmp_path / "rules.toml"
    path.write_text(
        "sizes = {h = 2}\n"
        "rules = [\n"
        r"""  ['(.*)\.qkv', ['\1.q', '\1.k', []], '(n h d) -> n h d'],"""
        "\n  ['mask', []],\n  [[], 'table'],\n]\n"
    )
    plan = load(path).plan({"a.qkv": np.zeros(12), "mask": np.zeros(1)}, None)
    assert {n: s.shape for n, s in plan.made.items()} == {"a.q": (2, 2), "a.k": (2, 2)}
    assert plan.idle == {"mask"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules = [", "no TOML"),
        ("rule = 3", "'rule' is unknown, expected rules and sizes"),
        ("sizes = 3\nrules = [['a', 'b']]", "expected a table of axes"),
        ("rules = 'a'", "expected rules = "),
        ("rules = [['a']]", "is no rule"),
        ("rules = " + "[" * 5000 + "]" * 5000, "no TOML"),
        ("sizes = {h = " + "9" * 5000 + "}\nrules = [['a', 'b']]", "no TOML"),
        ("rules = [['a{99999999999}', 'b']]", "is no pattern"),
        ("rules = [['" + "(" * 5000 + ")" * 5000 + "', 'b']]", "is no pattern"),
        ("rules = [['a', 'b', '" + "(" * 5000 + "a -> a']]", "more than 500 axes and signs"),
        ("rules = [['a', 'b', {}, 1, 2]]", "is no rule"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    """Catches a traceback, or a message that does not name the file."""
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        load(path)
    assert str(raised.value).startswith(str(path))
    with pytest.raises(InputError, match="No such file"):
        load(tmp_path / "none.toml")


def test_a_table_that_is_none() -> None:
    """Catches a table that is none."""
    with pytest.raises(InputError, match="is no table of rules"):
        Rules.of("abc")


@pytest.mark.parametrize("text", [r"(a)\.(\1)", r"(?P<one>a)\.(?P<two>(?P=one)b)", r"(a)\012"])
def test_a_pattern_that_repeats_a_group_inside_another(text: str) -> None:
    """Catches a traceback of a pattern whose way back nothing says, though it can be read."""
    rules = Rules.of([(text, "b")])
    assert rules.rules[0].patterns[0].parts is None
    with pytest.raises(InputError, match="has no way back"):
        rules.inverted()


def test_the_tenth_group_is_repeated() -> None:
    """Catches a reference to a tenth group taken for one to the first, and a 0."""
    name = ".".join("abcdefghij")
    pattern = r"\.".join(f"({letter}x?)" for letter in "abcdefghij") + r"\.\10"
    back = Rules.of([(pattern, "/".join(rf"\{i}" for i in range(1, 11)))]).inverted()
    array = np.zeros(3)
    assert set(back.plan({name.replace(".", "/"): array}).made) == {f"{name}.j"}


def test_layers_of_unlike_many_axes() -> None:
    """Catches a traceback where the tensors that are stacked have not as many axes."""
    rules = Rules.of([(r"layers\.(?P<layer>\d+)\.w", "layers.w", "layer ... -> layer ...")])
    arrays = {"layers.0.w": np.zeros((2, 3)), "layers.1.w": np.zeros((2, 3, 1))}
    with pytest.raises(InputError, match=r"does not fit: layers\.1\.w has 3 axes"):
        rules.plan(arrays)


@pytest.mark.parametrize("number", ["99999999999999999999", "9" * 5000, "999999999"])
def test_a_number_in_a_name_that_is_far_off(number: str) -> None:
    """Catches memory or time that a single name asks for, or a traceback."""
    rules = Rules.of([(r"l\.(?P<layer>\d+)\.w", "w", "layer i -> layer i")])
    arrays = {"l.0.w": np.zeros(2), f"l.{number}.w": np.zeros(2)}
    with pytest.raises(InputError, match=r"at most 9 digits|there is no layer 1, but a 999999999"):
        rules.plan(arrays)


def test_the_way_back_of_two_rules_that_give_one_name() -> None:
    """Catches a bias of a norm that goes back to a name which the reference does not have."""
    table = Rules.of([(r"(.*)\.bias", r"\1.bias"), (r"(.*)\.beta", r"\1.bias")])
    reference = {"conv.bias": np.zeros(3), "bn.beta": np.ones(4)}
    made = {n: a for step in table.plan(reference).steps for n, a in step.apply(reference).items()}
    plan = table.inverted().plan(made, reference)
    assert {name for step in plan.steps for name in step.made} == reference.keys()
