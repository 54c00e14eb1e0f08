"""Split conformal sets: exact thresholds, conditions, kinds of input, and bad input."""

import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression

import trustml
from trustml.conformal import Aps, SplitClassifier, metrics, pvalues, quantile
from trustml.conformal._scored import all_scores
from trustml.warnings import CoverageWarning

SCORES = ["lac", "aps", "raps", "saps", "topk", "margin", "entmax"]


def test_lac_sets_are_the_formula(digits: object) -> None:
    cp = SplitClassifier(digits.estimator).fit(digits.X_cal, digits.y_cal)
    p_cal = digits.estimator.predict_proba(digits.X_cal)
    p = digits.estimator.predict_proba(digits.X)
    scores = 1 - p_cal[np.arange(len(p_cal)), digits.y_cal]
    expected = 1 - p <= quantile(scores, 0.07)
    # Within 1e-9 of the threshold the two ways to compute a probability may differ.
    clear = np.abs(1 - p - quantile(scores, 0.07)) > 1e-9
    assert (cp.predict_set(digits.X, 0.07) == expected)[clear].all()
    np.testing.assert_allclose(
        cp.p_values(digits.X)[:, 3], pvalues(scores, 1 - p[:, 3]), atol=2.5 / len(scores)
    )


@pytest.mark.parametrize(
    ("score", "condition"),
    [(score, None) for score in SCORES]
    + [(score, c) for score in ("lac", "aps") for c in ("class", lambda X: X[:, 20] > 0.5)],
)
def test_sets_are_p_above_alpha_and_nested(digits: object, score: str, condition: object) -> None:
    cp = SplitClassifier(digits.model, score, condition, random_state=0)
    cp.fit(digits.X_cal, digits.y_cal)
    alphas = [0.5, 0.2, 0.1, 0.05]
    sets, p = cp.predict_set(digits.X, alphas), cp.p_values(digits.X)
    assert sets.shape == (600, 10, 4)
    assert sets.dtype == bool
    for k, alpha in enumerate(alphas):
        assert (sets[..., k] == (p > alpha + 1e-12)).all()
        assert (sets[..., k] == cp.predict_set(digits.X, alpha)).all()
    assert (np.diff(sets.astype(int), axis=2) >= 0).all()


def test_a_score_at_the_threshold_is_in() -> None:
    # A forest's probabilities are few, so scores tie with the threshold all the time.
    p = np.repeat([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]], 10, axis=0)
    y = np.zeros(30, dtype=int)
    y[25:] = 1
    cp = SplitClassifier(trustml.precomputed("probabilities")).fit(p, y)
    for alpha in (0.1, 0.3, 0.6, 0.9):
        sets = cp.predict_set(p, alpha)
        assert (sets == (cp.p_values(p) > alpha)).all()
        assert metrics.coverage(y, sets) >= 1 - alpha


def test_class_condition_calibrates_each_class(digits: object) -> None:
    cp = SplitClassifier(digits.model, condition="class").fit(digits.X_cal, digits.y_cal)
    p = cp.p_values(digits.X)
    for k in (0, 8):
        mine = digits.y_cal == k
        alone = SplitClassifier(digits.model)
        with pytest.warns(CoverageWarning, match="all of class"):
            alone.fit(digits.X_cal[mine], digits.y_cal[mine])
        np.testing.assert_array_equal(alone.p_values(digits.X)[:, k], p[:, k])


def test_group_condition_calibrates_each_group(digits: object) -> None:
    groups = lambda X: np.where(X[:, 20] > 0.5, "dark", "light")  # noqa: E731
    cp = SplitClassifier(digits.model, condition=groups).fit(digits.X_cal, digits.y_cal)
    p = cp.p_values(digits.X)
    for name in ("dark", "light"):
        cal, rows = groups(digits.X_cal) == name, groups(digits.X) == name
        alone = SplitClassifier(digits.model).fit(digits.X_cal[cal], digits.y_cal[cal])
        np.testing.assert_array_equal(alone.p_values(digits.X[rows]), p[rows])


