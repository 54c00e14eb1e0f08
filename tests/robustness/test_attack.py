import copy

import numpy as np
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn

from trustml.model import wrap
from trustml.robustness import (
    AttackResult,
    Fgsm,
    Pgd,
    Strong,
    attack,
    curvature,
    masking_checks,
    robust_accuracy,
    robustness_curve,
)


def margins(model, X, y):
    """Signed margin of a binary linear model, and its weights."""
    weight, bias = (t.numpy() for t in model.head)
    return (2 * y - 1) * (X @ weight[0] + bias[0]), weight[0]


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_fgsm_is_optimal_for_a_linear_model(binary, iris, norm, dual):
    X, y = iris[0], (iris[1] > 0).astype(int)
    margin, weight = margins(binary, X, y)
    eps = 0.7
    result = attack(binary, X, y > 0, "fgsm", norm, eps, random_state=0)
    expected = margin < eps * np.linalg.norm(weight, dual)
    assert 0 < expected.sum() < len(X)
    np.testing.assert_array_equal(result.success, expected)
    moved = result.success & (margin > 0)
    np.testing.assert_allclose(result.distance[moved], eps, rtol=1e-12)
    direction = np.sign(weight) if norm == "linf" else weight / np.linalg.norm(weight)
    steps = (result.x_adv - X)[moved]
    np.testing.assert_allclose(steps, -(2 * y[moved] - 1)[:, None] * eps * direction, rtol=1e-10)


@pytest.mark.parametrize("method", [Pgd(steps=20), Strong(steps=20)])
@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_iterated_attacks_reach_the_linear_optimum(binary, iris, method, norm, dual):
    X, y = iris[0], (iris[1] > 0).astype(int)
    margin, weight = margins(binary, X, y)
    reach = 0.7 * np.linalg.norm(weight, dual)
    result = attack(binary, X, y > 0, method, norm, 0.7, random_state=0)
    assert not result.success[margin > reach].any()
    assert result.success[margin < 0.98 * reach].all()


def test_gradients_of_a_saturated_model_do_not_underflow(iris):
    """Cross-entropy of logits in the thousands has gradients of exactly zero; ours has not."""
    X, y = iris
    net = nn.Linear(4, 3)
    fitted = LogisticRegression(max_iter=2000).fit(X, y)
    with torch.no_grad():
        net.weight.copy_(1000 * torch.tensor(fitted.coef_))
        net.bias.copy_(1000 * torch.tensor(fitted.intercept_))
    X32 = torch.tensor(X, dtype=torch.float32)
    leaf = X32.clone().requires_grad_()
    losses = nn.functional.cross_entropy(net(leaf), torch.tensor(y), reduction="sum")
    (naive,) = torch.autograd.grad(losses, leaf)
    assert (naive == 0).all(1).float().mean() > 0.5
    model = wrap(net, task="classification", train=(X32, y), bounds=(0.0, 10.0))
    hot = attack(model, X32, y, Pgd(random_start=False), eps=0.5, random_state=0)
    cool = wrap(fitted, bounds=(0.0, 10.0))
    best = attack(cool, X, y, Pgd(random_start=False), eps=0.5, random_state=0)
    assert not hot.flags
    assert (hot.success.numpy() == best.success).mean() > 0.98


def test_rows_that_are_wrong_already_are_successes_at_distance_zero(linear, iris):
    X, y = iris
    wrong = linear.predict(X) != y
    assert wrong.any()
    result = attack(linear, X, y, "pgd", eps=0.01, random_state=0)
    assert result.success[wrong].all()
    assert (result.distance[wrong] == 0).all()
    np.testing.assert_array_equal(result.x_adv[wrong], X[wrong])
    assert (result.backwards[wrong] == 0).all()


def test_failures_return_the_clean_row(linear, iris):
    X, y = iris
    result = attack(linear, X, y, "strong", "l2", 0.05, random_state=0)
    assert not result.success.all()
    np.testing.assert_array_equal(result.x_adv[~result.success], X[~result.success])
    assert (result.distance[~result.success] == 0).all()


