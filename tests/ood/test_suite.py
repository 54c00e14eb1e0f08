"""Many detectors, one forward pass."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import NotFittedError
from torch import nn

import trustml
from trustml import ood
from trustml.ood import Energy, Knn, Mahalanobis, Msp, RelativeMahalanobis, Suite
from trustml.ood._detector import KeepsRows, catalogue

# These run the model again.
GRADIENTS = {name for name, kind in catalogue().items() if kind.needs & {"inputs", "gradients"}}


class CountRows(nn.Module):
    """Counts the rows that go through."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.rows = inner, 0

    def forward(self, x):
        self.rows += len(x)
        return self.inner(x)


def test_one_forward_pass_for_all_detectors(digits):
    net = CountRows(digits.net)
    model = trustml.wrap(net, task="classification")
    model.predict(digits.X_test[:2])  # the head is found once, on two rows
    suite = Suite(model, [kind for name, kind in catalogue().items() if name not in GRADIENTS])
    for call, X in [
        (suite.fit, digits.X_train[:200]),
        (suite.score, digits.X_test[:100]),
        (suite.calibrate, digits.X_test[:150]),
        (suite.p_values, digits.X_test[:60]),
        (suite.alarm, digits.X_test[:50]),
        (suite.discoveries, digits.X_test[:40]),
    ]:
        net.rows = 0
        call(X)
        # The default detector also looks at shifts of the rows of fit.
        more = suite.detectors_["Fused"].n_shifted_ if call == suite.fit else 0
        assert net.rows == len(X) + more, call.__name__
        assert more <= len(X)
    assert set(suite.detectors_) == set(catalogue()) - GRADIENTS


def test_rows_are_kept_without_their_inputs_and_layers(digits, monkeypatch):
    kept, finish = [], KeepsRows._finish

    def spied(self, model):
        kept.extend(observation for observation, _ in self.seen_)
        finish(self, model)

    monkeypatch.setattr(KeepsRows, "_finish", spied)
    Suite(digits.model, [Knn, ood.KMeans, ood.Gram]).fit(digits.X_train[:200])
    assert sum(len(observation) for observation in kept) == 2 * 200
    assert all(o.inputs is None and not o.layers for o in kept)


def test_suite_is_its_detectors(digits):
    X, Q = digits.X_train[:200], digits.X_test[:50]
    suite = Suite(digits.model).fit(X, digits.y_train[:200]).calibrate(digits.X_test[100:200])
    table = suite.score(Q)
    for name, kind in catalogue().items():
        single = kind(digits.model).fit(X, digits.y_train[:200]).calibrate(digits.X_test[100:200])
        np.testing.assert_allclose(table[name], single.score(Q), err_msg=name)
        np.testing.assert_allclose(suite.p_values(Q)[name], single.p_values(Q), err_msg=name)
        np.testing.assert_array_equal(suite.alarm(Q, 0.1)[name], single.alarm(Q, 0.1))
        np.testing.assert_array_equal(suite.discoveries(Q)[name], single.discoveries(Q))


def test_table(digits):
    suite = Suite(digits.model, ["Msp", "energy"]).fit(digits.X_train[:50])
    table = suite.score(digits.X_test[:3])
    assert table.columns == ("Msp", "Energy")
    assert table.shape == (3, 2) == table.values.shape
    assert len(table) == 3
    assert table.quantity == "score"
    assert [float(x) for x in table.to_frame()["Energy"]] == table["Energy"].tolist()
    assert "<table>" in table._repr_html_()
    assert repr(table) == "DetectorTable(score, 3 rows: Msp, Energy)"
    with pytest.raises(KeyError, match="the columns are Msp, Energy"):
        table["Knn"]


def test_torch_in_torch_out(digits):
    suite = Suite(digits.model, ["Msp", "Knn"]).fit(digits.X_train[:50])
    suite.calibrate(torch.tensor(digits.X_test[:50]))
    table = suite.score(torch.tensor(digits.X_test[:3]))
    assert isinstance(table.values, torch.Tensor)
    assert isinstance(table["Knn"], torch.Tensor)
    assert suite.alarm(torch.tensor(digits.X_test[:3])).values.dtype == torch.bool


def test_names_classes_and_detectors_may_be_mixed(digits):
    chosen = ["msp", Energy, Knn(digits.model, k=3), Knn(digits.model)]
    suite = Suite(digits.model, chosen).fit(digits.X_train[:100])
    assert list(suite.detectors_) == ["Msp", "Energy", "Knn(k=3)", "Knn"]
    assert suite.detectors_["Knn(k=3)"].k_ == 3
    assert not hasattr(chosen[2], "k_"), "the user's own detector is left alone"


