"""Regions of several outputs: their shapes in closed form, and bad input is named."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from sklearn.base import clone
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge

import trustml
from trustml.conformal import CopulaBox, Ellipsoid, MaxBox, MultivariateRegressor
from trustml.evidence import quantile
from trustml.warnings import CoverageWarning

SHAPES = ["ellipsoid", "copula", "box", Ellipsoid(neighbors=20)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=["ellipsoid", "copula", "box", "local"])
VALUES = trustml.precomputed("values")


def rows(n: int, seed: int = 0, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Predictions, and truths whose errors go together and have different units."""
    rng = np.random.default_rng(seed)
    predictions = rng.normal(size=(n, k))
    shared = rng.normal(size=(n, 1))
    errors = (shared + 0.5 * rng.normal(size=(n, k))) * 10.0 ** np.arange(k)
    return predictions, predictions + errors


def fitted(shape: object, n: int = 400, **more: object) -> MultivariateRegressor:
    return MultivariateRegressor(VALUES, shape, random_state=0, **more).fit(*rows(n))


def aside(n: int, share: float) -> np.ndarray:
    """Which rows the seed 0 sets aside for the shape."""
    found = np.zeros(n, dtype=bool)
    found[np.random.default_rng(0).permutation(n)[: math.ceil(share * n)]] = True
    return found


@shapes
def test_manners(shape: object) -> None:
    P, Y = rows(300)
    before = P.copy(), Y.copy()
    cp = MultivariateRegressor(VALUES, shape, random_state=0)
    for ask in (
        cp.predict_box,
        cp.volume,
        lambda X: cp.contains(X, X),
        lambda X: cp.p_values(X, X),
    ):
        with pytest.raises(NotFittedError):
            ask(P)
    assert cp.fit(P, Y) is cp
    assert clone(cp).get_params(deep=False).keys() == cp.get_params(deep=False).keys()
    assert all(name.endswith("_") for name in vars(cp) if name not in cp.get_params(deep=False))
    assert (cp.n_outputs_, cp.n_calibration_) == (3, 225)
    np.testing.assert_array_equal((P, Y), before)
    X, y = rows(50, seed=1)
    again = clone(cp).fit(P, Y)
    np.testing.assert_array_equal(again.predict_box(X), cp.predict_box(X))
    short = clone(cp).fit(P[:100], Y[:100]).predict_box(X)
    np.testing.assert_array_equal(cp.fit(P[:100], Y[:100]).predict_box(X), short)
    for answer in (cp.predict_box, cp.volume):
        assert isinstance(answer(torch.from_numpy(X)), torch.Tensor)
        np.testing.assert_array_equal(answer(torch.from_numpy(X)).numpy(), answer(X))
    copied = copy.deepcopy(cp)
    np.testing.assert_array_equal(copied.contains(X, y), cp.contains(X, y))


@shapes
def test_shapes_nesting_and_rows_alone(shape: object) -> None:
    cp, (X, y) = fitted(shape), rows(60, seed=1)
    alphas = [0.4, 0.2, 0.1]
    box, held, volume = cp.predict_box(X, alphas), cp.contains(X, y, alphas), cp.volume(X, alphas)
    assert (box.shape, held.shape, volume.shape) == ((60, 3, 2, 3), (60, 3), (60, 3))
    np.testing.assert_array_equal(box[..., 1], cp.predict_box(X, 0.2))
    np.testing.assert_array_equal(held[:, 1], cp.contains(X, y, 0.2))
    np.testing.assert_array_equal(volume[:, 1], cp.volume(X, 0.2))
    assert (np.diff(box[:, :, 0]) < 0).all()
    assert (np.diff(box[:, :, 1]) > 0).all()
    assert (np.diff(held.astype(int)) >= 0).all()
    assert 0.4 < held[:, 0].mean() < held[:, 2].mean() <= 1
    np.testing.assert_array_equal(held, cp.p_values(X, y)[:, None] > np.array(alphas))
    # What is in the region is in its box, and the box has its volume or more.
    inside = ((y[..., None] >= box[:, :, 0]) & (y[..., None] <= box[:, :, 1])).all(axis=1)
    assert (inside >= held).all()
    edges = (box[:, :, 1] - box[:, :, 0]).prod(axis=1)
    if shape in ("box", "copula"):
        np.testing.assert_array_equal(inside, held)
        np.testing.assert_allclose(volume, edges)
    else:
        assert (volume < 0.6 * edges).all()
    alone = [cp.predict_box(X[i : i + 1], alphas) for i in range(8)]
    np.testing.assert_allclose(np.concatenate(alone), box[:8], rtol=1e-12)
    alone = [cp.p_values(X[i : i + 1], y[i : i + 1]) for i in range(8)]
    np.testing.assert_array_equal(np.concatenate(alone), cp.p_values(X, y)[:8])