@pytest.mark.parametrize("score", SCORES)
def test_one_row_at_a_time_is_the_batch(digits: object, score: str) -> None:
    cp = SplitClassifier(digits.model, score, random_state=3).fit(digits.X_cal, digits.y_cal)
    X = digits.X[:30]
    one_by_one = np.concatenate([cp.predict_set(X[i : i + 1], 0.1) for i in range(len(X))])
    np.testing.assert_array_equal(one_by_one, cp.predict_set(X, 0.1))
    np.testing.assert_array_equal(cp.predict_set(X[::-1], 0.1)[::-1], cp.predict_set(X, 0.1))


@pytest.mark.parametrize("score", SCORES)
def test_tied_calibration_rows_are_in_at_the_threshold(score: str) -> None:
    # A forest gives few distinct rows; calibration, which does not sort, and prediction, which
    # does, must find the same number for the same row.
    rng = np.random.default_rng(0)
    p = rng.multinomial(7, np.ones(6) / 6, size=40)[rng.integers(0, 40, size=300)] / 7
    y = np.array([rng.choice(6, p=row) for row in p])
    cp = SplitClassifier(trustml.precomputed("probabilities"), score, random_state=0).fit(p, y)
    values = cp.calibration_.by_group[0]
    again = np.sort(all_scores(cp.model_, cp.score_, p, cp.seed_)[np.arange(300), y])
    np.testing.assert_array_equal(values, again)
    assert metrics.coverage(y, cp.predict_set(p, 0.1)) >= 0.9


@pytest.mark.parametrize("kind", ["array", "list", "tensor", "dict", "dataset", "frame", "sparse"])
def test_pieces_are_the_whole(digits: object, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X = digits.X_cal
    tensor = torch.from_numpy(X)
    given = {
        "array": lambda: X,
        "list": X.tolist,
        "tensor": lambda: tensor,
        "dict": lambda: {"input": tensor},
        "dataset": lambda: torch.utils.data.TensorDataset(tensor, torch.from_numpy(digits.y_cal)),
        "frame": lambda: pytest.importorskip("pandas").DataFrame(X),
        "sparse": lambda: scipy.sparse.csr_array(X),
    }[kind]()
    cp = SplitClassifier(digits.model, "aps", random_state=0)
    if kind == "dict":
        module = torch.nn.Linear(64, 10).double()
        cp = SplitClassifier(trustml.wrap(module, task="classification"), "aps", random_state=0)
    whole = cp.fit(given, digits.y_cal).p_values(given)
    monkeypatch.setattr("trustml.conformal._scored._PIECE", 70)
    monkeypatch.setattr("trustml.core.random._BLOCK", 500)
    cp.model.batch_size, before = "auto", cp.model.batch_size
    try:
        # Another batch size may change a probability by a rounding.
        pieces = np.asarray(cp.fit(given, digits.y_cal).p_values(given))
    finally:
        cp.model.batch_size = before
    np.testing.assert_allclose(pieces, np.asarray(whole), atol=2.5 / 601)


def test_calibration_holds_no_second_array_of_all_classes() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(200), size=20_000)
    y = p.argmax(1)
    cp = SplitClassifier(trustml.precomputed("probabilities"), "aps", random_state=0)
    cp.fit(p[:100], y[:100])
    tracemalloc.start()
    try:
        cp.fit(p, y)
        _, numpy_peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert numpy_peak < p.nbytes / 4


def test_nan_is_an_error_never_an_empty_set(digits: object) -> None:
    # B10: with NaN rows TorchCP and puncc calibrate to a NaN threshold and empty sets, silently.
    p = digits.estimator.predict_proba(digits.X_cal)
    p[5] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        SplitClassifier(trustml.precomputed("probabilities")).fit(p, digits.y_cal)
    with pytest.raises(ValueError, match="NaN"):
        quantile(np.append(np.arange(99.0), np.nan), 0.1)


