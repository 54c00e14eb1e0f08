"""Whatever kind of array goes in, every measure gives the same number."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from trustml import fairness

RNG = np.random.default_rng(0)
N = 200
S, T = RNG.integers(0, 2, N), RNG.integers(0, 3, N)
Y = RNG.integers(0, 2, N)
P = (RNG.random(N) < 0.3 + 0.3 * Y + 0.1 * S).astype(int)
SCORE = np.clip(RNG.random(N) * 0.6 + 0.3 * Y, 0, 1)
X = np.column_stack([RNG.normal(size=(N, 2)), S.astype(float)])
SETS = RNG.random((N, 2)) < 0.7
ENDS = np.sort(RNG.normal(size=(N, 2)), axis=1)
MODEL = LogisticRegression().fit(X, Y)
NAMES = ["true_positive_rate", "macro_precision", "calibration_error", "mean_error"]


def group_values(kind):
    y, p, s, score = (kind(a) for a in (Y, P, S, SCORE))
    return fairness.group_metrics(y, p, sensitive_features=s, y_score=score, metrics=NAMES).by_group


# name -> measure of arrays made by ``kind`` (columns) and ``table`` (several columns)
MEASURES = {
    "group_metrics": lambda kind, table: group_values(kind),
    "intersections": lambda kind, table: fairness.group_metrics(
        kind(Y), kind(P), sensitive_features=table(np.column_stack([S, T]))
    ).difference(),
    "differences": lambda kind, table: fairness.false_omission_rate_difference(
        kind(Y), kind(P), sensitive_features=kind(S)
    ),
    "average_odds_difference": lambda kind, table: fairness.average_odds_difference(
        kind(Y), kind(P), sensitive_features=kind(S), privileged=1
    ),
    "theil_index": lambda kind, table: fairness.theil_index(kind(Y), kind(P)),
    "between groups": lambda kind, table: fairness.between_group_generalized_entropy_index(
        kind(Y), kind(P), sensitive_features=kind(S)
    ),
    "differential_fairness": lambda kind, table: fairness.differential_fairness(
        kind(P), sensitive_features=kind(S)
    ).value,
    "subgroup_unfairness": lambda kind, table: fairness.subgroup_unfairness(
        kind(Y), kind(P), sensitive_features=table(np.column_stack([S, T]))
    ).value,
    "consistency": lambda kind, table: fairness.consistency(table(X), kind(P)),
    "lipschitz_audit": lambda kind, table: fairness.lipschitz_audit(
        MODEL, X, features=table(X[:, :2])
    ).value,
    "distribution": lambda kind, table: fairness.distribution_parity_difference(
        kind(SCORE), sensitive_features=kind(S)
    ).value,
    "sets": lambda kind, table: fairness.prediction_set_metrics(
        kind(Y), table(SETS), sensitive_features=kind(S)
    ).by_group,
    "intervals": lambda kind, table: fairness.prediction_set_metrics(
        kind(SCORE), table(ENDS), sensitive_features=kind(S)
    ).by_group,
}  # fmt: skip


def same(kind, table, name):
    ours = np.asarray(MEASURES[name](kind, table))
    want = np.asarray(MEASURES[name](np.asarray, np.asarray))
    np.testing.assert_allclose(ours, want, rtol=1e-6)
    assert np.isfinite(want).all()


@pytest.mark.parametrize("name", MEASURES)
def test_torch(name):
    same(torch.as_tensor, torch.as_tensor, name)


@pytest.mark.parametrize("name", MEASURES)
def test_tensors_with_a_graph(name):
    def kind(values):
        tensor = torch.as_tensor(values)
        return tensor.requires_grad_() if tensor.is_floating_point() else tensor

    same(kind, kind, name)


@pytest.mark.parametrize("name", MEASURES)
def test_lists(name):
    same(np.ndarray.tolist, np.ndarray.tolist, name)


@pytest.mark.parametrize("name", MEASURES)
def test_pandas(name):
    pd = pytest.importorskip("pandas")
    index = np.arange(N)[::-1] * 2  # rows go by position, not by label
    same(
        lambda values: pd.Series(values, index=index),
        lambda values: pd.DataFrame(values, index=index, columns=list("abc")[: values.shape[1]]),
        name,
    )


@pytest.mark.parametrize("name", MEASURES)
def test_polars(name):
    pl = pytest.importorskip("polars")
    same(
        lambda values: pl.Series("v", values),
        lambda values: pl.DataFrame(
            {c: values[:, j] for j, c in enumerate("abc"[: values.shape[1]])}
        ),
        name,
    )