def test_zero_budget_only_finds_what_is_wrong(linear, iris):
    X, y = iris
    result = attack(linear, X, y, "pgd", eps=0.0, random_state=0)
    np.testing.assert_array_equal(result.success, linear.predict(X) != y)
    assert not result.flags


def test_targeted_success_means_the_target_is_predicted(linear, iris):
    X, y = iris
    target = (y + 1) % 3
    result = attack(linear, X, target, "pgd", eps=3.0, targeted=True, random_state=0)
    reached = linear.predict(result.x_adv) == target
    np.testing.assert_array_equal(result.success, reached)
    assert result.success.mean() > 0.5
    already = linear.predict(X) == target
    assert (result.distance[already] == 0).all()


def test_string_labels_and_frames(iris):
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(iris[0], columns=list("abcd"))
    y = pandas.Series(np.array(["setosa", "versicolor", "virginica"])[iris[1]])
    model = wrap(LogisticRegression(max_iter=2000).fit(X, y), bounds=(0.0, 10.0))
    result = attack(model, X, y, eps=0.4, random_state=0)
    assert isinstance(result.x_adv, np.ndarray)
    wrong = model.predict(pandas.DataFrame(result.x_adv, columns=X.columns)) != y.to_numpy()
    np.testing.assert_array_equal(wrong, result.success)


def test_scalers_are_inside_the_attack(iris):
    """eps is in input units: scaling a feature inside the pipeline changes nothing."""
    X, y = iris
    scaled = make_pipeline(StandardScaler(), LogisticRegression(C=1e4, max_iter=5000)).fit(X, y)
    model = wrap(scaled, bounds=(0.0, 10.0))
    result = attack(model, X, y, eps=0.3, random_state=0)
    assert np.abs(result.x_adv - X).max() <= 0.3
    np.testing.assert_array_equal(scaled.predict(result.x_adv) != y, result.success)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_stay_tensors_in_their_dtype(smooth, dtype):
    model, X, y = smooth
    result = attack(model, X.to(dtype), y, eps=0.2, random_state=0)
    assert all(isinstance(v, torch.Tensor) for v in (result.x_adv, result.success, result.distance))
    assert result.x_adv.dtype == dtype
    assert result.success.dtype == torch.bool
    np.testing.assert_array_equal(
        (model.predict(result.x_adv) != y).numpy(), result.success.numpy()
    )


def test_per_feature_bounds_hold(iris):
    X, y = iris
    low, high = X.min(0), X.max(0)
    model = wrap(LogisticRegression(max_iter=2000).fit(X, y), bounds=(low, high))
    result = attack(model, X, y, "pgd", eps=1.0, random_state=0)
    assert (result.x_adv >= low).all()
    assert (result.x_adv <= high).all()


def test_same_seed_same_result_and_none_keeps_its_seed(smooth):
    model, X, y = smooth
    first = attack(model, X, y, eps=0.1, random_state=None)
    again = attack(model, X, y, eps=0.1, random_state=first.random_state)
    torch.testing.assert_close(first.x_adv, again.x_adv, rtol=0, atol=0)
    assert attack(model, X, y, eps=0.1, random_state=np.random.default_rng(1)).random_state > 0


def test_eps_may_be_a_fraction(linear, iris):
    result = attack(linear, *iris, "fgsm", eps="8/255", random_state=0)
    assert result.eps == 8 / 255


