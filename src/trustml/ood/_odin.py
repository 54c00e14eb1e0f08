"""ODIN: temperature and input perturbation."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.core.modes import refuse_inference_mode
from trustml.model import Model, Observation
from trustml.ood._detector import Detector
from trustml.ood._log_probabilities import log_complements
from trustml.ood._seen import UnsuitableError


class Odin(Detector):
    r"""One minus the largest tempered probability, after a step of the input towards it.

    .. math:: s(x) = 1 - \max_c p_c(x'; T), \qquad
              x' = x + \varepsilon \operatorname{sign} \nabla_x \log \max_c p_c(x; T)

    with :math:`p(x; T)` the softmax of the logits divided by T. No unit, in [0, 1). As in the
    paper the step may leave the range of valid inputs. Scoring costs two more forward passes
    and one backward pass to the inputs. Nothing is learnt.

    Parameters
    ----------
    model : Model or estimator
        A differentiable classifier of real numbers.
    temperature : float
        T > 0.
    eps : float
        :math:`\varepsilon`, at least 0, in the unit of what the module takes; the paper's choice
        by default.

    References
    ----------
    Liang, Li and Srikant (2018), Enhancing the reliability of out-of-distribution image
    detection in neural networks, arXiv:1706.02690.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Odin(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> det.score(X[:2]).shape
    (2,)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "inputs"})

    def __init__(self, model: Any, temperature: float = 1000.0, eps: float = 0.0014) -> None:
        self.model = model
        self.temperature = temperature
        self.eps = eps

    def _finish(self, model: Model) -> None:
        self.temperature_, self.eps_ = float(self.temperature), float(self.eps)
        if not 0 < self.temperature_ < math.inf:
            raise ValueError(f"temperature must be a positive number, got {self.temperature!r}")
        if not 0 <= self.eps_ < math.inf:
            raise ValueError(f"eps must be a number of at least 0, got {self.eps!r}")

    def _score(self, observation: Observation) -> Tensor:
        refuse_inference_mode("Odin")
        inputs = observation.inputs
        if not isinstance(inputs, Tensor):
            raise UnsuitableError(
                "Odin moves the inputs, and this observation does not hold them; use score(X), or "
                "the batches of model.observations(X)"
            )
        with torch.enable_grad():
            x = inputs.detach().requires_grad_()  # the clone: layers may work in place
            (slope,) = torch.autograd.grad(self._log_complement(x.clone()).sum(), x)
        return self._log_complement(x.detach() - self.eps_ * slope.sign()).exp().detach()

    def _log_complement(self, inputs: Tensor) -> Tensor:
        """Return log(1 - max p): it falls where the largest probability rises."""
        logits = self.model_.logits_of(self.model_.outputs(inputs)).double() / self.temperature_
        return log_complements(logits.log_softmax(dim=1)).min(dim=1).values
