import numpy as np
import pytest
import torch
from torch import nn

from trustml.evidence import clopper_pearson
from trustml.model import wrap
from trustml.robustness import Pgd, robust_accuracy
from trustml.warnings import GradientMaskingWarning


def test_it_counts_what_the_attack_did_not_fool(linear, iris):
    X, y = iris
    result = robust_accuracy(linear, X, y, "linf", 0.3, random_state=0)
    assert result.method == "strong"
    np.testing.assert_array_equal(result.per_example, ~result.attack.success)
    assert result.estimate == result.per_example.mean()
    assert result.interval == clopper_pearson(int(result.per_example.sum()), 150)
    assert result.clean_accuracy == pytest.approx((linear.predict(X) == y).mean())
    assert result.estimate < result.clean_accuracy


def test_strong_is_at_least_as_strong_as_its_parts(smooth):
    model, X, y = smooth
    for norm, eps in (("linf", 0.05), ("l2", 0.1)):
        fooled = robust_accuracy(model, X, y, norm, eps, random_state=0).per_example
        for method in ("fgsm", "pgd"):
            part = robust_accuracy(model, X, y, norm, eps, method, random_state=0).per_example
            assert (fooled <= part).all()


def test_level_widens_the_interval(linear, iris):
    narrow = robust_accuracy(linear, *iris, "linf", 0.3, "fgsm", level=0.8).interval
    wide = robust_accuracy(linear, *iris, "linf", 0.3, "fgsm", level=0.99).interval
    assert wide.low < narrow.low < narrow.high < wide.high
    with pytest.raises(ValueError, match="level"):
        robust_accuracy(linear, *iris, "linf", 0.3, "fgsm", level=1.5)


def test_masked_gradients_warn():
    net = nn.Sequential(nn.Linear(2, 2), nn.Hardtanh(), nn.Linear(2, 2))
    X = torch.tensor([[5.0, 5.0], [-5.0, -5.0]])
    with torch.no_grad():
        for layer, weight in (
            (net[0], 100 * torch.eye(2)),
            (net[2], torch.tensor([[1.0, 0], [-1, 0]])),
        ):
            layer.weight.copy_(weight)
            layer.bias.zero_()
    model = wrap(net, task="classification", train=(X, torch.tensor([0, 1])), bounds=(-10.0, 10.0))
    with pytest.warns(GradientMaskingWarning, match="zero gradients: 2 of 2"):
        result = robust_accuracy(model, X, [0, 1], "linf", 0.1, Pgd(steps=5), random_state=0)
    assert result.estimate == 1.0
    assert result.flags