@pytest.mark.parametrize("score", SCORES)
def test_the_caller_keeps_its_probabilities(digits: object, score: str) -> None:
    # B14: TorchCP's margin writes -1 into the tensor that it is given.
    p = torch.from_numpy(digits.estimator.predict_proba(digits.X_cal))
    before = p.clone()
    cp = SplitClassifier(trustml.precomputed("probabilities"), score, random_state=0)
    cp.fit(p, digits.y_cal).predict_set(p, 0.1)
    assert torch.equal(p, before)


def test_the_seed_fixes_randomised_scores(digits: object) -> None:
    fit = lambda s: SplitClassifier(digits.model, "aps", random_state=s).fit(  # noqa: E731
        digits.X_cal, digits.y_cal
    )
    np.testing.assert_array_equal(fit(1).p_values(digits.X), fit(1).p_values(digits.X))
    assert (fit(1).p_values(digits.X) != fit(2).p_values(digits.X)).any()


def test_randomised_aps_covers_tightly_and_unrandomised_is_larger(digits: object) -> None:
    # Calibrating at random but predicting without would cover 0.03 and more too much.
    sizes, hits = {}, {}
    for randomized in (True, False):
        cp = SplitClassifier(digits.model, Aps(randomized), random_state=0)
        cp.fit(digits.X_cal, digits.y_cal)
        sets = cp.predict_set(digits.X, 0.2)
        sizes[randomized], hits[randomized] = (
            metrics.set_size(sets),
            metrics.coverage(digits.y, sets),
        )
    assert sizes[True] < sizes[False]
    low, high = trustml.evidence.beta_binomial_band(600, 600, 0.2, level=0.9999)
    assert low <= hits[True] <= high


def test_user_labels_keep_their_columns(digits: object) -> None:
    from sklearn.linear_model import LogisticRegression

    names = np.array([f"digit {k}" for k in range(10)])
    fitted = LogisticRegression(C=0.05).fit(digits.X_cal[:300], names[digits.y_cal[:300]])
    cp = SplitClassifier(fitted).fit(digits.X_cal[300:], names[digits.y_cal[300:]])
    sets = cp.predict_set(digits.X)
    assert cp.classes_.tolist() == names.tolist()
    assert metrics.coverage(names[digits.y], sets, classes=cp.classes_) > 0.8


def test_binary_and_prediction_only_models(digits: object) -> None:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    y_cal, y = digits.y_cal > 4, digits.y > 4
    for estimator in (LogisticRegression(C=0.1), RandomForestClassifier(10, random_state=0)):
        estimator.fit(digits.X_cal[:300], y_cal[:300])
        for score in SCORES:
            cp = SplitClassifier(estimator, score, random_state=0)
            sets = cp.fit(digits.X_cal[300:], y_cal[300:]).predict_set(digits.X, 0.1)
            assert sets.shape == (600, 2)
            low, _ = trustml.evidence.beta_binomial_band(300, 600, 0.1, level=0.9999)
            assert metrics.coverage(y, sets, classes=cp.classes_) >= low


def test_precomputed_probabilities_and_tensors(digits: object) -> None:
    model = digits.model
    p_cal, p = model.predict_proba(digits.X_cal), model.predict_proba(digits.X)
    given = SplitClassifier(trustml.precomputed("probabilities")).fit(p_cal, digits.y_cal)
    direct = SplitClassifier(model).fit(digits.X_cal, digits.y_cal)
    np.testing.assert_allclose(
        given.p_values(p), direct.p_values(digits.X), atol=2.5 / len(digits.y_cal)
    )
    tensor = torch.from_numpy(digits.X)
    sets = direct.predict_set(tensor, [0.1, 0.2])
    assert isinstance(sets, torch.Tensor)
    assert sets.dtype == torch.bool
    np.testing.assert_array_equal(sets.numpy(), direct.predict_set(digits.X, [0.1, 0.2]))
    assert isinstance(direct.p_values(tensor), torch.Tensor)


