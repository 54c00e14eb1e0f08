"""Classifiers that are trained for the group they serve worst."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from trustml.core.random import RandomState
from trustml.fairness._fair_network import FairNetwork, LossFn, Rows, _step

_MEMORY = 0.8  # of the running means of the groups' losses


class GroupDRO(FairNetwork):
    r"""A network trained for the largest of the groups' mean losses.

    Each step descends on :math:`\sum_g q_g \ell_g` with weights
    :math:`q_g \propto e^{\tau \bar\ell_g}` of the groups, :math:`\bar\ell_g` a running mean of the
    group's loss. Sagawa et al. multiply the weights up over all steps instead, which swings between
    groups for long; these settle within :math:`\log(k) / \tau` of the smallest worst loss of k
    groups. The worst group's loss falls, often at the cost of the mean; gaps of rates follow where
    a group is badly served because it is small or rare.

    A plain training comes first: Adam over batches until the loss has not fallen by ``tol`` of
    itself for 30 epochs, or for ``max_epochs``. The training for the worst group runs
    ``max_epochs``, over which the learning rate falls to zero.

    Parameters
    ----------
    module : torch.nn.Module or None
        Maps rows to one margin, or to two logits of which the second is the favourable label's;
        copied, and trained on its device in its precision. None builds a multilayer perceptron
        on standardised columns, in float64.
    sharpness : float
        :math:`\tau`, per unit of loss; 0 weighs the groups evenly.
    by_label : bool
        Whether the groups are pairs of group and label.
    loss_fn : torch loss module, callable or None
        (outputs, y) -> (n,) losses, y 1 where the label is favourable; the reduction of a torch
        loss is set aside. None is cross-entropy.
    hidden : tuple of int
        Widths of the hidden layers of the perceptron; () is a linear model.
    learning_rate, weight_decay : float
        Of Adam; with many parameters the worst group generalises only under strong decay.
    max_epochs, batch_size : int
        Of each training; rows of a step.
    tol : float
        Relative progress that counts in the plain training.
    pos_label : object or None
        The favourable label; None takes the second of the sorted labels.
    random_state : int, numpy.random.Generator, torch.Generator or None
        Seed of weights, batches and what the module draws; the global generators stay put.

    Attributes
    ----------
    network_ : torch.nn.Module
        The trained network.
    group_weights_ : numpy.ndarray of shape (k,)
        The last weights of the groups; with labels, of (group, other label), (group, favourable
        label) in turn.
    n_epochs_ : int
        Epochs of the training for the worst group.

    References
    ----------
    Sagawa, Koh, Hashimoto and Liang (2020), Distributionally robust neural networks for group
    shifts, arXiv:1911.08731.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> s = (rng.random(600) < 0.1).astype(int)  # a small group, whose slope has the other sign
    >>> X = np.c_[rng.normal(size=600), s]
    >>> y = (np.where(s, -1, 1) * X[:, 0] + 0.3 * rng.normal(size=600) > 0).astype(int)
    >>> fair = GroupDRO(hidden=(8,), random_state=0).fit(X, y, sensitive_features=s)
    >>> bool((fair.predict(X) == y)[s == 1].mean() > 0.8)
    True
    """

    def __init__(
        self,
        module: nn.Module | None = None,
        sharpness: float = 30.0,
        *,
        by_label: bool = True,
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
        self.sharpness = sharpness
        self.by_label = by_label

    def _check(self) -> None:
        if not self.sharpness >= 0:
            raise ValueError(f"sharpness must be at least 0, got {self.sharpness}")

    def _mitigate(self, network: nn.Module, rows: Rows, n_groups: int) -> int:
        k = 2 * n_groups if self.by_label else n_groups
        counts = torch.bincount(self._cell(rows), minlength=k)
        absent = torch.where(counts > 0, 0.0, -torch.inf).to(rows.y)
        level, q = torch.zeros_like(absent), torch.softmax(absent, 0)
        seen = torch.zeros_like(absent, dtype=torch.bool)
        optimizer = self._optimizer(network)

        def step(batch: Rows) -> float:
            nonlocal level, q, seen
            _, losses = self._losses(network, batch)
            cell = self._cell(batch)
            sums = losses.new_zeros(k).index_add(0, cell, losses * batch.weight)
            totals = losses.new_zeros(k).index_add(0, cell, batch.weight)
            means, here = sums / totals.clamp_min(1e-12), totals > 0
            now = means.detach()
            moved = torch.where(seen, _MEMORY * level + (1 - _MEMORY) * now, now)
            level, seen = torch.where(here, moved, level), seen | here
            q = torch.softmax(absent + self.sharpness * level, 0)
            _step(optimizer, q @ means)
            return means.max().item()

        epochs = self._descend(network, rows, step, "training for the worst group", optimizer)
        self.group_weights_ = q.double().cpu().numpy()
        return epochs

    def _cell(self, rows: Rows) -> torch.Tensor:
        return 2 * rows.group + (rows.y > 0.5) if self.by_label else rows.group
