"""Kernel SHAP by the package shap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from trustml.core.optional import require
from trustml.core.progress import track
from trustml.core.random import RandomState, numpy_generator, row_uniforms
from trustml.core.validation import check_positive_int, restore, to_numpy
from trustml.explain import Explainer, Explanation
from trustml.explain._explainer import names_of
from trustml.explain._question import Question, ask
from trustml.model import as_model

_ROWS = 8192  # model rows of one call


class KernelShap(Explainer):
    r"""Shapley values of any model, by shap's kernel regression on sampled coalitions.

    The value of a coalition is the mean output when its features are the row's and the others
    come from each background row (the marginal, or interventional, game). All coalitions are
    enumerated where ``nsamples`` allows, and the values then are exact; otherwise shap samples
    pairs of them. Its L1 selection, which sets all but ten features to zero, is off.

    shap draws from numpy's global generator: here it is seeded by a hash of the row and put back
    afterwards, so that a row's result depends neither on its batch nor on what ran before.

    Parameters
    ----------
    model : Model or what ``wrap`` takes
        Gradients are not needed.
    background : array-like of shape (b, *features)
        Rows that stand for "feature unknown"; the cost grows with b, and 100 are many.
    output : {"logit", "probability", "loss"}
        What is explained.
    nsamples : int or "auto"
        Coalitions of each row; "auto" is 2 d + 2048.
    random_state : int, Generator or None
        For the sampled coalitions.

    References
    ----------
    Lundberg and Lee (2017), A unified approach to interpreting model predictions,
    arXiv:1705.07874.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> forest = RandomForestClassifier(5, random_state=0).fit(X, y)
    >>> KernelShap(forest, X[::10], output="probability").attribute(X[:2], target=1).values.shape
    (2, 4)
    """

    method: ClassVar[str] = "kernel shap"
    adds_up: ClassVar[bool] = True

    def __init__(
        self,
        model: Any,
        background: Any = None,
        output: str = "logit",
        nsamples: int | Literal["auto"] = "auto",
        random_state: RandomState = 0,
    ) -> None:
        self.model = model
        self.background = background
        self.output = output
        self.nsamples = nsamples
        self.random_state = random_state

    def attribute(self, X: Any, target: Any = None, y: Any = None) -> Explanation:
        """Return the Shapley values of the rows of ``X``.

        Parameters
        ----------
        X : array-like of shape (n, *features)
            Rows, in input units.
        target : label, array of labels, or None
            The class (or output index) to explain; None explains all outputs.
        y : array-like of shape (n,) or None
            True labels, for ``output="loss"``.

        Returns
        -------
        Explanation
            Arrays for arrays, tensors for tensors.

        Raises
        ------
        ValueError
            If there is no background, or it does not fit the rows.
        """
        shap = require("shap", "explain")
        model = as_model(self.model)
        rows = to_numpy(X)
        if rows.ndim < 2 or not len(rows):
            raise ValueError(f"X must have shape (n, *features) with n > 0, got {rows.shape}")
        background = self._background(rows)
        if self.nsamples != "auto":
            check_positive_int(self.nsamples, "nsamples")
        question = ask(model, self.output, target, y, len(rows))
        seed = int(numpy_generator(self.random_state).integers(2**62))
        seeds = (row_uniforms(rows, seed) * 2**32).astype(np.int64)

        games = [
            _Game(question.select(torch.tensor([i])), row, background) for i, row in enumerate(rows)
        ]
        found = [
            _shapley(shap, game, self.nsamples, int(s))
            for game, s in track(zip(games, seeds, strict=True), "kernel shap", len(games))
        ]
        values = np.stack(found).reshape(*rows.shape, *found[0].shape[1:])
        base, top = (np.stack([getattr(game, end) for game in games]) for end in ("empty", "full"))
        gap = np.abs(top - base - values.reshape(len(rows), -1, *base.shape[1:]).sum(1))
        return Explanation(
            values=restore(values, X),
            base_values=restore(base, X),
            data=restore(rows, X),
            feature_names=names_of(model, X, torch.Size(rows.shape[1:])),
            output_names=question.names,
            completeness=restore(gap, X),
            uncertainty=None,
            method=self.method,
            output=self.output,
            target=target,
            baseline="background",
            passes=restore(np.array([game.calls for game in games]), X),
        )

    def _background(self, rows: np.ndarray) -> np.ndarray:
        if self.background is None:
            raise ValueError(
                "KernelShap needs background=: rows that stand for unknown features, "
                "e.g. background=X_train[:100]"
            )
        background = to_numpy(self.background)
        if background.shape[1:] != rows.shape[1:] or not len(background):
            raise ValueError(
                f"background must have rows of shape {rows.shape[1:]} as X, got {background.shape}"
            )
        return background


class _Game:
    """The coalition game of one row: masks of known features -> mean outputs."""

    def __init__(self, question: Question, row: np.ndarray, background: np.ndarray) -> None:
        self.question, self.row, self.background = question, row, background
        different = (background != row).reshape(len(background), -1).any(0)
        self.players = np.flatnonzero(different)
        self.calls = 0
        ends = self.play(np.array([[0], [1]]).repeat(len(self.players), axis=1))
        self.empty, self.full = ends
        self.size = float(np.abs(ends).max()) or 1.0

    def play(self, masks: np.ndarray) -> np.ndarray:
        """Return the value of each coalition, (m,) or (m, c); masks are (m, players)."""
        b, d = len(self.background), self.row.size
        step = max(1, _ROWS // b)
        parts = []
        for chunk in (masks[i : i + step] for i in range(0, len(masks), step)):
            known = np.zeros((len(chunk), 1, d), dtype=bool)
            known[:, 0, self.players] = chunk != 0
            mixed = np.where(known, self.row.reshape(1, 1, d), self.background.reshape(1, b, d))
            rows = mixed.reshape(-1, *self.row.shape)
            outputs = self.question.select(torch.zeros(len(rows), dtype=torch.long)).answer(rows)
            parts.append(outputs.reshape(len(chunk), b, *outputs.shape[1:]).mean(1))
            self.calls += len(rows)
        return np.concatenate(parts).astype(np.float64)

    def scaled(self, masks: np.ndarray) -> np.ndarray:
        """Return values of order one: shap sets what is below 1e-10 to zero."""
        return self.play(masks) / self.size


def _shapley(shap: Any, game: _Game, nsamples: int | str, seed: int) -> np.ndarray:
    """Return the Shapley values of all features, (d,) or (d, c)."""
    values = np.zeros((game.row.size, *game.full.shape))
    k = len(game.players)
    if k:
        # shap sees the game alone, all features absent or all present: it neither copies the
        # background for every coalition nor takes close values for equal ones.
        with _seeded(seed):
            explainer = shap.KernelExplainer(game.scaled, np.zeros((1, k)))
            found = explainer.shap_values(np.ones((1, k)), nsamples=nsamples, l1_reg=0, silent=True)
        values[game.players] = game.size * np.asarray(found)[0]
    return values


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed numpy's global generator for a peer that insists on it, and put it back."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
