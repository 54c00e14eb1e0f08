"""Input times gradient."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.explain._explainer import Attribution, GradientExplainer
from trustml.explain._gradients import Field, input_gradients, weigh
from trustml.model import Model


class InputXGradient(GradientExplainer):
    """Each feature times the gradient there: exact for linear models with baseline zero.

    Signed, in output units. ``base_values`` is the output at zero, and ``completeness`` says by
    how much the values fail to add up to the difference, which for a curved model is much.

    Parameters
    ----------
    model : Model or what ``wrap`` takes
        A differentiable model.
    output : {"logit", "probability", "loss"}
        What is explained.

    References
    ----------
    Shrikumar et al. (2016), Not just a black box, arXiv:1605.01713.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> X, y = load_diabetes(return_X_y=True)
    >>> found = InputXGradient(Ridge().fit(X, y)).attribute(X[:3])
    >>> bool(found.completeness.max() < 1e-10)
    True
    """

    method: ClassVar[str] = "input x gradient"

    def __init__(self, model: Any, output: str = "logit") -> None:
        self.model = model
        self.output = output

    @property
    def baseline_name(self) -> str | None:
        """Zero."""
        return "zero"

    def explain(
        self, model: Model, field: Field, rows: Tensor, thorough: bool = False
    ) -> Attribution:
        """Return the attributions at the rows."""
        owner = torch.arange(len(rows), device=rows.device)
        top, gradients = input_gradients(field, rows, owner)
        with torch.no_grad():
            base = field(torch.zeros_like(rows), owner)
        values = weigh(gradients, rows)
        gap = (top - base - values.flatten(1, rows.ndim - 1).sum(1)).abs()
        return Attribution(values, base, gap, None, torch.ones_like(owner), None)

    def again(self, field: Field, rows: Tensor, plan: Any) -> Tensor:
        """Return the attributions with their graph."""
        owner = torch.arange(len(rows), device=rows.device)
        return weigh(input_gradients(field, rows, owner, graph=True)[1], rows)
