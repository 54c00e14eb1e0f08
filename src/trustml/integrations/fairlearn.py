"""Mitigators, moments and metrics of the package fairlearn, with our manners."""

from __future__ import annotations

import inspect
import warnings
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted

from trustml.core.optional import require
from trustml.core.random import RandomState, numpy_generator, seeded
from trustml.core.validation import check_choice, restore, to_numpy
from trustml.fairness._groups import Groups, as_groups
from trustml.fairness._known_groups import group_codes
from trustml.fairness._rates import as_decisions
from trustml.integrations._by_group import ByGroup
from trustml.integrations._rows import to_rows
from trustml.model import Model

__all__ = ["FairlearnClassifier", "FairlearnTransformer", "metric", "moment"]

_MOMENTS = {
    "demographic_parity": "DemographicParity",
    "equal_opportunity": "TruePositiveRateParity",
    "predictive_equality": "FalsePositiveRateParity",
    "equalized_odds": "EqualizedOdds",
    "error_parity": "ErrorRateParity",
}


class FairlearnClassifier(ByGroup):
    """Any of fairlearn's classifiers, with our labels, groups, models and random numbers.

    Labels and groups may be of any kind, several sensitive columns are taken as their
    intersections. Where fairlearn draws decisions, ``predict_proba`` holds the probabilities of
    the draw, and ``predict`` draws by the row: equal rows get equal decisions, in any batch. A
    trustml ``Model`` inside ``ThresholdOptimizer`` is asked as it is; inside a reduction, which
    trains, the estimator that it wraps is cloned.

    Parameters
    ----------
    mitigator : fairlearn estimator
        ``ThresholdOptimizer``, ``ExponentiatedGradient``, ``GridSearch``,
        ``AdversarialFairnessClassifier``, or another with ``fit(X, y, sensitive_features=...)``
        and ``predict``; cloned, but for a fitted estimator inside (``prefit=True``).
    pos_label : object or None
        The favourable label, fairlearn's 1; None: the second of the two sorted labels.
    random_state : int, Generator or None
        Decides draws, and what fairlearn takes from the global generators, which are put back.

    Attributes
    ----------
    mitigator_ : fairlearn estimator
        Fitted on labels 0 and 1 and groups numbered from 0.
    groups_ : list
        The groups, in the order of their numbers.

    References
    ----------
    Bird et al. (2020), Fairlearn: a toolkit for assessing and improving fairness in AI.

    Examples
    --------
    >>> from fairlearn.reductions import ExponentiatedGradient  # doctest: +SKIP
    >>> theirs = ExponentiatedGradient(tree, moment("equalized_odds"))  # doctest: +SKIP
    >>> fair = FairlearnClassifier(theirs).fit(X, y, sensitive_features=sex)  # doctest: +SKIP
    >>> fair.predict_proba(X_new)[:, 1]  # doctest: +SKIP
    """

    def __init__(
        self, mitigator: Any, pos_label: Any = None, random_state: RandomState = None
    ) -> None:
        self.mitigator = mitigator
        self.pos_label = pos_label
        self.random_state = random_state

    def _fit(
        self, X: Any, y: np.ndarray, groups: Groups, sample_weight: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        if sample_weight is not None:
            raise ValueError(
                f"fairlearn's {type(self.mitigator).__name__} is given no sample_weight here; "
                "resample the rows, or use a mitigator of trustml.fairness"
            )
        _check_groups_are_taken(self.mitigator)
        seed = int(numpy_generator(self.random_state).integers(2**31))
        made = _served(self.mitigator, self._favourable())
        with seeded(seed), warnings.catch_warnings():
            # Of its own use of pandas, which the user cannot mend.
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="fairlearn")
            made.fit(to_rows(X), y.astype(np.int64), sensitive_features=groups.codes)
        self.mitigator_, self.groups_, self._groups = made, list(groups.labels), groups
        self._asks_groups = "sensitive_features" in inspect.signature(made.predict).parameters
        self.seed_ = seed if hasattr(made, "_pmf_predict") else None
        return self._decided(X, groups.codes), None

    def predict_proba(self, X: Any, *, sensitive_features: Any = None) -> np.ndarray:
        """Return the probabilities with which each label is decided on.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Rows.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            Groups of ``fit``; needed if fairlearn's mitigator decides by group.

        Returns
        -------
        numpy.ndarray of shape (n, 2)
            0 and 1 where fairlearn decides without chance.
        """
        self._check_rows(X)
        return self._columns(self._decided(X, self._codes(X, sensitive_features)))

    def predict(self, X: Any, *, sensitive_features: Any = None) -> np.ndarray:
        """Return one of ``classes_`` for each row.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Rows.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            As in ``predict_proba``.

        Returns
        -------
        numpy.ndarray of shape (n,)
        """
        self._check_rows(X)
        return self._labels(X, self._decided(X, self._codes(X, sensitive_features)))

    def _codes(self, X: Any, sensitive_features: Any) -> np.ndarray | None:
        if not self._asks_groups:
            return None
        if sensitive_features is None:
            raise ValueError(
                f"fairlearn's {type(self.mitigator_).__name__} decides by group: pass "
                "sensitive_features="
            )
        return group_codes(sensitive_features, len(X), self._groups)

    def _decided(self, X: Any, codes: np.ndarray | None) -> np.ndarray:
        """Return the probability of a favourable decision, shape (n,)."""
        rows = to_rows(X)
        more = {"sensitive_features": codes} if self._asks_groups else {}
        if self.seed_ is None:
            with seeded(0):
                answer = to_numpy(self.mitigator_.predict(rows, **more)).ravel()
            certain: np.ndarray = (answer == 1).astype(np.float64)
            return certain
        found = to_numpy(self.mitigator_._pmf_predict(rows, **more))
        chance: np.ndarray = found[:, 1].astype(np.float64)
        return chance


