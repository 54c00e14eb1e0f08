"""Integrated gradients, to a tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.core.random import RandomState
from trustml.core.validation import check_positive_int
from trustml.explain._baselines import baseline_name, baseline_rows
from trustml.explain._explainer import Attribution, GradientExplainer
from trustml.explain._gradients import Field, grouped
from trustml.explain._integrate import integrate
from trustml.explain._paths import Nodes, Paths, with_graph
from trustml.model import Model

_THOROUGH = 10  # a derivative needs every kink: times the passes that the values may take


@dataclass(frozen=True, eq=False)
class _Plan:
    """The baselines and the quadrature of a batch."""

    base: Tensor
    nodes: Nodes
    squeeze: bool


class IntegratedGradients(GradientExplainer):
    r"""Attributions that add up: the gradient integrated from a baseline to the row.

    .. math:: a_j = (x_j - b_j) \int_0^1 \partial_j F(b + t (x - b)) \, dt

    in output units. The integral is taken by Gauss-Legendre quadrature, adaptively: where the
    attributions of a row do not add up to :math:`F(x) - F(b)`, its path is cut at the kinks of
    the network and integrated piece by piece. What is left is in ``completeness``.

    Parameters
    ----------
    model : Model or what ``wrap`` takes
        A differentiable model.
    baseline : {"zero", "mean", "train"} or array
        Where paths begin: zeros; the mean training row; every training row, averaged (up to
        ``n_baselines`` of them, the same for every row); one row of yours, or several, averaged.
    output : {"logit", "probability", "loss"}
        What is explained.
    tol : float
        Gap at which a path is done, relative to the output's size and variation along it.
    max_passes : int
        Gradient evaluations of one path, about; ten times as many for parameter derivatives
        (``uncertainty``, ``caused_by``), which need every kink.
    n_baselines : int
        How many training rows ``baseline="train"`` draws.
    random_state : int, Generator or None
        For that draw.

    References
    ----------
    Sundararajan, Taly and Yan (2017), Axiomatic attribution for deep networks, arXiv:1703.01365.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> X, y = load_diabetes(return_X_y=True)
    >>> ridge = Ridge().fit(X, y)
    >>> found = IntegratedGradients(ridge).attribute(X[:3])
    >>> bool(abs(found.values - ridge.coef_ * X[:3]).max() < 1e-10)
    True
    """

    method: ClassVar[str] = "integrated gradients"
    adds_up: ClassVar[bool] = True

    def __init__(
        self,
        model: Any,
        baseline: Any = "zero",
        output: str = "logit",
        tol: float = 1e-7,
        max_passes: int = 1000,
        n_baselines: int = 50,
        random_state: RandomState = 0,
    ) -> None:
        self.model = model
        self.baseline = baseline
        self.output = output
        self.tol = tol
        self.max_passes = max_passes
        self.n_baselines = n_baselines
        self.random_state = random_state

    @property
    def baseline_name(self) -> str | None:
        """The baseline's name, or "given"."""
        return baseline_name(self.baseline)

    def explain(
        self, model: Model, field: Field, rows: Tensor, thorough: bool = False
    ) -> Attribution:
        """Return the attributions of a batch, averaged over the baselines."""
        if not 0 < self.tol < 1:
            raise ValueError(f"tol must be in (0, 1), a relative gap, got {self.tol}")
        most = check_positive_int(self.n_baselines, "n_baselines")
        base = baseline_rows(self.baseline, model, rows, most, self.random_state)
        paths = _paths(field, base, rows)
        most_passes = check_positive_int(self.max_passes, "max_passes")
        found = integrate(paths, self.tol, _THOROUGH * most_passes if thorough else most_passes)
        b = len(base)
        values, start, end, size = (
            grouped(x, b).mean(1) for x in (found.values, found.start, found.end, found.size)
        )
        gap = (end - start - values.flatten(1, rows.ndim - 1).sum(1)).abs()
        miss = (gap / size).amax(1)
        owner = torch.zeros(1, dtype=torch.long, device=rows.device)
        with torch.no_grad():
            squeeze = field(rows[:1], owner).ndim == 1
        columns = [x.to(rows.dtype) for x in (values, start, gap)]
        values, start, gap = (x.squeeze(-1) for x in columns) if squeeze else columns
        passes = grouped(found.passes, b).sum(1)
        return Attribution(values, start, gap, miss, passes, _Plan(base, found.nodes, squeeze))

    def again(self, field: Field, rows: Tensor, plan: Any) -> Tensor:
        """Return the attributions on the same nodes, with their graph."""
        found = with_graph(_paths(field, plan.base, rows), plan.nodes)
        found = grouped(found, len(plan.base)).mean(1)
        return found.squeeze(-1) if plan.squeeze else found


def _paths(field: Field, base: Tensor, rows: Tensor) -> Paths:
    """Return the paths from every baseline to every row, the baselines of a row together."""
    owner = torch.arange(len(rows), device=rows.device).repeat_interleave(len(base))
    start = base.repeat(len(rows), *[1] * (rows.ndim - 1))
    return Paths(field, start, rows[owner], owner)
