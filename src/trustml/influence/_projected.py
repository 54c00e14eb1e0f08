"""Influence in a projected space: what TRAK and LoGra share."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trustml.core.batches import Batch
from trustml.core.parameters import ParameterSpace
from trustml.core.projections import Projection
from trustml.ihvp import Damping, Dense, Factorization, Facts, Objective, factorize
from trustml.influence._attributor import Attributor
from trustml.influence._checkpoints import check_checkpoints, objectives_at
from trustml.influence._queries import Queries
from trustml.influence._scores import Certificate
from trustml.warnings import ConvergenceWarning

# Of the mean eigenvalue: within 5 % of the best damping's LDS on a small network, for 128 to 2048
# dimensions and 500 rows; a hundredth lost a quarter, and none at 512 dimensions lost it all.
_FRACTION = 0.5
_FULL = 0.9  # of the number of rows: features of this rank fit them all
_NULL = 1e-10  # of the largest eigenvalue


class Projected(Attributor):
    """Scores ψ_q'(Φ'Φ/n + λI)⁻¹ φ_i Q_i, with gradients φ, ψ in a projected space.

    With several checkpoints the products and the weights Q are averaged apart, as TRAK has it.
    Subclasses say which projection, and how a row's loss gradient is Q_i φ_i.
    """

    checkpoints: Sequence[Any] | None
    damping: float | str

    def _prepare(self) -> None:
        self._states = check_checkpoints(self.checkpoints)
        self._projection = self._project(self.objective_.space)
        self._features: list[Tensor] = []
        self._inverses: list[Factorization] = []
        weights = []
        for moment in objectives_at(self.objective_, self._states):
            found = self._train_features(moment)
            features = found[:, :-1]
            weights.append(found[:, -1])
            kernel = Dense((features.T.double() @ features.double()) / len(features), is_psd=True)
            self.damping_, inverse = _damped(kernel, self.damping, len(features))
            self._features.append(features)
            self._inverses.append(inverse)
        self._weights = torch.stack(weights)

    def _raw_scores(self, queries: Queries) -> tuple[Tensor, Certificate]:
        products, solutions = [], []
        moments = objectives_at(self.objective_, self._states)
        for moment, features, inverse in zip(moments, self._features, self._inverses, strict=True):
            asked = self._query_features(moment, queries)
            solution = inverse.solve(asked.T.double())
            products.append(solution.x.T.to(features) @ features.T)
            solutions.append(solution)
        values = torch.stack(products).mean(0) * self._weights.mean(0)
        return values, Certificate.of(solutions, self.damping_)

    def _raw_self(self) -> Tensor:
        pairs = zip(self._features, self._inverses, strict=True)
        own = torch.stack([i.quadratic_form(f.T.double()).to(f) for f, i in pairs])
        return (own * self._weights).mean(0) * self._weights.mean(0)

    def _train_features(self, moment: Objective) -> Tensor:
        """Return φ and Q of the training rows side by side, (n, k + 1)."""

        def part(batch: Batch) -> Tensor:
            weights: list[Tensor] = []

            def cotangents(outputs: Tensor) -> Tensor:
                direction, weight = self._output(moment, outputs, moment.targets(batch))
                weights.append(weight)
                return direction

            gradients = moment.gradients
            found = gradients.project(batch.inputs, cotangents, self._projection)[1]
            return torch.cat([found, weights[-1][:, None].to(found)], dim=1)

        return moment.collect(part)

    def _query_features(self, moment: Objective, queries: Queries) -> Tensor:
        def part(batch: Batch) -> Tensor:
            cotangents = queries.cotangents(batch)
            return moment.gradients.project(batch.inputs, cotangents, self._projection)[1]

        return moment.collect(part, queries.data)

    @abstractmethod
    def _project(self, space: ParameterSpace) -> Projection:
        """Return the projection, the same for every checkpoint."""

    @abstractmethod
    def _output(
        self, objective: Objective, outputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradient with respect to the outputs whose pullback is φ, and Q (n,)."""


def _damped(kernel: Dense, damping: float | str, n: int) -> tuple[Damping, Factorization]:
    """Return λ with its reason, and the inverse of the damped kernel."""
    k = kernel.size
    mean = float(kernel.diagonal().sum()) / min(k, n)  # of those that are not zero
    value, reason = _FRACTION * mean, f"half the mean projected eigenvalue {mean:.2g}"
    if damping != "auto":
        if isinstance(damping, (bool, str)) or not isinstance(damping, (int, float)):
            raise ValueError(f'damping must be a number >= 0 or "auto", got {damping!r}')
        if not (math.isfinite(damping) and damping >= 0):
            raise ValueError(f'damping must be a finite number >= 0 or "auto", got {damping}')
        trouble = "" if damping > 0 else _saturated(kernel, n)
        if trouble:
            warnings.warn(
                f"without damping the projected features fit every row ({trouble}) and the scores "
                f"would be noise: λ = {value:.2g}, {reason}, is used; project to far fewer "
                "dimensions than there are training rows, or choose a damping",
                ConvergenceWarning,
                stacklevel=4,
            )
            reason = f"{trouble}: {reason}"
        else:
            value, reason = float(damping), "given by the caller"
    inverse = factorize(kernel + Damping(value, reason), "cholesky")
    return Damping(value, reason, Facts(effective_dof=k - value * inverse.trace())), inverse


def _saturated(kernel: Dense, n: int) -> str:
    """Say that the features fit every row, so that undamped each row answers only to itself."""
    if kernel.size < _FULL * n:
        return ""
    values = torch.linalg.eigvalsh(kernel.dense())
    rank = int((values > _NULL * values[-1]).sum())
    return f"rank {rank} for {n} training rows" if rank >= _FULL * n else ""
