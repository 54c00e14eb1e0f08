"""Every conformal predictor and score that the room lists keeps its kind's laws."""

import copy
import inspect

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge

import trustml
from trustml import conformal
from trustml.conformal import ResidualScore, Score, metrics

LISTED = [getattr(conformal, name) for name in conformal.__all__]
CLASSES = [item for item in LISTED if inspect.isclass(item)]
PREDICTORS = [c for c in CLASSES if hasattr(c, "predict_set") or hasattr(c, "predict_interval")]
SCORES = [c for c in CLASSES if issubclass(c, Score) and c is not Score]
RESIDUAL_SCORES = [c for c in CLASSES if issubclass(c, ResidualScore) and c is not ResidualScore]
CALIBRATED = [c for c in PREDICTORS if "X_cal" in inspect.signature(c.fit).parameters]
MODELS = ("model", "model_lo", "model_hi")
scores = pytest.mark.parametrize("kind", SCORES, ids=lambda c: c.__name__)


class Case:
    """A torch model of the right task, rows it has not seen, and how to fit the predictor."""

    def __init__(self, kind: type) -> None:
        self.kind, self.sets = kind, hasattr(kind, "predict_set")
        X, y = load_digits(return_X_y=True) if self.sets else load_diabetes(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(y))
        X, y = (X / 16 if self.sets else X * 10)[order], y[order]
        train, self.cal, self.test = slice(0, 120), slice(120, 280), slice(280, 430)
        self.module = self.trained(X[train], y[train])
        self.X, self.y = X, y
        self.model = trustml.wrap(
            self.module,
            task="classification" if self.sets else "regression",
            train=(X[train], y[train]),
            weight_decay={"weight": 1 / (0.05 * 120) if self.sets else 2 * 1.0 / 120},
            train_fn=self.trained,
        )

    def trained(self, X: np.ndarray, y: np.ndarray) -> torch.nn.Module:
        estimator = (LogisticRegression(C=0.05) if self.sets else Ridge(alpha=1.0)).fit(X, y)
        # Without a draw: the laws ask that nothing touches the global generators.
        outputs = 10 if self.sets else 1
        module = torch.nn.utils.skip_init(torch.nn.Linear, X.shape[1], outputs).double()
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(np.atleast_2d(estimator.coef_)))
            module.bias.copy_(torch.from_numpy(np.atleast_1d(estimator.intercept_)))
        return module

    def make(self, model: object = None) -> object:
        accepts = inspect.signature(self.kind).parameters
        seed = {"random_state": 0} if "random_state" in accepts else {}
        models = [name for name in accepts if name in MODELS]
        return self.kind(*[self.model if model is None else model] * len(models), **seed)

    def fit(self, predictor: object) -> object:
        if self.kind in CALIBRATED:
            return predictor.fit(self.X[self.cal], self.y[self.cal])
        return predictor.fit()

    def ask(self, predictor: object, X: object, alpha: object = 0.2) -> object:
        return (predictor.predict_set if self.sets else predictor.predict_interval)(X, alpha)


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


cases = pytest.mark.parametrize("case", PREDICTORS, indirect=True, ids=lambda c: c.__name__)
calibrated = pytest.mark.parametrize("case", CALIBRATED, indirect=True, ids=lambda c: c.__name__)


def test_the_room_lists_what_the_contract_names() -> None:
    names = {c.__name__ for c in PREDICTORS}
    assert {"SplitClassifier", "SplitRegressor", "JackknifePlusRegressor"} <= names
    assert {c.name for c in SCORES} >= {"lac", "aps"}
    assert {c.name for c in RESIDUAL_SCORES} >= {"absolute", "normalized"}
    assert all(inspect.getdoc(item) for item in CLASSES)


@cases
def test_fit_returns_self_and_keeps_its_parameters(case: Case) -> None:
    predictor = case.make()
    before = predictor.get_params(deep=False)
    assert case.fit(predictor) is predictor
    after = predictor.get_params(deep=False)
    assert all(before[name] is after[name] for name in before)
    learnt = {name for name in vars(predictor) if name not in before}
    assert learnt
    assert all(name.endswith("_") or name.startswith("_") for name in learnt)


@cases
def test_clone_is_unfitted_and_keeps_the_model(case: Case) -> None:
    predictor = case.fit(case.make())
    copied = clone(predictor)
    kept = [getattr(copied, name) for name in MODELS if hasattr(copied, name)]
    assert kept
    assert all(model is case.model for model in kept)
    with pytest.raises(NotFittedError):
        case.ask(copied, case.X[case.test])
    repr(copied)


@cases
def test_shapes_kinds_and_nesting(case: Case) -> None:
    predictor, X = case.fit(case.make()), case.X[case.test]
    one, many = case.ask(predictor, X), case.ask(predictor, X, [0.4, 0.2, 0.1])
    width = 10 if case.sets else 2
    assert one.shape == (150, width)
    assert many.shape == (150, width, 3)
    np.testing.assert_array_equal(many[..., 1], one)
    if case.sets:
        assert one.dtype == bool
        assert (many[..., 0] <= many[..., 1]).all()
        assert (many[..., 1] <= many[..., 2]).all()
    else:
        assert (one[:, 0] <= one[:, 1]).all()
        assert (np.diff(many[:, 0]) <= 0).all()
        assert (np.diff(many[:, 1]) >= 0).all()
    tensor = case.ask(predictor, torch.from_numpy(X))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor.numpy(), one)
    listed = case.ask(predictor, X[:3].tolist())
    assert isinstance(listed, np.ndarray)
    np.testing.assert_allclose(listed, one[:3], rtol=1e-10)


