"""What each training row does to a disparity, and a fairer model without a refit."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from trustml.core.batches import as_data
from trustml.core.validation import check_choice, to_numpy
from trustml.fairness._criteria import (
    CRITERIA,
    SURROGATES,
    bandwidth,
    cells_of,
    margin,
    quantity_of,
    weighted_gradients,
)
from trustml.fairness._groups import as_groups
from trustml.fairness._mitigation import Validation, search
from trustml.fairness._reweigh import least_removal
from trustml.influence import InfluenceFunctions
from trustml.model import Model, as_model

# With two classes, what is compared changes its sign with the label, and the gap stays.
_EITHER_LABEL = ("demographic_parity", "equalized_odds", "loss_parity")


class FairInfluence(BaseEstimator):
    """Effect of each training row on the gap between groups, through one inverse Hessian.

    Parameters
    ----------
    model : Model or anything that ``trustml.wrap`` takes
        With its training data, and gradients.
    criterion : str
        "demographic_parity" (all rows), "equal_opportunity" (rows with the favourable label),
        "predictive_equality" (rows with the other), "equalized_odds" (the larger of both), or
        "loss_parity" (mean losses). For regression, "demographic_parity" compares mean predictions.
    surrogate : {"probability", "threshold"}
        The gap that is differentiated: of mean predicted probabilities, or of smoothed decisions.
    pos_label : object or None
        The favourable label; None: 1 of {0, 1} and {-1, 1}, and the second of two other labels
        for criteria that come out the same for either ("demographic_parity", "equalized_odds",
        "loss_parity").
    influence : InfluenceFunctions or None
        Fitted for the same model, to share its factorisation or to choose curvature and damping.

    Attributes
    ----------
    row_effects_ : numpy.ndarray of shape (n_train,)
        Predicted change of the unsigned gap if the row is left out, in probability (loss or target
        unit for "loss_parity" and regression). Positive: the row helps fairness.
    loss_effects_ : numpy.ndarray of shape (n_train,), or None
        Predicted change of the mean validation loss if the row is left out; None without labels.
    gap_ : float
        The surrogate gap on the validation rows, at least 0.
    cell_means_ : dict
        (label, group) -> mean of the surrogate.
    groups_ : tuple
        The groups, sorted.
    influence_ : InfluenceFunctions
        What did the inverse.
    mitigation_ : Mitigation
        Of the last ``mitigate``.

    References
    ----------
    Sattigeri et al. (2022), Fair infinitesimal jackknife, arXiv:2212.06803. Li and Liu (2022),
    Achieving fairness at no utility cost via data reweighing with influence, arXiv:2202.00787.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from trustml.model import wrap
    >>> rng = np.random.default_rng(0)
    >>> sex = rng.integers(0, 2, 400)
    >>> X = np.column_stack([rng.normal(size=400) + sex, rng.normal(size=400)])
    >>> y = (X[:, 0] + rng.normal(size=400) > 0.5).astype(int)
    >>> estimator = LogisticRegression().fit(X[:200], y[:200])
    >>> model = wrap(estimator, train=(X[:200], y[:200]))
    >>> fair = FairInfluence(model).fit(X[200:], y[200:], sensitive_features=sex[200:])
    >>> fair.row_effects_.shape
    (200,)
    """

    def __init__(
        self,
        model: Any,
        criterion: str = "demographic_parity",
        surrogate: Literal["probability", "threshold"] = "probability",
        pos_label: Any = None,
        influence: InfluenceFunctions | None = None,
    ) -> None:
        self.model = model
        self.criterion = criterion
        self.surrogate = surrogate
        self.pos_label = pos_label
        self.influence = influence

    def fit(self, X_val: Any, y_val: Any = None, *, sensitive_features: Any) -> Self:
        """Measure the gap on validation rows and the effect of every training row on it.

        Parameters
        ----------
        X_val : array-like of shape (m, ...)
            Rows that the model was not trained on.
        y_val : array-like of shape (m,), optional
            Their labels; only "demographic_parity" can do without.
        sensitive_features : array of shape (m,) or (m, k), frame, series or dict of columns
            Group membership of the validation rows; the training rows need none.

        Returns
        -------
        FairInfluence
            Itself.

        Raises
        ------
        ValueError
            If labels are needed and missing, lengths differ, or a group lacks rows.
        """
        check_choice(self.criterion, "criterion", tuple(CRITERIA))
        check_choice(self.surrogate, "surrogate", SURROGATES)
        model = as_model(self.model)
        model.require_gradients("FairInfluence")
        model.require_train("FairInfluence")
        if y_val is None and self.criterion != "demographic_parity":
            raise ValueError(f"criterion={self.criterion!r} looks at labels: pass y_val")
        targets = None if y_val is None else model.targets(y_val)
        data = as_data(model.inputs(X_val), targets)
        groups = as_groups(sensitive_features, len(data))
        column = _favourable(model, self.criterion, self.pos_label)
        positive = None
        if targets is not None and column is not None:
            positive = to_numpy(targets).ravel() == column
        cells = cells_of(self.criterion, groups, positive)
        groups.warn_if_small(stacklevel=2)
        outputs = torch.cat(
            list(model.objective.map(lambda b: model.objective.outputs(b.inputs), data))
        )
        temperature = 1.0
        if column is not None and self.surrogate == "threshold":
            temperature = bandwidth(margin(model, outputs, column))
        quantity = quantity_of(model, self.criterion, self.surrogate, column, temperature)
        influence = _fitted(self.influence, model)
        objective = influence.objective_
        weights = cells.weights
        quantities = [weighted_gradients(objective, data, quantity, weights)]
        if targets is not None:
            share = torch.full((len(groups.codes), 1), 1 / len(groups.codes), dtype=torch.float64)
            quantities.append(weighted_gradients(objective, data, _loss(model), share))
        effects = to_numpy(influence.rows_effect(torch.cat(quantities, dim=1))).astype(np.float64)
        k = weights.shape[1]
        means = cells.means(quantity(outputs, targets))
        self.model_, self.influence_, self.groups_ = model, influence, groups.labels
        self.temperature_ = temperature
        self.gap_ = float(cells.gap(means))
        self.cell_means_ = dict(zip(cells.names, means.tolist(), strict=True))
        self.cell_effects_ = effects[:k]
        self.row_effects_ = cells.gap(means[:, None] + effects[:k]) - self.gap_
        self.loss_effects_ = effects[k] if targets is not None else None
        self._validation = Validation(model, data, cells, means, quantity, column, targets)
        return self

    def mitigate(self, accuracy_budget: float = 0.02) -> Model:
        """Return a model with a smaller gap: harmful rows' effect is taken out, without a refit.

        The parameters move along H⁻¹ times the harmful rows' gradients, for several numbers of
        rows and step lengths. Each candidate is measured on the validation rows; the one with the
        smallest gap of decisions that keeps the accuracy is taken, so its validation gap is
        somewhat optimistic: measure it again on other rows. It does not predict what a retrained
        model would do.

        Parameters
        ----------
        accuracy_budget : float
            Validation accuracy (R² for regression) that may be lost, at least 0.

        Returns
        -------
        Model
            A copy; the given model itself, with a warning, if no candidate is fairer.
            ``mitigation_`` holds gap and accuracy before and after.

        Raises
        ------
        ValueError
            If ``fit`` had no labels, or the budget is negative.
        """
        self._check_fitted()
        if not np.isfinite(accuracy_budget) or accuracy_budget < 0:
            raise ValueError(f"accuracy_budget must be at least 0, got {accuracy_budget!r}")
        if self.loss_effects_ is None:
            raise ValueError("mitigate watches the accuracy, which needs labels: pass y_val to fit")
        mitigated, self.mitigation_ = search(
            self.influence_,
            self._validation,
            self.row_effects_,
            self.cell_effects_,
            accuracy_budget,
        )
        return mitigated

    def reweigh(self, target: float | None = None, loss_budget: float = 0.0) -> np.ndarray:
        """Return weights for a weighted refit: the least removal predicted to reach the target.

        A linear program on the rows' predicted effects; most weights stay 1. One refit with them
        can overshoot: fit again on the refitted model to continue.

        Parameters
        ----------
        target : float or None
            Surrogate gap wanted on the validation rows; None: the smallest that can be reached
            within the loss budget.
        loss_budget : float
            Mean validation loss that may be gained, where ``fit`` had labels.

        Returns
        -------
        numpy.ndarray of shape (n_train,)
            Weights in [0, 1].

        References
        ----------
        Li and Liu (2022), arXiv:2202.00787.
        """
        self._check_fitted()
        validation = self._validation
        return least_removal(
            validation.cells,
            validation.means,
            self.cell_effects_,
            self.loss_effects_,
            target,
            loss_budget,
        )

    def _check_fitted(self) -> None:
        if not hasattr(self, "row_effects_"):
            raise NotFittedError(
                "FairInfluence is not fitted yet: call fit(X_val, y_val, sensitive_features=...)"
            )


def _favourable(model: Model, criterion: str, pos_label: Any) -> int | None:
    """Column of the favourable class; None where the task has no classes."""
    if model.task == "regression":
        if criterion not in ("demographic_parity", "loss_parity"):
            raise ValueError(
                f"criterion={criterion!r} needs classes; for regression use 'demographic_parity' "
                "or 'loss_parity'"
            )
        return None
    if model.task != "classification":
        raise ValueError(f"FairInfluence serves classification and regression, not {model.task}")
    classes = [] if model.classes_ is None else model.classes_.tolist()
    if pos_label is None and len(classes) == 2 and criterion in _EITHER_LABEL:
        pos_label = classes[1]  # sorted or the user's order: 1 of {0, 1} and {-1, 1}
    if pos_label is None:
        if not (set(classes) <= {0, 1} or set(classes) <= {-1, 1}):
            raise ValueError(
                f"which of the labels {classes[:10]} is the favourable one? pass pos_label="
            )
        pos_label = 1
    if pos_label not in classes:
        raise ValueError(f"pos_label {pos_label!r} is not among the labels {classes[:10]}")
    return classes.index(pos_label)


def _loss(model: Model) -> Any:
    return quantity_of(model, "loss_parity", "probability", None, 1.0)


def _fitted(influence: InfluenceFunctions | None, model: Model) -> InfluenceFunctions:
    if influence is None:
        return InfluenceFunctions(model).fit()
    if not isinstance(influence, InfluenceFunctions):
        raise TypeError(
            f"influence must be an InfluenceFunctions, got {type(influence).__name__}; use "
            "trustml.influence.InfluenceFunctions(model)"
        )
    if not hasattr(influence, "inverse_"):
        influence.fit()
    if influence.model_ is not model:
        raise ValueError("influence was fitted for another model; pass the same wrapped Model")
    return influence