def test_dict_dataset_and_loader_inputs(digits: object) -> None:
    class TwoArguments(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.top, self.bottom = torch.nn.Linear(32, 10), torch.nn.Linear(32, 10)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.top(a) + self.bottom(b)

    X, y = torch.from_numpy(digits.X_cal).float(), torch.from_numpy(digits.y_cal)
    two = SplitClassifier(
        trustml.wrap(TwoArguments(), task="classification"), "aps", random_state=0
    )
    parts = {"a": X[:, :32], "b": X[:, 32:]}
    sets = two.fit(parts, y).predict_set(parts, 0.3)
    assert sets.shape == (600, 10)
    assert metrics.coverage(y, sets) >= 0.7
    rows = torch.utils.data.TensorDataset(X, y)
    module = torch.nn.Sequential(torch.nn.Linear(64, 10))
    cp = SplitClassifier(trustml.wrap(module, task="classification"), "aps", random_state=0)
    cp.fit(rows, y)
    loader = torch.utils.data.DataLoader(rows, batch_size=50)
    np.testing.assert_array_equal(cp.predict_set(loader), cp.predict_set(X).numpy())


def test_too_few_rows_give_full_sets_and_one_warning(digits: object) -> None:
    cp = SplitClassifier(digits.model).fit(digits.X_cal[:20], digits.y_cal[:20])
    with pytest.warns(CoverageWarning, match=r"\(20\).*0\.99 needs at least 99") as caught:
        sets = cp.predict_set(digits.X[:5], [0.1, 0.01])
    assert len(caught) == 1
    assert sets[..., 1].all()
    assert not sets[..., 0].all()


def test_classes_and_groups_without_rows_are_full_and_named(digits: object) -> None:
    kept = digits.y_cal != 7
    cp = SplitClassifier(digits.model, condition="class")
    with pytest.warns(CoverageWarning, match=r"without calibration rows: \[7\]"):
        cp.fit(digits.X_cal[kept], digits.y_cal[kept])
    with pytest.warns(CoverageWarning, match=r"7 \(0\)"):
        assert cp.predict_set(digits.X, 0.1)[:, 7].all()
    assert (cp.p_values(digits.X)[:, 7] == 1).all()

    grouped = SplitClassifier(digits.model, condition=lambda X: np.round(X[:, 0]))
    grouped.fit(digits.X_cal, digits.y_cal)
    strange = digits.X[:3].copy()
    strange[1, 0] = 9.0
    with pytest.warns(CoverageWarning, match="not seen in calibration"):
        sets = grouped.predict_set(strange, 0.1)
    assert sets.all(axis=1).tolist() == [False, True, False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grouped.predict_set(strange[[0, 2]], 0.1)


def test_before_fit(digits: object) -> None:
    for ask in (SplitClassifier(digits.model).predict_set, SplitClassifier(digits.model).p_values):
        with pytest.raises(NotFittedError):
            ask(digits.X)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.5, np.nan, [0.1, 1.0]])
def test_alpha_out_of_range(digits: object, alpha: object) -> None:
    cp = SplitClassifier(digits.model).fit(digits.X_cal, digits.y_cal)
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 1\)"):
        cp.predict_set(digits.X, alpha)


def test_alpha_of_a_wrong_kind(digits: object) -> None:
    cp = SplitClassifier(digits.model).fit(digits.X_cal, digits.y_cal)
    for alpha, error in (("0.1", TypeError), ([], ValueError), ([[0.1]], ValueError)):
        with pytest.raises(error, match="alpha"):
            cp.predict_set(digits.X, alpha)


