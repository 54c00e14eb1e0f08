"""The report for continuous integration: one test case a check."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from trustml.auditing._verdict import Verdict

if TYPE_CHECKING:
    from trustml.auditing._check import CheckResult
    from trustml.auditing._report import AuditReport

# Characters that XML 1.0 cannot hold, escaped or not.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(report: AuditReport, fail_on: str = "fail") -> bytes:
    """Return the report as JUnit XML; "not enough data" is skipped, or with "warn" a failure."""
    cases = [_case(result, report.name, fail_on) for result in report.results]
    suite = ET.Element(
        "testsuite",
        name="trustml audit",
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors=str(sum(case.find("error") is not None for case in cases)),
        skipped=str(sum(case.find("skipped") is not None for case in cases)),
        time=f"{report.seconds:.3f}",
    )
    if report.started:
        suite.set("timestamp", report.started)
    suite.extend(cases)
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _case(result: CheckResult, name: str, fail_on: str) -> ET.Element:
    case = ET.Element(
        "testcase",
        classname=f"trustml.audit.{_clean(name)}",
        name=result.name,
        time=f"{result.seconds:.3f}",
    )
    tag = _tag(result.verdict, fail_on)
    if tag is not None:
        message = _clean(f"{result.verdict.value}: {result.summary}")
        ET.SubElement(case, tag, message=message).text = _clean(result.fix)
    lines = [_line(result, i) for i in range(len(result.findings))]
    ET.SubElement(case, "system-out").text = _clean("\n".join([result.summary, *lines]))
    return case


def _tag(verdict: Verdict, fail_on: str) -> str | None:
    if verdict is Verdict.NOT_ENOUGH_DATA:
        return "failure" if fail_on == "warn" else "skipped"
    tags = {Verdict.FAIL: "failure", Verdict.ERROR: "error", Verdict.SKIPPED: "skipped"}
    return tags.get(verdict)


def _line(result: CheckResult, i: int) -> str:
    f = result.findings[i]
    verdict = f.verdict.value if f.verdict is not None else "shown"
    return f"{verdict}: {f.name}: {f.estimate:.4g} [{f.low:.4g}, {f.high:.4g}] {f.requirement}"


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
