"""Algorithms and metrics of the package AIF360, for arrays and frames."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted

from trustml.core.optional import require
from trustml.core.random import RandomState, numpy_generator, seeded
from trustml.core.validation import restore, to_numpy
from trustml.fairness._groups import Groups, as_groups
from trustml.fairness._known_groups import group_codes
from trustml.integrations._aif360_datasets import (
    GROUP,
    LABEL,
    SIDES,
    from_dataset,
    metric,
    rows_to_dataset,
    side_of,
    to_dataset,
)
from trustml.integrations._by_group import ByGroup
from trustml.integrations._rows import to_rows
from trustml.model import Model

__all__ = ["Aif360Classifier", "Aif360Transformer", "from_dataset", "metric", "to_dataset"]

_KINDS = ("preprocessing", "inprocessing", "postprocessing")


class Aif360Transformer(TransformerMixin, BaseEstimator):
    """Any pre-processing algorithm of AIF360, of arrays.

    Parameters
    ----------
    algorithm : str or class
        "Reweighing", "LFR", "DisparateImpactRemover" (needs BlackBoxAuditing), "OptimPreproc", or
        such a class.
    options : mapping or None
        Its arguments; groups and names are filled in.
    privileged, pos_label : object or None
        As in ``to_dataset``.
    random_state : int, Generator or None
        Decides what AIF360 draws; the global generators are put back.

    Attributes
    ----------
    algorithm_ : object
        Fitted.
    sample_weight_ : numpy.ndarray of shape (n,)
        Weights of the rows of ``fit``; ones unless the algorithm weighs.
    y_ : numpy.ndarray of shape (n,)
        Their labels, 1 for the favourable, where the algorithm changes them.
    """

    def __init__(
        self,
        algorithm: Any,
        options: Mapping[str, Any] | None = None,
        privileged: Any = None,
        pos_label: Any = None,
        random_state: RandomState = None,
    ) -> None:
        self.algorithm = algorithm
        self.options = options
        self.privileged = privileged
        self.pos_label = pos_label
        self.random_state = random_state

    def fit(self, X: Any, y: Any, *, sensitive_features: Any, sample_weight: Any = None) -> Self:
        """Learn from labelled rows whose groups are known.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Numbers.
        y : array-like of shape (n,)
            Two labels.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            Group membership.
        sample_weight : array-like of shape (n,) or None
            How often each row counts.

        Returns
        -------
        Aif360Transformer
            Itself.
        """
        given = to_dataset(
            X,
            y,
            sensitive_features=sensitive_features,
            privileged=self.privileged,
            pos_label=self.pos_label,
            sample_weight=sample_weight,
        )
        self._groups = as_groups(sensitive_features, len(given.labels))
        self._privileged = side_of(self._groups, self.privileged)
        self.seed_ = int(numpy_generator(self.random_state).integers(2**31))
        with seeded(self.seed_):
            self.algorithm_ = _made(self.algorithm, self.options, self.seed_)
            if _defines(self.algorithm_, "fit"):
                self.algorithm_.fit(given)
        found = from_dataset(self._changed(given))
        self.sample_weight_, self.y_ = found["sample_weight"], found["y"]
        return self

    def transform(self, X: Any, *, sensitive_features: Any) -> Any:
        """Return the changed columns.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Numbers.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            Groups of ``fit``.

        Returns
        -------
        array of shape (n, ...)
            A tensor for a tensor. Some algorithms repair rows relative to the others that are
            given with them.
        """
        check_is_fitted(self, "algorithm_")
        codes = group_codes(sensitive_features, len(X), self._groups)
        # AIF360 wants labels where none are known; transformers of columns do not read them.
        given = rows_to_dataset(X, np.arange(len(codes)) % 2 == 1, codes == self._privileged)
        return restore(from_dataset(self._changed(given))["X"], X)

    def _changed(self, given: Any) -> Any:
        with seeded(self.seed_):
            if not _defines(self.algorithm_, "transform"):
                return self.algorithm_.fit_transform(given)
            return self.algorithm_.transform(given)


class Aif360Classifier(ByGroup):
    """Any in-processing algorithm of AIF360, or a post-processing one of an estimator's scores.

    AIF360 answers for a batch: whom it draws for another decision depends on the other rows.

    Parameters
    ----------
    algorithm : str or class
        In-processing: "MetaFairClassifier", "PrejudiceRemover", "GerryFairClassifier",
        "ExponentiatedGradientReduction", ...; post-processing: "EqOddsPostprocessing",
        "CalibratedEqOddsPostprocessing", "RejectOptionClassification"; or such a class.
    estimator : estimator, Model or None
        Whose scores are post-processed: a fitted ``Model`` is asked as it is, an estimator is
        cloned and trained. None for in-processing.
    options : mapping or None
        Arguments of the algorithm; groups, names and seeds are filled in.
    privileged, pos_label : object or None
        As in ``to_dataset``, with the second of the sorted labels where ``pos_label`` is None.
    random_state : int, Generator or None
        Decides what AIF360 draws; the global generators are put back.

    Attributes
    ----------
    algorithm_ : object
        Fitted.
    estimator_ : object
        Whose scores are post-processed.
    """

    def __init__(
        self,
        algorithm: Any,
        estimator: Any = None,
        options: Mapping[str, Any] | None = None,
        privileged: Any = None,
        pos_label: Any = None,
        random_state: RandomState = None,
    ) -> None:
        self.algorithm = algorithm
        self.estimator = estimator
        self.options = options
        self.privileged = privileged
        self.pos_label = pos_label
        self.random_state = random_state

    def _fit(
        self, X: Any, y: np.ndarray, groups: Groups, sample_weight: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        self._groups, self._privileged = groups, side_of(groups, self.privileged)
        side = groups.codes == self._privileged
        self._draw = int(numpy_generator(self.random_state).integers(2**31))
        true = rows_to_dataset(X, y, side, None, sample_weight)
        scores = None
        if self.estimator is not None:
            self.estimator_ = self.estimator
            if not isinstance(self.estimator, Model):
                more = {} if sample_weight is None else {"sample_weight": sample_weight}
                labels = np.where(y, self._favourable(), self._other())
                self.estimator_ = clone(self.estimator).fit(to_rows(X), labels, **more)
            scores = self._scores(X)
        with seeded(self._draw), _own_python_first():
            self.algorithm_ = _made(self.algorithm, self.options, self._draw)
            self._check_scores(scores)
            if scores is None:
                self.algorithm_.fit(true)
            else:
                pair = (true, rows_to_dataset(X, scores > 0.5, side, scores, sample_weight))
                self.algorithm_.fit(*pair)
        return self._decided(X, groups.codes), None if scores is None else scores > 0.5

    def predict(self, X: Any, *, sensitive_features: Any = None) -> np.ndarray:
        """Return one of ``classes_`` for each row.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Rows.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            Groups of ``fit``.

        Returns
        -------
        numpy.ndarray of shape (n,)

        Raises
        ------
        ValueError
            Without groups.
        """
        self._check_rows(X)
        if sensitive_features is None:
            raise ValueError("AIF360's data sets hold groups: pass sensitive_features=")
        codes = group_codes(sensitive_features, len(X), self._groups)
        return self._labels(X, self._decided(X, codes))

    def _decided(self, X: Any, codes: np.ndarray) -> np.ndarray:
        """Return 1 where AIF360 decides favourably, else 0, shape (n,)."""
        side = codes == self._privileged
        scores = None if self.estimator is None else self._scores(X)
        labels = np.arange(len(side)) % 2 == 1 if scores is None else scores > 0.5
        with seeded(self._draw), _own_python_first():
            found = self.algorithm_.predict(rows_to_dataset(X, labels, side, scores))
        decided: np.ndarray = (found.labels.ravel() == found.favorable_label).astype(np.float64)
        return decided

    def _check_scores(self, scores: np.ndarray | None) -> None:
        corrects = "dataset_pred" in inspect.signature(self.algorithm_.fit).parameters
        name = type(self.algorithm_).__name__
        if corrects and scores is None:
            raise ValueError(f"{name} corrects an estimator's scores: pass estimator=")
        if scores is not None and not corrects:
            raise ValueError(
                f"{name} is trained on labels, not on an estimator's scores: leave estimator= out; "
                "arguments of the algorithm go in options="
            )

    def _scores(self, X: Any) -> np.ndarray:
        column = list(self.estimator_.classes_).index(self._favourable())
        return to_numpy(self.estimator_.predict_proba(to_rows(X)))[:, column].astype(np.float64)

    def _other(self) -> Any:
        return next(label for label in self.classes_.tolist() if label != self._favourable())


@contextmanager
def _own_python_first() -> Iterator[None]:
    """Let ``python``, which some algorithms start, be the one that runs this."""
    before = os.environ.get("PATH")
    own = str(Path(sys.executable).parent)
    os.environ["PATH"] = own if before is None else own + os.pathsep + before
    try:
        yield
    finally:
        if before is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = before


def _made(algorithm: Any, options: Mapping[str, Any] | None, seed: int) -> Any:
    """Return AIF360's algorithm, with the arguments that follow from our data sets."""
    if isinstance(algorithm, str):
        places = [require(f"aif360.algorithms.{kind}", "fairness") for kind in _KINDS]
        found = next((vars(place)[algorithm] for place in places if algorithm in vars(place)), None)
        if not inspect.isclass(found):
            known = sorted(
                name
                for place in places
                for name in vars(place)
                if inspect.isclass(vars(place)[name])
            )
            raise ValueError(f"AIF360 has no algorithm {algorithm!r}; it has {', '.join(known)}")
        algorithm = found
    if not callable(algorithm):
        raise TypeError(f"algorithm must be a name or class of AIF360, got {algorithm!r}")
    filled: dict[str, Any] = SIDES | dict.fromkeys(
        ("sensitive_attr", "sensitive_attribute", "prot_attr"), GROUP
    )
    filled |= {"class_attr": LABEL, "seed": seed}
    wanted = inspect.signature(algorithm).parameters
    given = {name: value for name, value in filled.items() if name in wanted}
    return algorithm(**(given | dict(options or {})))


def _defines(algorithm: Any, method: str) -> bool:
    """Whether AIF360's class has a method of its own, and not the base's refusal."""
    base = require("aif360.algorithms", "fairness").Transformer
    return getattr(type(algorithm), method) is not getattr(base, method)
