"""Reports in the formats of other programs."""

from __future__ import annotations

import dataclasses
import html
import importlib.resources
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from parity import check
from parity.cli import main
from parity.ladder.factory import line_of_factory, make_port
from parity.report import formats
from parity.report.page import page as formatted
from parity.report.quantity import Kind, Quantity
from parity.report.report import Omission, Report
from parity.report.source import NO_LINE, SourceLine

PORT = """
import torch
from flax import nnx
from parity import Port
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x):
        return torch.tanh(self.norm(self.hidden(x)))


class Ported(nnx.Module):
    def __init__(self, epsilon):
        self.hidden = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.norm = nnx.LayerNorm(4, epsilon=epsilon, rngs=nnx.Rngs(0))

    def __call__(self, x):
        x = self.hidden(x)
        x = self.norm(x)  # the line at fault
        return nnx.tanh(x)


WEIGHTS = [
    (r"hidden\\.weight", "hidden.kernel", (1, 0)),
    (r"norm\\.weight", "norm.scale"),
    (r"(.*)\\.bias", r"\\1.bias"),
]


def right():
    torch.manual_seed(0)
    return Port(Net(), Ported(1e-5), (3, 4), weights=WEIGHTS)


def wrong():
    torch.manual_seed(0)
    return Port(Net(), Ported(1e-3), (3, 4), weights=WEIGHTS)
"""
FAULT = next(i for i, line in enumerate(PORT.splitlines(), 1) if "the line at fault" in line)


@dataclasses.dataclass(frozen=True)
class Made:
    """A file of ports, and the reports of its functions."""

    file: Path
    right: Report
    wrong: Report


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    file = tmp_path_factory.mktemp("formats") / "ported_norm.py"
    file.write_text(PORT)
    ports = [make_port(f"{file}:{function}") for function in ("right", "wrong")]
    return Made(file, *(check(port, ("L1", "L2")) for port in ports))


def schema() -> Any:
    file = importlib.resources.files("parity.report") / "report.schema.json"
    return json.loads(file.read_text())


def test_json_is_the_published_schema(
    made: Made, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches output that is not JSON alone, a key that the schema lacks, a wrong source line."""
    monkeypatch.setattr("parity.diagnosis.check.check", lambda *args: made.wrong)
    assert main(["check", f"{made.file}:wrong", "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(found, schema())
    assert set(found) == set(schema()["properties"])
    first = found["first_failure"]
    assert set(first) == set(schema()["$defs"]["first_failure"]["properties"])
    assert first["layer"] == "norm"
    assert first["port_line"] == {"path": str(made.file), "line": FAULT}
    assert "eps 0.001 instead of 1e-05" in first["proved"][0]
    assert found["reason"] == "look at norm first"


def test_json_of_a_right_port(made: Made) -> None:
    """Catches a failure or a reason in the report of a port that passed."""
    found = made.right.to_dict()
    jsonschema.validate(found, schema())
    assert (found["ok"], found["first_failure"], found["reason"]) == (True, None, "")


def test_the_schema_refuses_other_reports() -> None:
    """Catches a schema that takes anything."""
    found = Report("net", "float32").to_dict()
    jsonschema.validate(found, schema())
    for changed in ({"schema": "parity-report-2"}, {"ok": "yes"}, {"checks": [{}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(found | changed, schema())


def test_junit(made: Made) -> None:
    """Catches a failed rung that CI shows as passed, and counts that do not add up."""
    suite = ElementTree.fromstring(formats.junit(made.wrong))
    cases = list(suite.iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None]
    assert suite.get("tests") == str(len(cases))
    assert suite.get("failures") == str(len(failed)) != "0"
    assert suite.get("skipped") == str(len(list(suite.iter("skipped"))))
    assert any("L1" in case.get("classname", "") and case.get("name") == "norm" for case in failed)
    assert "eps 0.001 instead of 1e-05" in (suite.findtext("system-out") or "")
    assert ElementTree.fromstring(formats.junit(made.right)).get("failures") == "0"


def test_reports_of_two_ports_are_told_apart(made: Made) -> None:
    """Catches two ports of one build whose suites, pages and annotations have the same name."""
    for report, function in ((made.right, "right"), (made.wrong, "wrong")):
        name = f"{made.file}:{function}"
        assert ElementTree.fromstring(formats.junit(report)).get("name") == name
        assert f"ported_norm.py%3A{function}" in formats.github(report, NO_LINE)


def test_junit_of_what_xml_may_not_hold() -> None:
    """Catches XML that no reader takes: a network's message in colours, a name that is no text."""
    quantity = Quantity(Kind.OUTPUT)
    reason = "raised \x1b[31mError\x1b[0m: \x00 \udcff <&> é 😀"
    report = Report(
        "a\x07b", "float32", left_out=[Omission("L1", "x", "x", quantity, reason, True)]
    )
    case = ElementTree.fromstring(formats.junit(report).partition("?>")[2]).find("testcase/failure")
    assert case is not None
    assert r"raised \x1b[31mError\x1b[0m: \x00 \udcff <&> é 😀" in case.attrib["message"]


def test_junit_of_nothing_fails() -> None:
    """Catches a report that compared nothing and reads as a passed one."""
    assert ElementTree.fromstring(formats.junit(Report("net", "float32"))).get("failures") == "1"


def test_github(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an annotation at another line, or one that GitHub does not read as one line."""
    monkeypatch.setenv("GITHUB_WORKSPACE", str(made.file.parent))
    line = formats.github(made.wrong, NO_LINE)
    assert line.startswith(f"::error file=ported_norm.py,line={FAULT},title=")
    assert "%0Aproved" in line
    assert "\n" not in line
    assert formats.github(made.right, NO_LINE).startswith("::notice ")


def test_the_line_of_a_factory(made: Made) -> None:
    """Catches an annotation at the wrong function, where the port's line is not known."""
    lines = PORT.splitlines()
    found = line_of_factory(f"{made.file}:wrong")
    assert lines[found.number - 1] == "def wrong():"


def test_github_falls_back_on_the_factory() -> None:
    """Catches a failure without a line that is not shown at all, and text that ends a property."""
    line = formats.github(Report("a,b", "float32"), SourceLine("/elsewhere/port.py", 7))
    assert re.match(r"::error file=/elsewhere/port\.py,line=7,title=a%2Cb%3A not faithful::", line)
    assert formats.github(Report("net", "float32"), NO_LINE).startswith("::error title=")


def test_files_outside_of_the_repository_keep_their_path(tmp_path: Path) -> None:
    """Catches `../` in an annotation, which GitHub cannot show."""
    line = formats.github(Report("net", "float32"), SourceLine(str(tmp_path / "x.py"), 1))
    assert f"file={tmp_path}/x.py" in line


def test_the_page_shows_both_sources_and_every_failing_layer(made: Made) -> None:
    """Catches a link to a layer that is not on the page, and a first failure without its source."""
    page = formatted(made.wrong)
    assert page.count('class="line here"') == 2
    assert "the line at fault" in page
    assert "fix: " in page
    links = re.findall(r'href="#(layer-[^"]+)"', page)
    assert "layer-norm" in links
    for link in links:
        assert f'id="{link}"' in page
    assert 'class="bad first" href="#layer-norm"' in page
    assert "here" not in re.findall(r'class="line ?(\w*)"', formatted(made.right))


def test_a_notebook_shows_the_page(made: Made) -> None:
    """Catches a report that a notebook shows as text, or whose page ends its frame early."""
    shown = made.wrong._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert shown.count('"') == 6  # of three attributes: those of the page are escaped
    assert html.unescape(shown.split('"')[1]) == formatted(made.wrong)
