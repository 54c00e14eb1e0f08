"""SLU: sketched Lanczos uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trustml.core._backends import Terms
from trustml.core._terms import Dense as DenseTerm
from trustml.core.projections import Projection, RandomProjection
from trustml.core.random import RandomState, torch_generator
from trustml.core.validation import check_positive_int
from trustml.ihvp import GaussNewton, LinearOperator, Objective
from trustml.ood._gradients import GradientDetector
from trustml.ood._jacobian import Answer, Question
from trustml.ood._spectrum import undecayed

_NULL = 1e-6  # of the largest singular value of the sketched basis
_BREAKDOWN = 1e-7  # of the largest coefficient: the Krylov space is invariant


class SketchedLanczos(GradientDetector):
    r"""Gradient of the outputs outside a sketched Krylov space of the training curvature.

    .. math:: s(x) = \|L\|_F^2 - \|Q^\top P^\top L\|_F^2, \qquad L = J(x)^\top S(x), \quad
              S S^\top = \Lambda(x)

    with a random projection P of p parameters to ``sketch`` numbers and an orthonormal basis Q of
    the sketched Lanczos vectors of the Gauss-Newton matrix. Lanczos keeps two vectors of p
    numbers and forgets the others, so that memory is O(p + k · sketch) where eigenvectors take
    O(k p); the orthogonality that it loses is made up for in the sketch. The score is an estimate
    of `LocalEnsemble`'s square, and may be a little below 0.

    Parameters
    ----------
    model : Model or estimator
        A differentiable model.
    rank : int
        k, Lanczos steps; at most half the number of parameters.
    sketch : int
        Numbers of a sketched gradient, above k.
    raw : bool
        Whether :math:`S = I`, as in the paper; rows with small features look certain then.
    max_rows : int
        The curvature is a mean over at most so many rows, evenly spaced over those of ``fit``.
    parameters : str, sequence of str or None
        Which parameters, as for ``ihvp.Objective``; None: all that require gradients.
    random_state : int, Generator or None
        Seed of the projection and of the start.

    References
    ----------
    Miani, Beretta and Hauberg (2024), Sketched Lanczos uncertainty score: a low-memory summary of
    the Fisher information, arXiv:2409.15008.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = SketchedLanczos(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> det.score(X).shape
    (150,)
    """

    basis_: Tensor

    def __init__(
        self,
        model: Any,
        rank: int = 30,
        sketch: int = 200,
        raw: bool = False,
        max_rows: int = 400,
        parameters: str | Sequence[str] | None = None,
        random_state: RandomState = 0,
    ) -> None:
        self.model = model
        self.rank = rank
        self.sketch = sketch
        self.raw = raw
        self.max_rows = max_rows
        self.parameters = parameters
        self.random_state = random_state

    def _learn(self, objective: Objective, held: Tensor) -> Question:
        size = check_positive_int(self.sketch, "sketch")
        if size <= self.rank:
            raise ValueError(f"sketch must be above rank = {self.rank}, got {size}")
        steps = max(1, min(self.rank, objective.space.size // 2))
        projection: Projection = Identity(objective.space.size)
        if size < objective.space.size:
            projection = RandomProjection(objective.space, size, random_state=self.random_state)
        # What Lanczos forgets, rounding brings back: in float64 it does so late.
        operator = GaussNewton(undecayed(objective, ~held)).double()
        generator = torch_generator(self.random_state)
        start = torch.randn(operator.size, generator=generator, dtype=torch.float64)
        kept = sketched_lanczos(operator, start.to(operator.device), steps, projection)
        left, sizes, _ = torch.linalg.svd(kept, full_matrices=False)
        self.basis_ = left[:, sizes > _NULL * sizes[0]]
        return Question(objective.gradients, objective.loss, projection, self.raw)

    def _read(self, answer: Answer) -> Tensor:
        inside = (answer.products @ self.basis_).square()
        return answer.total - inside.sum(dim=(1, 2))


class Identity(Projection):
    """All p numbers of a gradient, where a sketch would have no fewer."""

    def __init__(self, width: int) -> None:
        self.width = self.size = width

    def of(self, terms: Terms) -> Tensor:
        """Return the gradients (n, p)."""
        return torch.cat([term.rows() for _, term in terms], dim=1)


def sketched_lanczos(
    operator: LinearOperator, start: Tensor, steps: int, projection: Projection
) -> Tensor:
    """Return the sketches of Lanczos vectors, without reorthogonalisation.

    Parameters
    ----------
    operator : LinearOperator
        A symmetric matrix.
    start : Tensor of shape (p,)
        Not zero, float64.
    steps : int
        At most so many; fewer if the space is invariant.
    projection : Projection
        Of p numbers to s.

    Returns
    -------
    Tensor of shape (s, k)
        float64.
    """
    vector, before = start / start.norm(), torch.zeros_like(start)
    beta, largest = 0.0, 0.0
    found: list[Tensor] = []
    for _ in range(steps):
        columns = vector[:, None].to(operator.dtype)
        found.append(projection.of([(slice(0, len(vector)), DenseTerm(columns.T))])[0].double())
        product = operator.matmat(columns)[:, 0].double() - beta * before
        alpha = float(product @ vector)
        product = product - alpha * vector
        beta = float(product.norm())
        largest = max(largest, abs(alpha), beta)
        if beta <= _BREAKDOWN * largest:
            break
        before, vector = vector, product / beta
    return torch.stack(found, dim=1)
