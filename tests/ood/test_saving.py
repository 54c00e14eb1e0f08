"""Detectors on disk: the same scores again, for the same model only, and nothing unpickled."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from torch import nn

import trustml
from trustml.errors import StoreMismatchError
from trustml.model import Observation
from trustml.ood import (
    Detector,
    FullLaplace,
    Fused,
    Gmm,
    KMeans,
    LocalEnsemble,
    Mahalanobis,
    Msp,
    RelativeMahalanobis,
    Scod,
    SelfInfluence,
    SketchedLanczos,
    Suite,
)
from trustml.ood._detector import catalogue
from trustml.ood._saving import load, save

KINDS = sorted(catalogue().items())


@pytest.fixture(scope="module")
def small(digits):
    return digits.X_train[:200], digits.y_train[:200], digits.X_test[:40]


@pytest.mark.parametrize("kind", [kind for _, kind in KINDS], ids=[name for name, _ in KINDS])
def test_a_saved_detector_scores_the_same(digits, small, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(pickle, "Unpickler", None)
    X, y, Q = small
    det = kind(digits.model).fit(X, y).calibrate(Q)
    save(det, tmp_path / "det")
    again = load(tmp_path / "det", digits.model, kind)
    assert type(again) is kind
    assert again.get_params(deep=False).keys() == det.get_params(deep=False).keys()
    np.testing.assert_array_equal(again.score(Q), det.score(Q))
    np.testing.assert_array_equal(again.p_values(Q), det.p_values(Q))
    assert again.fit(X, y) is again


@pytest.mark.parametrize(
    "make",
    [
        lambda model: SketchedLanczos(model, rank=5, sketch=30, random_state=None),
        lambda model: SketchedLanczos(model, rank=5, sketch=10**6),
        lambda model: FullLaplace(model, parameters="last_layer", rank=8),
        lambda model: LocalEnsemble(model, rank=3, raw=True),
    ],
    ids=["random sketch", "no sketch", "last layer", "raw"],
)
def test_a_model_that_has_seen_nothing_yet_takes_a_saved_curvature(digits, small, make, tmp_path):
    X, y, Q = small
    net = nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10))
    det = make(trustml.wrap(net, task="classification")).fit(X[:60], y[:60])
    expected = det.score(Q)
    save(det, tmp_path / "det")
    fresh = trustml.wrap(copy.deepcopy(net), task="classification")
    again = load(tmp_path / "det", fresh, type(det))
    np.testing.assert_allclose(again.score(Q), expected, rtol=1e-6)  # of float32 gradients
    save(again, tmp_path / "twice")  # a loaded one can be saved in its turn
    twice = load(tmp_path / "twice", fresh, type(det))
    np.testing.assert_array_equal(twice.score(Q), again.score(Q))
    np.testing.assert_array_equal(copy.deepcopy(det).score(Q), expected)
    with torch.no_grad():
        net[0].weight += 1e-3
    with pytest.raises(StoreMismatchError, match="weights"):
        load(tmp_path / "det", trustml.wrap(net, task="classification"), type(det))


def test_a_suite_is_saved_whole_and_shares_what_its_detectors_share(digits, small, tmp_path):
    X, y, Q = small
    kinds = ["Msp", Mahalanobis, FullLaplace, Scod, SelfInfluence]
    suite = Suite(digits.model, kinds).fit(X, y).calibrate(Q)
    suite.save(tmp_path / "suite")
    again = Suite.load(tmp_path / "suite", digits.model)
    assert list(again.detectors_) == list(suite.detectors_)
    np.testing.assert_array_equal(again.score(Q).values, suite.score(Q).values)
    np.testing.assert_array_equal(again.alarm(Q, 0.1).values, suite.alarm(Q, 0.1).values)
    # Two of three decompose the same matrix, Scod one of all rows: on disk, and in the pass.
    FullLaplace(digits.model).fit(X, y).save(tmp_path / "one")
    sizes = [(tmp_path / f / "detector.safetensors").stat().st_size for f in ("suite", "one")]
    assert sizes[0] < 2.5 * sizes[1]
    vectors = {id(again.detectors_[k].question().vectors) for k in ("FullLaplace", "SelfInfluence")}
    assert len(vectors) == 1
    with pytest.raises(TypeError, match="holds a Suite, not a Detector"):
        load(tmp_path / "suite", digits.model, Detector)
    with pytest.raises(NotFittedError, match="this Suite is not fitted"):
        Suite(digits.model).save(tmp_path / "nothing")


def test_what_was_learnt_in_batches_goes_on_after_loading(digits, small, tmp_path):
    X, y, Q = small
    for kind in (Mahalanobis, RelativeMahalanobis, Gmm):
        half = kind(digits.model).fit(X[:100], y[:100])
        save(half, tmp_path / kind.__name__)
        again = load(tmp_path / kind.__name__, digits.model, kind).partial_fit(X[100:], y[100:])
        whole = half.partial_fit(X[100:], y[100:])
        np.testing.assert_array_equal(again.score(Q), whole.score(Q))


def test_a_fusion_is_saved_with_its_members(digits, small, tmp_path):
    X, y, Q = small
    det = Fused(digits.model, [Mahalanobis, Mahalanobis(digits.model, normalize=True), Msp])
    save(det.fit(X, y), tmp_path / "fused")
    again = load(tmp_path / "fused", digits.model, Fused)
    assert list(again.members_) == list(det.members_)
    np.testing.assert_array_equal(again.score(Q), det.score(Q))
    assert again.detectors[0] is Mahalanobis
    assert again.fit(X, y).members_.keys() == det.members_.keys()


def test_only_the_same_model_is_accepted(digits, small, tmp_path):
    X, y, _ = small
    save(Mahalanobis(digits.model).fit(X, y), tmp_path / "det")
    other = nn.Sequential(*[
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    ])  # fmt: skip
    with pytest.raises(StoreMismatchError, match="weights"):
        load(tmp_path / "det", trustml.wrap(other, task="classification"), Mahalanobis)
    with pytest.raises(StoreMismatchError, match="weights"):
        save(Msp(trustml.wrap(other, task="classification")).fit(X), tmp_path / "det")
    with pytest.raises(StoreMismatchError, match="structure"):
        load(tmp_path / "det", trustml.wrap(nn.Linear(64, 10), task="classification"), Mahalanobis)
    with pytest.raises(TypeError, match="holds a Mahalanobis, not a Msp"):
        load(tmp_path / "det", digits.model, Msp)
    features = Mahalanobis(trustml.precomputed("features")).fit(X, y)
    save(features, tmp_path / "features")
    loaded = load(tmp_path / "features", trustml.precomputed("features"), Mahalanobis)
    np.testing.assert_array_equal(loaded.score(X[:5]), features.score(X[:5]))
    with pytest.raises(StoreMismatchError):
        load(tmp_path / "features", trustml.precomputed("logits"), Mahalanobis)


def test_estimators_are_told_apart_by_what_they_have_learnt(small, tmp_path):
    X, y, _ = small
    for make in (
        lambda rows: LogisticRegression(max_iter=2000).fit(X[:rows], y[:rows]),
        lambda rows: RandomForestClassifier(5, random_state=rows).fit(X, y),
    ):  # fmt: skip
        one, other = make(200), make(150)
        path = tmp_path / type(one).__name__
        det = Msp(one).fit(X)
        save(det, path)
        np.testing.assert_array_equal(load(path, one, Msp).score(X), det.score(X))
        with pytest.raises(StoreMismatchError):
            load(path, other, Msp)


def test_a_folder_without_a_detector_is_refused(digits, small, tmp_path):
    with pytest.raises(ValueError, match="no saved detector"):
        load(tmp_path / "nothing", digits.model, Mahalanobis)
    with pytest.raises(NotFittedError, match="call fit"):
        save(Mahalanobis(digits.model), tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    X, y, _ = small
    det = Mahalanobis(digits.model).fit(X, y)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="holds files"):
        save(det, tmp_path / "mine")


def test_a_second_save_replaces_the_first_and_files_are_no_pickles(digits, small, tmp_path):
    X, y, Q = small
    save(KMeans(digits.model).fit(X, y), tmp_path / "det")
    second = Mahalanobis(digits.model).fit(X, y)
    save(second, tmp_path / "det")
    again = load(tmp_path / "det", digits.model, Detector)
    np.testing.assert_array_equal(again.score(Q), second.score(Q))
    names = sorted(path.name for path in (tmp_path / "det").iterdir())
    assert names == ["detector.safetensors", "manifest.json"]
    assert "weights" in json.loads((tmp_path / "det" / "manifest.json").read_text())["belongs_to"]


def test_a_file_that_names_foreign_classes_is_refused(digits, small, tmp_path):
    from safetensors.torch import load_file, save_file

    X, y, _ = small
    save(Msp(digits.model).fit(X, y), tmp_path / "det")
    path = tmp_path / "det" / "detector.safetensors"
    tree = load_file(path)["tree"].numpy().tobytes().decode()
    for bad in ("os:system", "trustml.ood._saving:import_module", "subprocess:Popen"):
        forged = tree.replace("trustml.ood._msp:Msp", bad)
        assert forged != tree
        save_file({"tree": torch.frombuffer(bytearray(forged.encode()), dtype=torch.uint8)}, path)
        with pytest.raises(ValueError, match="no class of this version"):
            load(tmp_path / "det", digits.model, Detector)


def test_slices_and_shapes_come_back_as_they_were(digits, small, tmp_path):
    det = Msp(digits.model).fit(small[0])
    det.parts_ = {0: slice(1, None, 2), "r": range(3), "s": torch.Size([2, 3]), "t": (1, {2.5})}
    save(det, tmp_path / "det")
    again = load(tmp_path / "det", digits.model, Msp)
    assert again.parts_ == det.parts_
    assert isinstance(again.parts_["s"], torch.Size)
    det.parts_ = Observation(torch.ones(2), None, None, None)
    save(det, tmp_path / "det")
    assert len(load(tmp_path / "det", digits.model, Msp).parts_) == 2


def test_what_cannot_be_written_is_named(digits, small, tmp_path):
    X, y, _ = small
    det = Mahalanobis(digits.model).fit(X, y)
    det.extra_ = {"rule": lambda z: z}
    with pytest.raises(TypeError, match=r"extra_\['rule'\] is of type function"):
        save(det, tmp_path / "det")
