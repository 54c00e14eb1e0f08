"""Classifiers that pay for dependence between decisions and groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trustml.core.random import RandomState
from trustml.core.validation import check_choice
from trustml.fairness._criteria import CRITERIA
from trustml.fairness._fair_network import FairNetwork, LossFn, Rows, _step
from trustml.fairness._penalties import PENALTIES, QUADRATIC

_PAIRED = 512  # rows of a batch between which kernels are taken

CONSTRAINTS = ("demographic_parity", "equal_opportunity", "predictive_equality", "equalized_odds")


class RegularisedClassifier(FairNetwork):
    """A network whose objective is its mean loss plus a penalty on what it says about groups.

    The penalty is taken on all rows for ``"demographic_parity"``, on those with the favourable
    label for ``"equal_opportunity"``, the other label for ``"predictive_equality"``, and on each
    for ``"equalized_odds"``. It sees soft decisions, so the gap of the decisions only follows:
    measure it.

    Parameters
    ----------
    module : torch.nn.Module or None
        Maps rows to one margin, or to two logits of which the second is the favourable label's;
        None builds a multilayer perceptron.
    penalty : str
        ``"covariance"`` (correlation of soft decision and group), ``"hsic"`` and ``"mmd"`` (any
        dependence, by kernels between at most 512 rows of a batch), ``"ferm"`` (difference of
        the groups' mean losses towards the label).
    constraints : str
        What the penalty is conditional on, as above.
    strength : float
        Loss that is paid for a penalty of 1, about its largest value; 0 is the plain training.
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
    n_epochs_ : int
        Epochs of the penalised training, which starts at the end of a plain one.

    References
    ----------
    Zafar, Valera, Gomez Rodriguez and Gummadi (2017), Fairness constraints: mechanisms for fair
    classification, arXiv:1507.05259. Gretton et al. (2005), Measuring statistical dependence with
    Hilbert-Schmidt norms. Donini et al. (2018), Empirical risk minimization under fairness
    constraints, arXiv:1802.08626.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> s = rng.integers(0, 2, 500)
    >>> X = np.c_[rng.normal(size=500) + s, rng.normal(size=500)]
    >>> y = (X.sum(1) + rng.logistic(size=500) > 0.5).astype(int)
    >>> fair = RegularisedClassifier(hidden=(), random_state=0).fit(X, y, sensitive_features=s)
    >>> bool(abs(np.corrcoef(fair.predict_proba(X)[:, 1], s)[0, 1]) < 0.05)
    True
    """

    def __init__(
        self,
        module: nn.Module | None = None,
        penalty: str = "covariance",
        constraints: str = "demographic_parity",
        strength: float = 1.0,
        *,
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
        self.penalty = penalty
        self.constraints = constraints
        self.strength = strength

    def _check(self) -> None:
        check_choice(self.penalty, "penalty", PENALTIES)
        check_choice(self.constraints, "constraints", CONSTRAINTS)
        if not self.strength >= 0:
            raise ValueError(f"strength must be at least 0, got {self.strength}")

    def _mitigate(self, network: nn.Module, rows: Rows, n_groups: int) -> int:
        if self.strength == 0:
            return 0
        optimizer = self._optimizer(network)

        def step(batch: Rows) -> float:
            margin, losses = self._losses(network, batch)
            loss = (losses * batch.weight).mean()
            return _step(optimizer, loss + self.strength * self._penalty(margin, batch))

        return self._descend(network, rows, step, f"training with {self.penalty}", optimizer)

    def _penalty(self, margin: Tensor, batch: Rows) -> Tensor:
        """Return the penalty within each label that the criterion names, summed."""
        if self.penalty in QUADRATIC and len(margin) > _PAIRED:
            some = torch.randperm(len(margin), device=margin.device)[:_PAIRED]
            margin, batch = margin[some], batch.take(some)
        total = margin.sum() * 0.0
        for label in CRITERIA[self.constraints]:
            here = batch.y >= 0 if label == "any" else (batch.y > 0.5) == (label == "positive")
            group = batch.group[here]
            if bool((group != group[:1]).any()):
                sign = -1.0 if label == "negative" else 1.0
                measure = PENALTIES[self.penalty]
                total = total + measure(margin[here], group, batch.weight[here], sign)
        return total
