"""The texts on every fault of the catalogue."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import parity.diagnosis.experiments
from parity.diagnosis.catalogue import PROVED_AS, Fault
from parity.diagnosis.remedies import remedies, remedy

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
MAKERS = {"one": 1, "given": 1, "linked": 1, "Change": 0, "Proof": 0}  # -> which argument is a name
# Of two words, which are no names of changes: a mode of resizing.
NO_NAMES = {"nearest-exact"}


def of_experiments() -> set[str]:
    """Names of changes of the reference, as the experiments' modules write them.

    These are all texts of several words, joined as those of a name are, and of single words those
    that are given, or yielded, as a name.
    """
    folder = Path(parity.diagnosis.experiments.__file__).parent
    nodes = [node for f in folder.glob("*.py") for node in ast.walk(ast.parse(f.read_text()))]
    texts = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    found = {text for text in texts if "-" in text and NAME.fullmatch(text)} - NO_NAMES
    places: list[ast.expr] = []
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            place = MAKERS.get(node.func.id, len(node.args))
            places += node.args[place : place + 1]
        if isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple):
            places += node.value.elts[:1]
    single = {place.value for place in places if isinstance(place, ast.Constant)}
    return found | {text for text in single if isinstance(text, str) and NAME.fullmatch(text)}


def test_names_of_changes_are_found() -> None:
    """Catches the tests below reading no names: of one word, yielded, or in a table."""
    assert {
        "padding",
        "order",
        "amsgrad",
        "rope-layout",
        "adam-eps",
        "left-out",
    } <= of_experiments()


def test_every_cause_that_can_be_proved_is_explained() -> None:
    """Catches a cause that is proved without a fix, and that *What a failure means* lacks."""
    faults = {name: [f for f in Fault if name in PROVED_AS.get(f, ())] for name in of_experiments()}
    assert [n for n in faults if n not in remedies() and len(faults[n]) != 1] == []


def test_every_fault_has_a_remedy_and_every_remedy_a_fault() -> None:
    """Catches a fault of the catalogue without an explanation, and one that is left over."""
    assert set(Fault) <= set(remedies())
    others = set(remedies()) - set(Fault)
    # A name with the type's before it.
    assert others - {"float16-inside"} <= of_experiments()
    assert {name for name, texts in remedies().items() if texts.title} == others
    for fault, texts in remedies().items():
        for text in (texts.symptom, texts.why, texts.fix):
            assert text.endswith((".", ")")), (fault, text)
        assert texts.size, fault


def test_a_proof_of_another_name_has_the_remedy_of_its_fault() -> None:
    """Catches a fix for a fault that was not proved: a change that may be several has its own."""
    assert remedy("gelu-approximation") == remedies()[Fault.GELU_TANH]
    shared = [n for names in PROVED_AS.values() for n in names]
    assert all(n in remedies() for n in shared if shared.count(n) > 1)
    assert remedy("no such change") is None


@pytest.mark.parametrize(
    "name", ["operation", "parts-order", "part-not-added", "weights-swapped", "norm-scale"]
)
def test_a_general_change_is_not_mended_as_one_fault(name: str) -> None:
    """Catches the fix of a class token shown for any joined arrays, or a gate's for any product."""
    (fault,) = (fault for fault in Fault if name in PROVED_AS.get(fault, ()))
    assert remedy(name) != remedies()[fault]


@pytest.mark.parametrize(("size", "out"), [(6, 9), (7, 5), (5, 17)])
def test_the_fix_of_nearest_upsampling_is_pytorchs_rule(size: int, out: int) -> None:
    """Catches indices of floating point, which JAX refuses, or of another rule."""
    x = torch.arange(size, dtype=torch.float64)
    taken = torch.nn.functional.interpolate(x[None, None], out)[0, 0]
    (code,) = re.findall(r"jnp.* out\)?", remedies()["nearest-upsampling"].fix)
    indices = eval(code.replace(" in ", " size "), {"jnp": jnp, "size": size, "out": out})
    assert (jnp.asarray(x)[indices] == taken.numpy()).all()


def test_the_fix_of_a_padding_row_runs() -> None:
    """Catches a mask of tokens that does not broadcast to their vectors."""
    tokens, table = jnp.array([[0, 2, 1]]), jnp.ones((3, 4))

    (code,) = re.findall(r"jnp\.where\(.*\)", remedies()["padding-idx"].fix)

    def loss(table: jax.Array) -> jax.Array:
        given = {"tokens": tokens, "padding_idx": 0, "x": table[tokens]}
        return eval(code, {"jnp": jnp, "jax": jax, **given}).sum()

    assert jax.grad(loss)(table)[:, 0].tolist() == [0, 1, 1]


@pytest.mark.parametrize("dilation", [1, 2])
def test_the_fix_of_output_padding_gives_pytorchs_map(dilation: int) -> None:
    """Catches a formula of the padding that holds without a dilation only."""
    (text,) = re.findall(r"\((.*?), .*? \+ output_padding\)", remedies()["output-padding"].fix)
    text = re.sub(r"(\w) \(", r"\1 * (", text)
    k, s, p, extra = 3, 2, 1, 1
    lead = eval(text, {"k": k, "p": p, "d": dilation})
    theirs = torch.nn.ConvTranspose1d(2, 3, k, s, p, extra, bias=False, dilation=dilation)
    x = np.arange(12, dtype=np.float32).reshape(1, 6, 2)
    want = theirs(torch.tensor(x).mT).mT.detach().numpy()
    kernel = theirs.weight.detach().numpy().transpose(2, 0, 1)[::-1]
    ours = jax.lax.conv_transpose(
        x, kernel, (s,), [(lead, lead + extra)], (dilation,), ("NWC", "WIO", "NWC")
    )
    np.testing.assert_allclose(ours, want, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        # Without it, jax.image smooths what it makes smaller.
        ("resize-scale", ("antialias=False",)),
        # PyTorch's average counts no element that only ceil_mode adds.
        ("pool-ceil-mode", ("average",)),
        # PyTorch computes convolutions in TF32 by default, whatever the setting of products is.
        ("tf32", ("torch.backends.cuda.matmul", "torch.backends.cudnn.allow_tf32")),
        # jax.nn.dot_product_attention refuses a mask that is not boolean.
        ("attention-mask", ("boolean", "bias")),
    ],
)
def test_a_fix_names_each_place(name: str, words: tuple[str, ...]) -> None:
    """Catches a fix that leaves half of the fault in place."""
    assert [word for word in words if word not in remedies()[name].fix] == []
