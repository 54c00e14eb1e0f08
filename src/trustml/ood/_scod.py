"""SCOD: sketching curvature for out-of-distribution detection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from trustml.ood._gradients import GradientDetector
from trustml.ood._jacobian import Answer


class Scod(GradientDetector):
    r"""Change of the output distribution along directions that the training rows do not fix.

    .. math:: s(x) = \|L\|_F^2 - \sum_k \frac{g_k}{g_k + \lambda} \|u_k^\top L\|^2,
              \qquad L = J(x)^\top S(x), \quad S S^\top = \Lambda(x)

    with the leading eigenpairs :math:`(g_k, u_k)` of the Fisher matrix F of the rows of
    ``fit``. It is :math:`\lambda \operatorname{tr}(L^\top (F + \lambda I)^{-1} L)` with F
    truncated: `FullLaplace` at the damping of the reference implementation, in another unit.

    Parameters
    ----------
    model : Model or estimator
        A differentiable model.
    damping : float or "auto"
        :math:`\lambda`, the paper's :math:`1/(2 M \epsilon^2)`: 1e-4 is its code's. "auto":
        under which held-out rows of ``fit`` have the likeliest gradients.
    rank : int
        At most so many eigenpairs.
    max_rows : int
        F is a mean over at most so many rows, evenly spaced over those of ``fit``.
    parameters : str, sequence of str or None
        Which parameters, as for ``ihvp.Objective``; None: all that require gradients.

    References
    ----------
    Sharma, Azizan and Pavone (2021), Sketching curvature for efficient out-of-distribution
    detection for deep neural networks, arXiv:2102.12567.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Scod(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> bool((det.score(X) >= 0).all())
    True
    """

    def __init__(
        self,
        model: Any,
        damping: float | str = 1e-4,
        rank: int = 100,
        max_rows: int = 400,
        parameters: str | Sequence[str] | None = None,
    ) -> None:
        self.model = model
        self.damping = damping
        self.rank = rank
        self.max_rows = max_rows
        self.parameters = parameters

    def _read(self, answer: Answer) -> Tensor:
        values = self.spectrum_.values
        # Split as below, nothing cancels inside the span of the eigenvectors.
        inside = answer.along @ (self.damping_ / (values + self.damping_))
        if self.spectrum_.complete:
            return inside
        return inside + (answer.total - answer.along.sum(dim=1)).clamp_min(0)
