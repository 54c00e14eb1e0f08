import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

from trustml.model import wrap
from trustml.robustness import attack, curvature


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1)])
def test_radii_are_exact_for_a_binary_linear_model(binary, iris, norm, dual):
    X, y = iris[0], (iris[1] > 0).astype(int)
    weight, bias = (t.numpy() for t in binary.head)
    margin = (2 * y - 1) * (X @ weight[0] + bias[0])
    result = curvature(binary, X, y > 0, norm=norm)
    exact = margin.clip(0) / np.linalg.norm(weight[0], dual)
    np.testing.assert_allclose(result.linear_radius, exact, rtol=1e-10)
    np.testing.assert_allclose(result.quadratic_radius, exact, rtol=1e-8)


def test_linear_radius_is_where_attacks_begin_to_succeed(linear, iris):
    X, y = iris
    radius = curvature(linear, X, y, norm="linf").linear_radius
    right = radius > 0
    np.testing.assert_array_equal(right, linear.predict(X) == y)
    for eps in (0.1, 0.3, 0.6):
        found = attack(linear, X, y, "strong", "linf", eps, random_state=0)
        inside = (X - eps >= 0).all(1)  # the box, which the radius ignores, is not in the way
        clear = np.abs(radius - eps) > 1e-6
        both = inside & clear
        np.testing.assert_array_equal(found.success[both], (radius < eps)[both])


def test_top_eigenvalue_is_that_of_the_dense_hessian(smooth):
    model, X, y = smooth
    result = curvature(model, X[:8], y[:8])
    for i in range(8):

        def loss(x, i=i):
            return nn.functional.cross_entropy(model.module(x[None]), y[i : i + 1])

        dense = torch.autograd.functional.hessian(loss, X[i])
        top = torch.linalg.eigvalsh(dense)[-1]
        torch.testing.assert_close(result.top_eigenvalue[i], top, rtol=1e-6, atol=1e-12)


def test_quadratic_radius_bends_with_the_margin():
    """Logit difference 1 - x - a x^2 / 2 on a line: both radii have closed forms."""

    class Parabola(nn.Module):
        def __init__(self, bend):
            super().__init__()
            self.bend = nn.Parameter(torch.tensor(float(bend), dtype=torch.float64))

        def forward(self, x):
            lead = 1 - x[:, :1] - self.bend * x[:, :1] ** 2 / 2
            return torch.cat([lead + 3, torch.full_like(lead, 3)], 1)

    X = torch.zeros(1, 1, dtype=torch.float64)
    for bend, expected in (
        (0.0, 1.0),
        (4.0, (np.sqrt(9) - 1) / 4),
        (-0.4, (1 - np.sqrt(0.2)) / 0.4),
    ):
        model = wrap(Parabola(bend), task="classification", train=(X.repeat(2, 1), [0, 1]))
        result = curvature(model, X, [0])
        assert float(result.linear_radius) == pytest.approx(1.0)
        assert float(result.quadratic_radius) == pytest.approx(expected)
    model = wrap(Parabola(-1.0), task="classification", train=(X.repeat(2, 1), [0, 1]))
    assert float(curvature(model, X, [0]).quadratic_radius) == np.inf


def test_nearest_class_and_wrong_rows(linear, iris):
    X, y = iris
    result = curvature(linear, X, y)
    assert (result.nearest_class != y).all()
    wrong = linear.predict(X) != y
    assert (result.linear_radius[wrong] == 0).all()
    assert (result.quadratic_radius[wrong] == 0).all()
    assert set(result.nearest_class[y == 0]) == {1}


def test_flat_margins_are_infinitely_far():
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.zero_()
        net.bias.copy_(torch.tensor([3.0, 2.0]))
    model = wrap(net, task="classification", train=(torch.rand(4, 2), [0, 1, 0, 1]))
    result = curvature(model, torch.rand(3, 2), [0, 0, 1])
    assert result.linear_radius.tolist() == [np.inf, np.inf, 0.0]
    assert result.quadratic_radius.tolist() == [np.inf, np.inf, 0.0]
    assert (result.top_eigenvalue == 0).all()


def test_rows_do_not_depend_on_their_batch(smooth):
    model, X, y = smooth
    whole, alone = curvature(model, X, y), curvature(model, X[3:4], y[3:4])
    torch.testing.assert_close(whole.top_eigenvalue[3:4], alone.top_eigenvalue)
    torch.testing.assert_close(whole.quadratic_radius[3:4], alone.quadratic_radius)


def test_kind_and_bad_input(linear, iris):
    X, y = iris
    assert isinstance(curvature(linear, X[:2], y[:2]).top_eigenvalue, np.ndarray)
    with pytest.raises(ValueError, match="norm must be one of"):
        curvature(linear, X, y, norm="l1")
    with pytest.raises(ValueError, match="same length"):
        curvature(linear, X, y[:3])
    with pytest.raises(TypeError, match="needs a classifier"):
        curvature(wrap(Ridge().fit(X, y)), X, y)
    raw = curvature(LogisticRegression(max_iter=2000).fit(X, y), X[:3], y[:3])
    assert raw.linear_radius.shape == (3,)
