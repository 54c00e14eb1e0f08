"""Individual fairness: how fast predictions change between similar rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustml.core.alignment import check_aligned
from trustml.core.validation import as_tensor, check_finite, check_positive_int, check_same_length
from trustml.fairness._measure import FairnessMeasure
from trustml.model import as_model

_BLOCK = 2**21  # pairs held at a time
_NOISE = 1e-6  # of the predictions' range: differences below are rounding, also at distance 0
_INFINITE = 1e200


def lipschitz_audit(model: Any, X: Any, *, features: Any = None, top: int = 10) -> FairnessMeasure:
    r"""Return the largest change of prediction per distance between two rows, and which they are.

    .. math:: \max_{i \ne j} \frac{D(f(x_i), f(x_j))}{d(x_i, x_j)}

    with D the total variation of the predicted probabilities (for two classes \|Δp\|), or the
    absolute difference of predicted numbers. A model that treats similar people similarly has a
    small one. All pairs of the given rows are looked at: the true constant may be larger.

    Parameters
    ----------
    model : Model, or anything ``wrap`` takes
        A classifier with probabilities, or a regressor.
    X : rows
        As the model takes them; all n (n - 1) / 2 pairs are compared.
    features : numbers of shape (n, d), optional
        Where similarity is measured, as Euclidean distance: what should matter for the decision, on
        scales of your choice, without the sensitive columns. None: the columns of X, each divided
        by its standard deviation.
    top : int
        Pairs in the table.

    Returns
    -------
    FairnessMeasure
        ``value`` in units of prediction per unit of distance: infinite if rows without any
        difference are predicted differently. ``rows`` are the two; the table has the worst pairs.

    Raises
    ------
    ValueError
        If there are fewer than two rows, or no features.

    References
    ----------
    Dwork et al. (2012), Fairness through awareness, arXiv:1104.3913, definition 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LinearRegression
    >>> X = np.array([[0.0], [1.0], [3.0]])
    >>> found = lipschitz_audit(LinearRegression().fit(X, [0, 2, 6]), X, features=X)
    >>> round(found.value, 6)
    2.0
    """
    check_aligned(X=X, features=features)
    model, top = as_model(model), check_positive_int(top, "top")
    predicted = model.predict(X) if model.task == "regression" else model.predict_proba(X)
    outputs = as_tensor(predicted, dtype=torch.float64).detach()
    outputs = outputs.reshape(len(outputs), -1)
    where = _standardised(X) if features is None else as_tensor(features, dtype=torch.float64)
    where = where.detach().reshape(len(where), -1).to(outputs.device)
    check_finite(where, "features")
    n = check_same_length(X=outputs, features=where)
    if n < 2 or where.shape[1] == 0:
        raise ValueError(f"a pair needs two rows and a varying feature, got {tuple(where.shape)}")
    half = 0.5 if model.task == "classification" else 1.0
    noise = _NOISE * float((outputs.amax(0) - outputs.amin(0)).sum()) * half
    found = _fastest(outputs, where, half, noise, top)
    first, second, changes, distances = found
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(changes > noise, changes / distances, 0.0)
    i, j = int(first[0]), int(second[0])
    words = f"rows {i} and {j}: predictions {changes[0]:.3g} apart at distance {distances[0]:.3g}"
    table = {
        "rows": np.array([f"{a}, {b}" for a, b in zip(first, second, strict=True)], dtype=object),
        "change per distance": ratios,
        "change": changes,
        "distance": distances,
    }
    return FairnessMeasure(
        "Lipschitz constant", float(ratios[0]), words, table, np.array([i, j], dtype=np.int64)
    )


def _standardised(X: Any) -> Tensor:
    x = as_tensor(X, dtype=torch.float64, name="features (by default X)")
    x = x.reshape(len(x), -1)
    spread = x.std(0, correction=0)
    return x[:, spread > 0] / spread[spread > 0]


def _fastest(
    outputs: Tensor, where: Tensor, half: float, noise: float, top: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """First row, second row, change and distance of the pairs with the largest ratio."""
    n = len(where)
    block = max(1, _BLOCK // n)
    kept: list[Tensor] = []
    for start in range(0, n - 1, block):
        rows = slice(start, min(start + block, n))
        # Not by products of matrices: equal rows must be at distance 0.
        apart = torch.cdist(where[rows], where, compute_mode="donot_use_mm_for_euclid_dist")
        change = torch.cdist(outputs[rows], outputs, p=1) * half
        order = torch.where(apart > 0, change / apart.clamp_min(1 / _INFINITE), change * _INFINITE)
        order = torch.where(change > noise, order, 0.0)
        later = torch.arange(n, device=where.device) > torch.arange(
            rows.start, rows.stop, device=where.device
        ).reshape(-1, 1)
        order = torch.where(later, order, -1.0).flatten()
        best = order.topk(min(top, int(later.sum())))
        i, j = best.indices // n, best.indices % n
        kept.append(torch.stack([best.values, i + start, j, change[i, j], apart[i, j]], dim=1))
    pairs = torch.cat(kept)
    pairs = pairs[pairs[:, 0].sort(descending=True, stable=True).indices[:top]].cpu()
    columns = pairs.numpy().T
    return columns[1].astype(np.int64), columns[2].astype(np.int64), columns[3], columns[4]
