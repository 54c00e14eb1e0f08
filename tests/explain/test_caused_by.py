import numpy as np
import pytest
import torch

from trustml.explain import IntegratedGradients, Saliency, caused_by, uncertainty
from trustml.influence import InfluenceFunctions


def test_features_by_index_name_and_place(ridge):
    pandas = pytest.importorskip("pandas")
    model, X, _ = ridge
    frame = pandas.DataFrame(X[:3], columns=[f"c{j}" for j in range(10)])
    explainer = IntegratedGradients(model)
    by_index = caused_by(explainer, X[:3], feature=4)
    np.testing.assert_allclose(caused_by(explainer, frame, feature="c4"), by_index)
    np.testing.assert_allclose(caused_by(explainer, X[:3], feature=(4,)), by_index)
    assert by_index.shape == (3, 70)


def test_top_k_is_the_sum_of_the_largest(ridge):
    model, X, _ = ridge
    explainer = IntegratedGradients(model)
    values = explainer.attribute(X[:1]).values[0]
    largest = np.argsort(-abs(values))[:2]
    parts = [caused_by(explainer, X[:1], feature=int(j)) for j in largest]
    np.testing.assert_allclose(caused_by(explainer, X[:1], top_k=2), sum(parts), atol=1e-12)
    everything = [caused_by(explainer, X[:1], feature=j) for j in range(10)]
    np.testing.assert_allclose(caused_by(explainer, X[:1], top_k=99), sum(everything), atol=1e-10)


def test_the_infinitesimal_jackknife_is_their_spread(ridge):
    model, X, _ = ridge
    explainer = IntegratedGradients(model)
    effects = caused_by(explainer, X[:2], feature=3, correction="none")
    spread = np.sqrt(((effects - effects.mean(1, keepdims=True)) ** 2).sum(1))
    np.testing.assert_allclose(uncertainty(explainer, X[:2])[:, 3], spread)


def test_a_shared_factorisation_decides_the_correction(ridge):
    model, X, _ = ridge
    shared = InfluenceFunctions(model, correction="none").fit()
    found = caused_by(Saliency(model), X[:2], feature=0, influence=shared)
    plain = caused_by(Saliency(model), X[:2], feature=0, correction="none")
    np.testing.assert_allclose(found, plain)


def test_tensors_stay_tensors(build):
    model, X = build()
    assert isinstance(caused_by(Saliency(model), X[:2], 1, feature=0), torch.Tensor)


def test_bad_questions(ridge, build):
    model, X, _ = ridge
    explainer = IntegratedGradients(model)
    for options, message in (
        ({}, "give feature="),
        ({"feature": 1, "top_k": 2}, "give feature="),
        ({"feature": 10}, r"index in 0\.\.9"),
        ({"feature": "age"}, "no feature 'age'"),
        ({"feature": (1, 2)}, "outside a row"),
        ({"top_k": 0}, "top_k must be a positive integer"),
    ):
        with pytest.raises(ValueError, match=message):
            caused_by(explainer, X[:1], **options)
    net, rows = build()
    with pytest.raises(ValueError, match="3 outputs: say which with target="):
        caused_by(IntegratedGradients(net), rows[:1], feature=0)
