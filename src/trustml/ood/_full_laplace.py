"""Variance of the outputs under a Laplace approximation of all parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trustml.ood._gradients import GradientDetector
from trustml.ood._jacobian import Answer
from trustml.ood._spectrum import Spectrum


class FullLaplace(GradientDetector):
    r"""Curvature-weighted variance of the outputs under the linearised Laplace approximation.

    .. math:: s(x) = \tfrac1n \operatorname{tr}\bigl(\Lambda(x)\,
              J(x)\, (G + \lambda I)^{-1} J(x)^\top\bigr)

    as `LastLayerLaplace`, with the Jacobian J with respect to all parameters. The inverse is
    that of the leading eigenpairs of G with their complement, :math:`1/\lambda`; exact where
    ``rank`` reaches the number of parameters, or all eigenvalues that are not zero.

    Parameters
    ----------
    model : Model or estimator
        A differentiable model.
    damping : float or "auto"
        :math:`\lambda`, in units of the eigenvalues of G, beside the mean weight decay, if the
        model knows it; with neither, the pseudo-inverse. "auto": under which held-out rows of
        ``fit`` have the likeliest gradients; the others give G then.
    rank : int
        At most so many eigenpairs.
    max_rows : int
        G is a mean over at most so many rows, evenly spaced over those of ``fit``.
    parameters : str, sequence of str or None
        Which parameters, as for ``ihvp.Objective``; None: all that require gradients.

    References
    ----------
    Immer, Korzepa and Bauer (2021), Improving predictions of Bayesian neural nets via local
    linearization, arXiv:2008.08400.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = FullLaplace(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> bool((det.score(X) > 0).all())
    True
    """

    def __init__(
        self,
        model: Any,
        damping: float | str = "auto",
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
        return inverse_form(answer, self.spectrum_, self.damping_) / self.n_rows_


def inverse_form(answer: Answer, spectrum: Spectrum, damping: float) -> Tensor:
    """Return Σ_r g_r' (G + wd + λ)⁻¹ g_r of the gradients g_r of each row, (n,)."""
    prior = damping + spectrum.decay
    total = spectrum.values + prior
    found = answer.along @ torch.where(total > 0, 1 / total, 0.0)
    if spectrum.complete or prior == 0:
        return found
    return found + (answer.total - answer.along.sum(dim=1)).clamp_min(0) / prior
