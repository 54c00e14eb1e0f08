"""Variance of the outputs under a Laplace approximation of the last layer."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.core.validation import check_choice
from trustml.ihvp.auto import memory_budget
from trustml.model import Model, Observation
from trustml.ood._detector import Detector
from trustml.ood._even_rows import EvenRows
from trustml.ood._heldout_damping import checked_damping, holdout
from trustml.ood._last_layer import FullPosterior, KroneckerPosterior, LastLayer, Posterior
from trustml.ood._seen import as_double

_BLOCK = 2**22  # numbers of the outputs' covariances in memory at once: 32 MiB
_LARGEST_FULL = 3000  # parameters: half a minute of one core
_COPIES = 6  # of the full matrix, while it is inverted


class LastLayerLaplace(Detector):
    r"""Curvature-weighted variance of the outputs, from the last layer's Gauss-Newton.

    .. math:: s(x) = \operatorname{tr}(\Lambda(x)\, V(x)), \qquad
              V(x) = \tfrac1n\, J(x)\, (G + \lambda I)^{-1} J(x)^\top

    with the Jacobian :math:`J` of the outputs with respect to the last layer's weights and
    bias, their Gauss-Newton matrix :math:`G` on the n rows of ``fit`` (mean loss; the weight
    decay of the training included, if the model knows it), and the Hessian :math:`\Lambda` of
    the loss with respect to the outputs. It is twice the expected rise of the loss if the last
    layer is drawn from its approximate posterior; in the unit of the loss, at least 0. Without
    :math:`\Lambda`, inputs with small features would look certain. The backbone runs once, for
    the observation; :math:`J = I \otimes \phi^\top` is never formed.

    Parameters
    ----------
    model : Model or estimator
        A differentiable model whose last layer is linear; one output will do.
    damping : float or "auto"
        :math:`\lambda`, in units of the eigenvalues of G; 0 takes the pseudo-inverse. "auto"
        takes the one under which the gradients of held-out rows of ``fit`` are likeliest: no
        out-of-distribution row is needed.
    structure : "auto", "full" or "kronecker"
        "full": G as it is. "kronecker": G's diagonal in the Kronecker product of the eigenbases
        of its partial traces :math:`\sum_i |\phi_i|^2 \Lambda_i` and
        :math:`\sum_i \operatorname{tr}(\Lambda_i) \phi_i \phi_i^\top`, in closed form: an
        approximation that keeps G's trace, exact with one output and for squared error (at a
        given damping), with memory in the squares of features and outputs instead of their
        product's: 200 MB for 1000 classes and 2048 features. A weight decay that the bias does
        not have is averaged in that basis. "auto" takes "full" up to 3000 parameters, if a
        quarter of the machine's memory holds it.
    max_rows : int
        G is a mean over at most so many rows, evenly spaced over those of ``fit``.

    Attributes
    ----------
    damping_ : float
        :math:`\lambda`.
    structure_ : str
        "full" or "kronecker".

    References
    ----------
    MacKay (1992), The evidence framework applied to classification networks. Immer, Korzepa and
    Bauer (2021), Improving predictions of Bayesian neural nets via local linearization,
    arXiv:2008.08400. George et al. (2018), Fast approximate natural gradient descent in a
    Kronecker-factored eigenbasis, arXiv:1806.03884.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = LastLayerLaplace(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> bool((det.score(X) >= 0).all())
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "head"})

    rows_: EvenRows
    posterior_: Posterior

    def __init__(
        self,
        model: Any,
        damping: float | str = "auto",
        structure: str = "auto",
        max_rows: int = 3000,
    ) -> None:
        self.model = model
        self.damping = damping
        self.structure = structure
        self.max_rows = max_rows

    def _update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        checked_damping(self.damping)
        check_choice(self.structure, "structure", ("auto", "full", "kronecker"))
        if not hasattr(self, "rows_"):
            self.rows_ = EvenRows(self.max_rows)
        if observation.features is not None:
            self.rows_.add(observation.features, targets_of(model, observation, labels))

    def _finish(self, model: Model) -> None:
        batch = self.rows_.batch()
        features, targets = batch.inputs, batch.targets
        if not isinstance(features, Tensor) or targets is None:
            raise TypeError("features are one tensor")
        layer = LastLayer.of(model)
        damping = checked_damping(self.damping)
        held = torch.zeros(len(batch), dtype=torch.bool)
        if damping is None:
            held = holdout(features.sum(dim=1))
        self.structure_ = self._structure(layer)
        kind = FullPosterior if self.structure_ == "full" else KroneckerPosterior
        self.posterior_ = kind(layer, features, targets, held, damping)
        self.damping_ = self.posterior_.damping

    def _structure(self, layer: LastLayer) -> str:
        if self.structure != "auto":
            return self.structure
        p = math.prod(layer.shape)
        fits = 8 * _COPIES * p * p <= memory_budget()
        return "full" if p <= _LARGEST_FULL and fits else "kronecker"

    def _score(self, observation: Observation) -> Tensor:
        features = as_double(observation.features)
        targets = targets_of(self.model_, observation)
        rows = max(1, _BLOCK // self.posterior_.numbers)
        blocks = zip(torch.split(features, rows), torch.split(targets, rows), strict=True)
        return torch.cat([self.posterior_.variance(f, y) for f, y in blocks]) / self.rows_.n


def targets_of(model: Model, observation: Observation, labels: Tensor | None = None) -> Tensor:
    """Return targets for the loss: the labels, else the model's own predictions."""
    if model.task == "classification":
        return as_double(observation.logits).argmax(dim=1) if labels is None else labels
    if model.task == "multilabel":
        return (as_double(observation.probabilities) > 0.5).double()
    return observation.outputs.double()
