"""Which damping, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trustml.core.batches import Batch
from trustml.ihvp.leave_one_out import leave_one_out_losses
from trustml.ihvp.objective import Objective
from trustml.ihvp.operators import FactoredOperator, LinearOperator
from trustml.ihvp.quadratic import is_null, lanczos, probes, ritz
from trustml.ihvp.solution import Damping

# ‖∇J‖ below this part of the per-example gradients' root mean square counts as a minimum.
STATIONARY = 1e-2
# Up to this size the whole spectrum is looked at at once; above, Lanczos looks at its ends.
_SMALL = 500
# Up to this size the whole spectrum is computed where leave-one-out must choose.
_DENSE = 1500
_FRACTIONS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True)
class _Spectrum:
    """What is known of the undamped operator's eigenvalues."""

    mean: float
    smallest: float
    values: Tensor | None
    vectors: Tensor | None


def choose_damping(
    operator: LinearOperator, objective: Objective, damping: float | str | Damping = "auto"
) -> Damping:
    """Return a damping for an operator, with the facts that it rests on.

    "auto": 0 if the model is at a minimum (‖∇J‖ below 1 % of the per-example gradients' size), no
    negative curvature is seen, and the model has fewer degrees of freedom than the data. Otherwise
    the smallest of some fractions of the mean eigenvalue, above 1.1 times the most negative
    one, whose closed-form leave-one-out loss is within one standard error of the best; where that
    is too dear, a tenth of the mean eigenvalue. Weight decay is in the operator already.

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
    norm, relative = _gradient_norms(objective)
    if not math.isfinite(norm):
        raise ValueError(
            "the objective's gradient is not finite; check the model's outputs and loss on its "
            "training data"
        )
    stationary = relative <= STATIONARY
    spectrum = _look(operator, _SMALL)
    if damping == "auto":
        value, reason, spectrum = _choose(operator, objective, spectrum, stationary, relative)
    else:
        value, reason = float(damping), "given by the caller"
    return Damping(
        value=value,
        reason=reason,
        gradient_norm=norm,
        relative_gradient_norm=relative,
        effective_dof=_degrees_of_freedom(operator, objective, spectrum, value),
        stationary=stationary,
        min_ritz=spectrum.smallest,
    )


def _gradient_norms(objective: Objective) -> tuple[float, float]:
    """Return ‖∇J‖, and its ratio to the root mean square of ‖∇ℓ_i‖."""

    def part(batch: Batch) -> float:
        targets = objective.targets(batch)
        norms = objective.gradients.squared_norm(
            batch.inputs, lambda outputs: objective.loss.gradient(outputs, targets)
        )
        return float(norms.double().sum())

    norm = float(objective.gradient().double().norm())
    size = math.sqrt(sum(objective.map(part)) / len(objective.data))
    return norm, norm / size if size > 0 else (0.0 if norm == 0 else math.inf)


def _look(operator: LinearOperator, limit: int) -> _Spectrum:
    if operator.size <= limit:
        values, vectors = torch.linalg.eigh(operator.dense())
        return _Spectrum(float(values.mean()), float(values[0]), values, vectors)
    if isinstance(operator, FactoredOperator):
        mean = float(operator.diagonal().double().mean())
    else:
        z = probes(operator, 16)
        mean = float((z * operator.matmat(z)).double().mean())
    values, _ = ritz(*lanczos(operator, probes(operator, 1)[:, 0], 50))
    return _Spectrum(mean, float(values[0]), None, None)


def _choose(
    operator: LinearOperator,
    objective: Objective,
    spectrum: _Spectrum,
    stationary: bool,
    relative: float,
) -> tuple[float, str, _Spectrum]:
    mean = max(spectrum.mean, torch.finfo(torch.float64).tiny)
    largest = mean if spectrum.values is None else float(spectrum.values[-1])
    negative = spectrum.smallest < 0 and not is_null(spectrum.smallest, largest, operator.dtype)
    size = f"‖∇J‖ is {relative:.1e} of the per-example gradients' size"
    dof = _degrees_of_freedom(operator, objective, spectrum, 0.0)
    saturated = dof >= 0.9 * _data_rank(operator, objective)
    if stationary and not negative and not saturated:
        told = f"the model is at a minimum ({size}) and no negative curvature was seen"
        return 0.0, told, spectrum
    why = [f"the model is not at a minimum ({size})"] if not stationary else []
    if negative:
        why.append(f"there is negative curvature ({spectrum.smallest:.2g})")
    if saturated:
        why.append(f"the model has as many degrees of freedom as its data ({dof:.0f})")
    if spectrum.values is None:
        spectrum = _look(operator, _DENSE)
    floor = 1.1 * -spectrum.smallest if negative else 0.0
    candidates = [floor + fraction * mean for fraction in _FRACTIONS]
    if not negative and not saturated:
        candidates.insert(0, 0.0)
    if spectrum.values is None or spectrum.vectors is None:
        told = f"a tenth of the mean eigenvalue {mean:.2g}"
        if negative:
            told += f" above 1.1 times the most negative one {spectrum.smallest:.2g}"
        return floor + 0.1 * mean, f"{'; '.join(why)}: {told}", spectrum
    losses = leave_one_out_losses(objective.double(), spectrum.values, spectrum.vectors, candidates)
    best = int(losses.mean(dim=1).argmin())
    excess = losses - losses[best]
    within = excess.mean(dim=1) <= excess.std(dim=1) / math.sqrt(losses.shape[1])
    chosen = int(within.nonzero()[0]) if bool(within.any()) else best
    told = (
        f"{'; '.join(why)}: the smallest candidate within one standard error of the best "
        f"closed-form leave-one-out loss ({float(losses[chosen].mean()):.3g})"
    )
    return candidates[chosen], told, spectrum


def _data_rank(operator: LinearOperator, objective: Objective) -> int:
    """Bound the rank that the data can give: rows times outputs."""
    if isinstance(operator, FactoredOperator):
        return operator.n_factors
    outputs = objective.outputs(objective.data.rows(0, 1).inputs)
    return len(objective.data) * outputs[0].numel()


def _degrees_of_freedom(
    operator: LinearOperator, objective: Objective, spectrum: _Spectrum, damping: float
) -> float:
    """Return the trace of (A − diag wd)(A + λI)⁻¹ = p − tr((diag wd + λ)(A + λI)⁻¹)."""
    decay = objective.weight_decay.double()
    if spectrum.values is not None and spectrum.vectors is not None:
        values = spectrum.values
        null = values.abs() <= 1e-10 * values.abs().mean()
        data = values - (spectrum.vectors.square() * decay[:, None]).sum(dim=0)
        return float(torch.where(null & (damping == 0), 0.0, data / (values + damping)).sum())
    weight = (decay + damping).sqrt()
    if not bool((weight > 0).any()):
        return float(min(operator.size, _data_rank(operator, objective)))
    total, count = 0.0, 5
    for z in probes(operator, count).T:
        start = weight.to(operator.device) * z.double()
        values, weights = ritz(*lanczos(operator, start, 40))
        shifted = values + damping
        usable = shifted > 1e-12 * float(values.abs().max())
        inverse = torch.where(usable, 1 / shifted, 0.0)
        total += float(start.square().sum()) * float((weights * inverse).sum())
    return min(max(operator.size - total / count, 0.0), float(operator.size))
