"""What was fitted can be stored: pickled and read again, it says the same."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

from trustml import conformal, fairness, ihvp, influence, ood
from trustml.errors import StoreMismatchError
from trustml.influence import _stored
from trustml.model import wrap

X, Y = load_iris(return_X_y=True)
BINARY = (Y == 1).astype(int)
GROUP = X[:, 0] > 5.8
D, T = load_diabetes(return_X_y=True)


@pytest.fixture(scope="module")
def model():
    return wrap(LogisticRegression(max_iter=500).fit(X, Y), train=(X, Y))


@pytest.fixture(scope="module")
def regression():
    return wrap(Ridge().fit(D[:60], T[:60]), train=(D[:60], T[:60]))


def same(fitted, ask):
    again = ask(pickle.loads(pickle.dumps(fitted)))
    np.testing.assert_array_equal(again, ask(fitted))


@pytest.mark.parametrize("detector", [ood.RelativeMahalanobis, ood.LastLayerLaplace, ood.Fused])
def test_detectors(model, detector):
    same(detector(model).fit(X, Y).calibrate(X), lambda d: d.p_values(X))


def test_suites(model):
    same(ood.Suite(model).fit(X, Y), lambda suite: suite.score(X).values)


@pytest.mark.parametrize("method", ["cholesky", "dual", "cg"])
def test_influence(model, method):
    fitted = influence.InfluenceFunctions(model, method=method).fit()
    same(fitted, lambda inf: inf.scores(X[:3], Y[:3]).values)


def test_predictors(model, regression):
    sets = conformal.SplitClassifier(model, "aps", random_state=0).fit(X, Y)
    same(sets, lambda cp: cp.p_values(X))
    same(conformal.JackknifePlusRegressor(regression).fit(), lambda cp: cp.predict_interval(D))
    split = conformal.SplitRegressor(regression, score="normalized").fit(D[60:], T[60:])
    same(split, lambda cp: cp.predict_interval(D))


@pytest.mark.parametrize("surrogate", ["probability", "threshold"])
def test_fair_influence(surrogate):
    binary = wrap(LogisticRegression().fit(X, BINARY), train=(X, BINARY))
    fair = fairness.FairInfluence(binary, surrogate=surrogate)
    fair.fit(X, BINARY, sensitive_features=GROUP)
    same(fair, lambda f: f.reweigh())


def test_group_metrics():
    scores = np.linspace(0, 1, len(X))
    g = fairness.group_metrics(
        BINARY, scores > 0.5, sensitive_features=GROUP, y_score=scores, random_state=0
    )
    same(g, lambda g: g.ci())


@pytest.mark.parametrize("kind", [ihvp.Kfac, ihvp.Ekfac])
def test_factors_in_a_folder_are_read_instead_of_computed(kind, tmp_path, monkeypatch):
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 3)).double()
    J = ihvp.Objective(net, None, (torch.as_tensor(X), torch.as_tensor(Y)), weight_decay=0.01)
    V = torch.eye(J.space.size, dtype=torch.float64)
    computed = kind(J, fisher="monte-carlo", store=tmp_path)
    assert computed.uncovered
    with monkeypatch.context() as patch:
        patch.setattr(type(J.gradients), "measure", None)
        read = kind(J, fisher="monte-carlo", store=tmp_path)
    assert torch.equal(read @ V, computed @ V)
    assert torch.equal(read @ V, kind(J, fisher="monte-carlo") @ V)
    assert read.uncovered == computed.uncovered
    solution = ihvp.solve(read + 0.1, V)
    torch.testing.assert_close(solution.x, ihvp.solve(computed + 0.1, V).x)
    with pytest.raises(StoreMismatchError, match=r"settings\.seed"):
        kind(J, fisher="monte-carlo", random_state=1, store=tmp_path)
    with pytest.raises(StoreMismatchError, match="data"):
        kind(J.without([0]), fisher="monte-carlo", store=tmp_path)
    if kind is ihvp.Kfac:
        with pytest.raises(StoreMismatchError, match=r"settings\.corrected"):
            ihvp.Ekfac(J, fisher="monte-carlo", store=tmp_path)


class Killed(BaseException):
    """Stands for what cannot be caught."""


@pytest.mark.parametrize("method", ["cholesky", "cg"])
def test_scores_in_a_folder_go_on_where_they_stopped(method, model, tmp_path, monkeypatch):
    fitted = influence.InfluenceFunctions(model, method=method).fit()
    monkeypatch.setattr(_stored, "rows_at_once", lambda numbers: 40)
    whole = fitted.scores(X, Y, store=tmp_path / "whole")
    tmp_path = tmp_path / "killed"
    solve, solved = type(fitted.inverse_).solve, []

    def sometimes(self, B):
        if len(solved) == 2:
            raise Killed
        solved.append(B.shape[1])
        return solve(self, B)

    monkeypatch.setattr(type(fitted.inverse_), "solve", sometimes)
    with pytest.raises(Killed):
        fitted.scores(X, Y, store=tmp_path)
    monkeypatch.setattr(type(fitted.inverse_), "solve", solve)
    again = influence.InfluenceFunctions(model, method=method).fit()  # as a new process would
    resumed = again.scores(X, Y, store=tmp_path)
    np.testing.assert_array_equal(resumed.values, whole.values)
    plain = fitted.scores(X, Y).values  # iterative solves may start from earlier ones there
    assert np.linalg.norm(resumed.values - plain) < 0.02 * np.linalg.norm(plain)
    assert resumed.certificate.converged == whole.certificate.converged
    assert resumed.certificate.relative_residual.shape == (len(X),)
    assert not np.isnan(resumed.certificate.relative_residual).any()
    assert resumed.helpful(3).shape == (len(X), 3)

    def never(self, B):
        raise AssertionError("nothing was left to solve")

    monkeypatch.setattr(type(fitted.inverse_), "solve", never)
    read = again.scores(X, Y, store=tmp_path)
    np.testing.assert_array_equal(read.values, resumed.values)
    assert str(read.certificate) == str(resumed.certificate)


def test_a_folder_of_other_scores_is_refused(model, tmp_path):
    def fit(**settings):
        return influence.InfluenceFunctions(model, **settings).fit()

    fit(damping=0.1).scores(X[:5], Y[:5], store=tmp_path)
    for other, ask, named in (
        (fit(damping=0.2), (X[:5], Y[:5]), "settings.damping (0.1 there, 0.2 here)"),
        (fit(damping=0.1, correction="none"), (X[:5], Y[:5]), "settings.correction"),
        (fit(damping=0.1), (X[5:10], Y[5:10]), "queries"),
    ):
        with pytest.raises(StoreMismatchError) as refusal:
            other.scores(*ask, store=tmp_path)
        assert named in str(refusal.value)
    elsewhere = wrap(LogisticRegression(C=2.0, max_iter=500).fit(X, Y), train=(X, Y))
    with pytest.raises(StoreMismatchError, match=r"model\.weights"):
        influence.InfluenceFunctions(elsewhere, damping=0.1).fit().scores(
            X[:5], Y[:5], store=tmp_path
        )
    with pytest.raises(StoreMismatchError, match=r"settings\.scale \(effect there, raw here\)"):
        fit(damping=0.1).scores(X[:5], Y[:5], scale="raw", store=tmp_path)


def test_a_folder_of_another_measure_or_loss_is_refused(model, tmp_path):
    fitted = influence.InfluenceFunctions(model, damping=0.1).fit()
    measures = [lambda f, X, y: f[:, 0], lambda f, X, y: -f[:, 0]]
    fitted.scores(X[:5], measure=measures[0], store=tmp_path / "measured")
    with pytest.raises(StoreMismatchError, match=r"settings\.measure"):
        fitted.scores(X[:5], measure=measures[1], store=tmp_path / "measured")
    net = torch.nn.Linear(X.shape[1], 1)
    for delta in (1.0, 2.0):
        loss = torch.nn.HuberLoss(delta=delta)
        robust = wrap(net, task="regression", train=(X, Y.astype(float)), loss=loss)
        again = influence.InfluenceFunctions(robust, damping=0.1).fit()
        if delta == 1:
            again.scores(X[:5], Y[:5].astype(float), store=tmp_path / "robust")
    with pytest.raises(StoreMismatchError, match="loss"):
        again.scores(X[:5], Y[:5].astype(float), store=tmp_path / "robust")
