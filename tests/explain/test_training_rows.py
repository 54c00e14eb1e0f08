import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from trustml.explain import training_rows
from trustml.influence import InfluenceFunctions
from trustml.model import wrap


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))[:220]
    X, y = X[order] / 16, y[order]
    y[:6] = (y[:6] + 1) % 10  # six wrong labels
    model = wrap(LogisticRegression(C=0.1).fit(X[:200], y[:200]), train=(X[:200], y[:200]))
    return model, X, y


def test_they_are_the_extremes_of_the_influence_scores(digits):
    model, X, y = digits
    found = training_rows(model, X[200:], y[200:], k=4)
    scores = InfluenceFunctions(model).fit().scores(X[200:], y[200:]).values
    np.testing.assert_allclose(found.effects, scores)
    np.testing.assert_allclose(found.helpful_effect, -np.sort(-scores, axis=1)[:, :4])
    np.testing.assert_allclose(found.harmful_effect, np.sort(scores, axis=1)[:, :4])
    assert found.unit


def test_helpful_rows_share_the_label(digits):
    model, X, _ = digits
    found = training_rows(model, X[200:], k=3)  # about the predictions
    np.testing.assert_array_equal(found.labels, model.predict(X[200:]))
    labels = model.estimator.classes_[model.train.targets.numpy()]
    assert (labels[found.helpful] == found.labels[:, None]).mean() > 0.95
    assert (found.helpful_effect > 0).all()


def test_the_table_names_rows_and_sides(digits):
    pytest.importorskip("pandas")
    table = training_rows(*digits[:2], k=2).to_frame()
    assert list(table.columns) == ["row", "training_row", "kind", "effect"]
    assert len(table) == 220 * 4


def test_k_is_capped_and_bad_input_refused(digits):
    model, X, y = digits
    assert training_rows(model, X[:1], k=999).helpful.shape == (1, 200)
    with pytest.raises(ValueError, match="k must be a positive integer"):
        training_rows(model, X[:1], k=0)
    with pytest.raises(TypeError, match=r"explain\.training_rows needs gradients"):
        training_rows(wrap(RandomForestClassifier(3).fit(X, y), train=(X, y)), X[:1])
    with pytest.raises(ValueError, match="train="):
        training_rows(wrap(LogisticRegression().fit(X, y)), X[:1])
    other = wrap(LogisticRegression().fit(X, y), train=(X, y))
    with pytest.raises(ValueError, match="another model"):
        training_rows(model, X[:1], influence=InfluenceFunctions(other).fit())
