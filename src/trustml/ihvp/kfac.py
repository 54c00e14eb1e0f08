"""K-FAC: each layer's block a Kronecker product of two second moments."""

from __future__ import annotations

import os

from trustml.core.random import RandomState
from trustml.ihvp._fisher_roots import FisherKind
from trustml.ihvp._kronecker import KroneckerOperator
from trustml.ihvp._kronecker_factors import Shared
from trustml.ihvp.objective import Objective


class Kfac(KroneckerOperator):
    """F ≈ ⊕ (1/n) Σ_i S_i'S_i ⊗ mean(a_i a_i') + diag(wd): a product for each layer.

    a_i are a layer's inputs, a 1 appended where it has a bias, and S_i the gradients of its
    outputs along the directions of the Fisher matrix. It equals Gauss-Newton's block where both
    are independent over the rows, as for a deep linear network; ``Ekfac`` is closer to it at about
    twice the cost. Everything between layers is left out. Parameters without this structure
    (embeddings, norms, lone biases) have their exact diagonal and are in ``uncovered``.

    Parameters
    ----------
    objective : Objective
        At the parameters where the matrix is wanted.
    fisher : {"auto", "exact", "monte-carlo", "empirical"}
        "exact": all directions of the output Hessian, one backward pass each. "monte-carlo": random
        combinations of them, without bias. "empirical": the gradient of each row's loss. "auto":
        exact up to 64 directions a row.
    shared : {"expand", "reduce"}
        Of a weight used at several positions: every position counts as a row, or inputs are
        averaged and gradients summed over the positions first.
    samples : int
        Draws a row for "monte-carlo".
    random_state : int, generator or None
        Of the draws; a row's do not depend on its batch.
    store : path or None
        A folder for the factors: there they are read instead of computed, if they are of this
        objective and these settings.

    Attributes
    ----------
    uncovered : tuple of str
        Parameters that have a diagonal block.
    fisher : str
        Which directions were used.

    References
    ----------
    Martens and Grosse (2015), Optimizing neural networks with Kronecker-factored approximate
    curvature, arXiv:1503.05671. Eschenhagen et al. (2023), Kronecker-factored approximate
    curvature for modern neural network architectures, arXiv:2311.00636.

    Examples
    --------
    >>> import torch
    >>> from trustml.ihvp import GaussNewton, Objective
    >>> module = torch.nn.Linear(2, 1, bias=False)
    >>> J = Objective(module, torch.nn.MSELoss(), (torch.eye(2), torch.ones(2, 1)))
    >>> torch.allclose(Kfac(J).dense(), GaussNewton(J).dense())
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
        super().__init__(objective, fisher, shared, samples, random_state, store, corrected=False)
