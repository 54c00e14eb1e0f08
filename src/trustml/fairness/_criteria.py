"""Fairness criteria: which group values are compared, and how they become a gap."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustml.fairness._groups import Groups
from trustml.warnings import SmallGroupWarning

# criterion -> the labels within which groups are compared
CRITERIA: dict[str, tuple[str, ...]] = {
    "demographic_parity": ("any",),
    "equal_opportunity": ("positive",),
    "predictive_equality": ("negative",),
    "equalized_odds": ("positive", "negative"),
    "predictive_parity": ("any",),
    "error_parity": ("any",),
    "loss_parity": ("any",),
    "worst_group": ("any",),
}
# Criteria of errors: which label is the favourable one does not matter.
OF_ERRORS = ("error_parity", "loss_parity", "worst_group")
# A signed gap, or one value a group, of (scores, y, groups); differentiable in the scores.
Criterion = Callable[[Tensor, "Tensor | None", Tensor], Tensor]


class Compared:
    """Values that depend on the parameters, and the gap between them.

    Attributes
    ----------
    condition : numpy.ndarray of shape (k,)
        Values with the same number are compared with each other.
    names : tuple of (str, object)
        Label and group of each value.
    reference : bool
        Whether 0 is one of the values that are compared.
    """

    condition: np.ndarray
    names: tuple[tuple[str, Any], ...]
    reference: bool

    def of(self, quantity: Tensor) -> Tensor:
        """Return the values (k,) of a quantity (n,) of the rows, with their graph."""
        raise NotImplementedError

    def means(self, quantity: Tensor) -> np.ndarray:
        """Return the values as an array, shape (k,)."""
        result: np.ndarray = self.of(quantity.detach().double().cpu()).detach().numpy()
        return result

    def gap(self, means: np.ndarray) -> np.ndarray:
        """Return the largest spread over the conditions of values (k, ...), shape (...)."""
        spreads = []
        for c in np.unique(self.condition):
            values = means[self.condition == c]
            low, high = values.min(0), values.max(0)
            if self.reference:
                low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
            spreads.append(high - low)
        widest: np.ndarray = np.max(spreads, axis=0)
        return widest

    def pairs(self) -> np.ndarray:
        """Return the signed differences (m, k) whose largest value is the gap."""
        k, rows = len(self.condition), []
        for c in np.unique(self.condition):
            members = np.flatnonzero(self.condition == c)
            unit = np.eye(k)[members]
            apart = (unit[:, None] - unit[None, :])[~np.eye(len(members), dtype=bool)]
            rows.append(np.concatenate([apart, unit, -unit]) if self.reference else apart)
        return np.concatenate(rows)


@dataclass(frozen=True, eq=False)
class Cells(Compared):
    """The groups within each label: means of a quantity, or ratios of sums.

    Attributes
    ----------
    weights : Tensor of shape (n, k)
        Column j averages over the rows of cell j.
    condition, names, reference
        As of ``Compared``.
    part : Tensor of shape (n,), or None
        The value is the share that these rows (0 or 1) have of the cell's sum, instead of a mean.
    """

    weights: Tensor
    condition: np.ndarray
    names: tuple[tuple[str, Any], ...]
    reference: bool = False
    part: Tensor | None = None

    def of(self, quantity: Tensor) -> Tensor:
        """Return the values (k,) of a quantity (n,) of the rows, with their graph."""
        weights = self.weights.to(quantity)
        means = weights.T @ quantity
        if self.part is None:
            return means
        selected = means.clamp_min(torch.finfo(quantity.dtype).tiny)  # nobody selected: 0
        return (weights.T @ (quantity * self.part.to(quantity))) / selected


@dataclass(frozen=True, eq=False)
class Custom(Compared):
    """A criterion of the user: a signed gap, or one value for each group.

    Attributes
    ----------
    function : callable (scores, y, groups) -> Tensor
        Of scores (n,), labels (n,) (1 where favourable) and group numbers (n,).
    y, groups : Tensor of shape (n,)
        Of the validation rows; ``y`` may be None.
    condition, names, reference
        As of ``Compared``.
    """

    function: Criterion
    y: Tensor | None
    groups: Tensor
    condition: np.ndarray
    names: tuple[tuple[str, Any], ...]
    reference: bool

    def of(self, quantity: Tensor) -> Tensor:
        """Return the values (k,) of the scores (n,), with their graph."""
        device = quantity.device
        y = None if self.y is None else self.y.to(device)
        value = self.function(quantity, y, self.groups.to(device))
        if not isinstance(value, Tensor) or value.ndim > 1 or not value.numel():
            given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                "criterion must return a tensor: one number, the signed gap, or one value a group; "
                f"got {given}"
            )
        return value.reshape(-1)


def custom(function: Criterion, groups: Groups, y: Tensor | None, probe: Tensor) -> Custom:
    """Return the user's criterion on the validation rows.

    Parameters
    ----------
    function : callable (scores, y, groups) -> Tensor
        The criterion.
    groups : Groups
        Of the validation rows.
    y : Tensor of shape (n,), or None
        Labels, 1 where favourable; targets for regression.
    probe : Tensor of shape (n,)
        Scores that it is tried on.

    Returns
    -------
    Custom

    Raises
    ------
    ValueError
        If it does not return numbers that are differentiable in the scores.
    """
    made = Custom(function, y, torch.as_tensor(groups.codes), np.zeros(1), (), False)
    scores = probe.detach().double().cpu().requires_grad_()
    unlabelled = "" if y is not None else "; its y is None: pass y_val to fit if it looks at labels"
    value = _tried(made, scores, unlabelled)
    if not value.requires_grad:
        raise ValueError(
            "criterion must be differentiable in the scores: use torch functions, and neither "
            "thresholds nor .item() nor numpy"
        )
    if not bool(value.isfinite().all()):
        given = value.detach().tolist()
        raise ValueError(f"criterion gave {given} on the validation rows{unlabelled}")
    k = len(value)
    labels = groups.labels if k == len(groups.labels) else tuple(range(k))
    names = (("custom", "gap"),) if k == 1 else tuple(("custom", label) for label in labels)
    return replace(made, condition=np.zeros(k, dtype=int), names=names, reference=k == 1)


def _tried(made: Custom, scores: Tensor, unlabelled: str) -> Tensor:
    """Return what the criterion gives; where it fails for want of labels, say so."""
    with torch.enable_grad(), warnings.catch_warnings():
        # Where .item() or float() cuts the graph, the caller's error says it better than torch.
        warnings.filterwarnings("ignore", "Converting a tensor with requires_grad", UserWarning)
        try:
            return made.of(scores)
        except (TypeError, AttributeError) as error:
            if not unlabelled:
                raise
            raise ValueError(f"criterion failed ({error}){unlabelled}") from error


def cells_of(criterion: str, groups: Groups, positive: np.ndarray | None) -> Cells:
    """Return the cells that a criterion compares.

    Parameters
    ----------
    criterion : str
        A key of ``CRITERIA``.
    groups : Groups
        Of the validation rows.
    positive : numpy.ndarray of shape (n,), bool, or None
        Which rows have the favourable label; needed by criteria that look at labels.

    Returns
    -------
    Cells

    Raises
    ------
    ValueError
        If fewer than two groups have a row with the label.
    """
    columns, condition, names = [], [], []
    for number, label in enumerate(CRITERIA[criterion]):
        of_label = np.ones(len(groups.codes), dtype=bool)
        if label != "any" and positive is not None:
            of_label = positive if label == "positive" else ~positive
        empty, filled = [], 0
        for code, group in enumerate(groups.labels):
            rows = of_label & (groups.codes == code)
            if not rows.any():
                empty.append(str(group))
                continue
            filled += 1
            columns.append(rows / rows.sum())
            condition.append(number)
            names.append((label, group))
        if filled < 2:
            raise ValueError(
                f"{criterion} compares groups on rows with the {label} label, but only {filled} of "
                f"{len(groups.labels)} groups have any; use more rows, or stratify the "
                "split by label and group"
            )
        if empty:
            warnings.warn(
                f"the groups {empty} have no rows with the {label} label; {criterion} "
                "leaves them out",
                SmallGroupWarning,
                stacklevel=5,  # who called fit
            )
    return Cells(
        torch.as_tensor(np.stack(columns, axis=1)),
        np.array(condition),
        tuple(names),
        reference=criterion == "worst_group",
        part=torch.as_tensor(positive)
        if criterion == "predictive_parity" and positive is not None
        else None,
    )
