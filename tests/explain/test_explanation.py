import numpy as np
import pytest
import torch

from trustml.explain import IntegratedGradients


def test_to_shap_is_shaps_layout(build):
    shap = pytest.importorskip("shap")
    model, X = build()
    found = IntegratedGradients(model).attribute(X[:4], uncertainty=False).to_shap()
    assert isinstance(found, shap.Explanation)
    assert found.values.shape == (4, 6, 3)
    assert found.base_values.shape == (4, 3)
    assert found.feature_names == [f"x{j}" for j in range(6)]
    assert list(found.output_names) == ["0", "1", "2"]
    one = IntegratedGradients(model).attribute(X[:4], target=1).to_shap()
    assert one.values.shape == one.data.shape == (4, 6)
    assert one[0].values.shape == (6,)


def test_uncertainty_travels_along(ridge):
    shap = pytest.importorskip("shap")
    model, X, _ = ridge
    found = IntegratedGradients(model).attribute(X[:3], uncertainty=True)
    assert found.uncertainty.shape == found.values.shape
    assert isinstance(found.to_shap(), shap.Explanation)
    np.testing.assert_allclose(found.to_shap().error_std, found.uncertainty)
    assert "uncertainty" in found.to_frame().columns


def test_tables_are_long(build):
    pytest.importorskip("pandas")
    model, X = build()
    one = IntegratedGradients(model).attribute(X[:4], target=1).to_frame()
    assert list(one.columns) == ["row", "feature", "data", "value"]
    assert len(one) == 24
    every = IntegratedGradients(model).attribute(X[:4])
    table = every.to_frame()
    assert len(table) == 4 * 6 * 3
    cell = table[(table.row == 2) & (table.feature == "x5") & (table.output == "1")]
    assert cell.value.item() == pytest.approx(float(every.values[2, 5, 1]))
    assert cell.data.item() == pytest.approx(float(X[2, 5]))
    assert "<table>" in every._repr_html_()
    assert len(every) == 4


def test_names_come_from_frames_and_models(ridge):
    pandas = pytest.importorskip("pandas")
    from sklearn.linear_model import Ridge

    from trustml.model import wrap

    _, X, y = ridge
    frame = pandas.DataFrame(X, columns=[f"c{j}" for j in range(10)])
    named = wrap(Ridge().fit(frame, y), train=(frame, y))
    assert IntegratedGradients(named).attribute(frame[:2]).feature_names[3] == "c3"
    told = wrap(Ridge().fit(X, y), feature_names=[f"n{j}" for j in range(10)])
    found = IntegratedGradients(told).attribute(torch.tensor(X[:2]))
    assert found.feature_names[3] == "n3"


def test_it_prints_the_largest_attributions_first(build):
    model, X = build()
    found = IntegratedGradients(model).attribute(X[:2], target=1)
    title, _, first, *_ = repr(found).splitlines()
    assert "2 rows by integrated gradients: logit of target 1, baseline zero" in title
    assert f"x{int(found.values[0].abs().argmax())} " in first
    assert title in found._repr_html_()
