"""An audit as an ``audit.toml`` describes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trustml.auditing._check import Check
from trustml.auditing._config import Config, ConfigError, read_config
from trustml.auditing._load import load_estimator
from trustml.auditing._report import FAIL_ON, AuditReport
from trustml.auditing._run import audit
from trustml.auditing._tables import Rows, read_rows
from trustml.model import Model, wrap

_WRAP = ("task", "class_names", "feature_names", "weight_decay", "device")


def audit_file(
    path: str | Path,
    *,
    allow_pickle: bool = False,
    checks: list[str] | None = None,
    random_state: int | None = None,
    on_check: Callable[[Check], None] | None = None,
) -> tuple[AuditReport, str]:
    """Run the audit of a file.

    Parameters
    ----------
    path : str or Path
        The ``audit.toml``.
    allow_pickle : bool
        Whether a pickled model may be read.
    checks : list of str or None
        Only these checks, with the thresholds of the file.
    random_state : int or None
        Overrides the file's seed.
    on_check : callable or None
        Called with each check before it runs.

    Returns
    -------
    (AuditReport, str)
        The report, and the file's ``fail_on``.

    Raises
    ------
    ConfigError
        If the file, or one that it names, cannot be used.
    """
    config = read_config(path)
    settings = config.audit
    fail_on = settings.get("fail_on", "fail")
    if fail_on not in FAIL_ON:
        raise ConfigError(f"{config.path.name}: [audit] fail_on must be one of {FAIL_ON}")
    estimator = load_estimator(config, allow_pickle)
    features = _fitted_names(estimator)
    splits = {
        key: read_rows(config, key, config.data[key], features)
        for key in ("test", "calibration", "train")
        if key in config.data
    }
    model = _wrapped(config, estimator, splits.get("train"))
    test, calibration = splits["test"], splits.get("calibration")
    report = audit(
        model,
        test.X,
        test.y,
        X_cal=None if calibration is None else calibration.X,
        y_cal=None if calibration is None else calibration.y,
        sensitive_features=test.sensitive or None,
        X_ood=_strange(config, features),
        checks=_chosen(config, checks),
        level=settings.get("level", 0.95),
        random_state=settings.get("random_state", 0) if random_state is None else random_state,
        name=settings.get("name", config.path.resolve().parent.name),
        on_check=on_check,
    )
    return report, fail_on


def _chosen(config: Config, names: list[str] | None) -> dict[str, Any]:
    if names is None:
        return config.checks
    return {name: config.checks.get(name, {}) for name in names}


def _strange(config: Config, features: list[str] | None) -> dict[str, Any] | None:
    """Return the out-of-distribution sets by name."""
    given = config.data.get("ood")
    if given is None:
        return None
    files = given if isinstance(given, dict) else {Path(str(given)).stem: given}
    return {
        name: read_rows(config, "ood", file, features, labelled=False).X
        for name, file in files.items()
    }


def _fitted_names(estimator: Any) -> list[str] | None:
    """Return the columns that the estimator was fitted with, if it remembers them."""
    if isinstance(estimator, Model):
        return estimator.feature_names
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else [str(name) for name in names]


def _wrapped(config: Config, estimator: Any, train: Rows | None) -> Model:
    given = {key: config.model[key] for key in _WRAP if key in config.model}
    bounds = config.model.get("bounds")
    if bounds is not None:
        given["bounds"] = tuple(bounds) if isinstance(bounds, list) else bounds
    if isinstance(estimator, Model):
        if given or train is not None:
            clash = [*given, *(["train"] if train is not None else [])]
            raise ConfigError(
                f"{config.path.name}: [model] load returns a wrapped Model, which has its own "
                f"{clash}; return the bare estimator, or leave these out"
            )
        return estimator
    return wrap(estimator, train=None if train is None else (train.X, train.y), **given)
