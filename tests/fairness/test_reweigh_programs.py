"""The programs behind weights: against reference solvers, by optimality, at their limits."""

import numpy as np
import pytest
from scipy.optimize import LinearConstraint, linprog, minimize

from trustml.fairness._criteria import Cells
from trustml.fairness._quadratic import quadratic
from trustml.fairness._reweigh import Program, Unreachable, solved


def program(
    seed, *, n=40, groups=2, conditions=1, loss=True, upper=1.0, reference=False, start=0.0
):
    rng = np.random.default_rng(seed)
    k = groups * conditions
    compared = Cells(
        None, np.repeat(np.arange(conditions), groups), tuple(range(k)), reference=reference
    )
    return Program(
        compared,
        np.abs(rng.normal(size=k)) + np.tile(np.arange(groups) * 2.0, conditions),
        rng.normal(size=(k, n)) / 5,
        rng.normal(size=n) / 10 if loss else None,
        0.05,
        start * rng.uniform(size=n) * (rng.uniform(size=n) < 0.5),
        upper,
    )


def predicted(problem, removals):
    change = removals - problem.removed
    return float(problem.compared.gap(problem.values + problem.effects @ change))


CASES = {
    "two groups": {},
    "many groups": {"groups": 5},
    "two conditions": {"conditions": 2, "groups": 3},
    "no labels": {"loss": False},
    "above one": {"upper": 2.0},
    "worst group": {"reference": True, "groups": 3},
    "on the way": {"start": 1.0},
    "on the way, above one": {"start": 1.0, "upper": 1.5},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_quadratic_weights_are_the_reference_solvers(case, seed):
    problem = program(seed, **CASES[case])
    gap = 0.5 * (problem.reachable() + float(problem.compared.gap(problem.values)))
    x = quadratic(problem, gap)
    low = 1.0 - problem.upper
    assert predicted(problem, x) <= gap + 1e-8
    assert low - 1e-12 <= x.min() <= x.max() <= 1 + 1e-12
    pairs = problem.compared.pairs()
    rows, right = [pairs @ problem.effects], [gap - pairs @ problem.values]
    if problem.loss_effects is not None:
        rows.append(problem.loss_effects[None])
        right.append([problem.loss_budget])
    A, b = np.concatenate(rows), np.concatenate(right)
    b = b + A @ problem.removed
    reference = minimize(
        lambda z: z @ z / 2, np.zeros(len(x)), jac=lambda z: z, method="SLSQP",
        bounds=[(low, 1.0)] * len(x), options={"ftol": 1e-15, "maxiter": 500},
        constraints=[LinearConstraint(A, -np.inf, b)],
    )  # fmt: skip
    assert (A @ reference.x <= b + 1e-6).all()
    np.testing.assert_allclose(x, reference.x, atol=1e-6)
    # Optimal to rounding: x is the projection of -A'λ for multipliers of the tight constraints.
    assert (A @ x <= b + 1e-8).all()
    tight = A @ x >= b - 1e-8
    inside = (x > low + 1e-9) & (x < 1 - 1e-9)
    multipliers = np.linalg.lstsq(A[tight][:, inside].T, -x[inside], rcond=None)[0]
    np.testing.assert_allclose(A[tight][:, inside].T @ multipliers, -x[inside], atol=1e-8)


@pytest.mark.parametrize("case", CASES)
def test_linear_weights_move_least(case):
    problem = program(1, **CASES[case])
    gap = 0.5 * (problem.reachable() + float(problem.compared.gap(problem.values)))
    x = problem.linear(gap)
    n, low = len(x), 1.0 - problem.upper
    assert predicted(problem, x) <= gap + 1e-7
    # Written out: change = up - down with costs of one each.
    pairs = problem.compared.pairs()
    rows, right = [pairs @ problem.effects], [gap - pairs @ problem.values]
    if problem.loss_effects is not None:
        rows.append(problem.loss_effects[None])
        right.append([problem.loss_budget])
        assert problem.loss_effects @ (x - problem.removed) <= problem.loss_budget + 1e-9
    A = np.concatenate(rows)
    naive = linprog(
        np.ones(2 * n), np.concatenate([A, -A], axis=1), np.concatenate(right),
        bounds=[(0, 1 - r) for r in problem.removed] + [(0, r - low) for r in problem.removed],
    )  # fmt: skip
    assert np.abs(x - problem.removed).sum() == pytest.approx(naive.fun, abs=1e-7)


@pytest.mark.parametrize("method", ["linear", "quadratic"])
def test_a_gap_that_is_there_already_needs_no_change(method):
    problem = program(2)
    gap = float(problem.compared.gap(problem.values))
    removals, found = solved(problem, gap + 0.1, method)
    np.testing.assert_allclose(removals, 0, atol=1e-12)
    assert found == gap + 0.1


@pytest.mark.parametrize("method", ["linear", "quadratic"])
def test_beyond_reach_the_smallest_gap_is_taken(method):
    problem = program(3, n=4)
    smallest = problem.reachable()
    assert smallest > 0.1
    removals, found = solved(problem, 0.0, method)
    assert found == smallest
    assert predicted(problem, removals) == pytest.approx(smallest, rel=1e-3)
    with pytest.raises(Unreachable, match="no weights are predicted"):
        problem.linear(0.5 * smallest)
    with pytest.raises(Unreachable, match="no weights are predicted"):
        quadratic(problem, 0.5 * smallest)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_units_of_values_and_losses_do_not_matter(scale):
    problem = program(4, groups=3)
    gap = 0.5 * (problem.reachable() + float(problem.compared.gap(problem.values)))
    other = Program(
        problem.compared, scale * problem.values, scale * problem.effects,
        scale * problem.loss_effects, scale * problem.loss_budget, problem.removed,
    )  # fmt: skip
    np.testing.assert_allclose(quadratic(other, scale * gap), quadratic(problem, gap), atol=1e-8)


def test_pairs_have_the_gap_as_their_largest():
    rng = np.random.default_rng(5)
    for case in CASES.values():
        compared = program(0, **case).compared
        values = rng.normal(size=(len(compared.condition), 7))
        largest = (compared.pairs() @ values).max(0)
        np.testing.assert_allclose(largest, compared.gap(values))
