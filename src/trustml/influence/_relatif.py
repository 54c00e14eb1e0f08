"""RelatIF: influence relative to how far a row moves the model at all."""

from __future__ import annotations

from typing import Any, Literal

import torch
from sklearn.base import clone
from torch import Tensor

from trustml.core.validation import as_tensor, check_choice
from trustml.ihvp import Objective
from trustml.influence._attributor import Attributor
from trustml.influence._influence_functions import InfluenceFunctions
from trustml.influence._queries import Queries
from trustml.influence._scores import Certificate
from trustml.influence._train_rows import TrainRows, rows_at_once
from trustml.model import Model

_WORDS = {
    "theta": "per unit of parameter change",
    "loss": "per unit of root mean square change of all losses",
}


class RelatIF(Attributor):
    r"""Influence of a row relative to its influence on everything.

    Outliers move the parameters far and so seem to matter to every query. Divided by how far the
    row moves the parameters, :math:`\|H^{-1} g_i\|` ("theta"), or the training losses,
    :math:`\sqrt{g_i' H^{-1} g_i}` ("loss"), what is left is specific to the query. In these ratios
    1/n cancels: both scales are the same, first order in the row's weight.

    Parameters
    ----------
    model : InfluenceFunctions, Model or anything that ``trustml.wrap`` takes
        Fitted influence functions lend their factorisation, which stays as it is; others are
        fitted. Curvature, damping and parameters are theirs.
    normalisation : {"theta", "loss"}
        θ-RelatIF or ℓ-RelatIF.

    Attributes
    ----------
    influence_ : InfluenceFunctions
        The fitted influence functions.
    sizes_ : Tensor of shape (n_train,)
        What each row's scores are divided by.

    References
    ----------
    Barshan, Brunet and Dziugaite (2020), RelatIF: identifying explanatory training samples via
    relative influence, arXiv:2003.11630.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from trustml.model import wrap
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = wrap(Ridge().fit(X[:400], y[:400]), train=(X[:400], y[:400]))
    >>> RelatIF(model).fit().scores(X[400:], y[400:]).top(3).shape
    (42, 3)
    """

    name = "relatif"
    note = "Relative to how far a row moves the model at all: compares rows within a query."
    divided = False

    def __init__(self, model: Any, normalisation: Literal["theta", "loss"] = "theta") -> None:
        self.model = model
        self.normalisation = normalisation

    def _subject(self) -> tuple[Model, Objective]:
        influence = self.model
        if not isinstance(influence, InfluenceFunctions):
            if isinstance(influence, Attributor) and not isinstance(influence, InfluenceFunctions):
                raise TypeError(
                    f"RelatIF divides scores of influence functions: {type(influence).__name__} is "
                    "another method; pass InfluenceFunctions, or the model"
                )
            influence = InfluenceFunctions(influence, correction="none")
        fitted = hasattr(influence, "inverse_")
        self.influence_ = influence if fitted else clone(influence).fit()
        return self.influence_.model_, self.influence_.objective_

    def _prepare(self) -> None:
        check_choice(self.normalisation, "normalisation", tuple(_WORDS))
        objective, inverse = self.objective_, self.influence_.inverse_
        self.curvature_name = type(self.influence_.operator_).__name__
        rows = TrainRows(objective)

        def sizes(part: Tensor) -> Tensor:
            gradients = rows.rows(part).T.to(inverse.operator.dtype)
            solved = inverse.apply(gradients)
            if self.normalisation == "theta":
                norms: Tensor = torch.linalg.vector_norm(solved, dim=0)
                return norms
            return (gradients * solved).sum(0).clamp_min(0).sqrt()

        every = torch.arange(len(objective.data))
        parts = torch.split(every, rows_at_once(objective.space.size))
        self.sizes_ = torch.cat([sizes(part) for part in parts])

    def _raw_scores(self, queries: Queries) -> tuple[Tensor, Certificate | None]:
        found = self.influence_.scores(queries.data, measure=queries.measure, scale="raw")
        values = as_tensor(found.values, device=self.sizes_.device)
        # A row without a gradient moves nothing: 0, not 0 / 0.
        return torch.where(self.sizes_ > 0, values / self.sizes_, 0), found.certificate

    def _raw_self(self) -> Tensor:
        raw = as_tensor(self.influence_.self_influence("raw"), device=self.sizes_.device)
        return torch.where(self.sizes_ > 0, raw / self.sizes_, 0)

    def _unit(self, unit: str) -> str:
        return f"{unit} {_WORDS[self.normalisation]}"
