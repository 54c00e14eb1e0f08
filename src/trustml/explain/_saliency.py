"""Plain input gradients."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.explain._explainer import Attribution, GradientExplainer
from trustml.explain._gradients import Field, input_gradients
from trustml.model import Model


class Saliency(GradientExplainer):
    """The gradient of the output with respect to the input: what a small change would do.

    Signed, in output units per input unit. Gradients do not add up to the output, so there is
    no base value and no completeness.

    Parameters
    ----------
    model : Model or what ``wrap`` takes
        A differentiable model.
    output : {"logit", "probability", "loss"}
        What is explained.

    References
    ----------
    Simonyan, Vedaldi and Zisserman (2014), Deep inside convolutional networks, arXiv:1312.6034.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> X, y = load_diabetes(return_X_y=True)
    >>> ridge = Ridge().fit(X, y)
    >>> bool(abs(Saliency(ridge).attribute(X[:3]).values - ridge.coef_).max() < 1e-10)
    True
    """

    method: ClassVar[str] = "saliency"

    def __init__(self, model: Any, output: str = "logit") -> None:
        self.model = model
        self.output = output

    def explain(
        self, model: Model, field: Field, rows: Tensor, thorough: bool = False
    ) -> Attribution:
        """Return the gradients at the rows."""
        owner = torch.arange(len(rows), device=rows.device)
        _, gradients = input_gradients(field, rows, owner)
        return Attribution(gradients, None, None, None, torch.ones_like(owner), None)

    def again(self, field: Field, rows: Tensor, plan: Any) -> Tensor:
        """Return the gradients with their graph."""
        owner = torch.arange(len(rows), device=rows.device)
        return input_gradients(field, rows, owner, graph=True)[1]
