import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from trustml.explain import IntegratedGradients, Saliency, metrics


def test_completeness_is_a_share_of_the_attributions(build):
    model, X = build(nn.ReLU)
    found = IntegratedGradients(model).attribute(X)
    assert metrics.completeness(found).shape == (60, 3)
    assert metrics.completeness(found).max() < 1e-10
    broken = dataclasses.replace(found, completeness=found.values.abs().sum(1) / 2)
    np.testing.assert_allclose(metrics.completeness(broken), 0.5)
    with pytest.raises(ValueError, match="not meant to add up"):
        metrics.completeness(Saliency(model).attribute(X))


def test_curves_have_closed_forms_for_linear_models(ridge):
    model, X, _ = ridge
    found = IntegratedGradients(model).attribute(X[:5])
    ordered = -np.sort(-found.values, axis=1)
    base = found.base_values[:, None]
    inserted = base + np.concatenate([np.zeros((5, 1)), np.cumsum(ordered, 1)], 1)
    removed = inserted[:, -1:] + base - inserted
    share = np.linspace(0, 1, 11)
    np.testing.assert_allclose(
        metrics.insertion(model, found, steps=10), np.trapezoid(inserted, share, axis=1)
    )
    np.testing.assert_allclose(
        metrics.deletion(model, found, steps=10), np.trapezoid(removed, share, axis=1)
    )


def test_curves_prefer_true_attributions_to_shuffled_ones(build):
    model, X = build()
    found = IntegratedGradients(model, baseline="mean").attribute(X, target=model.predict(X))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    shuffled = dataclasses.replace(found, values=found.values[:, order])
    for better, worse, measure in (
        (shuffled, found, metrics.deletion),
        (found, shuffled, metrics.insertion),
    ):
        larger, smaller = (measure(model, e, baseline="mean").mean() for e in (better, worse))
        assert larger > smaller


def test_infidelity_is_zero_where_the_model_is_linear(ridge, build):
    model, X, _ = ridge
    for explainer in (Saliency(model), IntegratedGradients(model)):
        assert metrics.infidelity(model, explainer.attribute(X[:5])).max() < 1e-18
    curved, rows = build()
    good = Saliency(curved).attribute(rows, target=0)
    bad = dataclasses.replace(good, values=-good.values)
    assert (metrics.infidelity(curved, good) < metrics.infidelity(curved, bad)).mean() > 0.9


def test_sensitivity_knows_flat_from_curved(ridge, build):
    model, X, _ = ridge
    assert metrics.sensitivity(Saliency(model), X[:5]).max() < 1e-12
    curved, rows = build()
    small = metrics.sensitivity(Saliency(curved), rows, 0, radius=1e-4)
    large = metrics.sensitivity(Saliency(curved), rows, 0, radius=1e-1)
    assert small.shape == (60,)
    assert np.median(small) < np.median(large) / 100


def test_bad_input(build, ridge):
    model, X = build()
    every = IntegratedGradients(model).attribute(X)
    for measure in (metrics.deletion, metrics.insertion, metrics.infidelity):
        with pytest.raises(ValueError, match="explain one: target="):
            measure(model, every)
    one = IntegratedGradients(model).attribute(X, target=0)
    with pytest.raises(ValueError, match="steps must be a positive integer"):
        metrics.deletion(model, one, steps=0)
    with pytest.raises(ValueError, match="baseline must be one of"):
        metrics.insertion(model, one, baseline="blur")
    with pytest.raises(ValueError, match="scale must be positive"):
        metrics.infidelity(model, one, scale=0.0)
    with pytest.raises(ValueError, match="radius must be positive"):
        metrics.sensitivity(Saliency(model), X, radius=-1.0)
    loss = IntegratedGradients(model, output="loss").attribute(X, y=model.predict(X))
    with pytest.raises(ValueError, match="cannot be asked again"):
        metrics.deletion(model, loss)
