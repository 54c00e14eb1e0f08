"""The default detector."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import combine_pvalues, norm
from sklearn.ensemble import RandomForestClassifier

import trustml
from trustml.ood import Energy, Fused, Knn, LastLayerLaplace, Mahalanobis, Msp
from trustml.ood._fusion import Surprise, fuse_pvalues, fuse_surprises
from trustml.ood._tuning import tuned_weights
from trustml.ood._tuning_shifts import shifts
from trustml.ood.metrics import auroc


def test_score_is_the_weighted_sum_of_the_members_surprises(digits):
    for weights in ("tuned", "equal"):
        det = Fused(digits.model, ["Msp", "Energy"], weights=weights).fit(digits.X_train[:200])
        seen = digits.model.observe(digits.X_test[:20])
        total = sum(
            det.weights_[name] * det.surprises_[name](member.score_observation(seen))
            for name, member in det.members_.items()
        )
        np.testing.assert_allclose(det.score(digits.X_test[:20]), total.numpy())
        assert sum(det.weights_.values()) == pytest.approx(2)
        assert min(det.weights_.values()) >= 0
    assert det.weights_ == {"Msp": 1.0, "Energy": 1.0}
    assert det.n_shifted_ == 0


def test_members_do_not_see_the_rows_held_out(digits):
    det = Fused(digits.model, [Knn(digits.model, k=1)], holdout=0.3).fit(digits.X_train)
    (member,) = det.members_.values()
    (surprise,) = det.surprises_.values()
    assert len(member.neighbours_) == 700
    assert len(surprise.held_out) == 300
    assert surprise.held_out.min() > 0, "no held-out row is its own neighbour"


def test_default_members(digits):
    det = Fused(digits.model).fit(digits.X_train)
    others = ["RelativeMahalanobis", "LastLayerLaplace", "Gram", "Fdbd"]
    distances = [name for name in det.members_ if name.startswith("Mahalanobis(layers=")]
    assert list(det.members_) == [*distances, *others]
    assert len(distances) >= 2, "one a stage"
    assert det.left_out_ == {}
    features = trustml.precomputed("features")
    det = Fused(features).fit(np.random.default_rng(0).normal(size=(50, 3)))
    assert list(det.members_) == ["Mahalanobis", "Mahalanobis(normalize=True)", "Gram"]
    assert set(det.left_out_) == {"RelativeMahalanobis", "LastLayerLaplace", "Fdbd"}
    assert set(det.weights_.values()) == {1.0}, "nothing to shift"
    forest = RandomForestClassifier(10, random_state=0).fit(digits.X_train, digits.y_train)
    assert list(Fused(forest).fit(digits.X_train).members_) == ["Msp", "Entropy"]


def test_nothing_but_the_rows_of_fit_reaches_the_tuning(digits, monkeypatch):
    # What the model is run on during fit: the rows of fit, and shifts made of held-out ones.
    seen, run = [], digits.model.observations
    kind = type(digits.model)
    monkeypatch.setattr(
        kind, "observations", lambda self, X, layers=None: spy(self, X, layers)
    )  # fmt: skip

    def spy(model, X, layers):
        for observation in run.__func__(model, X, layers):
            seen.append(observation.inputs.clone())
            yield observation

    det = Fused(digits.model).fit(digits.X_train, digits.y_train)
    rows = torch.cat(seen)
    train = torch.tensor(digits.X_train)
    torch.testing.assert_close(rows[:1000], train)
    assert len(rows) == 1000 + det.n_shifted_
    assert det.n_shifted_ <= 1000, "no more than another pass"
    # Whatever is scored or calibrated later, weights and scores stay.
    weights, before = dict(det.weights_), det.score(digits.X_test[:50])
    det.score(digits.foreign)
    det.calibrate(digits.X_test[50:])
    det.alarm(digits.foreign)
    assert det.weights_ == weights
    np.testing.assert_array_equal(det.score(digits.X_test[:50]), before)
    again = Fused(digits.model).fit(digits.X_train, digits.y_train)
    assert again.weights_ == weights, "a function of the rows of fit and the seed"


def test_weights_are_the_minimum_of_a_convex_loss():
    rng = np.random.default_rng(0)
    inside = torch.tensor(rng.exponential(size=(400, 3)))
    shifted = [torch.tensor(rng.exponential(size=(200, 3)) * [1.0, a, 2.0]) for a in (3.0, 6.0)]
    weights = tuned_weights(inside, shifted)
    assert float(weights.mean()) == pytest.approx(1)
    assert weights[1] > weights[2] > weights[0] >= 0, "the better it tells them, the more"
    order = [2, 0, 1]
    moved = tuned_weights(inside[:, order], [part[:, order] for part in shifted])
    torch.testing.assert_close(moved, weights[order], rtol=1e-4, atol=1e-4)
    # A copy of a member takes half its weight: the fused score is the same.
    twice = [torch.cat([part, part[:, 1:2]], dim=1) for part in (inside, *shifted)]
    doubled = tuned_weights(twice[0], twice[1:])
    fused = weights / weights.sum()
    torch.testing.assert_close(doubled[1], doubled[3], rtol=1e-3, atol=1e-3)
    folded = doubled[:3] / doubled.sum()
    folded[1] *= 2
    torch.testing.assert_close(folded, fused, rtol=0.05, atol=0.02)


def test_shifts_that_nothing_sees_leave_equal_weights():
    same = torch.tensor(np.random.default_rng(0).exponential(size=(300, 2)))
    blind = tuned_weights(same, [same, same])
    torch.testing.assert_close(blind, torch.ones(2).double(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(8, 5), (8, 3, 12), (8, 2, 12, 12), (8, 1, 9, 6)])
def test_shifts_are_of_the_rows_shape_and_range(shape):
    rows = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    made = dict(shifts(rows, np.random.default_rng(0)))
    assert all(moved.shape == rows.shape and moved.dtype == rows.dtype for moved in made.values())
    assert ("rotated" in made) == (len(shape) == 4 and shape[2] == shape[3])
    for name in {"mixed", "inverted", "uniform noise", "blurred", "shuffled"} & set(made):
        assert made[name].min() >= rows.min() - 1e-6, name
        assert made[name].max() <= rows.max() + 1e-6, name
    for name in {"turned", "rolled", "rotated", "patches 2 x 2", "patches 4 x 4"} & set(made):
        torch.testing.assert_close(
            made[name].flatten(2).sort().values, rows.flatten(2).sort().values
        )
        assert not torch.equal(made[name], rows), name
    again = dict(shifts(rows, np.random.default_rng(0)))
    assert all(torch.equal(again[name], moved) for name, moved in made.items())


@pytest.mark.parametrize("method", ["fisher", "cauchy", "harmonic"])
def test_fused_p_values_are_valid(method):
    # Independent p-values for all; for the two that promise it, dependent ones too.
    rng = np.random.default_rng(0)
    n, k = 40_000, 6
    common, own = rng.normal(size=(n, 1)), rng.normal(size=(n, k))
    for share in (0.0,) if method == "fisher" else (0.0, 0.5, 0.95):
        p = norm.sf(np.sqrt(share) * common + np.sqrt(1 - share) * own)
        fused = fuse_pvalues(p, method)
        for t in (0.001, 0.01, 0.05):
            # Under dependence Cauchy's holds in the limit: 0.05 may be a little off.
            slack = 1.2 if method == "cauchy" and share else 1.0
            assert np.mean(fused <= t) <= slack * t + 4 * np.sqrt(t * (1 - t) / n), (share, t)
    if method == "fisher":
        expected = [combine_pvalues(row).pvalue for row in p[:50]]
        np.testing.assert_allclose(fused[:50], expected)
    assert np.mean(fused <= 0.05) > 0.005


@pytest.mark.parametrize("method", ["fisher", "cauchy", "harmonic"])
def test_fused_surprises_are_the_logs_of_fused_p_values(method):
    rng = np.random.default_rng(0)
    p = np.clip(rng.random((200, 4)) ** 8, 1e-12, 1 - 1e-9)
    found = fuse_surprises(-torch.tensor(np.log(p)), torch.ones(4).double(), method).numpy()
    fused = fuse_pvalues(p, method)
    expected = {
        "fisher": -np.log(p).sum(axis=1),
        "cauchy": -np.log(fused),
        "harmonic": -np.log(1 / (1 / p).mean(axis=1)),
    }[method]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    far = torch.tensor([[1000.0, 1.0], [2000.0, 1.0], [2000.0, 1999.0]], dtype=torch.float64)
    found = fuse_surprises(far, torch.ones(2).double(), method)
    assert torch.isfinite(found).all()
    assert (found.diff() > 0).all(), "far rows do not tie"
    ladder = torch.linspace(0, 80, 500).double()[:, None].repeat(1, 2)
    assert (fuse_surprises(ladder, torch.ones(2).double(), method).diff() > 0).all()


def test_every_combination_separates(digits):
    for method in ("fisher", "cauchy", "harmonic"):
        det = Fused(digits.model, combine=method).fit(digits.X_train, digits.y_train)
        assert auroc(det.score(digits.X_test), det.score(digits.foreign)) > 0.9


def test_bad_p_values_are_refused():
    for bad in ([0.1, 0.2], [[0.1, 1.2]], [[np.nan, 0.5]]):
        with pytest.raises(ValueError, match="p must"):
            fuse_pvalues(bad)
    with pytest.raises(ValueError, match="method"):
        fuse_pvalues([[0.1]], "stouffer")


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
    for wrong in ({"weights": "best"}, {"combine": "sum"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Fused(digits.model, **wrong).fit(digits.X_train)
    with pytest.raises(ValueError, match="needs at least 20, got 19"):
        Fused(digits.model).fit(digits.X_train[:19])
