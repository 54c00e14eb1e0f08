"""Influence functions against dense float64 algebra on a small network."""

import functools

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

from trustml import ihvp
from trustml.influence import InfluenceFunctions, InfluenceScores
from trustml.model import wrap

N, Q = 60, 7


def network(seed=0, dtype=torch.float64, outputs=3):
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, outputs)).to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / 2)
    X = torch.randn(N + Q, 4, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randint(outputs, (N + Q,), generator=generator)
    return net, X, y


def problem(**kwargs):
    net, X, y = network(**kwargs)
    return wrap(net, train=(X[:N], y[:N]), weight_decay=0.01), X[N:], y[N:]


def reference(model, Xq, yq, damping, name="gauss_newton"):
    """Dense per-example gradients, curvature and per-row curvature by autograd."""
    net, loss = model.module, nn.functional.cross_entropy
    data = model.train
    names = [k for k, _ in net.named_parameters()]
    params = {k: v.detach() for k, v in net.named_parameters()}

    def outputs(theta, x):
        return torch.func.functional_call(net, theta, x[None])[0]

    def flat(tree):
        return torch.cat([tree[k].reshape(len(tree[k]), -1) for k in names], 1)

    def gradient(x, y):
        return torch.func.grad(lambda t: loss(outputs(t, x)[None], y[None]))(params)

    G = flat(torch.func.vmap(gradient)(data.inputs, data.targets))
    Gq = flat(torch.func.vmap(gradient)(Xq, yq))
    jacobian = torch.func.vmap(lambda x: torch.func.jacrev(lambda t: outputs(t, x))(params))
    J = jacobian(data.inputs)
    J = torch.cat([J[k].reshape(N, J[k].shape[1], -1) for k in names], 2)
    P = torch.softmax(net(data.inputs), 1).detach()
    L = torch.diag_embed(P) - P[:, :, None] * P[:, None]
    rows = J.transpose(1, 2) @ L @ J
    if name == "empirical_fisher":
        rows = G[:, :, None] * G[:, None]
    H = rows.mean(0) + (0.01 + damping) * torch.eye(G.shape[1], dtype=G.dtype)
    return G, Gq, J, rows, H


@pytest.fixture(scope="module")
def dense():
    model, Xq, yq = problem()
    return model, Xq, yq, reference(model, Xq, yq, damping=0.1)


@pytest.mark.parametrize("method", ["cholesky", "dual", "cg"])
def test_scores_are_the_formula(dense, method):
    model, Xq, yq, (G, Gq, _, _, H) = dense
    inf = InfluenceFunctions(model, damping=0.1, method=method, correction="none").fit()
    raw = Gq @ torch.linalg.solve(H, G.T)
    tolerance = 5e-3 if method == "cg" else 1e-9
    torch.testing.assert_close(
        inf.scores(Xq, yq, scale="raw").values,
        raw,
        rtol=tolerance,
        atol=tolerance * raw.abs().max(),
    )
    scores = inf.scores(Xq, yq)
    torch.testing.assert_close(
        scores.values, raw / N, rtol=tolerance, atol=tolerance * raw.abs().max() / N
    )
    assert scores.method == method
    assert scores.certificate.converged
    assert scores.certificate.damping == pytest.approx(0.1)


def test_an_iterative_method_stops_at_the_tolerance_that_was_asked_for(dense):
    model, Xq, yq, (G, Gq, _, _, H) = dense
    raw = Gq @ torch.linalg.solve(H, G.T)
    errors = []
    for tol in (1e-2, 1e-10):
        inf = InfluenceFunctions(model, damping=0.1, method="cg", correction="none", tol=tol)
        scores = inf.fit().scores(Xq, yq, scale="raw")
        assert scores.certificate.relative_residual.max() <= tol
        errors.append(float((scores.values - raw).norm() / raw.norm()))
    assert errors[1] < 1e-9 < errors[0]


@pytest.mark.parametrize("name", ["gauss_newton", "empirical_fisher"])
@pytest.mark.parametrize("method", ["cholesky", "dual"])
def test_leverage_is_one_newton_step_without_the_row(dense, name, method):
    model, Xq, yq, _ = dense
    G, Gq, J, rows, H = reference(model, Xq, yq, damping=0.1, name=name)
    inf = InfluenceFunctions(model, curvature=name, damping=0.1, method=method).fit()
    assert inf.correction_ == "leverage"
    steps = torch.stack([torch.linalg.solve(H - rows[i] / N, G[i] / N) for i in range(N)], 1)
    torch.testing.assert_close(inf.parameter_changes(np.arange(N)), steps, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(inf.rows_effect(Gq.T), Gq @ steps, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(inf.scores(Xq, yq).values, Gq @ steps, rtol=1e-8, atol=1e-12)
    own = (G * steps.T).sum(1).numpy()
    np.testing.assert_allclose(inf.self_influence(), own, rtol=1e-8)
    shifts = torch.einsum("ncp,pn->nc", J, steps)
    moved = inf.leave_one_out_outputs() - model.outputs(model.train.inputs).detach()
    torch.testing.assert_close(moved, shifts, rtol=1e-8, atol=1e-12)


def test_hessian_curvature_is_the_second_derivative(dense):
    model, Xq, yq, (G, Gq, *_) = dense
    objective = model.objective

    def total(vector):
        parts = objective.space.unflatten(vector)
        out = torch.func.functional_call(model.module, parts, model.train.inputs)
        return nn.functional.cross_entropy(out, model.train.targets) + 0.005 * vector @ vector

    H = torch.func.jacrev(torch.func.grad(total))(objective.space.vector()) + 0.5 * torch.eye(
        G.shape[1]
    )
    inf = InfluenceFunctions(model, curvature="hessian", damping=0.5, correction="none").fit()
    want = Gq @ torch.linalg.solve(H, G.T) / N
    torch.testing.assert_close(inf.scores(Xq, yq).values, want, rtol=1e-8, atol=1e-12)


def test_train_by_train_raw_scores_are_symmetric_and_positive(dense):
    model, *_ = dense
    inf = InfluenceFunctions(model, damping=0.1).fit()
    train = model.train
    raw = inf.scores(train.inputs, train.targets, scale="raw").values
    torch.testing.assert_close(raw, raw.T)
    assert torch.linalg.eigvalsh(raw).min() > -1e-9
    own = inf.self_influence(scale="raw")
    np.testing.assert_allclose(own, raw.diagonal().numpy(), rtol=1e-9)
    assert (own >= 0).all()
    assert (inf.self_influence() >= 0).all()
    uncorrected = InfluenceFunctions(model, damping=0.1, correction="none").fit()
    np.testing.assert_allclose(uncorrected.self_influence(scale="raw"), own, rtol=1e-9)
    np.testing.assert_allclose(uncorrected.self_influence(), own / N, rtol=1e-9)


def test_batches_order_and_backend_do_not_matter():
    net, X, y = network()
    base = InfluenceFunctions(wrap(net, train=(X[:N], y[:N])), damping=0.1).fit()
    want = base.scores(X[N:], y[N:]).values
    small = wrap(net, train=(X[:N], y[:N]), batch_size=7)
    torch.testing.assert_close(
        InfluenceFunctions(small, damping=0.1).fit().scores(X[N:], y[N:]).values, want
    )
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    mixed = wrap(net, train=(X[:N][order], y[:N][order]))
    got = InfluenceFunctions(mixed, damping=0.1).fit().scores(X[N:], y[N:]).values
    torch.testing.assert_close(got, want[:, order])
    one = base.scores(X[N : N + 1], y[N : N + 1]).values
    torch.testing.assert_close(one, want[:1])

    class Opaque(nn.Module):  # no hook rule fits a parameter outside a layer
        def __init__(self):
            super().__init__()
            self.net = net
            self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x):
            return self.scale * self.net(x)

    opaque = wrap(Opaque(), train=(X[:N], y[:N]))
    held = InfluenceFunctions(opaque, damping=0.1, parameters="net").fit()
    torch.testing.assert_close(held.scores(X[N:], y[N:]).values, want)
    every = InfluenceFunctions(opaque, damping=0.1, correction="none").fit()
    J = every.objective_
    G = every.operator_.dense() + 0.1 * torch.eye(J.space.size)
    raw = J.per_example_gradients(X[N:], y[N:]) @ torch.linalg.solve(
        G, J.per_example_gradients().T
    )  # fmt: skip
    torch.testing.assert_close(every.scores(X[N:], y[N:], scale="raw").values, raw)


def test_float32_agrees_with_float64():
    exact, Xq, yq = problem()
    rough, Xr, yr = problem(dtype=torch.float32)
    want = InfluenceFunctions(exact, damping=0.1).fit().scores(Xq, yq).values
    got = InfluenceFunctions(rough, damping=0.1).fit().scores(Xr, yr).values
    assert got.dtype == torch.float32
    assert float((got.double() - want).norm() / want.norm()) < 1e-4


def test_gradients_in_small_blocks_are_the_same(dense, monkeypatch):
    model, Xq, yq, _ = dense
    held = InfluenceFunctions(model, damping=0.1).fit()
    monkeypatch.setattr("trustml.influence._train_rows.BUDGET", 300)
    streamed = InfluenceFunctions(model, damping=0.1).fit()
    torch.testing.assert_close(streamed.scores(Xq, yq).values, held.scores(Xq, yq).values)
    torch.testing.assert_close(streamed.parameter_changes([3, 1]), held.parameter_changes([3, 1]))
    np.testing.assert_allclose(streamed.self_influence(), held.self_influence())
    first = streamed.group_effect([0, 5, 9], Xq, yq)
    torch.testing.assert_close(first, held.scores(Xq, yq).values[:, [0, 5, 9]].sum(1))


def test_a_measure_is_any_function_of_the_outputs(dense):
    model, Xq, yq, _ = dense
    inf = InfluenceFunctions(model, damping=0.1).fit()
    loss = inf.scores(Xq, measure=lambda out, X, y: nn.functional.cross_entropy(
        out, yq, reduction="none"))  # fmt: skip
    torch.testing.assert_close(loss.values, inf.scores(Xq, yq).values)
    given = inf.scores(Xq, yq, measure=lambda out, X, y: out.gather(1, y[:, None])[:, 0])
    plain = inf.scores(Xq, measure=lambda out, X, y: out.gather(1, yq[:, None]))
    torch.testing.assert_close(given.values, plain.values)
    assert given.unit == "measure"
    assert inf.scores(Xq, yq).unit == model.loss_fn.unit


def test_numpy_in_numpy_out_and_labels_are_the_users():
    X, y = load_diabetes(return_X_y=True)
    words = np.where(y > np.median(y), "high", "low")
    model = wrap(LogisticRegression().fit(X[:100], words[:100]), train=(X[:100], words[:100]))
    scores = InfluenceFunctions(model).fit().scores(X[100:110], words[100:110])
    assert isinstance(scores.values, np.ndarray)
    assert scores.values.shape == (10, 100)
    top = scores.top(3)
    assert isinstance(top, np.ndarray)
    for q in range(10):
        assert abs(scores.values[q, top[q, 0]]) == np.abs(scores.values[q]).max()
        assert scores.helpful(1)[q, 0] == scores.values[q].argmax()
        assert scores.harmful(1)[q, 0] == scores.values[q].argmin()
    frame = scores.to_frame()
    assert len(frame) == 1000
    assert frame["score"].iloc[101] == scores.values[1, 1]
    assert "effective parameters" in str(scores.certificate)
    assert "helps" in scores.sign
    assert "InfluenceScores(10 queries x 100 training rows" in repr(scores)


def test_last_layer_is_a_selection(dense):
    model, Xq, yq, _ = dense
    inf = InfluenceFunctions(model, damping=0.1, parameters="last_layer").fit()
    assert inf.objective_.space.size == 6 * 3 + 3
    assert inf.scores(Xq, yq).values.shape == (Q, N)


def test_diagonal_curvature_has_no_correction(dense):
    model, Xq, yq, _ = dense
    inf = InfluenceFunctions(model, curvature="diagonal", damping=0.1).fit()
    assert inf.correction_ == "none"
    assert inf.scores(Xq, yq).correction == "none"
    with pytest.raises(ValueError, match="not defined for Diagonal"):
        InfluenceFunctions(model, curvature="diagonal", correction="leverage").fit()


def test_auto_correction_follows_the_method(dense):
    model, *_ = dense
    assert InfluenceFunctions(model, method="cg", damping=0.1).fit().correction_ == "none"
    direct = InfluenceFunctions(model, damping=0.1).fit()
    assert direct.correction_ == "leverage"
    assert direct.correction_reason_.startswith("cheap")


def test_a_row_with_all_the_leverage_is_named():
    X = np.zeros((6, 2))
    X[:5, 0], X[5, 1] = np.arange(5.0), 1.0  # row 5 alone knows the second coefficient
    y = np.array([1.0, 2.0, 2.5, 4.0, 5.5, 3.0])
    from sklearn.linear_model import LinearRegression

    model = wrap(LinearRegression(fit_intercept=False).fit(X, y), train=(X, y))
    with pytest.warns(UserWarning, match=r"1 training rows have leverage one \(the first: \[5\]"):
        inf = InfluenceFunctions(model, damping=0.0).fit()
    assert np.isfinite(inf.self_influence()).all()


def test_scikit_learn_manners(dense):
    model, *_ = dense
    inf = InfluenceFunctions(model, damping=0.1, correction="none")
    assert inf.get_params()["damping"] == 0.1
    copy = clone(inf)
    assert copy.model is model
    assert isinstance(copy.fit().scores(model.train.inputs[:2], model.train.targets[:2]),
                      InfluenceScores)  # fmt: skip
    estimator = Ridge().fit(np.eye(3), np.arange(3.0))
    with pytest.raises(ValueError, match="train"):
        InfluenceFunctions(estimator).fit()


UNFITTED = {
    "scores": lambda inf: inf.scores(None),
    "self_influence": lambda inf: inf.self_influence(),
    "leave_one_out_outputs": lambda inf: inf.leave_one_out_outputs(),
    "group_effect": lambda inf: inf.group_effect([0], None),
    "remove": lambda inf: inf.remove([0]),
    "parameter_changes": lambda inf: inf.parameter_changes([0]),
    "rows_effect": lambda inf: inf.rows_effect(torch.zeros(3)),
    "solve": lambda inf: inf.solve(torch.zeros(3)),
}


@pytest.mark.parametrize("name", UNFITTED)
def test_use_before_fit(dense, name):
    with pytest.raises(NotFittedError, match=r"call fit\(\) first"):
        UNFITTED[name](InfluenceFunctions(dense[0]))


BAD_FIT = {
    "correction": ({"correction": "newton"}, "correction must be one of"),
    "curvature": ({"curvature": "shampoo"}, "curvature must be one of"),
    "method": ({"method": "lu"}, "method must be one of"),
    "damping": ({"damping": -1.0}, "damping must be"),
    "parameters": ({"parameters": "nothing_like_it"}, "fits no parameter"),
}


@pytest.mark.parametrize("case", BAD_FIT)
def test_bad_options(dense, case):
    kwargs, message = BAD_FIT[case]
    with pytest.raises(ValueError, match=message):
        InfluenceFunctions(dense[0], **kwargs).fit()


def test_models_without_gradients_or_training_data():
    from sklearn.ensemble import RandomForestClassifier

    X, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    forest = wrap(RandomForestClassifier(5).fit(X, y), train=(X, y))
    with pytest.raises(TypeError, match="needs gradients"):
        InfluenceFunctions(forest).fit()
    with pytest.raises(ValueError, match="training data"):
        InfluenceFunctions(wrap(LogisticRegression().fit(X, y))).fit()


BAD_QUERY = {
    "no labels": (lambda X, y: {"X": X}, ValueError, "pass y=, or measure="),
    "short": (lambda X, y: {"X": X, "y": y[:-1]}, ValueError, "length|rows"),
    "width": (lambda X, y: {"X": X[:, :2], "y": y}, ValueError, "X must have shape"),
    "nan": (lambda X, y: {"X": X * torch.nan, "y": y}, ValueError, "NaN"),
    "empty": (lambda X, y: {"X": X[:0], "y": y[:0]}, ValueError, "no rows|empty"),
    "label": (lambda X, y: {"X": X, "y": y + 5}, ValueError, "unknown|unseen|not among|label"),
    "scale": (lambda X, y: {"X": X, "y": y, "scale": "loss"}, ValueError, "scale must be one of"),
    "not callable": (lambda X, y: {"X": X, "measure": "loss"}, TypeError, "measure must be"),
    "scalar": (
        lambda X, y: {"X": X, "measure": lambda out, X, y: out.sum()}, ValueError, "one number",
    ),
    "column": (
        lambda X, y: {"X": X, "measure": lambda out, X, y: out[:, 9]}, ValueError, "raw outputs",
    ),
    "argmax": (
        lambda X, y: {"X": X, "measure": lambda out, X, y: out.argmax(1)}, ValueError,
        "does not depend",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_QUERY)
def test_bad_queries(dense, case):
    model, Xq, yq, _ = dense
    kwargs, error, message = BAD_QUERY[case]
    inf = InfluenceFunctions(model, damping=0.1, method="cholesky", correction="none").fit()
    kwargs = kwargs(Xq, yq)
    with pytest.raises(error, match=message):
        inf.scores(kwargs.pop("X"), kwargs.pop("y", None), **kwargs)


BAD_ROWS = {
    "empty": ([], ValueError, "empty"),
    "outside": ([N], ValueError, "must lie in"),
    "negative": ([-1], ValueError, "must lie in"),
    "twice": ([1, 1], ValueError, "twice"),
    "float": ([0.5], TypeError, "row numbers"),
    "mask": (np.zeros(3, bool), ValueError, "mask of shape"),
    "two axes": ([[1, 2]], TypeError, "row numbers"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows(dense, case):
    model, Xq, yq, _ = dense
    indices, error, message = BAD_ROWS[case]
    inf = InfluenceFunctions(model, damping=0.1).fit()
    for call in (
        inf.remove,
        inf.parameter_changes,
        lambda rows: inf.group_effect(rows, Xq, yq),
    ):
        with pytest.raises(error, match=message):
            call(indices)
    with pytest.raises(ValueError, match="order must be one of"):
        inf.group_effect([0], Xq, yq, order=3)
    with pytest.raises(ValueError, match="positive integer"):
        inf.scores(Xq, yq).top(0)


def test_without_correction_one_solve_a_row_gives_the_shift_of_all_its_outputs(monkeypatch):
    X, y = load_iris(return_X_y=True)
    model = wrap(LogisticRegression(max_iter=2000, tol=1e-8).fit(X, y), train=(X, y))
    inf = InfluenceFunctions(model, method="cg", correction="none").fit()
    inf.inverse_.tol = 1e-10
    applied, apply = [], inf.inverse_.apply
    monkeypatch.setattr(inf.inverse_, "apply", lambda B: (applied.append(B.shape[1]), apply(B))[1])
    shifts = inf.leave_one_out_outputs() - model.outputs(model.inputs(X)).detach()
    assert sum(applied) == len(X)
    changes = inf.parameter_changes(np.arange(5))
    for i in range(5):
        jacobian = torch.stack(
            [
                inf.objective_.rows(
                    inf.objective_.data.subset([i]),
                    lambda out, *_, c=c: torch.eye(3, dtype=out.dtype)[c].expand(len(out), 3),
                )[0]
                for c in range(3)
            ]
        )
        torch.testing.assert_close(shifts[i], jacobian @ changes[:, i], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["gauss_newton", "ekfac", "kfac", "block_diagonal", "diagonal"])
def test_approximation_error_is_the_residual_under_gauss_newton(dense, name):
    model, Xq, yq, _ = dense
    _, Gq, _, _, H = reference(model, Xq, yq, 0.1)
    influence = InfluenceFunctions(model, curvature=name, damping=0.1).fit()
    places = [0, 3, 6]
    b = Gq[places].T
    x = influence.solve(b).x
    expected = (H @ x - b).norm(dim=0) / b.norm(dim=0)
    found = influence.approximation_error(Xq, yq, rows=3)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-8, atol=1e-12)
    if name == "gauss_newton":
        assert found.max() < 1e-12
    else:  # the certificate is that of the approximation, which is solved exactly
        assert found.min() > 1e-3
        assert influence.scores(Xq, yq).certificate.relative_residual.max() < 1e-10


def test_better_curvatures_have_smaller_approximation_errors(dense):
    model, Xq, yq, _ = dense

    def error(name, **kwargs):
        curve = functools.partial(name, **kwargs) if kwargs else name
        fitted = InfluenceFunctions(model, curvature=curve, damping=0.1).fit()
        found = fitted.approximation_error(Xq, yq, rows=len(Xq))
        assert found.shape == (len(Xq),)
        return float(np.square(found).mean())

    few, many = (error(ihvp.Fisher, samples=k) for k in (1, 200))
    assert many < few / 4
    assert error("block_diagonal") < error("diagonal")
    own = InfluenceFunctions(model, damping=0.1).fit()
    measured = own.approximation_error(Xq, measure=lambda outputs, X, y: outputs[:, 0])
    assert measured.shape == (4,)
    with pytest.raises(ValueError, match="rows"):
        own.approximation_error(Xq, yq, rows=0)
