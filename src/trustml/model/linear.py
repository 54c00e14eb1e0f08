"""Scikit-learn's linear classifiers and regressors as one linear layer.

Every estimator here minimised (mean loss + L2 term) after division by some constant; the
converters give that L2 term per parameter:

============================  =================================  =======================
estimator                     its objective                      weight_decay
============================  =================================  =======================
LogisticRegression, LinearSVC  C Σ ℓ_i + ½ ‖w‖²                   1 / (C n)
Ridge, RidgeClassifier         Σ (f − y)² + α ‖w‖²                2 α / n
LinearRegression               Σ (f − y)²                         0
SGDClassifier                  mean ℓ + α/2 ‖w‖²                  α
SGDRegressor                   mean ½ (f − y)² + α/2 ‖w‖²         2 α
============================  =================================  =======================

Intercepts are free, but for liblinear's, which is one more penalised column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trustml.core.losses import BinaryCrossEntropy, CrossEntropy, OutputLoss, SquaredError
from trustml.model.converted import Converted, fitted_columns
from trustml.model.layers import linear
from trustml.model.margin import ClassWeighted, Margin

HEAD = "linear"
_L1 = "its L1 term is not smooth, and weight_decay is an L2 term only"


@dataclass(frozen=True)
class Fit:
    """How one estimator was trained: its loss, L2 terms for n rows, and how to refit it."""

    loss: OutputLoss | None = None
    decay: Callable[[int], float] = lambda n: 0.0
    intercept_decay: Callable[[int], float] = lambda n: 0.0
    refused: str | None = None
    mean_form: tuple[str, ...] = ()
    fixed: dict[str, Any] = field(default_factory=dict)
    template: Any = None
    refits: bool = True


def linear_model(coef: Any, intercept: Any | None) -> nn.Sequential:
    """Return the module of one linear layer; its parameters are named ``linear.*``."""
    layer = linear(coef, intercept)
    module = nn.Sequential()
    module.add_module(HEAD, layer)
    return module


@dataclass(frozen=True)
class Refit:
    """(X, y, n) -> a fitted clone with the penalty that it had for n rows.

    Attributes
    ----------
    estimator : estimator
        What to clone.
    mean_form : tuple of str
        Parameters that multiply a penalty beside a mean loss: with fewer rows they must grow for
        the penalty to stay in proportion to the sum of losses.
    fixed : dict
        Parameters to set.
    """

    estimator: Any
    mean_form: tuple[str, ...] = ()
    fixed: dict[str, Any] = field(default_factory=dict)

    def __call__(self, X: Any, y: Any, n: int) -> Any:
        """Return the estimator fitted on these rows."""
        from sklearn.base import clone

        fresh = clone(self.estimator).set_params(**self.fixed)
        scale = n / len(y)
        fresh.set_params(**{name: getattr(self.estimator, name) * scale for name in self.mean_form})
        return fresh.fit(X, y)


def class_weights(estimator: Any, labels: NDArray[Any] | None) -> dict[Any, float] | None:
    """Return the weight of each class as it was in training, None where there is none."""
    if getattr(estimator, "class_weight", None) is None:
        return None
    given = estimator.class_weight
    if isinstance(given, str):
        if labels is None:
            return None
        from sklearn.utils.class_weight import compute_class_weight

        given = dict(
            zip(
                estimator.classes_.tolist(),
                compute_class_weight(given, classes=estimator.classes_, y=labels).tolist(),
                strict=True,
            )
        )
    return {label: float(given.get(label, 1.0)) for label in estimator.classes_.tolist()}


def _logistic(estimator: Any, labels: NDArray[Any] | None) -> Fit | None:
    binary = len(estimator.classes_) == 2
    scheme = getattr(estimator, "multi_class", "deprecated")
    one_versus_rest = scheme == "ovr" or estimator.solver == "liblinear"
    if (not binary and one_versus_rest) or (binary and scheme == "multinomial"):
        return None  # scikit-learn < 1.8: probabilities are not the softmax of the outputs
    C = float(np.ravel(estimator.C_)[0]) if hasattr(estimator, "C_") else float(estimator.C)
    penalty = estimator.penalty
    if penalty == "deprecated":
        ratio = getattr(estimator, "l1_ratio", None)
        ratio = getattr(estimator, "l1_ratio_", ratio) if hasattr(estimator, "C_") else ratio
        ratio = np.ravel(ratio)[0] if ratio is not None else None  # [None] where CV had one choice
        ratio = 0.0 if ratio is None else float(ratio)
        penalty = "l2" if ratio == 0 else "elasticnet"
    if penalty is None:
        C = np.inf
    slope = 0.0 if np.isinf(C) else 1.0 / C
    scaling = estimator.intercept_scaling
    weights = class_weights(estimator, labels)
    loss: OutputLoss = BinaryCrossEntropy() if binary else CrossEntropy()
    return Fit(
        loss=loss,
        decay=lambda n: slope / n,
        intercept_decay=lambda n: slope / n / scaling**2 if estimator.solver == "liblinear" else 0,
        refused=None if penalty in ("l2", None) else _L1,
        fixed=_frozen_weights(weights),
        template=_fixed_logistic(estimator, C),
        refits=penalty in ("l2", None) or not hasattr(estimator, "C_"),
    )


def _fixed_logistic(estimator: Any, C: float) -> Any:
    """For a cross-validated fit: the plain estimator at the C that was chosen."""
    if not hasattr(estimator, "C_"):
        return estimator
    from sklearn.linear_model import LogisticRegression

    names = set(LogisticRegression().get_params()) & set(estimator.get_params())
    shared = {name: getattr(estimator, name) for name in names - {"n_jobs", "l1_ratio", "penalty"}}
    return LogisticRegression(C=C, **shared)


def _linear_svc(estimator: Any, labels: NDArray[Any] | None) -> Fit:
    refused = None
    if estimator.penalty == "l1":
        refused = _L1
    elif estimator.multi_class == "crammer_singer":
        refused = "the Crammer-Singer loss is not supported"
    elif estimator.loss == "hinge":
        refused = "the hinge loss has no curvature; loss='squared_hinge' is supported"
    slope = 1.0 / estimator.C
    return Fit(
        loss=Margin("squared_hinge"),
        decay=lambda n: slope / n,
        intercept_decay=lambda n: slope / n / estimator.intercept_scaling**2,
        refused=refused,
        fixed=_frozen_weights(class_weights(estimator, labels)),
    )


def _ridge(estimator: Any, labels: NDArray[Any] | None) -> Fit:
    alpha = np.unique(np.ravel(getattr(estimator, "alpha_", getattr(estimator, "alpha", 0.0))))
    refused = None
    if len(alpha) > 1:
        refused = "it has a penalty of its own for each output"
    elif getattr(estimator, "positive", False):
        refused = "positive=True bounds the coefficients, so the gradient at the fit is not zero"
    classifier = hasattr(estimator, "classes_")
    return Fit(
        loss=Margin("squared") if classifier else SquaredError(),
        decay=lambda n: 2.0 * float(alpha[0]) / n,
        refused=refused,
        fixed=_frozen_weights(class_weights(estimator, labels)) if classifier else {},
        template=_fixed_ridge(estimator, float(alpha[0])),
    )


def _fixed_ridge(estimator: Any, alpha: float) -> Any:
    if not hasattr(estimator, "alpha_"):
        return estimator
    from sklearn.linear_model import Ridge, RidgeClassifier

    if hasattr(estimator, "classes_"):
        return RidgeClassifier(
            alpha, fit_intercept=estimator.fit_intercept, class_weight=estimator.class_weight
        )
    return Ridge(alpha, fit_intercept=estimator.fit_intercept)


def _least_squares(estimator: Any, labels: NDArray[Any] | None) -> Fit:
    bounded = getattr(estimator, "positive", False)
    refused = "positive=True bounds the coefficients, so the gradient at the fit is not zero"
    return Fit(loss=SquaredError(), refused=refused if bounded else None)


def _sgd(estimator: Any, labels: NDArray[Any] | None) -> Fit | None:
    classifier = hasattr(estimator, "classes_")
    if classifier and (len(estimator.classes_) > 2 or estimator.loss == "modified_huber"):
        return None  # their probabilities are not the softmax of the outputs
    losses: dict[str, tuple[OutputLoss, float]] = {
        "log_loss": (BinaryCrossEntropy(), 1.0),
        "squared_hinge": (Margin("squared_hinge"), 1.0),
        "squared_error": (Margin("squared") if classifier else SquaredError(), 2.0),
    }
    loss, factor = losses.get(estimator.loss, (None, 1.0))
    if estimator.penalty not in ("l2", None):
        refused: str | None = _L1
    else:
        refused = None if loss is not None else f"loss={estimator.loss!r} is not supported"
    alpha = 0.0 if estimator.penalty is None else float(estimator.alpha)
    return Fit(
        loss=loss,
        decay=lambda n: factor * alpha,
        refused=refused,
        mean_form=("alpha",),
        fixed=_frozen_weights(class_weights(estimator, labels)) if classifier else {},
    )


def _outputs_only(
    why: str, mean_form: tuple[str, ...] = (), refits: bool = True
) -> Callable[..., Fit]:
    return lambda estimator, labels: Fit(refused=why, mean_form=mean_form, refits=refits)


def _frozen_weights(weights: dict[Any, float] | None) -> dict[str, Any]:
    """Keep "balanced" weights as they were: a refit on fewer rows must not move them."""
    return {} if weights is None else {"class_weight": weights}


def _readers() -> dict[type, Callable[[Any, NDArray[Any] | None], Fit | None]]:
    from sklearn import discriminant_analysis, svm
    from sklearn import linear_model as lm

    robust = "its loss is not among the supported ones"
    return {
        lm.LogisticRegression: _logistic,
        lm.LogisticRegressionCV: _logistic,
        svm.LinearSVC: _linear_svc,
        lm.Ridge: _ridge,
        lm.RidgeCV: _ridge,
        lm.RidgeClassifier: _ridge,
        lm.RidgeClassifierCV: _ridge,
        lm.LinearRegression: _least_squares,
        lm.SGDClassifier: _sgd,
        lm.SGDRegressor: _sgd,
        lm.Lasso: _outputs_only(_L1, ("alpha",)),
        lm.ElasticNet: _outputs_only(_L1, ("alpha",)),
        lm.LassoCV: _outputs_only(_L1, refits=False),  # a clone would choose alpha anew
        lm.ElasticNetCV: _outputs_only(_L1, refits=False),
        lm.BayesianRidge: _outputs_only("its penalty was estimated from the data", refits=False),
        lm.HuberRegressor: _outputs_only(robust),
        lm.QuantileRegressor: _outputs_only(robust, ("alpha",)),
        svm.LinearSVR: _outputs_only(robust),
        discriminant_analysis.LinearDiscriminantAnalysis: _outputs_only(
            "it is fitted by class means and covariance, not by minimising a loss"
        ),
    }


def convert(estimator: Any, labels: NDArray[Any] | None) -> Converted | None:
    """Turn a fitted scikit-learn linear model into one linear layer.

    Parameters
    ----------
    estimator : object
        Anything; only the classes of the table above are taken.
    labels : ndarray of shape (n, ...) or None
        Training labels as the user gave them.

    Returns
    -------
    Converted or None
        None if the estimator is not one of these.
    """
    reader = _readers().get(type(estimator))
    if reader is None:
        return None
    fit = reader(estimator, labels)
    if fit is None:
        return None
    classes = getattr(estimator, "classes_", None)
    free = getattr(estimator, "fit_intercept", True)
    module = linear_model(estimator.coef_, estimator.intercept_ if free else None)
    loss = fit.loss
    weights = class_weights(estimator, labels) if classes is not None else None
    if loss is not None and weights is not None:
        loss = _weighted(loss, torch.tensor(list(weights.values()), dtype=torch.float64))
    decay: dict[str, float] | None = None
    if fit.refused is not None:
        decay = {}
    elif labels is not None:
        decay = {f"{HEAD}.weight": fit.decay(len(labels))}
        if free and (bias := fit.intercept_decay(len(labels))):
            decay[f"{HEAD}.bias"] = bias
    width, names = fitted_columns(estimator)
    return Converted(
        source=estimator,
        module=module,
        outputs="logits" if classes is not None else "values",
        task="classification" if classes is not None else "regression",
        classes=classes,
        loss=loss,
        weight_decay=decay,
        n_features=width,
        feature_names=names,
        head_name=HEAD,
        refit=Refit(fit.template or estimator, fit.mean_form, fit.fixed) if fit.refits else None,
        no_objective=fit.refused,
    )


def _weighted(loss: OutputLoss, weight: torch.Tensor) -> OutputLoss:
    if isinstance(loss, Margin) and loss.shape == "squared_hinge" and len(weight) > 2:
        return Margin("squared_hinge", positive_weight=weight)
    return (
        CrossEntropy(weight=weight)
        if isinstance(loss, CrossEntropy)
        else ClassWeighted(loss, weight)
    )
