"""Penalties against naive formulae, and the classifier that pays them."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer

from trustml.fairness import RegularisedClassifier
from trustml.fairness import demographic_parity_difference as parity
from trustml.fairness import equalized_odds_difference as odds
from trustml.fairness._penalties import PENALTIES
from trustml.warnings import TrustmlWarning


def problem(n=800, seed=0):
    rng = np.random.default_rng(seed)
    s = rng.choice(["f", "m"], n)
    X = np.column_stack([rng.normal(size=n) + (s == "m"), rng.normal(size=n)])
    y = (X.sum(1) + rng.logistic(size=n) > 0.5).astype(int)
    return X, y, s


def sample(n=60, k=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=n), rng.integers(0, k, n), rng.uniform(0.5, 2, n)


def kernel(f, w):
    p = 1 / (1 + np.exp(-f))
    variance = np.cov(p, aweights=w, ddof=0)
    return np.exp(-(np.subtract.outer(p, p) ** 2) / (2 * variance))


def naive(name, f, g, w):
    """The squares of the penalties, written out."""
    p, groups = 1 / (1 + np.exp(-f)), np.unique(g)
    if name == "covariance":
        matrices = [np.cov(p, g == j, aweights=w, ddof=0) for j in groups]
        return sum(c[0, 1] ** 2 / c[0, 0] / c[1, 1] for c in matrices)
    if name == "ferm":
        risks = [np.average(np.log1p(np.exp(-f[g == j])), weights=w[g == j]) for j in groups]
        return len(groups) * np.var(risks)
    K = kernel(f, w)
    if name == "mmd":
        total, u = 0.0, w / w.sum()
        for j in groups:
            v = w * (g == j) / w[g == j].sum()
            total += v @ K @ v - 2 * v @ K @ u + u @ K @ u
        return total
    L = (g[:, None] == g[None, :]).astype(float)
    centre = np.eye(len(f)) - np.outer(np.ones(len(f)), w / w.sum())
    a, b, d = centre @ K @ centre.T, centre @ L @ centre.T, np.diag(w / w.sum())
    inner = lambda x, z: np.trace(d @ x @ d @ z)  # noqa: E731
    return inner(a, b) / np.sqrt(inner(a, a) * inner(b, b))


def value(name, f, g, w):
    tensors = torch.tensor(f), torch.tensor(g), torch.tensor(w)
    return float(PENALTIES[name](*tensors, 1.0))


@pytest.mark.parametrize("name", PENALTIES)
class TestPenalty:
    def test_the_value_is_the_root_of_the_naive_formula(self, name):
        f, g, w = sample()
        expected = np.sqrt(naive(name, f, g, w) + 1e-8) - 1e-4
        assert value(name, f, g, w) == pytest.approx(expected, rel=1e-9)

    def test_order_names_and_duplicates_do_not_matter(self, name):
        f, g, w = sample()
        first = value(name, f, g, w)
        order = np.random.default_rng(1).permutation(len(f))
        assert value(name, f[order], g[order], w[order]) == pytest.approx(first, rel=1e-9)
        assert value(name, f, np.array([7, 0, 4])[g], w) == pytest.approx(first, rel=1e-9)
        twice = value(name, np.r_[f, f], np.r_[g, g], np.r_[w, w])
        assert twice == pytest.approx(first, rel=1e-9)
        assert value(name, np.r_[f, f], np.r_[g, g], np.r_[w, 0 * w]) == pytest.approx(first)

    def test_groups_alike_cost_nothing_and_the_slope_stays_finite(self, name):
        f = np.tile(np.linspace(-2, 2, 20), 3)
        g, w = np.repeat([0, 1, 2], 20), np.ones(60)
        assert value(name, f, g, w) == pytest.approx(0, abs=1e-7)
        assert value(name, f + 0.5 * g, g, w) > 0.01
        margin = torch.tensor(f, requires_grad=True)
        PENALTIES[name](margin, torch.tensor(g), torch.tensor(w), 1.0).backward()
        assert torch.isfinite(margin.grad).all()


class TestRegularisedClassifier:
    @pytest.mark.parametrize("penalty", PENALTIES)
    def test_the_gap_falls_by_half_at_a_small_loss(self, penalty):
        X, y, s = problem(400)
        plain = RegularisedClassifier(strength=0, random_state=0)
        with pytest.warns(TrustmlWarning, match="as the unmitigated model"):
            plain.fit(X, y, sensitive_features=s)
        fair = RegularisedClassifier(penalty=penalty, max_epochs=100, random_state=0)
        fair.fit(X, y, sensitive_features=s)
        before, after = plain.predict(X), fair.predict(X)
        assert parity(y, after, sensitive_features=s) < parity(y, before, sensitive_features=s) / 2
        assert (after == y).mean() > (before == y).mean() - 0.1

    def test_label_conditions_lower_their_gap(self):
        X, y, s = problem()
        plain = RegularisedClassifier(strength=1e-9, random_state=0, hidden=())
        fair = RegularisedClassifier(constraints="equalized_odds", random_state=0, hidden=())
        gaps = []
        for classifier in (plain, fair):
            classifier.max_epochs = 100
            p = classifier.fit(X, y, sensitive_features=s).predict(X)
            gaps.append(odds(y, p, sensitive_features=s))
        assert gaps[1] < gaps[0] / 2

    def test_real_data_without_scaling(self):
        X, y = load_breast_cancer(return_X_y=True)
        s = X[:, 19] > np.median(X[:, 19])
        plain, fair = (
            RegularisedClassifier(strength=strength, hidden=(), max_epochs=150, random_state=0)
            for strength in (1e-9, 2.0)
        )
        before = plain.fit(X, y, sensitive_features=s).predict(X)
        after = fair.fit(X, y, sensitive_features=s).predict(X)
        # The labels themselves differ by 0.19 between the groups: parity has its price.
        assert parity(y, after, sensitive_features=s) < parity(y, before, sensitive_features=s) / 2
        assert (after == y).mean() > 0.85

    @pytest.mark.parametrize("penalty", PENALTIES)
    def test_columns_that_say_nothing_train(self, penalty):
        _, y, s = problem(60)
        fair = RegularisedClassifier(penalty=penalty, max_epochs=20, random_state=0)
        with pytest.warns(TrustmlWarning, match="decides alike"):
            fair.fit(np.ones((60, 2)), y, sensitive_features=s)
        assert np.isfinite(fair.predict_proba(np.ones((3, 2)))).all()

    def test_wrong_arguments_name_the_fix(self):
        X, y, s = problem(100)
        for given, message in (
            ({"penalty": "l2"}, "penalty must be one of"),
            ({"constraints": "error_parity"}, "constraints must be one of"),
            ({"strength": -1}, "strength"),
            ({"learning_rate": 0}, "learning_rate"),
        ):
            with pytest.raises(ValueError, match=message):
                RegularisedClassifier(**given).fit(X, y, sensitive_features=s)