def test_zero_gradients_are_flagged(smooth):
    class Rounded(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(torch.round(x * 8) / 8)

    model, X, y = smooth
    steps = wrap(Rounded(model.module), task="classification", train=(X, y), bounds=(0.0, 1.0))
    result = attack(steps, X, y, eps=0.05, random_state=0)
    assert any(flag.startswith("zero gradients") for flag in result.flags)


def test_results_become_tables(linear, iris):
    pytest.importorskip("pandas")
    result = attack(linear, *iris, eps=0.3, random_state=0)
    assert isinstance(result, AttackResult)
    assert list(result.to_frame().columns) == ["success", "distance", "forwards", "backwards"]
    assert "<table>" in result._repr_html_()


def test_bad_methods(linear, iris):
    with pytest.raises(ValueError, match=r"method must be one of 'fgsm', 'pgd', 'strong'"):
        attack(linear, *iris, method="autoattack", eps=0.1)
    with pytest.raises(ValueError, match="norm must be one of 'linf', 'l2'"):
        attack(linear, *iris, norm="l1", eps=0.1)
    with pytest.raises(ValueError, match="steps must be a positive integer"):
        Pgd(steps=0)
    with pytest.raises(ValueError, match="share of eps"):
        Pgd(step=0.0)
    with pytest.raises(ValueError, match="loss must be one of"):
        Fgsm(loss="hinge")
    with pytest.raises(TypeError, match="rivals must be a positive integer"):
        Strong(rivals=1.5)


@pytest.mark.parametrize("eps", [-0.1, np.nan, np.inf, "big", [0.1, 0.2]])
def test_bad_eps(linear, iris, eps):
    with pytest.raises(ValueError, match="eps must be"):
        attack(linear, *iris, eps=eps)


def test_missing_eps_names_the_budget(linear, iris):
    with pytest.raises(ValueError, match="fixed budget: give eps"):
        attack(linear, *iris)


def test_missing_bounds_name_wrap(iris):
    X, y = iris
    model = wrap(LogisticRegression(max_iter=2000).fit(X, y))
    with pytest.raises(ValueError, match=r"bounds=\(low, high\)"):
        attack(model, X, y, eps=0.1)


def test_rows_outside_the_bounds_are_refused_but_rounding_is_not(iris):
    X, y = iris
    model = wrap(LogisticRegression(max_iter=2000).fit(X, y), bounds=(0.0, 7.9))
    assert attack(model, X, y, "fgsm", eps=0.1).success.shape == (150,)
    with pytest.raises(ValueError, match="lie outside the model's bounds"):
        attack(model, X + 1.0, y, eps=0.1)
    edge = X.copy()
    edge[0, 0] = 7.9 + 1e-7
    result = attack(model, edge, y, "pgd", eps=0.5, random_state=0)
    assert (result.x_adv[1:] <= 7.9).all()
    narrow = wrap(LogisticRegression(max_iter=2000).fit(X, y), bounds=(np.zeros(3), np.ones(3)))
    with pytest.raises(ValueError, match="does not fit rows of shape"):
        attack(narrow, X, y, eps=0.1)


def test_bad_data(linear, iris):
    X, y = iris
    with pytest.raises(ValueError, match="NaN"):
        attack(linear, np.where(X > 7, np.nan, X), y, eps=0.1)
    with pytest.raises(ValueError, match="same length"):
        attack(linear, X, y[:-1], eps=0.1)
    with pytest.raises(ValueError, match="shape"):
        attack(linear, X[:, :3], y, eps=0.1)
    with pytest.raises(ValueError, match="7"):
        attack(linear, X, np.full(150, 7), eps=0.1)
    with pytest.raises(ValueError, match="no rows"):
        attack(linear, X[:0], y[:0], eps=0.1)


def test_models_that_cannot_be_attacked(iris):
    X, y = iris
    forest = wrap(RandomForestClassifier(5, random_state=0).fit(X, y), bounds=(0.0, 10.0))
    with pytest.raises(TypeError, match=r"robustness\.attack needs gradients"):
        attack(forest, X, y, eps=0.1)
    with pytest.raises(TypeError, match="needs a classifier"):
        attack(wrap(Ridge().fit(X, y), bounds=(0.0, 10.0)), X, y, eps=0.1)
    encoded = make_pipeline(
        make_column_transformer((OneHotEncoder(), [3]), remainder="passthrough"),
        LogisticRegression(max_iter=5000),
    ).fit(X, y)
    with pytest.raises(TypeError, match=r"robustness\.attack moves the numbers of X"):
        attack(wrap(encoded, bounds=(0.0, 10.0)), X, y, eps=0.1)
    tokens = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 2))
    ids, labels = torch.randint(9, (6, 2)), torch.arange(6) % 2
    model = wrap(tokens, task="classification", train=(ids, labels), bounds=(0, 8))
    with pytest.raises(TypeError, match=r"robustness\.attack moves the numbers of X"):
        attack(model, ids, labels, eps=1.0)


