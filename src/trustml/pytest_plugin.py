"""Pytest plugin: the fixture ``trustml_audit`` and the option ``--trustml-report``.

It ships with the package and imports nothing heavy until the fixture is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from trustml.auditing import AuditReport


_HTML_NEEDS = ("jinja2", "matplotlib")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--trustml-report DIR``: where the reports of ``trustml_audit`` are kept."""
    parser.getgroup("trustml").addoption(
        "--trustml-report",
        metavar="DIR",
        default=None,
        help="keep the report of every trustml_audit test under DIR/<test name>/",
    )


@pytest.fixture
def trustml_audit(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., AuditReport]:
    """Audit a model inside a test: ``trustml_audit(model, X, y, ...).assert_passed()``.

    The callable takes what ``trustml.audit`` takes and returns its ``AuditReport``, after
    saving it under ``--trustml-report DIR/<test name>`` or else the test's ``tmp_path``.
    A second audit in one test is saved beside the first, numbered. Without the extra
    ``trustml[report]`` there is no ``report.html``, only the numbers.

    Returns
    -------
    callable
        ``(model, X_test, y_test, **settings) -> AuditReport``.
    """
    chosen = request.config.getoption("--trustml-report")
    test_name = re.sub(r"[^\w.-]+", "_", request.node.nodeid).strip("_")
    base = Path(chosen) / test_name if chosen else tmp_path / "trustml-report"
    runs = 0

    def run(model: Any, X_test: Any, y_test: Any = None, **settings: Any) -> AuditReport:
        nonlocal runs
        from trustml.auditing import audit

        report = audit(model, X_test, y_test, **settings)
        runs += 1
        formats = ("json", "junit", "html") if _can_draw() else ("json", "junit")
        folder = base if runs == 1 else base.with_name(f"{base.name}-{runs}")
        report.save(folder, formats=formats)
        return report

    return run


def _can_draw() -> bool:
    return all(find_spec(package) is not None for package in _HTML_NEEDS)
