"""The files of a report: finite, valid, self-contained, and safe whatever the data are called."""

import base64
import json
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pytest

import trustml
from trustml.auditing import AuditReport, CheckResult, Finding, Verdict
from trustml.auditing._html import bars, headline

EVIL = "<script>alert('x')</script>&\"'"


def result(verdict, name="calibration", **given):
    words = {"title": name, "question": "?", "why": "w", "fix": "f", "summary": "s"}
    return CheckResult(name=name, verdict=verdict, **{**words, **given})


def made(*verdicts):
    return AuditReport("m", tuple(result(v, f"c{i}") for i, v in enumerate(verdicts)))


P, F, N, S, E = (
    Verdict.PASS,
    Verdict.FAIL,
    Verdict.NOT_ENOUGH_DATA,
    Verdict.SKIPPED,
    Verdict.ERROR,
)


@pytest.mark.parametrize(
    ("verdicts", "code", "strict"),
    [
        ([P, P], 0, 0),
        ([P, S], 0, 0),
        ([P, N], 0, 1),
        ([P, F], 1, 1),
        ([F, E], 2, 2),
        ([S, S], 2, 2),
        ([N], 2, 1),
        ([], 2, 2),
    ],
)
def test_exit_codes(verdicts, code, strict):
    report = made(*verdicts)
    assert report.exit_code() == code
    assert report.exit_code("warn") == strict
    assert report.passed == (code == 0)
    if code:
        with pytest.raises(AssertionError, match="did not pass"):
            report.assert_passed()
    else:
        report.assert_passed()


def test_a_failed_assertion_names_the_checks():
    with pytest.raises(AssertionError, match=r"(?s)fail: c1: s.*not enough data: c2: s"):
        made(P, F, N).assert_passed()


def test_checks_are_looked_up_by_name():
    report = made(P, F)
    assert report["c1"].verdict is F
    assert not report["c1"].passed
    assert len(report) == 2
    with pytest.raises(KeyError, match=r"\['c0', 'c1'\]"):
        report["fairness"]


@pytest.mark.parametrize("value", ["maybe", None])
def test_fail_on_is_checked(value, tmp_path):
    with pytest.raises(ValueError, match="fail_on"):
        made(P).exit_code(value)
    with pytest.raises(ValueError, match="fail_on"):
        made(P).save(tmp_path, fail_on=value)
    with pytest.raises(ValueError, match="formats"):
        made(P).save(tmp_path, formats=("pdf",))


@pytest.mark.parametrize(
    ("verdicts", "text"),
    [
        ([P, P], "All 2 checks passed."),
        ([P], "The only check passed."),
        ([P, F, S], "1 of 2 checks failed; 1 skipped."),
        ([P, N], "Nothing failed, but the data cannot settle 1 of 2 checks."),
        ([F, E], "1 check could not run."),
        ([S], "No check applied; 1 skipped."),
    ],
)
def test_the_outcome_in_one_sentence(verdicts, text):
    assert headline(made(*verdicts)) == text


def finite(node):
    if isinstance(node, dict):
        return all(finite(value) for value in node.values())
    if isinstance(node, list):
        return all(finite(value) for value in node)
    return not isinstance(node, float) or math.isfinite(node)


def test_json_is_finite_and_stable(report, tmp_path):
    report.save(tmp_path, formats=("json",))
    document = json.loads((tmp_path / "report.json").read_text())
    assert document == report.to_dict()
    assert finite(document)
    assert list(document) == [
        "schema",
        "name",
        "passed",
        "verdicts",
        "facts",
        "parameters",
        "notes",
        "checks",
        "versions",
        "timing",
    ]
    assert document["schema"] == "trustml-audit-report/1"
    for check in document["checks"]:
        assert set(check) == {
            "name",
            "title",
            "verdict",
            "summary",
            "findings",
            "tables",
            "figures",
            "notes",
            "parameters",
        }
        for finding in check["findings"]:
            assert set(finding) == set(Finding.__dataclass_fields__)


def test_numbers_that_are_not_finite_become_null():
    finding = Finding("q", math.nan, -math.inf, math.inf, 0.95, "m", 3)
    report = AuditReport(
        "m", (result(P, findings=(finding,), parameters={"a": np.float32("inf")}),)
    )
    check = report.to_dict()["checks"][0]
    assert [check["findings"][0][k] for k in ("estimate", "low", "high")] == [None] * 3
    assert check["parameters"] == {"a": None}


