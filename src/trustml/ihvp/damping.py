"""Which damping, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trustml.core.batches import Batch
from trustml.ihvp._kronecker import KroneckerOperator
from trustml.ihvp.objective import Objective
from trustml.ihvp.operators import FactoredOperator, LinearOperator
from trustml.ihvp.quadratic import is_null, lanczos, probes
from trustml.ihvp.solution import Damping

# ‖∇J‖ below this part of the per-example gradients' root mean square counts as a minimum. Without
# weight decay the curvature has flat directions, along which a small gradient leads far.
STATIONARY_PENALISED, STATIONARY_FREE = 1e-2, 1e-3
# Measured by the linear datamodelling score of small networks and unconverged linear models
# (digits, diabetes, breast cancer): a half is within 6 % of the best fraction nearly everywhere,
# and much better than a hundredth. Leave-one-out steps cannot choose it: they start from
# parameters that have seen the row, so that their loss only falls as λ grows.
_FRACTION = 0.5
# By the same score a perceptron, a CNN and a transformer, with weight decay or without, all want
# less under K-FAC and EK-FAC: a fiftieth is within 3 % of the best fraction, a half up to 13 % off.
_KRONECKER_FRACTION = 0.02
# A gradient of so many roundings of the parameters is none.
_ROUNDED = 10.0
# Up to this size the whole spectrum is computed; above, Lanczos looks at its ends.
_SMALL = 500
_PROBES, _STEPS = 5, 30
# Numbers a row in the factors of the output Hessians, above which their norms are not asked for.
_FACTORS = 2**16


@dataclass(frozen=True)
class _Spectrum:
    """What is known of the undamped operator A and the weight decays D.

    ``tr f(A)`` is Σ_j weights_j f(values_j) and ``tr D f(A)`` is Σ_j decays_j f(values_j): exact
    from the eigenvalues, or an estimate from a few Krylov spaces.
    """

    mean: float
    values: Tensor
    weights: Tensor
    decays: Tensor

    @property
    def smallest(self) -> float:
        return float(self.values.min())

    @property
    def largest(self) -> float:
        return float(self.values.max())

    def degrees_of_freedom(self, damping: float) -> float:
        """Return the trace of the positive part of (A − D)(A + λI)⁻¹."""
        usable = self.values > 1e-10 * self.values.abs().max()
        shares = (self.weights * self.values - self.decays) / (self.values + damping)
        return max(float(shares[usable].sum()), 0.0)


def choose_damping(
    operator: LinearOperator, objective: Objective, damping: float | str | Damping = "auto"
) -> Damping:
    """Return a damping for an operator, with the facts that it rests on.

    "auto" is 0 if the model is at a minimum (‖∇J‖ below 1 % of the per-example gradients' size;
    0.1 % where most parameters have no weight decay) and no negative curvature is seen. Null
    directions, such as the softmax shift, are left to the solvers, which do not move along them.
    It is not 0 where a model without weight decay has as many degrees of freedom as the data have
    targets, so that it can fit them exactly. Otherwise it is half the mean eigenvalue (of K-FAC and
    EK-FAC a fiftieth), above 1.1 times the most negative one. Weight decay is in the operator
    already.

    Parameters
    ----------
    operator : LinearOperator
        Curvature of ``objective``, not damped yet.
    objective : Objective
        The training objective.
    damping : float, Damping or "auto"
        λ ≥ 0 in units of the operator's eigenvalues; a Damping is returned as it is.

    Returns
    -------
    Damping
        Add it with ``operator + damping``.

    Raises
    ------
    ValueError
        If a number is negative or not finite, or sizes differ.
    """
    if isinstance(damping, Damping):
        return damping
    if operator.size != objective.space.size:
        raise ValueError(
            f"the operator has size {operator.size} but the objective {objective.space.size} "
            "parameters; build it from this objective"
        )
    if damping != "auto":
        if isinstance(damping, (bool, str)) or not isinstance(damping, (int, float)):
            raise ValueError(f'damping must be a number >= 0 or "auto", got {damping!r}')
        if not (math.isfinite(damping) and damping >= 0):
            raise ValueError(f'damping must be a finite number >= 0 or "auto", got {damping}')
    facts = _MeasuredFacts(operator, objective, 0.0 if damping == "auto" else float(damping))
    if damping != "auto":
        return Damping(float(damping), "given by the caller", facts)
    value, reason = _choose(operator, objective, facts)
    facts.damping = value
    return Damping(value, reason, facts)


class _MeasuredFacts:
    """The facts of a damping, each measured when it is first asked for."""

    def __init__(self, operator: LinearOperator, objective: Objective, damping: float) -> None:
        self.operator, self.objective, self.damping = operator, objective, damping

    @cached_property
    def _norms(self) -> tuple[float, float]:
        found = _gradient_norms(self.objective)
        if not math.isfinite(found[0]):
            raise ValueError(
                "the objective's gradient is not finite; check the model's outputs and loss on its "
                "training data"
            )
        norm, relative = found
        if relative > STATIONARY_FREE and self._is_rounding(norm):
            return norm, 0.0  # a model that fits its data exactly: all its gradients are rounding
        return found

    def _is_rounding(self, norm: float) -> bool:
        """Say whether the rounding of the parameters alone moves ∇J as far."""
        theta, eps = self.objective.space.vector(), torch.finfo(self.objective.space.dtype).eps
        if norm > math.sqrt(eps) * float(theta.double().norm()):  # far from it: no product
            return False
        moved = self.operator @ theta.to(self.operator.dtype)
        return norm <= _ROUNDED * eps * float(moved.double().norm())

    @cached_property
    def spectrum(self) -> _Spectrum:
        return _look(self.operator, self.objective.weight_decay.double())

    @cached_property
    def mean(self) -> float:
        """The mean eigenvalue: exact where one pass over the factors tells it."""
        operator = self.operator
        if isinstance(operator, KroneckerOperator):
            return float(operator.diagonal().double().mean())
        if (
            operator.size > _SMALL
            and isinstance(operator, FactoredOperator)
            and (operator.n_factors / len(self.objective.data)) ** 2 <= _FACTORS
        ):
            trace = operator.scale * operator.factor_norms().double().sum()
            return float(trace + operator.shift.double().sum()) / operator.size
        return self.spectrum.mean

    @property
    def at_hand(self) -> bool:
        """Whether the degrees of freedom and Ritz values cost nothing more to know."""
        return self.operator.size <= _SMALL or "spectrum" in self.__dict__

    @property
    def penalised(self) -> bool:
        return bool((self.objective.weight_decay > 0).double().mean() >= 0.5)

    @property
    def gradient_norm(self) -> float:
        return self._norms[0]

    @property
    def relative_gradient_norm(self) -> float:
        return self._norms[1]

    @property
    def effective_dof(self) -> float:
        return self.spectrum.degrees_of_freedom(self.damping)

    @property
    def stationary(self) -> bool:
        limit = STATIONARY_PENALISED if self.penalised else STATIONARY_FREE
        return self.relative_gradient_norm <= limit

    @property
    def min_ritz(self) -> float:
        return self.spectrum.smallest


def _gradient_norms(objective: Objective) -> tuple[float, float]:
    """Return ‖∇J‖, and its ratio to the root mean square of ‖∇ℓ_i‖."""

    def part(batch: Batch) -> Tensor:
        targets = objective.targets(batch)
        norms = objective.gradients.squared_norm(
            batch.inputs, lambda outputs: objective.loss.gradient(outputs, targets)
        )
        return norms.double().sum()

    norm = float(objective.gradient().double().norm())
    size = math.sqrt(float(objective.total(part)) / len(objective.data))
    return norm, norm / size if size > 0 else (0.0 if norm == 0 else math.inf)


def _look(operator: LinearOperator, decay: Tensor) -> _Spectrum:
    if operator.size <= _SMALL:
        values, vectors = torch.linalg.eigh(operator.dense())
        decays = (vectors.square() * decay[:, None]).sum(dim=0)
        return _Spectrum(float(values.mean()), values, torch.ones_like(values), decays)
    runs = [_quadrature(operator, decay, z) for z in probes(operator, _PROBES).T]
    values, weights, decays = (torch.cat(parts) / _PROBES for parts in zip(*runs, strict=True))
    values = values * _PROBES
    mean = float((weights * values).sum()) / operator.size
    return _Spectrum(mean, values, weights, decays)


def _quadrature(operator: LinearOperator, decay: Tensor, z: Tensor) -> tuple[Tensor, ...]:
    """Return nodes θ_j, and weights of z'f(A)z and of z'D f(A)z, from one Krylov space."""
    krylov = lanczos(operator, z, _STEPS)
    values, vectors = krylov.ritz()
    tilted = (krylov.basis.T @ (decay * z.double())).to(vectors.device) @ vectors
    return values, operator.size * vectors[0].square(), operator.size**0.5 * tilted * vectors[0]


def _choose(
    operator: LinearOperator, objective: Objective, facts: _MeasuredFacts
) -> tuple[float, str]:
    stationary, floor = facts.stationary, 0.0
    size = f"‖∇J‖ is {facts.relative_gradient_norm:.1e} of the per-example gradients' size"
    why = [] if stationary else [f"the model is not at a minimum ({size})"]
    if stationary or not operator.is_psd:
        spectrum = facts.spectrum
        rounding = is_null(spectrum.smallest, spectrum.largest, operator.dtype)
        if spectrum.smallest < 0 and not rounding:
            floor = 1.1 * -spectrum.smallest
            why.append(f"there is negative curvature ({spectrum.smallest:.2g})")
    if (stationary or facts.at_hand) and not facts.penalised:
        # A model that fits its data exactly is held by its weight decay alone, or by nothing.
        dof = facts.spectrum.degrees_of_freedom(0.0)
        targets = len(objective.data) * objective.targets(objective.data.rows(0, 1)).numel()
        if dof >= 0.9 * targets:
            why.append(
                f"the model has as many degrees of freedom as its data have targets ({dof:.0f})"
            )
    if not why:
        return 0.0, f"the model is at a minimum ({size}) and no negative curvature was seen"
    mean = max(facts.mean, torch.finfo(torch.float64).tiny)
    structured = isinstance(operator, KroneckerOperator)
    fraction = _KRONECKER_FRACTION if structured else _FRACTION
    told = f"{'a fiftieth of' if structured else 'half'} the mean eigenvalue {mean:.2g}"
    if floor:
        told += f" above 1.1 times the most negative one {facts.min_ritz:.2g}"
    return floor + fraction * mean, f"{'; '.join(why)}: {told}"
