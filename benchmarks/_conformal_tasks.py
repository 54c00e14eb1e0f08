"""Data of the conformal benchmark, made anew from a recipe in every contender's process.

Needs only numpy, scikit-learn and torch, so that a peer's environment can run it.
"""

import copy
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.datasets import load_diabetes, load_digits, make_friedman1
from sklearn.decomposition import PCA
from torch import nn

ALPHA = 0.1
FOLDS = 10
Arrays = dict[str, np.ndarray]


def build(task: dict) -> Arrays:
    """The arrays of a case: those given, and those that its recipe makes."""
    given = {name: value.numpy() for name, value in task.get("data", {}).items()}
    recipe = task.get("recipe")
    return given | (RECIPES[recipe](**task.get("options", {})) if recipe else {})


def linear(name: str, n: int, m: int, seed: int = 0) -> Arrays:
    """Regression rows: scikit-learn's diabetes, or Friedman's first function with noise."""
    if name == "diabetes":
        X, y = load_diabetes(return_X_y=True)
    else:
        X, y = make_friedman1(n + m, n_features=10, noise=1.0, random_state=seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    X, y = X[order], y[order]
    # The folds of CvPlusRegressor(folds=FOLDS, random_state=seed): the same for every contender.
    fold = np.random.default_rng(seed).permutation(np.arange(n) % FOLDS)
    return {"X": X[:n], "y": y[:n], "Xq": X[n : n + m], "yq": y[n : n + m], "fold": fold}


def standardised(n: int, seed: int, decay: float) -> Arrays:
    """Diabetes with columns and targets of mean 0 and variance 1; a network's weight decay."""
    data = linear("diabetes", n, 442 - n, seed)
    X = np.concatenate([data["X"], data["Xq"]])
    y = np.concatenate([data["y"], data["yq"]])
    data["X"], data["Xq"] = ((data[part] - X.mean(axis=0)) / X.std(axis=0) for part in ("X", "Xq"))
    data["y"], data["yq"] = ((data[part] - y.mean()) / y.std() for part in ("y", "yq"))
    return data | {"decay": np.array(decay)}


def components(n: int, m: int, seed: int) -> Arrays:
    """Digits in fifteen components of the whole pool: no row is treated unlike another."""
    X, y = load_digits(return_X_y=True)
    X = PCA(15, random_state=0).fit_transform(X / 16)
    order = np.random.default_rng(seed).permutation(len(y))
    train, new = order[:n], order[n : n + m]
    return {"X": X[train], "y": y[train], "Xq": X[new], "yq": y[new]}


def softmax(n: int, m: int, classes: int, seed: int = 0) -> Arrays:
    """Probabilities of an over-confident model: labels are drawn at temperature 1.25."""
    rng = np.random.default_rng(seed)
    p, y = np.empty((n + m, classes)), np.empty(n + m, dtype=int)
    for start in range(0, n + m, 5000):  # or the data's own making would set the peak
        rows = slice(start, min(start + 5000, n + m))
        logits = 3 * rng.standard_normal((rows.stop - rows.start, classes))
        y[rows] = (logits / 1.25 + rng.gumbel(size=logits.shape)).argmax(axis=1)
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        p[rows] = exp / exp.sum(axis=1, keepdims=True)
    return {"p": p[:n], "y": y[:n], "pq": p[n:], "yq": y[n:]}


def shifted(signal: float, shift: float, coefficients: int, seed: int, n: int = 2000) -> Arrays:
    """Softmax labels on Gaussian rows, new rows moved along the first axis; exact ratios w."""
    table = np.random.default_rng(coefficients).normal(size=(2, 6)) * signal
    rng = np.random.default_rng(seed)
    data: Arrays = {}
    for suffix, moved in (("", 0.0), ("q", shift)):
        X = rng.normal(size=(n, 2))
        X[:, 0] += moved
        exp = np.exp(X @ table - (X @ table).max(axis=1, keepdims=True))
        p = exp / exp.sum(axis=1, keepdims=True)
        data["p" + suffix] = p
        data["y" + suffix] = (p.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
        data["w" + suffix] = np.exp(shift * X[:, 0] - shift**2 / 2)
    return data


def coins(p: float, n: int, runs: int, seed: int = 0) -> Arrays:
    """Losses of 0 and 1 with mean p, (runs, n)."""
    return {"losses": (np.random.default_rng(seed).random((runs, n)) < p).astype(float)}


def scores(n: int, m: int, classes: int, seed: int = 0) -> Arrays:
    """Calibration scores (n,) and scores (m, classes)."""
    rng = np.random.default_rng(seed)
    return {"scores": rng.normal(size=n), "new": rng.normal(size=(m, classes))}


RECIPES: dict[str, Callable[..., Arrays]] = {
    f.__name__: f for f in (linear, standardised, components, softmax, shifted, coins, scores)
}


def network() -> nn.Module:
    """Ten inputs, eight tanh units, one output: 97 parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def trained(start: nn.Module, X: np.ndarray, y: np.ndarray, n: int, decay: float) -> nn.Module:
    """The minimum near a start, of the sum of squared errors over n plus weight decay."""
    module = copy.deepcopy(start)
    rows, targets = torch.as_tensor(X), torch.as_tensor(y)
    optimiser = torch.optim.LBFGS(
        module.parameters(), max_iter=2000, tolerance_grad=1e-7, tolerance_change=1e-12,
        history_size=50, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def objective() -> torch.Tensor:
        optimiser.zero_grad()
        penalty = sum((p**2).sum() for p in module.parameters()) * decay / 2
        value = ((module(rows)[:, 0] - targets) ** 2).sum() / n + penalty
        value.backward()
        return value

    optimiser.step(objective)
    return module


class WarmNetwork(RegressorMixin, BaseEstimator):
    """The network as an estimator that starts from given weights, for peers that train anew.

    Its regulariser stays what it is beside n rows.
    """

    def __init__(self, start: nn.Module | None = None, n: int = 1, decay: float = 0.0) -> None:
        self.start = start
        self.n = n
        self.decay = decay

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        self.module_ = trained(self.start, X, y, self.n, self.decay)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.module_(torch.as_tensor(X))[:, 0].numpy()


class StoredProbabilities(BaseEstimator):
    """A fitted classifier whose rows are its probabilities."""

    def __init__(self, classes: int = 2) -> None:
        self.classes = classes
        self.classes_ = np.arange(classes)

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return X

    def predict(self, X: np.ndarray) -> np.ndarray:
        return X.argmax(axis=1)


def hits(sets: np.ndarray, y: np.ndarray) -> list[float]:
    """Coverage, mean size and share of empty sets (n, c)."""
    size = sets.sum(axis=1)
    return [float(sets[np.arange(len(y)), y].mean()), float(size.mean()), float((size == 0).mean())]


def splits(n: int, calibration: int, test: int, count: int) -> np.ndarray:
    """Positions (count, calibration + test) of random splits of n rows."""
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(n)[: calibration + test] for _ in range(count)])
