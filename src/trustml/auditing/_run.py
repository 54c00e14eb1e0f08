"""Running the checks, each on its own: one that breaks does not stop the others."""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from trustml.auditing._case import Case
from trustml.auditing._check import Check, CheckResult, Skip
from trustml.auditing._data import group_labels, length, ood_sets, rows_of
from trustml.auditing._report import AuditReport
from trustml.auditing._settings import make_checks, open_share
from trustml.auditing._verdict import Verdict
from trustml.auditing.checks import CHECKS
from trustml.core.validation import check_same_length, take_rows, to_numpy
from trustml.evidence import clopper_pearson
from trustml.model import Model, as_model
from trustml.warnings import TrustmlWarning

_VERSIONS = ("torch", "numpy", "scipy", "scikit-learn")


def audit(
    model: Any,
    X_test: Any,
    y_test: Any,
    *,
    X_cal: Any = None,
    y_cal: Any = None,
    sensitive_features: Any = None,
    X_ood: Any = None,
    checks: Any = None,
    level: float = 0.95,
    random_state: int = 0,
    name: str | None = None,
    on_check: Callable[[Check], None] | None = None,
) -> AuditReport:
    """Ask a trained model the questions of trust, and judge the answers by intervals and tests.

    Parameters
    ----------
    model : Model or estimator
        What ``trustml.wrap`` takes. With ``wrap(..., train=(X, y))`` the label check runs too,
        and the detector learns from the training rows.
    X_test : array, tensor or frame of shape (n, ...)
        Rows that neither training nor calibration saw.
    y_test : array of shape (n,)
        Their labels or values.
    X_cal, y_cal : array-like of shape (m, ...) and (m,), or None
        Rows to calibrate with; None takes a random half of the test rows, and says so.
    sensitive_features : array, Series, frame or mapping of columns, or None
        Groups of the test rows; continuous columns must be binned.
    X_ood : array-like, mapping of name to array-like, or None
        Out-of-distribution rows. None: corruptions of the test rows and a drift test stand in,
        and the report says so.
    checks : None, names, Check objects, or mapping of name to thresholds
        None runs all of them with their defaults; see ``trustml.auditing.CHECKS``.
    level : float in (0, 1)
        Confidence level of each check as a whole.
    random_state : int
        Seed of everything random: the same seed gives the same report.
    name : str or None
        What the report calls the model; None takes the class of the estimator.
    on_check : callable or None
        Called with each check before it runs; for progress bars.

    Returns
    -------
    AuditReport

    Raises
    ------
    TypeError
        If the data are of a kind that cannot be indexed, or the seed is no int.
    ValueError
        If shapes, labels, groups, names or thresholds are wrong.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> import trustml
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X[::2], y[::2])
    >>> report = trustml.audit(model, X[1::2], y[1::2], checks=["calibration"])
    >>> report["calibration"].name
    'calibration'
    """
    chosen = make_checks(checks, CHECKS)
    open_share(level, "level")
    if isinstance(random_state, bool) or not isinstance(random_state, (int, np.integer)):
        raise TypeError(
            f"random_state must be an int, so that the report names it: {random_state!r}"
        )
    if random_state < 0:
        raise ValueError(f"random_state must be at least 0, got {random_state}")
    case = _case(
        as_model(model),
        X_test,
        y_test,
        X_cal,
        y_cal,
        sensitive_features,
        X_ood,
        level,
        random_state,
    )
    started, clock = datetime.now(UTC), time.perf_counter()
    results = []
    for check in chosen:
        if on_check is not None:
            on_check(check)
        results.append(run_check(check, case))
    return AuditReport(
        name=str(name) if name is not None else type(case.model.estimator).__name__,
        results=tuple(results),
        facts=_facts(case),
        parameters={"level": float(level), "random_state": int(random_state)},
        versions=versions(),
        started=started.isoformat(timespec="seconds"),
        seconds=time.perf_counter() - clock,
    )