@cases
def test_a_row_does_not_depend_on_its_batch(case: Case) -> None:
    predictor, X = case.fit(case.make()), case.X[case.test]
    whole = case.ask(predictor, X)
    alone = np.concatenate([case.ask(predictor, X[i : i + 1]) for i in range(12)])
    np.testing.assert_allclose(alone, whole[:12], rtol=1e-10)
    np.testing.assert_allclose(case.ask(predictor, X[::-1])[::-1], whole, rtol=1e-10)


@calibrated
def test_order_of_the_calibration_rows_is_nothing(case: Case) -> None:
    order = np.random.default_rng(1).permutation(160)
    X, y = case.X[case.cal][order], case.y[case.cal][order]
    shuffled = case.ask(case.make().fit(X, y), case.X[case.test])
    np.testing.assert_allclose(shuffled, case.ask(case.fit(case.make()), case.X[case.test]))


@cases
def test_a_second_fit_forgets_the_first(case: Case) -> None:
    predictor = case.fit(case.make())
    if case.kind in CALIBRATED:
        predictor.fit(case.X[case.cal][:60], case.y[case.cal][:60])
    np.testing.assert_array_equal(
        case.ask(case.fit(predictor), case.X[case.test]),
        case.ask(case.fit(case.make()), case.X[case.test]),
    )


@cases
def test_nothing_of_the_users_changes(case: Case) -> None:
    case.module.train()
    state = copy.deepcopy(case.module.state_dict())
    X, y = case.X.copy(), case.y.copy()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    case.ask(case.fit(case.make()), case.X[case.test])
    assert case.module.training
    assert all(p.requires_grad and p.grad is None for p in case.module.parameters())
    assert all(torch.equal(v, state[k]) for k, v in case.module.state_dict().items())
    np.testing.assert_array_equal(case.X, X)
    np.testing.assert_array_equal(case.y, y)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    case.module.eval()


@cases
def test_covers_about_as_often_as_asked(case: Case) -> None:
    truth, X = case.y[case.test], case.X[case.test]
    found = metrics.coverage(truth, case.ask(case.fit(case.make()), X, [0.5, 0.2]))
    # About 150 rows to calibrate and 150 to test: 4.5 standard deviations of each level.
    assert (np.abs(found - [0.5, 0.8]) < 4.5 * np.sqrt([0.25, 0.16]) * np.sqrt(2 / 150)).all()


@cases
def test_bad_alpha_and_bad_rows(case: Case) -> None:
    predictor, X = case.fit(case.make()), case.X[case.test]
    for alpha in (0, 1, 1.5, -1, np.nan, [0.1, 0.0], []):
        with pytest.raises(ValueError, match="alpha"):
            case.ask(predictor, X, alpha)
    with pytest.raises(TypeError, match="alpha"):
        case.ask(predictor, X, "0.1")
    for rows, text in ((X[:, :3], "shape"), (X[:0], "empty|no rows"), (X * np.nan, "NaN")):
        with pytest.raises(ValueError, match=text):
            case.ask(predictor, rows)


@cases
def test_the_wrong_task_is_refused(case: Case) -> None:
    other = "regression" if case.sets else "classification"
    module = torch.nn.Linear(10, 1 if case.sets else 3)
    y = np.arange(50) % 3 if not case.sets else np.linspace(0, 1, 50)
    model = trustml.wrap(module, task=other, train=(np.eye(50, 10), y))
    with pytest.raises(TypeError, match="needs a"):
        case.fit(case.make(model))


@cases
def test_before_fit(case: Case) -> None:
    with pytest.raises(NotFittedError):
        case.ask(case.make(), case.X[case.test])


@scores
def test_scores_read_a_row_alone_and_change_nothing(kind: type) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(40, 64, generator=generator, dtype=torch.float64)
    u = torch.rand(40, generator=generator, dtype=torch.float64)
    model = Case(conformal.SplitClassifier).model
    score = kind().learnt(model, torch.empty(0, 0), torch.empty(0))
    seen = rows if kind.reads == "features" else rows[:, :10].softmax(1)
    before = seen.clone()
    whole = score(seen, u)
    assert whole.shape == (40, 10)
    assert torch.isfinite(whole).all()
    assert torch.equal(seen, before)
    alone = [score(seen[i : i + 1], u[i : i + 1]) for i in range(40)]
    assert torch.equal(torch.cat(alone), whole)
    if kind.reads == "probabilities":
        # The more probable of two classes of a row is never the stranger.
        order = seen.argsort(dim=1, descending=True)
        assert (whole.gather(1, order).diff(dim=1) >= -1e-12).all()
    assert kind.name in str(conformal.SplitClassifier(None, score=kind.name).get_params())