def test_non_finite_outputs_are_refused():
    class Broken(nn.Linear):
        def forward(self, x):
            return super().forward(x) / 0.0 * 0.0

    model = wrap(Broken(3, 2), task="classification", bounds=(0.0, 1.0))
    with pytest.raises(ValueError, match="NaN or infinite"):
        attack(model, torch.rand(4, 3), torch.arange(4) % 2, eps=0.1)


class WritesIntoItsInput(nn.Module):
    """Shifts and scales in place before its net."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        x -= 0.1
        x *= 1.2
        return self.net(x)


def test_modules_that_write_into_their_input(smooth):
    model, X, y = smooth
    writer = wrap(WritesIntoItsInput(model.module), task="classification", bounds=(0, 1))
    shift = nn.Linear(5, 5).double()
    with torch.no_grad():
        shift.weight.copy_(1.2 * torch.eye(5))
        shift.bias.fill_(-0.12)
    same = wrap(nn.Sequential(shift, model.module), task="classification", bounds=(0, 1))
    kept = X.clone()
    for ask in (
        lambda m: attack(m, X, y, "strong", eps=0.05, random_state=0).distance,
        lambda m: curvature(m, X, y).top_eigenvalue,
        lambda m: masking_checks(m, X, y, eps=0.05, random_state=0).random_accuracy,
    ):
        torch.testing.assert_close(ask(writer), ask(same), rtol=1e-3, atol=1e-9)
    assert torch.equal(X, kept)


def test_tensors_with_gradients_come_back_without(smooth):
    model, X, y = smooth
    X = X.clone().requires_grad_()
    result = attack(model, X, y, eps=0.05, random_state=0)
    assert not result.x_adv.requires_grad
    assert X.grad is None


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rows_stay_what_they_are(smooth, dtype, norm):
    model, X, y = smooth
    net = copy.deepcopy(model.module).to(dtype)
    X = X.to(dtype)
    result = attack(
        wrap(net, task="classification", bounds=(0, 1)), X, y, norm=norm, eps=0.1, random_state=0
    )
    assert result.x_adv.dtype == dtype
    moved = (result.x_adv.double() - X.double()).norm(float("inf") if norm == "linf" else 2, dim=1)
    assert float(moved.max()) <= 0.1
    assert torch.equal(net(result.x_adv).argmax(1) != y, result.success)


def test_inference_mode_is_refused(smooth):
    model, X, y = smooth
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        attack(model, X, y, eps=0.1)
    with torch.no_grad():
        inside = attack(model, X, y, eps=0.1, random_state=0)
    assert torch.equal(inside.success, attack(model, X, y, eps=0.1, random_state=0).success)


def test_seeds_of_numpy_are_ints(linear, iris):
    X, y = iris
    assert attack(linear, X[:5], y[:5], eps=0.1, random_state=np.int64(3)).random_state == 3


def test_results_say_what_they_are(linear, iris):
    X, y = iris
    found = robust_accuracy(linear, X, y, "linf", 0.2, random_state=0)
    low, high = found.interval
    head = repr(found).splitlines()[0]
    assert f"{found.estimate:.4g}, 95% interval {low:.4g} to {high:.4g}, 150 rows" in head
    assert head in found._repr_html_()
    assert f"{int(found.attack.success.sum())} of 150 rows are misc" in repr(found.attack)
    curve = robustness_curve(linear, X, y, "l2", [0.1], random_state=0)
    assert "150 rows (strong, l2)" in repr(curve)
    assert "radii in l2" in repr(curvature(linear, X, y))
    assert len(repr(found)) < 2000
