"""The default detector."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier

import trustml
from trustml.ood import Energy, Fused, Knn, LastLayerLaplace, Mahalanobis, Msp
from trustml.ood._fused import Surprise
from trustml.ood.metrics import auroc


def test_score_is_the_sum_of_the_members_surprises(digits):
    det = Fused(digits.model, ["Msp", "Energy"]).fit(digits.X_train[:200])
    seen = digits.model.observe(digits.X_test[:20])
    total = sum(
        det.surprises_[name](member.score_observation(seen))
        for name, member in det.members_.items()
    )
    np.testing.assert_allclose(det.score(digits.X_test[:20]), total.numpy())


def test_members_do_not_see_the_rows_held_out(digits):
    det = Fused(digits.model, [Knn(digits.model, k=1)], holdout=0.3).fit(digits.X_train)
    (member,) = det.members_.values()
    (surprise,) = det.surprises_.values()
    assert len(member.neighbours_) == 700
    assert len(surprise.held_out) == 300
    assert surprise.held_out.min() > 0, "no held-out row is its own neighbour"


def test_default_members(digits):
    det = Fused(digits.model).fit(digits.X_train)
    assert list(det.members_) == [
        "Mahalanobis", "Mahalanobis(normalize=True)", "RelativeMahalanobis", "LastLayerLaplace",
    ]  # fmt: skip
    assert det.left_out_ == {}
    features = trustml.precomputed("features")
    det = Fused(features).fit(np.random.default_rng(0).normal(size=(50, 3)))
    assert set(det.left_out_) == {"RelativeMahalanobis", "LastLayerLaplace"}
    forest = RandomForestClassifier(10, random_state=0).fit(digits.X_train, digits.y_train)
    assert list(Fused(forest).fit(digits.X_train).members_) == ["Msp", "Entropy"]


def test_all_means_all_but_itself(digits):
    det = Fused(digits.model, "all").fit(digits.X_train[:200])
    assert "Fused" not in det.members_
    assert {"Msp", "Knn", "LastLayerLaplace"} <= set(det.members_)


def test_calibration_leaves_the_score_alone(digits):
    det = Fused(digits.model).fit(digits.X_train)
    before = det.score(digits.X_test[:50])
    after = det.calibrate(digits.X_test[100:]).score(digits.X_test[:50])
    np.testing.assert_array_equal(after, before)


def test_fused_sees_what_single_members_miss(digits):
    det = Fused(digits.model).fit(digits.X_train, digits.y_train)
    score, foreign = det.score(digits.X_test), det.score(digits.foreign)
    parts = [auroc(score, foreign[i : i + 200]) for i in (0, 200, 400)]
    assert auroc(score, foreign) > 0.9
    for kind in (Mahalanobis, LastLayerLaplace, Msp, Energy):
        single = kind(digits.model).fit(digits.X_train, digits.y_train)
        inside, outside = single.score(digits.X_test), single.score(digits.foreign)
        worst = min(auroc(inside, outside[i : i + 200]) for i in (0, 200, 400))
        assert min(parts) > worst, kind.__name__


def test_the_seed_decides_the_split(digits):
    def score(seed):
        return Fused(digits.model, random_state=seed).fit(digits.X_train).score(digits.X_test)

    np.testing.assert_array_equal(score(1), score(1))
    assert not np.allclose(score(1), score(2))


scores = st.lists(st.floats(-1e3, 1e3), min_size=8, max_size=60)


@settings(max_examples=50, deadline=None)
@given(scores, scores)
def test_surprise_is_monotone_and_at_least_zero(held_out, new):
    surprise = Surprise.of(torch.tensor(held_out, dtype=torch.float64))
    found = surprise(torch.tensor(sorted(new), dtype=torch.float64))
    assert (found >= 0).all()
    assert (found.diff() >= 0).all()


def test_surprise_of_an_exponential_is_its_log_survival():
    rng = np.random.default_rng(0)
    surprise = Surprise.of(torch.tensor(rng.exponential(size=20_000)))
    at = torch.tensor([0.5, 1.0, 3.0, 6.0, 10.0], dtype=torch.float64)  # P(S >= s) = exp(-s)
    np.testing.assert_allclose(surprise(at).numpy(), at.numpy(), rtol=0.08)


def test_constant_scores_have_no_scale():
    surprise = Surprise.of(torch.zeros(30, dtype=torch.float64))
    found = surprise(torch.tensor([-1.0, 0.0, 5.0], dtype=torch.float64))
    assert found[0] == found[1] == 0
    assert torch.isfinite(found[2])
    assert found[2] > found[1]


def test_bad_input_is_refused(digits):
    for holdout in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match=r"holdout must be a share in \(0, 1\)"):
            Fused(digits.model, holdout=holdout).fit(digits.X_train)
    with pytest.raises(ValueError, match="needs at least 20, got 19"):
        Fused(digits.model).fit(digits.X_train[:19])
