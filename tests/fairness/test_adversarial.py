"""The adversary's part of the gradient is taken out, and the gap follows."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from trustml.fairness import AdversarialDebiasing
from trustml.fairness import demographic_parity_difference as parity
from trustml.fairness import equalized_odds_difference as odds
from trustml.fairness._adversarial import against


def problem(n=600, seed=0):
    rng = np.random.default_rng(seed)
    s = rng.integers(0, 2, n)
    X = np.column_stack([rng.normal(size=n) + s, rng.normal(size=n)])
    y = (X.sum(1) + rng.logistic(size=n) > 0.5).astype(int)
    return X, y, s


def test_the_step_is_the_papers_over_all_parameters_together():
    rng = np.random.default_rng(0)
    shapes = [(3, 2), (3,), ()]
    g, h = ([torch.tensor(rng.normal(size=shape)) for shape in shapes] for _ in range(2))
    step = torch.cat([part.reshape(-1) for part in against(g, h, 0.7)]).numpy()
    a, b = (torch.cat([part.reshape(-1) for part in parts]).numpy() for parts in (g, h))
    unit = b / np.linalg.norm(b)
    np.testing.assert_allclose(step, a - (a @ unit) * unit - 0.7 * b, rtol=1e-12)
    # Going down along it, the adversary's loss cannot fall.
    assert step @ b == pytest.approx(-0.7 * (b @ b))


def test_an_adversary_without_gradient_changes_nothing():
    g = [torch.ones(2, dtype=torch.float64)]
    torch.testing.assert_close(against(g, [torch.zeros(2, dtype=torch.float64)], 5.0), g)


@pytest.mark.parametrize(
    ("constraints", "difference"), [("demographic_parity", parity), ("equalized_odds", odds)]
)
def test_the_gap_falls_by_half(constraints, difference):
    X, y, s = problem()
    plain = LogisticRegression().fit(X, y).predict(X)
    fair = AdversarialDebiasing(constraints=constraints, random_state=0, hidden=(), max_epochs=120)
    decided = fair.fit(X, y, sensitive_features=s).predict(X)
    assert difference(y, decided, sensitive_features=s) < (
        difference(y, plain, sensitive_features=s) / 2
    )
    assert (decided == y).mean() > (plain == y).mean() - 0.1
    assert fair.n_epochs_ == 120


def test_the_label_is_seen_under_equalized_odds_only():
    X, y, s = problem(100)
    for constraints, width in (("demographic_parity", 1), ("equalized_odds", 4)):
        fair = AdversarialDebiasing(constraints=constraints, max_epochs=2, random_state=0)
        fair.fit(X, y, sensitive_features=s)
        assert fair.adversary_.linear.in_features == width
        margins, labels = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
        assert fair.adversary_(margins, labels).shape == (3, 2)


def test_wrong_arguments_name_the_fix():
    X, y, s = problem(100)
    for given, message in (
        ({"constraints": "error_parity"}, "constraints must be one of"),
        ({"adversary_weight": -1}, "adversary_weight"),
        ({"adversary_steps": 0}, "adversary_steps"),
    ):
        with pytest.raises(ValueError, match=message):
            AdversarialDebiasing(**given).fit(X, y, sensitive_features=s)