def test_boxes_by_hand() -> None:
    P, Y = rows(200)
    cp = MultivariateRegressor(VALUES, "box", share=0.3, random_state=0).fit(P, Y)
    learning, errors = aside(200, 0.3), Y - P
    units = np.sqrt((errors[learning] ** 2).mean(axis=0))
    limit = quantile((np.abs(errors[~learning]) / units).max(axis=1), 0.1)
    box = cp.predict_box(P[:5], 0.1)
    np.testing.assert_allclose(box[:, :, 1] - P[:5], np.tile(limit * units, (5, 1)))
    np.testing.assert_allclose(box.mean(axis=2), P[:5])


def test_the_copulas_threshold_is_the_quantile_of_the_largest_rank() -> None:
    P, Y = rows(300)
    cp = MultivariateRegressor(VALUES, "copula", share=0.5, random_state=0).fit(P, Y)
    learning, errors = aside(300, 0.5), np.abs(Y - P)
    known = np.sort(errors[learning], axis=0)
    rank = [np.interp(e, np.append(0, r), np.arange(151) / 150) for e, r in
            zip(errors[~learning].T, known.T, strict=True)]  # fmt: skip
    limit = quantile(np.max(rank, axis=0), 0.2)
    assert limit < 1  # else the ranks above go beyond the last
    half = cp.predict_box(P[:1], 0.2)[0, :, 1] - P[0]
    np.testing.assert_allclose(
        half, [np.interp(limit, np.arange(151) / 150, np.append(0, r)) for r in known.T]
    )
    # Each output is exceeded as often as the others, whatever its law.
    skewed = np.sign(Y - P) * np.abs(Y - P) ** np.array([0.3, 1, 3])
    cp = MultivariateRegressor(VALUES, "copula", share=0.5, random_state=0).fit(P, P + skewed)
    half = cp.predict_box(P[:1], 0.2)[0, :, 1] - P[0]
    exceeded = (np.abs(skewed) > half).mean(axis=0)
    assert np.ptp(exceeded) < 0.04
    boxes = MultivariateRegressor(VALUES, "box", share=0.5, random_state=0).fit(P, P + skewed)
    half = boxes.predict_box(P[:1], 0.2)[0, :, 1] - P[0]
    assert np.ptp((np.abs(skewed) > half).mean(axis=0)) > 0.08


def test_ranks_go_on_beyond_the_last_and_meet_ties_and_zeros() -> None:
    residuals = np.array([[0.0, 2.0], [1.0, 2.0], [-1.0, -2.0], [3.0, 4.0]])
    region = CopulaBox().learnt(residuals, np.empty((4, 0)))
    asked = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [-6.0, 0.0], [0, 2], [0, 8]])
    sizes = region.sizes(asked, np.empty((7, 0)))
    np.testing.assert_allclose(sizes, [0, 0.75, 0.875, 1, 2, 0.75, 2])
    half = region.half_widths(sizes[None], np.empty((1, 0)), 2)[0]
    np.testing.assert_allclose(half[0, :5], np.abs(asked[:5, 0]), atol=1e-12)
    np.testing.assert_allclose(half[1, 5:], asked[5:, 1])