def test_junit_counts_and_names(tmp_path):
    made(P, F, N, S, E).save(tmp_path, formats=("junit",))
    suite = ET.parse(tmp_path / "junit.xml").getroot().find("testsuite")
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "1", "errors": "1", "skipped": "2"}
    assert [case.get("name") for case in suite] == ["c0", "c1", "c2", "c3", "c4"]
    made(P, N).save(tmp_path, formats=("junit",), fail_on="warn")
    suite = ET.parse(tmp_path / "junit.xml").getroot().find("testsuite")
    assert suite.get("failures") == "1"


def test_junit_survives_characters_that_xml_forbids(tmp_path):
    report = AuditReport("a\x00b" + EVIL, (result(F, summary="bell \x07 " + EVIL),))
    report.save(tmp_path, formats=("junit",))
    case = ET.parse(tmp_path / "junit.xml").getroot().find("testsuite/testcase")
    assert "\ufffd" in case.get("classname")
    assert EVIL in case.find("failure").get("message")


class Page(HTMLParser):
    """Collect what a browser would run, load or nest wrongly."""

    VOID = frozenset({"meta", "br", "img", "link"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads, self.stack, self.ids = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for key, value in attributes:
            assert not key.startswith("on"), f"event handler {key}"
            if key in {"src", "href", "xlink:href", "data", "action"}:
                self.loads.append(value)
            if key == "id":
                self.ids.append(value)
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


@pytest.fixture(scope="module")
def evil_report():
    """Markup in every name that data can have."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(300, 3))
    y = np.where(X[:, 0] + 0.3 * generator.normal(size=300) > 0, EVIL, "ok $5 to $6")
    from sklearn.linear_model import LogisticRegression

    model = trustml.wrap(
        LogisticRegression().fit(X[:100], y[:100]),
        train=(X[:100], y[:100]),
        feature_names=[EVIL, "b]]>", "</svg>"],
    )
    groups = np.where(generator.random(200) < 0.5, EVIL, "</td></table>")
    return trustml.audit(
        model,
        X[100:],
        y[100:],
        sensitive_features={EVIL: groups},
        X_ood={EVIL: X[100:] + 5},
        name=EVIL,
    )


def test_html_escapes_whatever_comes_from_data(evil_report):
    assert evil_report.counts[Verdict.ERROR] == 0
    text = evil_report.to_html()
    page = Page(text)
    assert "script" not in page.tags
    assert page.stack == []
    assert "alert(" in text  # the names are shown, as text
    assert "<script" not in evil_report._repr_html_()


def test_html_is_self_contained(report):
    text = report.to_html()
    page = Page(text)
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in page.loads)
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"https?://|@import|url\(\s*['\"]?(?!#)", text)
    assert "svg" in page.tags
    for image in re.findall(r"data:image/png;base64,([^\"]+)", text):
        assert base64.b64decode(image).startswith(b"\x89PNG")


def test_html_says_what_was_found(report):
    text = report.to_html()
    for check in report:
        assert f'id="{check.name}"' in text
        assert check.fix.split("(")[0].split("'")[0] in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert "random_state" in text
    assert "0.95" in text


def test_the_same_report_gives_the_same_page(report):
    assert report.to_html() == report.to_html()


def test_intervals_of_one_requirement_share_a_scale():
    pair = [
        Finding("a", 0.5, 0.4, 0.6, 0.95, "m", 9, "at least 0.5", (0.5,), verdict=N),
        Finding("b", 0.9, 0.8, 1.0, 0.95, "m", 9, "at least 0.5", (0.5,), verdict=P),
        Finding("c", math.nan, math.nan, math.nan, 0.95, "m", 9),
    ]
    first, second, none = bars(pair)
    assert none is None
    assert first.marks == second.marks
    assert first.low == 4.0
    assert second.high == 96.0
    assert first.high < second.low


def test_a_missing_extra_is_named(report, monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"trustml\[report\]"):
        report.to_html()
    report.save(tmp_path, formats=("json", "junit"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["junit.xml", "report.json"]


def test_the_table_shows_every_check_and_no_markup(evil_report, capsys):
    evil_report.print()
    shown = capsys.readouterr().out
    for check in evil_report:
        assert check.title in shown
    assert "random_state=0" in shown