class FairlearnTransformer(TransformerMixin, BaseEstimator):
    """Any of fairlearn's transformers of columns, with groups in an argument of their own.

    Parameters
    ----------
    transformer : fairlearn estimator
        ``CorrelationRemover`` (whose ``sensitive_feature_ids`` stay empty: it gets the groups'
        indicators as columns, and they are gone from the result), or another with
        ``fit(X, y, sensitive_features=...)`` and ``transform``; cloned.

    Attributes
    ----------
    transformer_ : fairlearn estimator
        Fitted.
    groups_ : list
        The groups seen in ``fit``.

    Examples
    --------
    >>> from fairlearn.preprocessing import CorrelationRemover  # doctest: +SKIP
    >>> remover = FairlearnTransformer(CorrelationRemover())  # doctest: +SKIP
    >>> remover.fit(X, sensitive_features=sex)  # doctest: +SKIP
    >>> remover.transform(X_new, sensitive_features=sex_new)  # doctest: +SKIP
    """

    def __init__(self, transformer: Any) -> None:
        self.transformer = transformer

    def fit(self, X: Any, y: Any = None, *, sensitive_features: Any) -> Self:
        """Learn from rows whose groups are known.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Numbers.
        y : array-like of shape (n,) or None
            Labels, where fairlearn's transformer looks at them.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            Group membership.

        Returns
        -------
        FairlearnTransformer
            Itself.
        """
        rows = to_numpy(X)
        self._groups = as_groups(sensitive_features, len(rows))
        self.groups_ = list(self._groups.labels)
        made = clone(self.transformer)
        self._beside = hasattr(made, "sensitive_feature_ids")
        if self._beside:
            d, k = rows.shape[1], len(self.groups_)
            made.set_params(sensitive_feature_ids=list(range(d, d + k - 1)))
            made.fit(self._with_groups(rows, self._groups.codes))
        else:
            with seeded(0):
                made.fit(rows, to_numpy(y), sensitive_features=self._groups.codes)
        self.transformer_ = made
        return self

    def transform(self, X: Any, *, sensitive_features: Any = None) -> Any:
        """Return the changed columns.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Numbers.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            Groups of ``fit``; needed by ``CorrelationRemover``.

        Returns
        -------
        array of shape (n, ...)
            As fairlearn gives it; a tensor for a tensor.

        Raises
        ------
        ValueError
            If groups are needed and were not given, or did not occur in ``fit``.
        """
        check_is_fitted(self, "transformer_")
        rows = to_numpy(X)
        if self._beside:
            if sensitive_features is None:
                raise ValueError("fairlearn's CorrelationRemover needs sensitive_features=")
            rows = self._with_groups(rows, group_codes(sensitive_features, len(rows), self._groups))
        return restore(to_numpy(self.transformer_.transform(rows)), X)

    def _with_groups(self, rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
        indicators = codes[:, None] == np.arange(1, len(self.groups_))
        return np.hstack([rows.astype(np.float64), indicators])


def moment(criterion: str, **bounds: Any) -> Any:
    """Return fairlearn's moment, the constraint of its reductions, for one of our criteria.

    Parameters
    ----------
    criterion : str
        "demographic_parity", "equal_opportunity", "predictive_equality", "equalized_odds" or
        "error_parity".
    **bounds : float
        fairlearn's ``difference_bound``, ``ratio_bound`` and ``ratio_bound_slack``.

    Returns
    -------
    fairlearn.reductions.Moment

    Notes
    -----
    A ``ValueError`` names the criteria if there is no such one.
    """
    check_choice(criterion, "criterion", tuple(_MOMENTS))
    return getattr(require("fairlearn.reductions", "fairness"), _MOMENTS[criterion])(**bounds)


def metric(
    name: str,
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    pos_label: Any = None,
    **options: Any,
) -> float:
    """Return one of fairlearn's group metrics, of labels, arrays and frames of any kind.

    Parameters
    ----------
    name : str
        A name of ``fairlearn.metrics`` that takes groups, such as "equalized_odds_ratio" or
        "mean_absolute_error_group_max".
    y_true, y_pred : array-like of shape (n,)
        True and predicted labels or numbers.
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership.
    pos_label : object or None
        The favourable label; None: 1 of {0, 1} and {-1, 1}.
    **options : object
        Further arguments of fairlearn's metric: ``method``, ``agg``, ``sample_weight``.

    Returns
    -------
    float
        fairlearn's figure: a difference is unsigned.

    Raises
    ------
    ValueError
        If fairlearn has no such metric of groups.
    """
    theirs = require("fairlearn.metrics", "fairness")
    known = [
        each
        for each in theirs.__all__
        if not inspect.isclass(getattr(theirs, each))
        and "sensitive_features" in inspect.signature(getattr(theirs, each)).parameters
    ]
    if name not in known:
        raise ValueError(f"fairlearn has no metric of groups {name!r}; it has {', '.join(known)}")
    labels = as_decisions(y_true, y_pred, pos_label)
    true, pred = labels.y_true, labels.y_pred
    if labels.true is not None and labels.decided is not None:
        true, pred = labels.true.astype(np.int64), labels.decided.astype(np.int64)
    codes = as_groups(sensitive_features, len(true)).codes
    return float(getattr(theirs, name)(true, pred, sensitive_features=codes, **options))


class _Favourable(ClassifierMixin, BaseEstimator):
    """A fitted model whose favourable label is called 1."""

    def __init__(self, model: Any, label: Any) -> None:
        self.model = model
        self.label = label

    def fit(self, X: Any, y: Any) -> Self:
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict_proba(self, X: Any) -> np.ndarray:
        column = list(self.model.classes_).index(self.label)
        p = to_numpy(self.model.predict_proba(X))[:, column].astype(np.float64)
        return np.stack([1 - p, p], axis=1)

    def predict(self, X: Any) -> np.ndarray:
        decided: np.ndarray = (to_numpy(self.model.predict(X)) == self.label).astype(np.int64)
        return decided


def _check_groups_are_taken(mitigator: Any) -> None:
    """Refuse what is no mitigator of fairlearn's kind."""
    asks = inspect.signature(mitigator.fit).parameters if hasattr(mitigator, "fit") else {}
    by_keyword = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in asks.values())
    if isinstance(mitigator, type) or not (by_keyword or "sensitive_features" in asks):
        raise TypeError(
            "mitigator must be an estimator of fairlearn, whose fit takes sensitive_features, such "
            f"as ExponentiatedGradient(estimator, moment('equalized_odds')); got {mitigator!r}"
        )


def _served(mitigator: Any, label: Any) -> Any:
    """Return a clone with an estimator inside that fairlearn can work with."""
    inner: Any = getattr(mitigator, "estimator", None)
    made = clone(mitigator)
    if "prefit" in made.get_params() and (mitigator.prefit or isinstance(inner, Model)):
        asked = hasattr(inner, "predict_proba") and hasattr(inner, "classes_")
        if asked and label not in inner.classes_.tolist():
            raise ValueError(
                f"the favourable label is {label!r}, and the fitted estimator knows "
                f"{inner.classes_.tolist()}; pass the labels that it was fitted on"
            )
        # Not the clone's: cloning forgets what was fitted.
        return made.set_params(estimator=_Favourable(inner, label) if asked else inner, prefit=True)
    if not isinstance(inner, Model):
        return made
    if not hasattr(inner.estimator, "get_params"):
        raise TypeError(
            f"fairlearn's {type(mitigator).__name__} trains its estimator anew, and {inner!r} "
            "wraps no scikit-learn estimator; use a mitigator of trustml.fairness for torch modules"
        )
    return made.set_params(estimator=clone(inner.estimator))
