"""A report as plain data: JSON with finite numbers, and the short HTML of a notebook."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from enum import Enum
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from trustml.core.validation import to_numpy

if TYPE_CHECKING:
    from trustml.auditing._check import CheckResult
    from trustml.auditing._report import AuditReport

SCHEMA = "trustml-audit-report/1"


def report_to_dict(report: AuditReport) -> dict[str, Any]:
    """Return the report with only dicts, lists, strings, finite numbers, booleans and None."""
    document = {
        "schema": SCHEMA,
        "name": report.name,
        "passed": report.passed,
        "verdicts": {verdict.value: count for verdict, count in report.counts.items()},
        "facts": report.facts,
        "parameters": report.parameters,
        "notes": report.notes,
        "checks": [_check(result) for result in report.results],
        "versions": report.versions,
        "timing": {
            "started": report.started,
            "seconds": round(report.seconds, 3),
            "checks": {r.name: round(r.seconds, 3) for r in report.results},
        },
    }
    plain = jsonable(document)
    if not isinstance(plain, dict):  # pragma: no cover - a dict stays a dict
        raise TypeError("report is not a mapping")
    return plain


def _check(result: CheckResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "title": result.title,
        "verdict": result.verdict,
        "summary": result.summary,
        "findings": [
            {key: getattr(finding, key) for key in finding.__dataclass_fields__}
            for finding in result.findings
        ],
        "tables": [
            {"title": t.title, "caption": t.caption, "columns": t.columns, "rows": t.rows}
            for t in result.tables
        ],
        "figures": [
            {"title": f.title, "caption": f.caption, "kind": f.kind} for f in result.figures
        ],
        "notes": result.notes,
        "parameters": result.parameters,
    }


def jsonable(value: Any) -> Any:
    """Return `value` with only what JSON knows; a number that is not finite becomes None."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Enum):
        return jsonable(value.value)
    if isinstance(value, (int, np.integer)) and not isinstance(value, np.bool_):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    if isinstance(value, np.ndarray) or hasattr(value, "detach"):
        return [jsonable(item) for item in to_numpy(value).tolist()]
    return str(value)


def json_text(report: AuditReport) -> str:
    """Return the text of ``report.json``."""
    return json.dumps(report_to_dict(report), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def summary_html(report: AuditReport) -> str:
    """Return the verdict table as HTML, everything escaped."""
    rows = "".join(
        f"<tr><td>{escape(r.title)}</td><td><b>{escape(r.verdict.value)}</b></td>"
        f"<td style='text-align:left'>{escape(r.summary)}</td></tr>"
        for r in report.results
    )
    word = "passed" if report.passed else "did not pass"
    return (
        f"<table><caption>Audit of {escape(report.name)}: {word}</caption><thead><tr>"
        f"<th>check</th><th>verdict</th><th>finding</th></tr></thead><tbody>{rows}</tbody></table>"
    )