def run_check(check: Check, case: Case) -> CheckResult:
    """Run one check; a reason to skip and a crash become verdicts, warnings become notes."""
    clock = time.perf_counter()
    words = {key: getattr(check, key) for key in ("name", "title", "question", "why", "fix")}
    parameters = check.settings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            outcome = check.run(case)
        except Skip as reason:
            result = CheckResult(
                **words, verdict=Verdict.SKIPPED, summary=str(reason), parameters=parameters
            )
        except Exception as error:  # noqa: BLE001, RUF100 - any crash is this check's verdict
            text = " ".join(str(error).split())
            result = CheckResult(
                **words,
                verdict=Verdict.ERROR,
                summary=f"{type(error).__name__}: {text}" if text else type(error).__name__,
                parameters=parameters,
            )
        else:
            result = CheckResult(
                **words,
                verdict=outcome.verdict,
                summary=outcome.summary,
                findings=outcome.findings,
                figures=outcome.figures,
                tables=outcome.tables,
                notes=(*outcome.notes, *_own(caught)),
                parameters={**parameters, **outcome.parameters},
            )
    _pass_on(caught)
    return _timed(result, time.perf_counter() - clock)


def _timed(result: CheckResult, seconds: float) -> CheckResult:
    from dataclasses import replace

    return replace(result, seconds=seconds)


def _own(caught: list[warnings.WarningMessage]) -> tuple[str, ...]:
    own = [str(w.message) for w in caught if issubclass(w.category, TrustmlWarning)]
    return tuple(dict.fromkeys(own))


def _pass_on(caught: list[warnings.WarningMessage]) -> None:
    """Warn again of what is not ours: it belongs to the user's model or libraries."""
    for w in caught:
        if not issubclass(w.category, TrustmlWarning):
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)


def _case(
    model: Model,
    X_test: Any,
    y_test: Any,
    X_cal: Any,
    y_cal: Any,
    sensitive_features: Any,
    X_ood: Any,
    level: float,
    random_state: int,
) -> Case:
    X, y = rows_of(X_test, "X_test"), _labels(y_test, "y_test")
    check_same_length(X_test=X, y_test=y)
    if model.task == "multilabel":
        raise ValueError("audits of multilabel models are not supported; wrap one label at a time")
    model.predict(take_rows(X, np.arange(min(len(y), 2))))  # shows the number of classes
    if (X_cal is None) != (y_cal is None):
        given, missing = ("X_cal", "y_cal") if y_cal is None else ("y_cal", "X_cal")
        raise ValueError(f"{given} was given without {missing}; give both or neither")
    if X_cal is not None:
        X_cal, y_cal = rows_of(X_cal, "X_cal"), _labels(y_cal, "y_cal")
        check_same_length(X_cal=X_cal, y_cal=y_cal)
        if X_cal.shape[1:] != X.shape[1:]:
            raise ValueError(
                f"X_cal has rows of shape {tuple(X_cal.shape[1:])}, X_test of "
                f"{tuple(X.shape[1:])}; both must be what the model takes"
            )
        model.targets(y_cal)
    model.targets(y)
    return Case(
        model=model,
        X=X,
        y=y,
        X_cal=X_cal,
        y_cal=y_cal,
        groups=group_labels(sensitive_features, len(y)),
        ood=ood_sets(X_ood),
        level=float(level),
        random_state=int(random_state),
    )


def _labels(y: Any, name: str) -> Any:
    labels = to_numpy(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) == 0:
        raise ValueError(f"{name} must have shape (n,) with n > 0, got {labels.shape}")
    return labels


def _facts(case: Case) -> dict[str, Any]:
    model = case.model
    made_of = type(model.estimator).__name__
    if model.differentiable:
        count = sum(p.numel() for p in model.module.parameters())
        made_of += f", {count:,} parameters".replace(",", " ").replace("  ", ", ")
    facts: dict[str, Any] = {"model": made_of}
    if model.task == "classification":
        facts["task"] = f"classification, {len(case.class_names)} classes"
        right = clopper_pearson(int(case.correct.sum()), case.n, case.level)
        facts["test accuracy"] = f"{right.estimate:.3f} [{right.low:.3f}, {right.high:.3f}]"
    else:
        facts["task"] = model.task
        error = np.abs(case.predictions - case.y.astype(np.float64))
        facts["test mean absolute error"] = float(error.mean())
    facts["test rows"] = case.n
    facts["calibration rows"] = 0 if case.X_cal is None else length(case.X_cal)
    facts["training rows"] = 0 if case.train is None else len(case.train)
    facts["sensitive features"] = ", ".join(case.groups) or "none"
    facts["out-of-distribution sets"] = ", ".join(case.ood) or "none"
    return facts


def versions() -> dict[str, str]:
    """Return the versions of what computes an audit."""
    from trustml import __version__

    found = {"trustml": __version__, "python": platform.python_version()}
    for package in _VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
