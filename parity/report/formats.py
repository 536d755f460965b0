"""A report in the formats of other programs: JUnit's XML, and annotations of GitHub Actions."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from parity.report.findings import TITLES, Check, Findings, Omission
from parity.report.source import SourceLine

FORMATS = ("text", "json", "junit", "github")

# What a property or a message of GitHub's workflow commands may not hold as it is; see
# https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
IN_MESSAGES = {"%": "%25", "\r": "%0D", "\n": "%0A"}
# What XML may hold by no means: control characters, such as those of a terminal's colours.
NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
IN_PROPERTIES = IN_MESSAGES | {":": "%3A", ",": "%2C"}


def junit(report: Findings) -> str:
    """Return JUnit's XML: a test case per rung and layer, as `parity.testing.ladder` has them.

    A test case fails with the sentences of its failures; it is skipped where nothing of it was
    compared, and fails where something was left out that must be compared.
    """
    cases: dict[tuple[str, str], list[Check | Omission]] = {}
    every: list[Check | Omission] = [*report.checks, *report.left_out]
    for entry in every:
        cases.setdefault((entry.rung, entry.layer), []).append(entry)
    suite = ElementTree.Element("testsuite", name=report.name, tests=str(len(cases)), errors="0")
    if report.bounds:
        properties = ElementTree.SubElement(suite, "properties")
        for bound in report.bounds:
            ElementTree.SubElement(properties, "property", name="left out", value=str(bound))
    failed = skipped = 0
    for (rung, layer), entries in cases.items():
        name = f"{rung} {TITLES[rung]}"
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"{report.name}.{name}", name=layer
        )
        wrong, left = _wrong(entries), [e for e in entries if isinstance(e, Omission)]
        if wrong:
            failed += 1
            lines = "\n".join(entry.sentence() for entry in wrong)
            ElementTree.SubElement(case, "failure", message=wrong[0].sentence()).text = lines
        elif len(left) == len(entries):
            skipped += 1
            ElementTree.SubElement(case, "skipped", message=left[0].sentence())
    if not report.ok and not failed:  # a rung that compared nothing has no case
        case = ElementTree.SubElement(suite, "testcase", classname=report.name, name="ladder")
        ElementTree.SubElement(case, "failure", message=report.reason())
        suite.set("tests", str(len(cases) + 1))
        failed = 1
    suite.set("failures", str(failed))
    suite.set("skipped", str(skipped))
    suite.set("time", f"{sum(report.seconds.values()):.1f}")
    if not report.ok:
        ElementTree.SubElement(suite, "system-out").text = "\n".join(_lines(report))
    for element in suite.iter():
        element.text = _of_xml(element.text or "") or None
        for name, value in element.items():
            element.set(name, _of_xml(value))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def github(report: Findings, factory: SourceLine) -> str:
    """Return one workflow command of GitHub Actions: an error at the port's line, or a notice.

    It is a warning where all that was compared agreed and an option left something out.

    Args:
        report: What was compared.
        factory: Where the error is shown if the port's line is not known.
    """
    if report.ok:
        level = "warning" if report.bounds else "notice"
        passed = "; ".join([f"{report.compared} comparisons passed", *map(str, report.bounds)])
        title = _escaped(report.name, IN_PROPERTIES)
        return f"::{level} title={title}::{_escaped(passed, IN_MESSAGES)}"
    title, line = f"{report.name}: not faithful", report.port_line or factory
    return github_error(title, "\n".join(_lines(report)), line)


def github_error(title: str, message: str, line: SourceLine) -> str:
    """Return a workflow command of GitHub Actions that shows an error.

    Args:
        title: Its heading.
        message: What is wrong.
        line: Where it is shown; a false one for a whole run.
    """
    properties = {"title": title}
    if line:
        properties = {"file": _relative(line.path), "line": str(line.number)} | properties
    listed = ",".join(f"{key}={_escaped(text, IN_PROPERTIES)}" for key, text in properties.items())
    return f"::error {listed}::{_escaped(message, IN_MESSAGES)}"


def _wrong(entries: Sequence[Check | Omission]) -> list[Check | Omission]:
    return [e for e in entries if (e.counts if isinstance(e, Omission) else not e.ok)]


def _lines(report: Findings) -> list[str]:
    """What is known of a failed report, a line each."""
    fault = report.fault()
    lines = [report.reason(), fault.sentence() if fault else ""]
    parting = "" if report.parting is None else str(report.parting)
    return [line for line in (*lines, parting, *report.explanation()) if line]


def _of_xml(text: str) -> str:
    """Return a text with what XML may not hold written out as its code."""
    return NOT_IN_XML.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _escaped(text: str, codes: Mapping[str, str]) -> str:
    return text.translate({ord(one): code for one, code in codes.items()})


def _relative(path: str) -> str:
    """A path as GitHub shows it: relative to the repository, if the file is in it."""
    root = Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd()).resolve()
    found = Path(path).resolve()
    return found.relative_to(root).as_posix() if found.is_relative_to(root) else path
