"""Local ensembles: what directions of little curvature do to the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trustml.core.validation import check_choice
from trustml.ihvp import Hessian, Objective, top_eigenpairs
from trustml.ood._gradients import GradientDetector
from trustml.ood._jacobian import Answer


class LocalEnsemble(GradientDetector):
    r"""Gradient of the outputs outside the leading eigenvectors of the training curvature.

    .. math:: s(x) = \|(I - U_k U_k^\top) J(x)^\top S(x)\|_F, \qquad S S^\top = \Lambda(x)

    Parameters that move along the other directions leave the training loss as it is: the score
    is how much a local ensemble of them disagrees. The paper's score has :math:`S = I`; rows
    with small features look certain to it.

    Parameters
    ----------
    model : Model or estimator
        A differentiable model.
    rank : int
        k; at most half the number of parameters.
    curvature : "gauss_newton" or "hessian"
        Whose eigenvectors: they agree where the model fits its training rows. The paper's is
        "hessian", at the price of some k passes over the rows.
    raw : bool
        Whether :math:`S = I`, as in the paper.
    max_rows : int
        The curvature is a mean over at most so many rows, evenly spaced over those of ``fit``.
    parameters : str, sequence of str or None
        Which parameters, as for ``ihvp.Objective``; None: all that require gradients.

    References
    ----------
    Madras, Atwood and D'Amour (2020), Detecting extrapolation with local ensembles,
    arXiv:1910.09573.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = LocalEnsemble(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> bool((det.score(X) >= 0).all())
    True
    """

    def __init__(
        self,
        model: Any,
        rank: int = 100,
        curvature: str = "gauss_newton",
        raw: bool = False,
        max_rows: int = 400,
        parameters: str | Sequence[str] | None = None,
    ) -> None:
        self.model = model
        self.rank = rank
        self.curvature = curvature
        self.raw = raw
        self.max_rows = max_rows
        self.parameters = parameters

    def _vectors(self, objective: Objective) -> Tensor:
        check_choice(self.curvature, "curvature", ("gauss_newton", "hessian"))
        k = max(1, min(self.rank, objective.space.size // 2))
        if self.curvature == "gauss_newton":
            return self.spectrum_.vectors[:, :k] if k < self.rank else self.spectrum_.vectors
        return top_eigenpairs(Hessian(objective), k)[1].to(objective.gradients.dtype)

    def _read(self, answer: Answer) -> Tensor:
        return torch.sqrt((answer.total - answer.along.sum(dim=1)).clamp_min(0))
