"""Messages: five offenders and a count, one line of bearable length."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parity.ladder.weights import assign
from parity.spec.draw import weights
from parity.spec.errors import LONGEST, InputError, listed, one_line, shortened
from parity.spec.models import MODELS
from parity.spec.tensors import check_names
from weights_convert import formats, naming
from weights_convert.conversion import cast

ROOT = Path(__file__).resolve().parents[3]
MANY = [f"layer{i}.weight" for i in range(700)]


def test_five_and_a_count() -> None:
    """Catches a list that goes on, hides how many there are, or counts one too few."""
    assert listed([]) == ""
    assert listed(MANY[:5]).count("layer") == 5
    assert "more" not in listed(MANY[:5])
    assert listed(MANY[:6]).endswith("layer4.weight and 1 more")
    assert listed(iter(MANY), "; ") == f"{'; '.join(MANY[:5])} and 695 more"
    assert len(listed(["x" * 10**6])) == 300


def test_no_message_is_longer_than_a_screen() -> None:
    """Catches a message as long as what is in a file, and one whose end is lost."""
    assert str(InputError("short")) == "short"
    message = str(InputError(f"start {'x' * 10**6} end"))
    assert len(message) == LONGEST
    assert message.startswith("start ")
    assert message.endswith(" end")
    assert shortened("x" * 40, 40) == "x" * 40


def test_an_exceptions_text_is_one_short_line() -> None:
    """Catches an error of PyTorch's or JAX's whose text of many lines is printed as it is."""
    assert one_line(ValueError("a\n   b")) == "a b"
    assert one_line("x" * 300) == "x" * 300
    assert one_line("x" * 301) == "x" * 300 + " ..."


ZEROS = {name: np.zeros(1) for name in MANY}
FILE = Path("FILE")
ENET = MODELS["enet"]

# What refuses 700 offenders, or all tensors of a network -> how.
OFFENDED: dict[str, Callable[[], object]] = {
    "names": lambda: check_names(dict.fromkeys(MANY, (1,)), {}, "FILE"),
    "another network": lambda: naming.to_canonical(ENET, ZEROS, "torch", "FILE"),
    "numbers": lambda: naming.to_canonical(
        ENET, {k: a.astype(bool) for k, a in weights(ENET, 0).items()}, "torch", "FILE"
    ),
    "dtypes": lambda: formats.check_dtypes(dict.fromkeys(MANY, "uint8"), FILE),
    "too large": lambda: cast(dict.fromkeys(MANY, np.full(1, 1e30)), "float16", FILE),
    "a port's map": lambda: assign({}, ZEROS, ZEROS, False),
    "a port's rules": lambda: assign([("x", "y")], ZEROS, {}, False),
}


@pytest.mark.parametrize("what", OFFENDED)
def test_where_hundreds_offend(what: str) -> None:
    """Catches 26,000 characters in one line, or no number of the others."""
    with pytest.raises(InputError) as caught:
        OFFENDED[what]()
    message = str(caught.value)
    assert len(message) < 700
    assert re.search(r" and 6\d\d more", message)


def test_one_unexpected_name_among_many_missing() -> None:
    """Catches the one name that explains hundreds hidden by them."""
    with pytest.raises(InputError) as caught:
        check_names(dict.fromkeys(MANY, (1,)), {"odd": (1,), MANY[0]: (2,)}, "FILE")
    message = str(caught.value)
    counts = "699 missing, 1 not expected, 1 of another shape"
    assert message.startswith(f"FILE: 701 tensors do not match ({counts}): ")
    assert "odd is not expected" in message
    assert "layer0.weight is 2, expected 1" in message


# Lists of choices that the program itself has, which are short: these a message may join in full.
KNOWN = {"choices", "exclusive", "expected", "fields", "hints", "known", "needed", "suffixes"}


def test_messages_do_not_join_what_files_bring() -> None:
    """Catches a new message of the converters that joins a list of names in full."""
    for path in (ROOT / "weights_convert").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Raise):
                continue
            for call in ast.walk(node):
                joins = isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
                if joins and call.func.attr == "join":
                    what = call.args[0]
                    named = isinstance(what, ast.Name)
                    fine = not named or what.id in KNOWN or what.id.isupper()
                    assert fine, f"{path}:{call.lineno}: use listed()"


def test_an_error_cannot_speak_to_the_terminal() -> None:
    """Catches a name out of a file that clears the screen or adds a line."""
    assert str(InputError("a \x1b[2J b\nc \ud800 ü")) == "a \\x1b[2J b\\nc \\ud800 ü"
