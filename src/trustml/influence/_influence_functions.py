"""Influence functions: what the model would have been without a training row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trustml.core.validation import check_choice, check_positive_int, restore
from trustml.ihvp import Solution, choose_damping, curvature, factorize, on_features
from trustml.influence._approximation import approximation_errors
from trustml.influence._attributor import Attributor
from trustml.influence._leverage import (
    EXACT,
    LeaveOneOut,
    choose_correction,
    leave_one_out_steps,
)
from trustml.influence._queries import Measure, Queries
from trustml.influence._removal import newton_step
from trustml.influence._scores import Certificate, InfluenceScores, as_rows
from trustml.influence._stored import ScoreBlocks
from trustml.influence._train_rows import TrainRows, rows_at_once
from trustml.model import Model


class InfluenceFunctions(Attributor):
    r"""Effects of training rows through one factorised curvature of the training objective.

    With J the objective, g_i the loss gradient of row i and H the curvature of J (regulariser
    included), leaving row i out changes the parameters by about
    :math:`\tfrac1n (H + λI)^{-1} g_i`, and a quantity with gradient v by its product with v.
    **Positive scores: the row helps**, the loss would rise without it.

    Parameters
    ----------
    model : Model or anything that ``trustml.wrap`` takes
        With its training data, and gradients.
    curvature : str
        "auto", "hessian", "gauss_newton", "empirical_fisher", "diagonal", ...; "auto" is the
        Gauss-Newton matrix, which is the Hessian for linear models and is never indefinite.
    damping : float or "auto"
        λ, in units of the curvature's eigenvalues. "auto": none at a minimum, otherwise the
        smallest that makes the answer well posed; weight decay is in H already.
    method : str
        As in ``ihvp.solve``: "auto", "cholesky", "dual", "cg".
    correction : {"auto", "leverage", "none"}
        "leverage": one Newton step without the row, the exact refit for ridge. "none": first order
        in the row's weight. "auto": leverage where a direct solve makes it cheap.
    parameters : selection or None
        Which parameters move, as in ``ihvp.Objective``; the others are held.
    tol : float in (0, 1)
        The relative residual that iterative methods stop at.

    Attributes
    ----------
    objective_ : Objective
        The training objective.
    operator_ : LinearOperator
        The curvature, undamped.
    inverse_ : Factorization
        Of the damped curvature.
    damping_ : Damping
        λ, the reason for it, ‖∇J‖, effective degrees of freedom.
    correction_, correction_reason_ : str
        What is applied to scores of scale "effect", and why.
    removal_ : Removal
        Certificate of the last ``remove`` or second-order ``group_effect``.

    References
    ----------
    Koh and Liang (2017), Understanding black-box predictions via influence functions,
    arXiv:1703.04730. Rad and Maleki (2018), A scalable estimate of the out-of-sample prediction
    error via approximate leave-one-out, arXiv:1801.10243.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from trustml.model import wrap
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = wrap(Ridge().fit(X[:400], y[:400]), train=(X[:400], y[:400]))
    >>> influence = InfluenceFunctions(model).fit()
    >>> influence.correction_
    'leverage'
    >>> influence.scores(X[400:], y[400:]).helpful(3).shape
    (42, 3)
    """

    name = "influence functions"

    def __init__(
        self,
        model: Any,
        curvature: str = "auto",
        damping: float | str = "auto",
        method: str = "auto",
        correction: Literal["auto", "leverage", "none"] = "auto",
        parameters: str | Sequence[str] | None = None,
        tol: float = 1e-3,
    ) -> None:
        self.model, self.tol = model, tol
        self.curvature, self.damping, self.method = curvature, damping, method
        self.correction, self.parameters = correction, parameters

    def _prepare(self) -> None:
        check_choice(self.correction, "correction", ("auto", "leverage", "none"))
        objective = self.objective_
        # Of the training rows, a last layer is only asked what it does with their features.
        own = on_features(objective)
        operator = curvature(self.curvature, own)
        damping = choose_damping(operator, own, self.damping)
        inverse = factorize(operator + damping, self.method, self.tol)
        # Direct solves are exact to rounding, so the gradients are taken without rounding, too.
        exact = inverse.method in EXACT
        rows = own.double() if exact else own
        self._trained, self._raw = own, TrainRows(rows)
        self._exact = rows if own is objective else objective.double() if exact else objective
        self.operator_, self.damping_, self.inverse_ = operator, damping, inverse
        self._steps: LeaveOneOut | None = None
        outputs = own.outputs(own.data.rows(0, 1).inputs).numel() * len(own.data)
        self.correction_, self.correction_reason_ = choose_correction(
            self.correction, operator, inverse, outputs
        )
        self._effects = self._raw
        if self.correction_ == "leverage":
            self._effects = TrainRows(rows, self._leave_one_out().cotangents)

    def scores(
        self,
        X: Any,
        y: Any = None,
        *,
        measure: Measure | None = None,
        scale: Literal["effect", "raw"] = "effect",
        store: str | Path | None = None,
    ) -> InfluenceScores:
        """Return the effect of every training row on every query.

        Parameters
        ----------
        X : array-like, tensors, Dataset or DataLoader
            Query rows.
        y : array-like of shape (q,), optional
            Their labels; needed unless ``measure`` is given.
        measure : callable (outputs, X, y) -> (q,), optional
            A measurement of each query that is differentiable in ``outputs``, the module's raw
            outputs; ``X`` and ``y`` come as the module and its loss take them. None: the loss.
        scale : {"effect", "raw"}
            "effect": predicted change of the measurement if the row is left out, in its unit.
            "raw": g_q' (H + λI)⁻¹ g_i, without 1/n and without correction.
        store : path or None
            Folder for the scores: a killed run goes on in it, and they stay out of memory.

        Returns
        -------
        InfluenceScores
            ``values`` (q, n_train); a tensor if ``X`` is one.
        """
        self._check_fitted()
        check_choice(scale, "scale", ("effect", "raw"))
        queries = Queries.of(self.model_, X, y, measure)
        rows = self._raw if scale == "raw" else self._effects
        blocks = ScoreBlocks(queries, self._exact, self.inverse_, rows, self.damping_)
        settings = self.get_params(False) | {"measure": measure, "correction": self.correction_}
        values, certificate = blocks.answer(self.objective_, scale, store, settings)
        return InfluenceScores(
            values=restore(values, X),
            unit=queries.unit,
            scale=scale,
            correction="none" if rows is self._raw else self.correction_,
            curvature=type(self.operator_).__name__,
            method=self.inverse_.method,
            certificate=certificate,
        )

    def self_influence(self, scale: Literal["effect", "raw"] = "effect") -> Any:
        """Return what leaving each training row out does to its own loss; never negative.

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
        if self._steps is None and scale == "raw":
            return self._own(self._raw_self()).cpu().numpy()
        steps = self._leave_one_out()
        return self._own(steps.raw_self if scale == "raw" else steps.self_effects).cpu().numpy()

    def leave_one_out_outputs(self) -> Tensor:
        """Return the raw outputs of each training row by the model that has not seen it.

        Returns
        -------
        Tensor of shape (n_train, ...)
            Predicted, without refits; exact for ridge.
        """
        self._check_fitted()
        objective = self._raw.objective
        outputs = objective.collect(lambda batch: objective.outputs(batch.inputs))
        return self._own(outputs + self._leave_one_out().shifts)

    def group_effect(
        self,
        indices: Any,
        X: Any,
        y: Any = None,
        *,
        measure: Measure | None = None,
        order: Literal[1, 2] = 1,
    ) -> Any:
        """Return the effect of leaving several training rows out together.

        Parameters
        ----------
        indices : array of int of shape (m,), or mask
            The training rows.
        X, y, measure
            As for ``scores``.
        order : {1, 2}
            1: the sum of the rows' scores. 2: the measurement at the parameters after a Newton
            step with the remaining rows' curvature, minus the present one; it knows how the rows
            interact, and is the exact refit for ridge.

        Returns
        -------
        array or Tensor of shape (q,)
            Change of the measurement, in its unit; positive: the rows help.
        """
        self._check_fitted()
        check_choice(order, "order", (1, 2))
        rows = as_rows(indices, len(self.objective_.data))
        queries = Queries.of(self.model_, X, y, measure)
        if order == 1:
            step = self.group_change(rows)
            return restore(queries.dot(self.objective_, step[:, None])[:, 0], X)
        step = self._newton_step(rows)
        moved = self.objective_.at(self.objective_.space.vector() + step)
        return restore(queries.values(moved) - queries.values(self.objective_), X)

    def remove(self, indices: Any, steps: int = 3) -> Model:
        """Return the model after unlearning training rows: Newton steps, no refit.

        The steps use the remaining rows' curvature at the present parameters; the first is exact
        for ridge. ``removal_`` holds the certificate: the gradient norm of the remaining objective
        before and after, and the part of the rows' pull that is still there; above one half, a
        warning says why.

        Parameters
        ----------
        indices : array of int of shape (m,), or mask
            The training rows to forget.
        steps : int
            At most so many; one pass over the data each, while they halve what is left.

        Returns
        -------
        Model
            A copy without the rows in its training data; the fitted model is left alone.
        """
        self._check_fitted()
        check_positive_int(steps, "steps")
        rows, space = as_rows(indices, len(self.objective_.data)), self.objective_.space
        moved = space.vector() + self._newton_step(rows, steps)
        return self.model_.replace(space, moved, without=rows)

    def parameter_changes(self, indices: Any) -> Tensor:
        """Return θ₋ᵢ − θ for each of some training rows, left out one at a time.

        Parameters
        ----------
        indices : array of int of shape (k,), or mask
            The training rows.

        Returns
        -------
        Tensor of shape (p, k)
            In the order of ``objective_.space``.
        """
        self._check_fitted()
        rows = as_rows(indices, len(self.objective_.data))
        return self._own(self.inverse_.solve(self._effects.rows(rows).T / self.objective_.n).x)

    def group_change(self, indices: Any) -> Tensor:
        """Return the change of the parameters if some training rows leave, to first order.

        Parameters
        ----------
        indices : array of int of shape (m,), or mask
            The training rows.

        Returns
        -------
        Tensor of shape (p,)
            The sum of their ``parameter_changes``, from one solve; ``remove`` takes the Newton
            step instead, which knows how the rows interact.
        """
        self._check_fitted()
        rows = as_rows(indices, len(self.objective_.data))
        return self._own(self.inverse_.solve(self._effects.total(rows) / self.objective_.n).x)

    def rows_effect(self, v: Tensor) -> Tensor:
        """Return the effect of every training row on quantities given by their gradients.

        Parameters
        ----------
        v : Tensor of shape (p,) or (p, k)
            Gradients with respect to the parameters, in the order of ``objective_.space``.

        Returns
        -------
        Tensor of shape (k, n_train)
            Predicted change of each quantity if the row is left out; k = 1 for a vector.
        """
        self._check_fitted()
        columns = (v[:, None] if v.ndim == 1 else v).to(self._exact.space.dtype)
        effects = self._effects.dot(self.inverse_.solve(columns).x).T / self.objective_.n
        return self._own(effects)

    def solve(self, V: Tensor) -> Solution:
        """Return (H + λI)⁻¹ V with its certificate, from the shared factorisation.

        Parameters
        ----------
        V : Tensor of shape (p,) or (p, k)
            Right-hand sides in the order of ``objective_.space``.

        Returns
        -------
        Solution
        """
        self._check_fitted()
        return self.inverse_.solve(V)

    def approximation_error(
        self, X: Any, y: Any = None, rows: int = 4, *, measure: Measure | None = None
    ) -> NDArray[np.float64]:
        """Return how far an approximate curvature is from Gauss-Newton, on a few queries.

        Certificates are of the matrix that was chosen: a K-FAC, diagonal or sampled one is solved
        exactly however rough it is. Here the same solutions x meet the exact Gauss-Newton matrix.

        Parameters
        ----------
        X, y, measure
            Queries, as for ``scores``.
        rows : int
            How many of them are looked at, evenly spaced; one product with G each.

        Returns
        -------
        numpy.ndarray of shape (min(rows, q),)
            ‖(G + λI)x − g‖ / ‖g‖ of each: 0 is exact, 1 no better than x = 0; it may be larger.
        """
        self._check_fitted()
        queries = Queries.of(self.model_, X, y, measure).few(rows)
        blocks = queries.gradient_blocks(self._exact)
        return approximation_errors(self._trained, self.inverse_, self.damping_, blocks)

    def _newton_step(self, rows: Tensor, most: int = 1) -> Tensor:
        step, self.removal_ = newton_step(
            self._trained, self.curvature, self.damping_, self.inverse_, self._raw, rows, most
        )
        return step

    def _raw_scores(self, queries: Queries) -> tuple[Tensor, Certificate | None]:
        blocks = ScoreBlocks(queries, self._exact, self.inverse_, self._raw, self.damping_)
        return blocks.answer(self.objective_, "raw", None, {})

    def _leave_one_out(self) -> LeaveOneOut:
        if self._steps is None:
            self._steps = leave_one_out_steps(
                self._raw.objective,
                self.inverse_,
                self._raw.cotangents,
                correct=self.correction_ == "leverage",
                empirical=type(self.operator_).__name__ == "EmpiricalFisher",
            )
        return self._steps

    def _own(self, x: Tensor) -> Tensor:
        """Return a result in the model's dtype, of a half-precision model in float32."""
        return x.to(torch.promote_types(self.objective_.space.dtype, torch.float32))

    def _raw_self(self) -> Tensor:
        every = torch.arange(len(self.objective_.data))
        parts = torch.split(every, rows_at_once(self.objective_.space.size))
        return torch.cat([self.inverse_.quadratic_form(self._raw.rows(part).T) for part in parts])
