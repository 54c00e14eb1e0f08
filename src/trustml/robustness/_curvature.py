"""Robustness without an attack: input curvature and the radius of the linearised margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trustml.core.batches import Batch, as_data, map_batches
from trustml.core.results import Result
from trustml.core.validation import check_choice, check_same_length, restore
from trustml.ihvp import InputHessian
from trustml.model import Model, as_model
from trustml.robustness._aim import Aim
from trustml.robustness._problem import Bill
from trustml.robustness._rivals import find_rivals
from trustml.robustness._run import attackable, clean_rows, pose
from trustml.robustness._threat import NORMS, Threat

_BATCH = 128  # rows at once: Lanczos keeps up to a hundred vectors of each
_CLASSES = 20  # wrong classes, strongest first, whose margins are linearised


@dataclass(frozen=True, eq=False, repr=False)
class CurvatureResult(Result):
    """How the loss bends around each row, and how far the nearest class seems to be.

    The radii are estimates from one point's derivatives; neither is a certificate.

    Attributes
    ----------
    top_eigenvalue : array or Tensor of shape (n,)
        Largest algebraic eigenvalue of the Hessian of the loss with respect to the input, in
        loss units per squared input unit.
    linear_radius : array or Tensor of shape (n,)
        Distance at which the first linearised margin vanishes: min over classes of margin over
        dual norm of its gradient; exact for linear models. Input units; 0 for rows that are
        wrong, infinite where every margin is flat.
    quadratic_radius : array or Tensor of shape (n,)
        The same with the nearest class's margin bent down by its own largest curvature in every
        direction: never above ``linear_radius`` unless the margin curves away.
    nearest_class : array or Tensor of shape (n,)
        The class whose linearised margin vanishes first, as a label of the user.
    norm : {"linf", "l2"}
        Of the radii.
    """

    top_eigenvalue: Any
    linear_radius: Any
    quadratic_radius: Any
    nearest_class: Any
    norm: str

    def _title(self) -> str:
        """Return the norm of the radii, which the table does not say."""
        return f"CurvatureResult of {len(self.top_eigenvalue)} rows, radii in {self.norm}"

    def _columns(self) -> dict[str, Any]:
        return {
            "top_eigenvalue": self.top_eigenvalue,
            "linear_radius": self.linear_radius,
            "quadratic_radius": self.quadratic_radius,
            "nearest_class": self.nearest_class,
        }


def curvature(model: Any, X: Any, y: Any, norm: str = "l2") -> CurvatureResult:
    r"""Profile the loss around each row: two Hessian questions to the engine, no attack.

    With :math:`m` the margin to the nearest class, :math:`s` the dual norm of its gradient and
    :math:`\nu` the largest eigenvalue of :math:`-\nabla^2 m`, the radii solve
    :math:`m = s \rho` and :math:`m = s \rho + \tfrac12 \nu \rho^2`.

    Parameters
    ----------
    model : Model or what ``wrap`` takes
        A differentiable classifier; bounds are not needed, and not used.
    X : array-like of shape (n, *features)
        Rows in input units.
    y : array-like of shape (n,)
        True labels.
    norm : {"l2", "linf"}
        Of the radii; for "linf" the curvature term is the bound :math:`d \nu`, d features.

    Returns
    -------
    CurvatureResult
        Arrays for arrays, tensors for tensors.

    Notes
    -----
    Refused, with the fix: a model without gradients, one that is no classifier, and inputs that
    its module does not eat as they are.

    References
    ----------
    Moosavi-Dezfooli et al. (2019), Robustness via curvature regularization, and vice versa,
    arXiv:1811.09716. Hein and Andriushchenko (2017), arXiv:1705.08475, for the radius.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> profile = curvature(LogisticRegression(max_iter=1000).fit(X, y), X[:5], y[:5])
    >>> profile.linear_radius.shape
    (5,)
    """
    target = attackable(as_model(model), "robustness.curvature")
    check_choice(norm, "norm", NORMS)
    rows = clean_rows(target, X, "robustness.curvature")
    labels = target.targets(y).to(rows.device)
    check_same_length(X=rows, y=labels)

    def one(batch: Batch) -> tuple[Tensor, Tensor]:
        index = batch.indices.to(rows.device)
        return index, _profile(target, rows[index], labels[index], norm)

    columns = torch.zeros(len(rows), 4, dtype=torch.float64, device=rows.device)
    for index, found in map_batches(one, as_data(rows), _BATCH, description="curvature"):
        columns[index] = found
    top, linear, quadratic, nearest = columns.unbind(1)
    classes = target.classes_
    index = nearest.long()
    named = restore(index, X) if classes is None else classes[index.cpu().numpy()]
    return CurvatureResult(restore(top, X), restore(linear, X), restore(quadratic, X), named, norm)


def _profile(model: Model, rows: Tensor, labels: Tensor, norm: str) -> Tensor:
    """Return top eigenvalue, both radii and the nearest class of a batch, (b, 4)."""
    no_limit = torch.full((1, *rows.shape[1:]), torch.inf, dtype=torch.float64, device=rows.device)
    threat = Threat(rows, -no_limit, no_limit, norm, 0.0)
    problem = pose(model, threat, Aim(labels), Bill.blank(len(rows), rows.device))
    rivals = find_rivals(problem, norm, _CLASSES)
    first = rivals.nearest[:, None]
    margin, slope = (c.gather(1, first).squeeze(1) for c in (rivals.margin, rivals.slope))
    nearest = rivals.classes.gather(1, first)
    linear = rivals.distance.gather(1, first).squeeze(1)

    def lead(outputs: Tensor, pair: Tensor) -> Tensor:
        """By how much the rival class leads: minus the margin."""
        logits = model.logits_of(outputs)
        return (logits.gather(1, pair[:, 1:]) - logits.gather(1, pair[:, :1])).squeeze(1)

    inputs = rows.to(model.dtype)
    pair = torch.cat([labels[:, None], nearest], dim=1)
    bend = _top_eigenvalue(model, lead, inputs, pair)
    top = _top_eigenvalue(model, model.loss_fn, inputs, labels)
    if norm == "linf":
        bend = torch.where(bend > 0, bend * rows[0].numel(), bend)
    quadratic = _quadratic_radius(margin.clamp_min(0), slope, bend)
    quadratic = torch.where(margin > 0, quadratic, 0.0)
    return torch.stack([top, linear, quadratic, nearest.squeeze(1).double()], dim=1)


def _top_eigenvalue(model: Model, loss: Any, inputs: Tensor, targets: Tensor) -> Tensor:
    values: Tensor = InputHessian(model.outputs, loss, inputs, targets).top_eigenpairs(k=1)[0]
    return values[:, 0].double()


def _quadratic_radius(margin: Tensor, slope: Tensor, bend: Tensor) -> Tensor:
    """Return the smallest rho with margin = slope rho + bend rho^2 / 2; infinite if none."""
    inside = slope.square() + 2 * bend * margin
    below = slope + inside.clamp_min(0).sqrt()
    reached = (inside >= 0) & (below > 0)
    return torch.where(reached, 2 * margin / below.masked_fill(~reached, 1.0), torch.inf)
