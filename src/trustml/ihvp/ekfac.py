"""EK-FAC: the eigenbasis of K-FAC with the eigenvalues that fit best in it."""

from __future__ import annotations

import os

from trustml.core.random import RandomState
from trustml.ihvp._fisher_roots import FisherKind
from trustml.ihvp._kronecker import KroneckerOperator
from trustml.ihvp._kronecker_factors import Shared
from trustml.ihvp.objective import Objective


class Ekfac(KroneckerOperator):
    """K-FAC's eigenvectors, and as eigenvalues the Fisher matrix's own second moments along them.

    The eigenvalues are those of per-example gradients, summed over positions before they are
    squared: no other choice is closer to the Fisher matrix's block in this basis.

    Parameters
    ----------
    objective, fisher, shared, samples, random_state, store
        As for ``Kfac``; the same directions serve both steps.

    Attributes
    ----------
    uncovered : tuple of str
        Parameters that have a diagonal block.
    fisher : str
        Which directions were used.

    References
    ----------
    George et al. (2018), Fast approximate natural gradient descent in a Kronecker-factored
    eigenbasis, arXiv:1806.03884. Grosse et al. (2023), Studying large language model
    generalization with influence functions, arXiv:2308.03296.

    Examples
    --------
    >>> import torch
    >>> from trustml.ihvp import Objective, factorize
    >>> module = torch.nn.Linear(2, 1)
    >>> J = Objective(module, torch.nn.MSELoss(), (torch.eye(2), torch.ones(2, 1)))
    >>> E = Ekfac(J)
    >>> E.uncovered
    ()
    >>> round(factorize(E + 0.5, "ekfac").trace(), 4) == round(
    ...     float(torch.linalg.inv((E + 0.5).dense()).trace()), 4)
    True
    """

    def __init__(
        self,
        objective: Objective,
        fisher: FisherKind = "auto",
        shared: Shared = "expand",
        samples: int = 1,
        random_state: RandomState = 0,
        store: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(objective, fisher, shared, samples, random_state, store, corrected=True)