def test_ellipsoids_know_no_axes() -> None:
    # With next to no shrinkage the region follows any linear map of the outputs.
    P, Y = rows(300)
    X, y = rows(100, seed=1)
    A = np.random.default_rng(2).normal(size=(3, 3))
    make = lambda: MultivariateRegressor(VALUES, Ellipsoid(shrinkage=1e-12), random_state=0)  # noqa: E731
    plain, mapped = make().fit(P, Y), make().fit(P @ A, Y @ A)
    np.testing.assert_allclose(mapped.p_values(X @ A, y @ A), plain.p_values(X, y))
    ratio = mapped.volume(X @ A) / plain.volume(X)
    np.testing.assert_allclose(ratio, abs(np.linalg.det(A)), rtol=1e-6)
    # And in any case every shape follows the units.
    for shape in ("ellipsoid", "copula", "box"):
        units = np.array([3.0, 0.01, 50.0])
        plain, scaled = fitted(shape), MultivariateRegressor(VALUES, shape, random_state=0)
        scaled.fit(*(part * units for part in rows(400)))
        np.testing.assert_allclose(
            scaled.predict_box(X * units), plain.predict_box(X) * units[:, None], rtol=1e-9
        )


def test_of_gaussian_errors_the_ellipsoid_is_the_smallest_region() -> None:
    rng = np.random.default_rng(0)
    covariance = np.array([[2.0, 1.5], [1.5, 2.0]])
    P = np.zeros((20_000, 2))
    Y = rng.multivariate_normal([0, 0], covariance, size=len(P))
    cps = {s: MultivariateRegressor(VALUES, s, random_state=0).fit(P, Y) for s in SHAPES[:3]}
    volumes = {s: cp.volume(P[:1], 0.1)[0] for s, cp in cps.items()}
    ideal = math.pi * chi2(2).ppf(0.9) * math.sqrt(np.linalg.det(covariance))
    assert volumes["ellipsoid"] == pytest.approx(ideal, rel=0.06)  # three standard errors
    assert volumes["ellipsoid"] < 0.8 * min(volumes["box"], volumes["copula"])
    # The box touches the ellipsoid: at Sigma_j / sqrt(Sigma_jj) times its radius.
    ellipsoid, box = cps["ellipsoid"], cps["ellipsoid"].predict_box(P[:1], 0.1)[0]
    for j in (0, 1):
        matrix = ellipsoid.region_.everywhere
        point = matrix[j] / matrix[j, j] * box[j, 1]
        assert ellipsoid.contains(P[:1], point[None] * (1 - 1e-9), 0.1).all()
        assert not ellipsoid.contains(P[:1], point[None] * (1 + 1e-9), 0.1).any()


def test_local_covariances_follow_the_neighbourhood() -> None:
    rng = np.random.default_rng(0)
    P = rng.uniform(-1, 1, size=(3000, 2))
    turned = np.where(P[:, :1] > 0, 1, -1)
    shared = rng.normal(size=(3000, 1))
    Y = P + np.hstack([shared, turned * shared]) + 0.3 * rng.normal(size=(3000, 2))
    volumes, inside = {}, {}
    for name, shape in {"global": Ellipsoid(), "local": Ellipsoid(neighbors=40)}.items():
        cp = MultivariateRegressor(VALUES, shape, share=0.5, random_state=0)
        cp.fit(P[:2000], Y[:2000])
        volumes[name] = cp.volume(P[2000:], 0.1).mean()
        inside[name] = cp.contains(P[2000:], Y[2000:], 0.1).mean()
    assert volumes["local"] < 0.6 * volumes["global"]
    # Beta-Binomial with 1000 rows on either side: 4.5 standard deviations.
    assert all(abs(share - 0.9) < 0.061 for share in inside.values())
    all_near = Ellipsoid(neighbors=10_000)
    cp = MultivariateRegressor(VALUES, all_near, share=0.5, random_state=0).fit(P, Y)
    one = MultivariateRegressor(VALUES, "ellipsoid", share=0.5, random_state=0).fit(P, Y)
    # Shrunk once more, but else the same.
    np.testing.assert_allclose(cp.p_values(P[:50], Y[:50]), one.p_values(P[:50], Y[:50]), atol=0.02)


def test_models_of_any_kind() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4))
    Y = X @ rng.normal(size=(4, 2)) + rng.normal(size=(300, 2))
    ridge = Ridge().fit(X[:100], Y[:100])
    module = torch.nn.Linear(4, 2).double()
    module.load_state_dict(
        {"weight": torch.from_numpy(ridge.coef_), "bias": torch.from_numpy(ridge.intercept_)}
    )
    models = [ridge, trustml.wrap(module, task="regression", train=(X, Y)), ridge.predict]
    boxes = [
        MultivariateRegressor(m, random_state=0).fit(X[100:], Y[100:]).predict_box(X)
        for m in models
    ]
    np.testing.assert_allclose(boxes[1], boxes[0])
    np.testing.assert_allclose(boxes[2], boxes[0])
    forest = RandomForestRegressor(5, random_state=0).fit(X[:100], Y[:100])
    cp = MultivariateRegressor(forest, Ellipsoid(neighbors=15)).fit(X[100:], Y[100:])
    assert cp.volume(X).std() > 0


