"""Variance of the outputs under a Laplace approximation of the last layer."""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from trustml.core.parameters import ParameterSpace
from trustml.core.validation import check_positive_int
from trustml.ihvp import GaussNewton, Objective, factorize
from trustml.model import Model, Observation
from trustml.ood._detector import KeepsRows
from trustml.ood._seen import UnsuitableError, as_double

_BLOCK = 2**23  # numbers of Jacobian rows in memory at once: 64 MiB in float64
_RELATIVE_DAMPING = 1e-3
_LARGEST_DIRECT = 12_000  # unknowns of a direct solve: about 1 GiB and half a minute


class LastLayerLaplace(KeepsRows):
    r"""Curvature-weighted variance of the outputs, from the last layer's Gauss-Newton.

    .. math:: s(x) = \operatorname{tr}(\Lambda(x)\, V(x)), \qquad
              V(x) = \tfrac1n\, J(x)\, (G + \lambda I)^{-1} J(x)^\top

    with the Jacobian :math:`J` of the outputs with respect to the last layer's weights and
    bias, their Gauss-Newton matrix :math:`G` on the n rows of ``fit`` (mean loss; the weight
    decay of the training included, if the model knows it), and the Hessian :math:`\Lambda` of
    the loss with respect to the outputs. It is twice the expected rise of the loss if the last
    layer is drawn from its approximate posterior; in the unit of the loss, at least 0. Without
    :math:`\Lambda`, inputs with small features would look certain. The head is its own
    objective with the features as data: the backbone runs once, for the observation.

    Parameters
    ----------
    model : Model or estimator
        A differentiable model whose last layer is linear; one output will do.
    damping : float or "auto"
        :math:`\lambda`, in units of the eigenvalues of G; "auto" takes 1e-3 of their mean.
    method : str
        How the engine factorises, as in ``trustml.ihvp.factorize``. "auto" refuses heads that
        are too large for a direct solve.
    max_rows : int
        G is a mean over at most so many rows, evenly spaced over those of ``fit``.

    References
    ----------
    MacKay (1992), The evidence framework applied to classification networks.
    Immer, Korzepa and Bauer (2021), Improving predictions of Bayesian neural nets via local
    linearization, arXiv:2008.08400.

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

    def __init__(
        self,
        model: Any,
        damping: float | str = "auto",
        method: str = "auto",
        max_rows: int = 5000,
    ) -> None:
        self.model = model
        self.damping = damping
        self.method = method
        self.max_rows = max_rows

    def _fit(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        damping = self._checked_damping()
        rows = self._rows_used(len(observation))
        features = as_double(observation.features)[rows]
        targets = _targets(model, observation, labels)[rows]
        head = _head(model)
        self._check_size(sum(p.numel() for p in head.parameters()), len(rows) * head.out_features)
        objective = Objective(
            head, model.loss_fn, (features, targets), weight_decay=_head_weight_decay(model)
        )
        operator = GaussNewton(objective)
        if damping is None:
            damping = _RELATIVE_DAMPING * float(operator.diagonal().mean())
        self.damping_ = damping
        self.inverse_ = factorize(operator + self.damping_, method=self.method)
        self.objective_ = objective
        self.n_rows_ = len(observation)

    def _score(self, observation: Observation) -> Tensor:
        features = as_double(observation.features)
        targets = _targets(self.model_, observation)
        width = self.objective_.space.size * max(1, observation.outputs[0].numel())
        rows = max(1, _BLOCK // width)
        blocks = zip(torch.split(features, rows), torch.split(targets, rows), strict=True)
        return torch.cat([self._variance(f, y) for f, y in blocks]) / self.n_rows_

    def _variance(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of b'(G + λI)⁻¹b over the rows b of S'J, where SS' = Λ."""
        loss = self.objective_.loss
        rows = self.objective_.rows(
            (features, targets), lambda f, _, y: loss.hessian_factor(f, cast("Tensor", y)).mT
        )
        terms = self.inverse_.quadratic_form(rows.flatten(0, 1).T)
        return terms.reshape(rows.shape[:2]).sum(dim=1).clamp_min(0)

    def _rows_used(self, n: int) -> Tensor:
        """Return the positions of the rows that G is a mean over."""
        used = min(n, check_positive_int(self.max_rows, "max_rows"))
        return torch.linspace(0, n - 1, used, dtype=torch.float64).round().long()

    def _check_size(self, n_parameters: int, n_factors: int) -> None:
        if self.method == "auto" and min(n_parameters, n_factors) > _LARGEST_DIRECT:
            raise UnsuitableError(
                f"a last layer of {n_parameters} parameters is too large for an exact Laplace "
                "approximation; use Mahalanobis or RelativeMahalanobis, or insist with method='cg'"
            )

    def _checked_damping(self) -> float | None:
        """Return the damping as a number; None is "auto"."""
        if self.damping == "auto":
            return None
        damping = float(self.damping)
        if not 0 <= damping < math.inf:
            raise ValueError(
                f"damping must be 'auto' or a number of at least 0, got {self.damping!r}"
            )
        return damping


def _head(model: Model) -> nn.Linear:
    """Return a float64 copy of the last layer as a module of its own."""
    layer = _layer(model)
    # Made without memory first: the usual constructor would draw from the global generator.
    head = nn.Linear(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        device="meta",
        dtype=torch.float64,
    ).to_empty(device=layer.weight.device)
    head.load_state_dict(
        {
            name: p.detach()
            for name, p in (("weight", layer.weight), ("bias", layer.bias))
            if p is not None
        }
    )
    return head.eval()


def _layer(model: Model) -> nn.Linear:
    return cast("nn.Linear", model.module.get_submodule(str(model.head_name)))


def _head_weight_decay(model: Model) -> dict[str, float]:
    """Return the L2 term of the last layer's weight and bias, where the model knows it."""
    try:
        weight_decay = model.weight_decay
    except (TypeError, ValueError):
        # Without the training rows, or a mean loss plus an L2 term, the damping stands alone.
        return {}
    layer = _layer(model)
    space = ParameterSpace(model.module, "last_layer", head=model.head_name)
    decays = space.unflatten(space.expand(weight_decay))
    named = dict(model.module.named_parameters())
    # A reparametrised weight (weight norm) is no parameter of the module: its L2 term is unknown.
    return {
        key: float(decay.flatten()[0])
        for key, parameter in (("weight", layer.weight), ("bias", layer.bias))
        for name, decay in decays.items()
        if named[name] is parameter
    }


def _targets(model: Model, observation: Observation, labels: Tensor | None = None) -> Tensor:
    """Return targets for the loss: the labels, else the model's own predictions."""
    if model.task == "classification":
        return as_double(observation.logits).argmax(dim=1) if labels is None else labels
    if model.task == "multilabel":
        return (as_double(observation.probabilities) > 0.5).double()
    return observation.outputs.double()
