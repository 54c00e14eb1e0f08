"""Classifiers from whose margins an adversary cannot tell the group."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trustml.core.random import RandomState
from trustml.core.validation import check_choice, check_positive_int
from trustml.fairness._fair_network import FairNetwork, LossFn, Rows

CONSTRAINTS = ("demographic_parity", "equalized_odds")


class Adversary(nn.Module):
    r"""Tells the group from :math:`s = \sigma((1 + |c|) f)`, and under equalized odds the label."""

    def __init__(self, n_groups: int, sees_label: bool, like: Tensor) -> None:
        super().__init__()
        self.sees_label = sees_label
        self.sharpness = nn.Parameter(like.new_zeros(()))
        self.linear = nn.Linear(4 if sees_label else 1, n_groups).to(like)

    def forward(self, margin: Tensor, y: Tensor) -> Tensor:
        """Return logits of the groups, shape (n, k)."""
        s = torch.sigmoid((1 + self.sharpness.abs()) * margin)
        # The label alone may tell the group; what counts is what the decision adds to it.
        seen = [s, s * y, s * (1 - y), y] if self.sees_label else [s]
        logits: Tensor = self.linear(torch.stack(seen, dim=1))
        return logits


class AdversarialDebiasing(FairNetwork):
    r"""A network trained against an adversary who guesses the group from its decisions.

    With :math:`g` the gradient of the classifier's loss and :math:`h` that of the adversary's loss
    in the classifier's parameters, all of them together, a step goes along

    .. math:: g - \operatorname{proj}_h g - \alpha h,

    so that no part of it helps the adversary. It starts at the end of a plain training.

    Parameters
    ----------
    module : torch.nn.Module or None
        Maps rows to one margin, or to two logits of which the second is the favourable label's;
        None builds a multilayer perceptron.
    constraints : str
        ``"demographic_parity"``: the adversary sees decisions; ``"equalized_odds"``: labels too.
    adversary_weight : float
        :math:`\alpha`; 0 only takes out what helps the adversary.
    adversary_steps : int
        Steps of the adversary for each of the classifier.
    loss_fn, hidden, learning_rate, weight_decay, max_epochs, batch_size, tol
        As of ``GroupDRO``.
    pos_label : object or None
        The favourable label; None takes the second of the sorted labels.
    random_state : int, numpy.random.Generator, torch.Generator or None
        Seed of weights and batches.

    Attributes
    ----------
    network_ : torch.nn.Module
        The trained network.
    adversary_ : torch.nn.Module
        Its opponent: (margins, y) -> logits of the groups.
    n_epochs_ : int
        Epochs against the adversary.

    References
    ----------
    Zhang, Lemoine and Mitchell (2018), Mitigating unwanted biases with adversarial learning,
    arXiv:1801.07593, equation 1.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> s = rng.integers(0, 2, 500)
    >>> X = np.c_[rng.normal(size=500) + s, rng.normal(size=500)]
    >>> y = (X.sum(1) + rng.logistic(size=500) > 0.5).astype(int)
    >>> fair = AdversarialDebiasing(hidden=(), random_state=0).fit(X, y, sensitive_features=s)
    >>> p = fair.predict_proba(X)[:, 1]
    >>> bool(abs(p[s == 1].mean() - p[s == 0].mean()) < 0.05)
    True
    """

    def __init__(
        self,
        module: nn.Module | None = None,
        constraints: str = "demographic_parity",
        adversary_weight: float = 1.0,
        *,
        adversary_steps: int = 3,
        loss_fn: LossFn | None = None,
        hidden: tuple[int, ...] = (32,),
        learning_rate: float = 0.01,
        weight_decay: float = 1e-4,
        max_epochs: int = 200,
        batch_size: int = 1024,
        tol: float = 1e-3,
        pos_label: Any = None,
        random_state: RandomState = None,
    ) -> None:
        super().__init__(
            module,
            loss_fn=loss_fn,
            hidden=hidden,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            max_epochs=max_epochs,
            batch_size=batch_size,
            tol=tol,
            pos_label=pos_label,
            random_state=random_state,
        )
        self.constraints = constraints
        self.adversary_weight = adversary_weight
        self.adversary_steps = adversary_steps

    def _check(self) -> None:
        check_choice(self.constraints, "constraints", CONSTRAINTS)
        check_positive_int(self.adversary_steps, "adversary_steps")
        if not self.adversary_weight >= 0:
            raise ValueError(f"adversary_weight must be at least 0, got {self.adversary_weight}")

    def _mitigate(self, network: nn.Module, rows: Rows, n_groups: int) -> int:
        adversary = Adversary(n_groups, self.constraints == "equalized_odds", rows.y)
        own = self._optimizer(network)
        other = torch.optim.Adam(adversary.parameters(), 10 * self.learning_rate)
        parameters = [p for p in network.parameters() if p.requires_grad]

        def step(batch: Rows) -> float:
            margin, losses = self._losses(network, batch)
            for _ in range(self.adversary_steps):
                other.zero_grad()
                torch.autograd.backward(self._guess(adversary, margin.detach(), batch))
                other.step()
            loss = (losses * batch.weight).mean()
            guess = self._guess(adversary, margin, batch)
            g, h = (
                torch.autograd.grad(
                    value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                for value in (loss, guess)
            )
            moves = against(list(g), list(h), self.adversary_weight)
            for parameter, move in zip(parameters, moves, strict=True):
                parameter.grad = move
            own.step()
            return loss.item()

        epochs = self._descend(network, rows, step, "training against the adversary", own, other)
        self.adversary_ = adversary
        return epochs

    @staticmethod
    def _guess(adversary: Adversary, margin: Tensor, batch: Rows) -> Tensor:
        losses = cross_entropy(adversary(margin, batch.y), batch.group, reduction="none")
        return (losses * batch.weight).mean()


def against(g: list[Tensor], h: list[Tensor], weight: float) -> list[Tensor]:
    """Return ``g - proj_h(g) - weight * h``, with the projection over all tensors together."""
    along = torch.stack([(a * b).sum() for a, b in zip(g, h, strict=True)]).sum()
    square = torch.stack([b.square().sum() for b in h]).sum()
    ratio = along / square.clamp_min(torch.finfo(square.dtype).tiny)
    return [a - (ratio + weight) * b for a, b in zip(g, h, strict=True)]