def bad(rows: np.ndarray, value: float) -> np.ndarray:
    rows = rows.copy()
    rows[1, 2] = value
    return rows


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda X, y: (X[:, :5], y), ValueError, r"shape \(n, 64\)"),
        (lambda X, y: (X[0], y), ValueError, r"shape \(n, 64\)"),
        (lambda X, y: (X[:0], y[:0]), ValueError, "empty|no rows"),
        (lambda X, y: (bad(X, np.nan), y), ValueError, "NaN"),
        (lambda X, y: (bad(X, np.inf), y), ValueError, "infinite"),
        (lambda X, y: (X, y[:-1]), ValueError, "600 rows"),
        (lambda X, y: (X, np.where(y == 3, 33, y)), ValueError, r"33.*classes"),
        (lambda X, y: (X, y.astype(str)), ValueError, "does not know"),
        (lambda X, y: (X, np.where(y == 3, np.nan, y)), ValueError, "NaN"),
    ],
)
def test_bad_calibration_rows(digits: object, change: object, error: type, text: str) -> None:
    X, y = change(digits.X_cal, digits.y_cal)
    with pytest.raises(error, match=text):
        SplitClassifier(digits.model).fit(X, y)


@pytest.mark.parametrize(
    ("keywords", "error", "text"),
    [
        ({"score": "nll"}, ValueError, "score must be one of"),
        ({"score": lambda p, u: p[:, :2]}, ValueError, "shape"),
        ({"score": lambda p, u: p * np.nan}, ValueError, "NaN"),
        ({"score": lambda p, u: 3}, ValueError, "tensor"),
        ({"condition": 1.5}, ValueError, "condition must be"),
        ({"condition": "group"}, ValueError, "no column 'group'"),
        ({"condition": 64}, ValueError, "no column 64"),
        ({"condition": lambda X: X}, ValueError, "one group a row"),
        ({"condition": lambda X: X[:, 0] * np.nan}, ValueError, "NaN"),
        ({"random_state": "seed"}, TypeError, "random_state"),
    ],
)
def test_bad_parameters(digits: object, keywords: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        SplitClassifier(digits.model, **keywords).fit(digits.X_cal, digits.y_cal)


def test_a_regressor_is_refused(diabetes: object) -> None:
    with pytest.raises(TypeError, match="SplitRegressor"):
        SplitClassifier(diabetes.model).fit(diabetes.X_cal, diabetes.y_cal)


def test_groups_that_change_kind_are_refused(digits: object) -> None:
    kind = {"now": int}
    cp = SplitClassifier(digits.model, condition=lambda X: (X[:, 20] > 0.5).astype(kind["now"]))
    cp.fit(digits.X_cal, digits.y_cal)
    kind["now"] = str
    with pytest.raises(ValueError, match="one kind"):
        cp.predict_set(digits.X)


def test_a_column_is_a_condition(digits: object) -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas")

    def coarse(X: np.ndarray) -> np.ndarray:
        return np.concatenate([X[:, :63], X[:, 20:21] > 0.5], axis=1)  # few values in the last

    X_cal, X = coarse(digits.X_cal), coarse(digits.X)
    estimator = LogisticRegression(C=0.05).fit(X_cal[:200], digits.y_cal[:200])
    fitted = SplitClassifier(estimator, condition=lambda X: np.asarray(X)[:, 63])
    expected = fitted.fit(X_cal[200:], digits.y_cal[200:]).p_values(X)
    for column in (63, -1):
        by_number = SplitClassifier(estimator, condition=column)
        found = by_number.fit(X_cal[200:], digits.y_cal[200:]).p_values(X)
        np.testing.assert_array_equal(found, expected)
    names = [f"x{i}" for i in range(64)]
    frame = pandas.DataFrame(X_cal, columns=names)
    of_frames = LogisticRegression(C=0.05).fit(frame[:200], digits.y_cal[:200])
    by_name = SplitClassifier(of_frames, condition="x63")
    by_name.fit(frame[200:], digits.y_cal[200:])
    np.testing.assert_allclose(by_name.p_values(pandas.DataFrame(X, columns=names)), expected)
