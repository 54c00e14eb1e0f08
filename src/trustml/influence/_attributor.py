"""The one face over methods that score training rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from torch import Tensor

from trustml.core.validation import check_choice, restore, to_numpy
from trustml.ihvp import Objective
from trustml.influence._queries import Measure, Queries
from trustml.influence._scores import Certificate, InfluenceScores
from trustml.model import Model, as_model

Scale = Literal["effect", "raw"]


class Attributor(BaseEstimator, ABC):
    """A method that scores training rows for queries; the constructor only stores its settings.

    Subclasses implement ``_prepare``, ``_raw_scores`` and ``_raw_self``. The sign is everyone's:
    positive where leaving the row out raises the measurement.

    Attributes
    ----------
    name : str
        What results call it.
    note : str
        What one must know to read its numbers.
    curvature_name : str or None
        The matrix whose inverse it uses.
    model_ : Model
        After ``fit``.
    objective_ : Objective
        The training objective of the selected parameters.
    """

    name: ClassVar[str]
    note: ClassVar[str] = ""
    divided: ClassVar[bool] = True  # an effect is the raw score over n
    curvature_name: str | None = None

    model: Any
    parameters: str | Sequence[str] | None = None

    def fit(self) -> Self:
        """Do what needs no query.

        Returns
        -------
        Attributor
            Itself.
        """
        self.model_, self.objective_ = self._subject()
        self._prepare()
        return self

    def scores(
        self, X: Any, y: Any = None, *, measure: Measure | None = None, scale: Scale = "effect"
    ) -> InfluenceScores:
        """Return the score of every training row for every query.

        Parameters
        ----------
        X : array-like, tensors, Dataset or DataLoader
            Query rows.
        y : array-like of shape (q,), optional
            Their labels; needed unless ``measure`` is given.
        measure : callable (outputs, X, y) -> (q,), optional
            A measurement of each query, differentiable in the module's raw ``outputs``. None: the
            loss.
        scale : {"effect", "raw"}
            "effect": predicted change of the measurement if the row is left out, in the unit that
            the result names. "raw": the method's bare formula.

        Returns
        -------
        InfluenceScores
            ``values`` (q, n_train); a tensor if ``X`` is one.

        Raises
        ------
        ValueError
            If a score is not finite.
        """
        self._check_fitted()
        check_choice(scale, "scale", ("effect", "raw"))
        queries = Queries.of(self.model_, X, y, measure)
        values, certificate = self._raw_scores(queries)
        if not bool(torch.isfinite(values).all()):
            rows = (~torch.isfinite(values)).any(1).nonzero().flatten().tolist()
            raise ValueError(
                f"the scores of queries {rows[:5]} are not finite; check the model's outputs and "
                "loss on these rows and on its training data"
            )
        return InfluenceScores(
            values=restore(self._scaled(values, scale), X),
            unit=self._unit(queries.unit),
            scale=scale,
            method=self.name,
            curvature=self.curvature_name,
            certificate=certificate,
            note=self.note,
        )

    def self_influence(self, scale: Scale = "effect") -> Any:
        """Return each training row's score for its own loss.

        Parameters
        ----------
        scale : {"effect", "raw"}
            As for ``scores``.

        Returns
        -------
        numpy.ndarray of shape (n_train,)
            Large for rows that the rest of the data contradict.
        """
        self._check_fitted()
        check_choice(scale, "scale", ("effect", "raw"))
        return to_numpy(self._scaled(self._raw_self(), scale))

    @abstractmethod
    def _prepare(self) -> None:
        """Check the settings and do what needs no query."""

    @abstractmethod
    def _raw_scores(self, queries: Queries) -> tuple[Tensor, Certificate | None]:
        """Return the bare formula's (q, n), and the certificate of its solves if there are any."""

    @abstractmethod
    def _raw_self(self) -> Tensor:
        """Return its diagonal for the training rows and their losses, (n,)."""

    def _subject(self) -> tuple[Model, Objective]:
        """Return the model that is asked about, and its training objective."""
        name = type(self).__name__
        model = as_model(self.model)
        model.require_gradients(name)
        model.require_train(name)
        objective = model.objective
        if self.parameters is not None:
            objective = objective.restrict(self.parameters)
        return model, objective

    def _unit(self, unit: str) -> str:
        """Return what an effect on a measurement of this unit is measured in."""
        return unit

    def _scaled(self, values: Tensor, scale: Scale) -> Tensor:
        return values / self.objective_.n if scale == "effect" and self.divided else values

    def _check_fitted(self) -> None:
        if not hasattr(self, "objective_"):
            raise NotFittedError(f"{type(self).__name__} is not fitted yet: call fit() first")