def test_prediction_only_model_gets_what_fits_and_the_reasons(digits):
    forest = RandomForestClassifier(10, random_state=0).fit(digits.X_train, digits.y_train)
    suite = Suite(forest).fit(digits.X_train)
    assert list(suite.detectors_) == ["Msp", "Entropy", "Gen", "KlMatching", "Fused"]
    assert set(suite.left_out_) == set(catalogue()) - set(suite.detectors_)
    assert "Knn needs features" in suite.left_out_["Knn"]


def test_a_chosen_detector_that_does_not_fit_is_an_error(digits):
    forest = RandomForestClassifier(10, random_state=0).fit(digits.X_train, digits.y_train)
    with pytest.raises(ValueError, match="Knn needs features"):
        Suite(forest, ["Msp", "Knn"]).fit(digits.X_train)
    regressor = RandomForestRegressor(5, random_state=0).fit(digits.X_train, digits.y_train)
    with pytest.raises(ValueError, match="neither class probabilities nor features"):
        Suite(regressor).fit(digits.X_train)


def test_one_class_leaves_out_relative_mahalanobis(digits):
    sevens = digits.X_train[digits.y_train == 7]
    suite = Suite(digits.model).fit(sevens, np.full(len(sevens), 7))
    assert "with one class use Mahalanobis" in suite.left_out_["RelativeMahalanobis"]
    assert "Mahalanobis" in suite.detectors_


def test_data_of_other_kinds(digits):
    rows = digits.X_train[:64]
    expected = Suite(digits.model, ["Knn"]).fit(rows).score(rows)["Knn"]
    dataset = torch.utils.data.TensorDataset(torch.tensor(rows), torch.zeros(64).long())
    loader = torch.utils.data.DataLoader(dataset, batch_size=10)
    for X in (torch.tensor(rows), rows.tolist(), dataset, loader):
        score = Suite(digits.model, ["Knn"]).fit(X).score(X)["Knn"]
        np.testing.assert_allclose(np.asarray(score), expected, atol=1e-6)


def test_clone_and_params(digits):
    suite = Suite(digits.model, ["Msp"]).fit(digits.X_train[:20])
    copy = clone(suite)
    assert copy.get_params()["detectors"] == ["Msp"]
    assert copy.model is digits.model
    assert not hasattr(copy, "detectors_")


def test_order_of_use_is_checked(digits):
    with pytest.raises(NotFittedError, match=r"call fit\(X_in\) first"):
        Suite(digits.model).score(digits.X_test)
    with pytest.raises(NotFittedError, match=r"call fit\(X_in\) first"):
        Suite(digits.model).alarm(digits.X_test)
    suite = Suite(digits.model, ["Msp"]).fit(digits.X_train[:20])
    for call in (suite.p_values, suite.alarm, suite.discoveries):
        with pytest.raises(NotFittedError, match=r"call calibrate\(X_cal\)"):
            call(digits.X_test)
    suite.calibrate(digits.X_test)
    suite.fit(digits.X_train[:20])
    with pytest.raises(NotFittedError, match=r"call calibrate\(X_cal\)"):
        suite.alarm(digits.X_test)


@pytest.mark.parametrize(
    ("detectors", "error", "text"),
    [
        ("most", ValueError, 'must be "all" or a list'),
        ([], ValueError, "detectors is empty; choose from Msp"),
        (["Msp2"], ValueError, "no detector 'Msp2'; choose from Msp"),
        (["Msp", Msp], ValueError, "holds Msp twice"),
        ([3], TypeError, "names, classes or detectors, got 3"),
    ],
)
def test_bad_choices_are_refused(digits, detectors, error, text):
    with pytest.raises(error, match=text):
        Suite(digits.model, detectors).fit(digits.X_train[:20])


def test_a_detector_of_another_model_is_refused(digits):
    other = trustml.wrap(nn.Linear(64, 10), task="classification")
    with pytest.raises(ValueError, match="made for another model"):
        Suite(digits.model, [Msp(other)]).fit(digits.X_train[:20])


def test_catalogue_is_the_rooms_table_of_contents():
    assert list(catalogue())[:4] == ["Msp", "MaxLogit", "Entropy", "Energy"]
    assert Mahalanobis in catalogue().values()
    assert RelativeMahalanobis in catalogue().values()
    assert "Suite" not in catalogue()
    assert "Detector" not in catalogue()
    assert set(catalogue()) <= set(ood.__all__)


def test_layers_that_overflow_are_refused_by_the_suite(digits):
    net = nn.Sequential(nn.Linear(64, 8), nn.Hardtanh(), nn.Linear(8, 10))
    with torch.no_grad():
        net[0].weight *= 100
    model = trustml.wrap(net, task="classification")
    suite = Suite(model, [Mahalanobis(model, layers=["0"]), "Msp"])
    suite.fit(digits.X_train[:100], digits.y_train[:100])
    with pytest.raises(ValueError, match=r"layer '0.*(NaN|inf)"):
        suite.score(digits.X_test[:5] * 3e38)