def test_the_shape_may_come_from_the_training_rows() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4))
    Y = X @ rng.normal(size=(4, 2)) + rng.normal(size=(300, 2)) * [1, 5]
    ridge = Ridge().fit(X[:100], Y[:100])
    model = trustml.wrap(ridge, train=(X[:100], Y[:100]))
    cp = MultivariateRegressor(model, "box", share=0).fit(X[100:], Y[100:])
    assert cp.n_calibration_ == 200
    units = np.sqrt(((Y[:100] - ridge.predict(X[:100])) ** 2).mean(axis=0))
    np.testing.assert_allclose(cp.region_.units, units)
    local = MultivariateRegressor(model, Ellipsoid(neighbors=30), share=0).fit(X[100:], Y[100:])
    assert local.volume(X[100:]).std() > 0
    with pytest.raises(ValueError, match="train="):
        MultivariateRegressor(trustml.wrap(ridge), share=0).fit(X[100:], Y[100:])


def test_groups_have_sizes_of_their_own() -> None:
    P, Y = rows(600)
    wild = P[:, 0] > 0
    Y = np.where(wild[:, None], P + 4 * (Y - P), Y)
    by = MultivariateRegressor(VALUES, "box", condition=lambda X: X[:, 0] > 0, random_state=0)
    volume = by.fit(P, Y).volume(P, 0.1)
    assert volume[wild].min() > 20 * volume[~wild].max()


@shapes
def test_too_few_rows_give_everything_and_one_warning(shape: object) -> None:
    cp, (X, y) = fitted(shape, n=11), rows(4, seed=1)
    assert cp.n_calibration_ == 8
    for answer in (cp.predict_box, cp.volume, lambda X, a: cp.contains(X, y, a)):
        with pytest.warns(CoverageWarning, match=r"too few calibration rows \(8\)") as noted:
            given = answer(X, [0.1, 0.2])
        assert len(noted) == 1
        everything = given[..., 0]
        assert everything.all() if everything.dtype == bool else np.isinf(everything).all()
        assert np.isfinite(given[..., 1]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(cp.predict_box(X, 0.12)).all()


@shapes
def test_bad_rows(shape: object) -> None:
    P, Y = rows(60)
    cp = MultivariateRegressor(VALUES, shape, random_state=0)
    bad = P.copy()
    bad[3, 1] = np.nan
    for X, y, text in (
        (bad, Y, "NaN"), (P, bad, "NaN"), (P, Y[:, :2], r"shape \(60, 3\)"), (P, Y[:9], "length"),
        (P[:, 0], Y[:, 0], "several outputs"), (P[:, :1], Y[:, :1], "several outputs"),
        (P, np.column_stack([Y[:, 0], P[:, 1:]]), "output 1 has no residual"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            cp.fit(X, y)
    cp.fit(P, Y)
    with pytest.raises(ValueError, match="NaN"):
        cp.predict_box(bad)
    with pytest.raises(ValueError, match="NaN"):
        cp.contains(P, bad)
    for alpha in (0, 1, [0.1, 2], np.nan):
        with pytest.raises(ValueError, match="alpha"):
            cp.predict_box(P, alpha)


def test_bad_settings() -> None:
    P, Y = rows(60)
    for change, text in (
        ({"shape": "ball"}, r"copula.*ResidualShape"), ({"share": 1.0}, "share"),
        ({"share": 0.99}, "none beside"), ({"condition": "class"}, "no column"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            MultivariateRegressor(VALUES, **change).fit(P, Y)
    with pytest.raises(TypeError, match="needs a regressor"):
        MultivariateRegressor(trustml.precomputed("probabilities")).fit(P, Y)
    for options in ({"neighbors": 0}, {"blend": 0}, {"blend": 1.5}, {"shrinkage": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Ellipsoid(**options)
    assert MaxBox.name == "box"
