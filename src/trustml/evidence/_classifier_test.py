"""Two samples differ if a classifier can tell their rows apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.core.random import RandomState, numpy_generator
from trustml.evidence._checks import check_count
from trustml.evidence._tests import TestResult
from trustml.evidence._two_sample import thinned, two_samples


def classifier_test(
    X: Any,
    Y: Any,
    classifier: Any = None,
    max_rows: int = 10_000,
    random_state: RandomState = None,
) -> TestResult:
    """Train a classifier to tell two samples apart; test it on the rows it has not seen.

    Half of each sample, drawn at random, trains it. On the other half the Mann-Whitney test asks
    whether it ranks the rows of Y above those of X. Finds whatever the classifier can learn, at
    the price of half the rows.

    Parameters
    ----------
    X, Y : arrays of shape (n, ...) and (m, ...)
        The samples; rows are flattened; at least 4 of each.
    classifier : scikit-learn classifier or None
        Cloned, with ``predict_proba`` or ``decision_function``; None takes gradient-boosted trees.
    max_rows : int
        A larger sample is thinned at random to this many rows.
    random_state : int, Generator or None
        Seed of the split, and of the default classifier.

    Returns
    -------
    TestResult
        ``statistic`` is the AUROC on the rows held out, ``effect_size`` is 2 AUROC - 1 (0 where
        negative), in [0, 1].

    Raises
    ------
    ValueError
        If a sample has fewer than 4 rows.

    References
    ----------
    Lopez-Paz and Oquab (2017), Revisiting classifier two-sample tests, arXiv:1610.06545.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(100, 3)), rng.normal(1, 1, size=(100, 3))
    >>> classifier_test(X, Y, LogisticRegression(), random_state=0).p_value < 1e-6
    True
    """
    from scipy.stats import mannwhitneyu
    from sklearn.base import clone
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = numpy_generator(random_state)
    limit = check_count(max_rows, "max_rows", least=4)
    samples = [rng.permutation(thinned(rows, limit, rng)) for rows in two_samples(X, Y)]
    n, m = (len(rows) for rows in samples)
    if min(n, m) < 4:
        raise ValueError(f"a classifier test needs at least 4 rows of each sample, got {n} and {m}")
    if classifier is None:
        seed = int(rng.integers(2**31))
        learner = HistGradientBoostingClassifier(
            max_iter=50, min_samples_leaf=max(2, min(20, (n + m) // 50)), random_state=seed
        )
    else:
        learner = clone(classifier)
    train, test = (
        [rows[: len(rows) // 2] for rows in samples],
        [rows[len(rows) // 2 :] for rows in samples],
    )
    learner.fit(np.concatenate(train), np.repeat([0, 1], [len(rows) for rows in train]))
    inside, outside = (_score(learner, rows) for rows in test)
    if np.ptp(np.concatenate([inside, outside])) == 0:  # scipy would divide by zero
        return TestResult(0.5, 1.0, 0.0, "classifier, constant scores", (n, m))
    found = mannwhitneyu(outside, inside, alternative="greater")
    area = float(found.statistic) / (len(inside) * len(outside))
    method = f"classifier ({type(learner).__name__}), mann-whitney on held-out rows"
    return TestResult(area, float(found.pvalue), max(0.0, 2 * area - 1), method, (n, m))


def _score(learner: Any, rows: np.ndarray) -> np.ndarray:
    if hasattr(learner, "decision_function"):
        scores: np.ndarray = np.asarray(learner.decision_function(rows), dtype=np.float64)
        return scores
    return np.asarray(learner.predict_proba(rows), dtype=np.float64)[:, 1]
