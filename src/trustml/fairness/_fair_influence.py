"""What each training row does to a disparity, and a fairer model without a refit."""

from __future__ import annotations

import warnings
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from trustml.core.validation import check_choice, check_positive_int, to_numpy
from trustml.fairness._changes import change_effects
from trustml.fairness._criteria import Criterion
from trustml.fairness._mitigation import search
from trustml.fairness._prediction import GapPrediction, predict, warn_if_not_linear
from trustml.fairness._question import Question
from trustml.fairness._reach import Reached, Walk, warn_if_missed
from trustml.fairness._refitting import require_refit
from trustml.fairness._reweigh import Program, allowed_loss, solved, wanted_gap
from trustml.fairness._row_effects import effects_of, fitted, warn_if_not_at_minimum
from trustml.influence import InfluenceFunctions
from trustml.model import Model, as_model
from trustml.warnings import TrustmlWarning

_METHODS = ("linear", "quadratic")
_HALVINGS = 4  # of the reduction, where nobody says how much


class FairInfluence(BaseEstimator):
    """Effect of each training row on the gap between groups, through one inverse Hessian.

    Parameters
    ----------
    model : Model or anything that ``trustml.wrap`` takes
        With its training data, and gradients.
    criterion : str or callable
        "demographic_parity" (all rows), "equal_opportunity" (rows with the favourable label),
        "predictive_equality" (rows with the other), "equalized_odds" (the larger of both),
        "predictive_parity" (precision), "error_parity", "loss_parity" (mean losses), or
        "worst_group" (not a difference: the largest mean loss of a group). For regression,
        "demographic_parity" compares mean predictions. A callable (scores, y, groups) -> Tensor,
        differentiable in the scores (n,), gives the signed gap, or one value for each group whose
        spread counts; ``y`` is 1 where favourable, ``groups`` numbers the sorted groups.
    surrogate : {"probability", "threshold", "loss"}
        What is differentiated: mean predicted probabilities, smoothed decisions, or, where a
        criterion looks at labels, mean losses of the rows with that label.
    pos_label : object or None
        The favourable label; None: 1 of {0, 1} and {-1, 1}, and the second of two other labels
        for criteria that come out the same for either. Criteria of errors and losses need none.
    influence : InfluenceFunctions or None
        Fitted for the same model, to share its factorisation or to choose curvature and damping.

    Attributes
    ----------
    row_effects_ : numpy.ndarray of shape (n_train,)
        Predicted change of the unsigned gap if the row is left out, in probability (loss or target
        unit for losses and regression). Positive: the row helps fairness.
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
    residual_ : float
        Largest relative residual of the solves behind the effects.
    mitigation_ : Mitigation
        Of the last ``mitigate``.
    prediction_ : GapPrediction
        Of the weights of the last ``reweigh``, or the removals of the last ``mitigate``: predicted
        gap, the one after a Newton step, the refitted one.

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
        criterion: str | Criterion = "demographic_parity",
        surrogate: Literal["probability", "threshold", "loss"] = "probability",
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
            Itself; a warning says if the model is not at a minimum on its training rows.
        """
        model = as_model(self.model)
        model.require_gradients("FairInfluence")
        model.require_train("FairInfluence")
        question = Question(model, self.criterion, self.surrogate, self.pos_label)
        validation, groups = question.on(X_val, y_val, sensitive_features)
        influence = fitted(self.influence, model)
        warn_if_not_at_minimum(influence, stacklevel=2)
        outcome = validation.measure(influence.objective_)
        means, compared = outcome.values, validation.compared
        gradients = validation.gradients(influence.objective_)
        self.residual_, effects = effects_of(influence, gradients)
        k = len(means)
        self.model_, self.influence_, self.groups_ = model, influence, groups.labels
        self.temperature_ = validation.quantity.temperature
        self.gap_ = float(compared.gap(means))
        self.cell_means_ = dict(zip(compared.names, means.tolist(), strict=True))
        self.cell_effects_ = effects[:k]
        self.row_effects_ = compared.gap(means[:, None] + effects[:k]) - self.gap_
        self.loss_effects_ = effects[k] if validation.targets is not None else None
        self._validation, self._values = validation, means
        return self

    def mitigate(self, accuracy_budget: float = 0.02, *, refit: bool = False) -> Model:
        """Return a model with a smaller gap: harmful rows' effect is taken out, without a refit.

        The parameters move along H⁻¹ times the harmful rows' gradients, for several numbers of
        rows and step lengths. Each candidate is measured on the validation rows; the one with the
        smallest gap of decisions that keeps the accuracy is taken, so its validation gap is
        somewhat optimistic: measure it again on other rows. ``prediction_``
        says what a model trained without these rows would do.

        Parameters
        ----------
        accuracy_budget : float
            Validation accuracy (R² for regression) that may be lost, at least 0.
        refit : bool
            Whether to train without the rows, for ``prediction_``.

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
        if refit:
            require_refit(self.model_, np.ones(len(self.row_effects_)))
        parts = (self.row_effects_, self.cell_effects_, accuracy_budget)
        mitigated, self.mitigation_ = search(self.influence_, self._validation, *parts)
        left = np.ones(len(self.row_effects_))
        left[self.mitigation_.removed] = 0.0
        self.prediction_ = self.predict_gap(left, refit=refit)
        return mitigated

    def reweigh(
        self,
        target: float | None = None,
        loss_budget: float = 0.0,
        *,
        reduction: float | None = None,
        loss_gain: float | None = None,
        method: Literal["linear", "quadratic"] = "linear",
        upper: float = 1.0,
        refit: bool = False,
    ) -> np.ndarray:
        """Return weights for a weighted refit that are predicted to reach a gap.

        One refit with them can overshoot, as effects of many rows do not add up: ``prediction_``
        says what a Newton step with the weights gives, and a warning where the two disagree.
        ``reach`` goes by several steps instead.

        Parameters
        ----------
        target : float or None
            Surrogate gap wanted on the validation rows; the smallest that can be reached within
            the loss budget where it cannot. None: by ``reduction``.
        loss_budget : float
            Mean validation loss that may be gained, where ``fit`` had labels.
        reduction : float in [0, 1], or None
            Part of the gap to take away, instead of ``target``: β of the reference. None: a half,
            or less where that would leave the linear regime.
        loss_gain : float in [0, 1], or None
            Part of the largest predicted decrease of the loss (all rows that harm it left out)
            that the weights must bring, instead of ``loss_budget``: γ of the reference.
        method : {"linear", "quadratic"}
            "linear": the least total removal; most weights stay 1. "quadratic": the weights w of
            least Σ (1 − w)²; most move a little.
        upper : float
            The largest weight; beyond 1, helpful rows may count more.
        refit : bool
            Whether to train with the weights, for ``prediction_``; an estimator, or the last step
            of a pipeline, must take ``sample_weight``.

        Returns
        -------
        numpy.ndarray of shape (n_train,)
            Weights in [0, ``upper``].

        Raises
        ------
        ValueError
            If an argument is out of its range, two exclude each other, or the loss that is asked
            for cannot be reached.

        References
        ----------
        Li and Liu (2022), arXiv:2202.00787, equation 9.
        """
        self._check_fitted(refit)
        check_choice(method, "method", _METHODS)
        if upper < 1 or not np.isfinite(upper):
            raise ValueError(f"upper must be a finite number of at least 1, got {upper!r}")
        budget = allowed_loss(self.loss_effects_, loss_budget, loss_gain)
        program = Program(
            self._validation.compared,
            self._values,
            self.cell_effects_,
            self.loss_effects_,
            budget,
            np.zeros(self.cell_effects_.shape[1]),
            float(upper),
        )
        free = target is None and reduction is None
        for halving in range(_HALVINGS if free else 1):
            wanted = wanted_gap(self.gap_, target, 0.5 ** (halving + 1) if free else reduction)
            removals, found = solved(program, wanted, method)
            weights: np.ndarray = 1.0 - removals
            self.prediction_ = self.predict_gap(weights)
            if self.prediction_.adds_up:
                break
        if refit:
            self.prediction_ = self.predict_gap(weights, refit=True)
        if found > wanted + 1e-6:
            warnings.warn(
                f"no weights are predicted to bring the gap to {wanted:g} within the loss budget; "
                f"the smallest reachable one, {found:.3g}, is aimed at",
                TrustmlWarning,
                stacklevel=2,
            )
        warn_if_not_linear(self.prediction_, stacklevel=2)
        return weights

    def predict_gap(self, weights: Any, *, refit: bool = False) -> GapPrediction:
        """Return what weights of the training rows do to the gap, by rising cost and honesty.

        Parameters
        ----------
        weights : array-like of shape (n_train,)
            At least 0; 0 leaves a row out.
        refit : bool
            Whether to train with the weights, too: with fractions, the estimator's ``fit`` (the
            last step's of a pipeline, whose transformers stay) must take ``sample_weight``.

        Returns
        -------
        GapPrediction
            The effects' sum, the gap after a Newton step, the refitted gap, and the certificate.

        Raises
        ------
        ValueError
            If there is not one finite weight of at least 0 a training row, or a refit would have
            no row, or none of a class.
        """
        self._check_fitted()
        w = to_numpy(weights).astype(np.float64)
        n = len(self.row_effects_)
        if w.shape != (n,) or not np.isfinite(w).all() or (w < 0).any():
            raise ValueError(
                f"weights must be {n} finite numbers of at least 0, one a training row, got shape "
                f"{w.shape}, smallest {w.min(initial=np.inf):.3g}"
            )
        if refit:
            require_refit(self.model_, w)
        parts = (self.cell_effects_, self.loss_effects_, w, self.residual_)
        return predict(self.influence_, self._validation, *parts, refit=refit)

    def reach(
        self,
        target: float = 0.0,
        *,
        tolerance: float = 0.005,
        steps: int = 6,
        method: Literal["linear", "quadratic"] = "linear",
        loss_budget: float | None = None,
        upper: float = 1.0,
        decisions: bool = False,
        refit: bool = False,
    ) -> Reached:
        """Return weights, and the model, that bring the validation gap down to a target.

        Each step asks for its share of what is left of the way, from effects at the weights and
        parameters where the last one ended, and minimises the weighted objective anew by Newton
        steps: the refit, for linear models. In networks these can end early; an ``influence`` of
        another curvature ("hessian") or damping, or a larger tolerance may then help.

        Parameters
        ----------
        target : float
            Gap wanted, at most: a smaller one is left as it is. At least 0.
        tolerance : float
            How far above it counts as reached.
        steps : int
            Steps that the way is planned in; up to three times as many are taken if need be.
        method, upper
            As for ``reweigh``.
        loss_budget : float or None
            Mean validation loss that may be gained on the whole way. None: each step that can
            reach its share without a loss does so, the others take what they need.
        decisions : bool
            Bring the gap of decisions to the target, not the surrogate; take
            ``surrogate="threshold"`` with it.
        refit : bool
            Whether to train with the weights in the end, for ``prediction``.

        Returns
        -------
        Reached
            A warning says if the target is missed.
        """
        self._check_fitted(refit)
        check_choice(method, "method", _METHODS)
        check_positive_int(steps, "steps")
        walk = Walk(
            self.influence_, self._validation, float(target), float(tolerance), method,
            loss_budget, float(upper), decisions,
        )  # fmt: skip
        reached = walk.run(steps, lambda w: self.predict_gap(w, refit=refit))
        warn_if_missed(reached, stacklevel=2)
        return reached

    def change_effects(self, X: Any = None, y: Any = None) -> np.ndarray:
        """Return what other features or labels of each training row would do to the gap.

        ``change_effects(y=1 - y_train)`` are the effects of label flips; with a copy of the
        training inputs whose sensitive column is another, those of the row's group.

        Parameters
        ----------
        X : array-like of shape (n_train, ...), optional
            The rows' other features, as the model takes them; None keeps them.
        y : array-like of shape (n_train,), optional
            The rows' other labels; None keeps them.

        Returns
        -------
        numpy.ndarray of shape (n_train,)
            Predicted change of the unsigned gap if this row alone was changed so, to first order.
            Negative: the change makes the model fairer. 0 where nothing is changed.
        """
        self._check_fitted()
        effects = change_effects(self.influence_, self._validation, X, y)
        gap = self._validation.compared.gap
        changes: np.ndarray = gap(self._values[:, None] + effects) - self.gap_
        return changes

    def _check_fitted(self, weighted_refit: bool = False) -> None:
        if not hasattr(self, "row_effects_"):
            raise NotFittedError(
                "FairInfluence is not fitted yet: call fit(X_val, y_val, sensitive_features=...)"
            )
        if weighted_refit:  # before the work
            require_refit(self.model_)
