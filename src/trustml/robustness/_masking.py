"""Signs that gradients hide the adversarial points instead of removing them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from trustml.core.random import RandomState
from trustml.core.results import Result
from trustml.core.validation import check_same_length
from trustml.model import Model, as_model
from trustml.robustness._aim import Aim
from trustml.robustness._attack import check_eps, draw_seed
from trustml.robustness._fgsm import Fgsm
from trustml.robustness._judge import Verdict
from trustml.robustness._method import Attack
from trustml.robustness._pgd import Pgd
from trustml.robustness._problem import Bill, Problem
from trustml.robustness._run import attackable, clean_rows, execute
from trustml.robustness._threat import Threat, lengths, make_threat
from trustml.warnings import GradientMaskingWarning

_SHARE = 0.02  # of the rows (and at least two): below this a difference is taken for luck


@dataclass(frozen=True, repr=False)
class MaskingReport(Result):
    """What the masking checks saw; accuracies are shares of all rows.

    Attributes
    ----------
    flags : tuple of str
        One sentence for each sign of masking; empty when there is none.
    clean_accuracy, random_accuracy, fgsm_accuracy, pgd_accuracy : float in [0, 1]
        Without attack, and under random corners of the ball, FGSM and PGD at ``eps``.
    unbounded_accuracy : float in [0, 1]
        Under PGD with a ball that holds the whole box: near 0 unless the attack is blind.
    zero_gradient_share : float in [0, 1]
        Share of the right rows whose FGSM gradient is zero or non-finite.
    output_noise : float
        Largest difference of two identical forward passes, in logits.
    norm : str
    eps : float
    """

    flags: tuple[str, ...]
    clean_accuracy: float
    random_accuracy: float
    fgsm_accuracy: float
    pgd_accuracy: float
    unbounded_accuracy: float
    zero_gradient_share: float
    output_noise: float
    norm: str
    eps: float

    def _title(self) -> str:
        """Return the verdict; the numbers are below it."""
        signs = "; ".join(self.flags) or "no sign of masked gradients"
        return f"MaskingReport ({self.norm}, eps {self.eps:.4g}): {signs}"

    def _columns(self) -> dict[str, Any]:
        names = [name for name in vars(self) if name.endswith(("accuracy", "share", "noise"))]
        return {"quantity": np.array(names), "value": np.array([getattr(self, n) for n in names])}


@dataclass(frozen=True)
class _RandomCorners(Attack):
    """Try random points as far out as the ball goes: needs no gradient."""

    tries: int = 20
    name: ClassVar[str] = "random corners"

    def run(self, problem: Problem, seed: int) -> Tensor:
        found = problem.threat.clean.clone()
        left = torch.arange(len(problem), device=found.device)
        for k in range(self.tries):
            part = problem.select(left)
            inner = part.threat.random_points(seed + k)
            direction = inner.double() - part.threat.clean.double()
            outward = part.threat.ascent(part.threat.clean, direction)
            points = part.threat.place(part.threat.eps * outward)
            hit = part.aim.reached(part.logits(points))
            found[left[hit]] = points[hit]
            left = left[~hit]
            if not len(left):
                break
        return found


def masking_checks(
    model: Any,
    X: Any,
    y: Any,
    norm: str = "linf",
    eps: float | str | None = None,
    random_state: RandomState = None,
) -> MaskingReport:
    """Look for gradient masking: five cheap tests that an honest model passes.

    Gradients are not zero; one step does not beat forty; random corners do not beat gradients;
    an attacker who may go anywhere in the box wins; two identical calls agree.

    Parameters
    ----------
    model : Model or what ``wrap`` takes
        A differentiable classifier with ``bounds``.
    X : array-like of shape (n, *features)
        Rows in input units; a hundred are enough.
    y : array-like of shape (n,)
        True labels.
    norm : {"linf", "l2"}
    eps : float or str
        Radius in input units.
    random_state : int, Generator or None

    Returns
    -------
    MaskingReport

    Raises
    ------
    ValueError
        If ``eps`` is 0: nothing could be seen.

    Notes
    -----
    Refused, with the fix: a model without gradients, one that is no classifier, one without
    ``bounds``, inputs that its module does not eat as they are, rows outside the bounds.

    Warns
    -----
    GradientMaskingWarning
        If a check fails.

    References
    ----------
    Athalye, Carlini and Wagner (2018), Obfuscated gradients give a false sense of security,
    arXiv:1802.00420.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from trustml import wrap
    >>> X, y = load_iris(return_X_y=True)
    >>> model = wrap(LogisticRegression(max_iter=1000).fit(X, y), bounds=(0.0, 8.0))
    >>> masking_checks(model, X, y, eps=0.2, random_state=0).flags
    ()
    """
    target = attackable(as_model(model), "robustness.masking_checks")
    radius, seed = check_eps(eps, "masking_checks"), draw_seed(random_state)
    if radius == 0:
        raise ValueError("masking_checks attacks every row: eps must be above 0")
    rows = clean_rows(target, X, "robustness.masking_checks")
    labels = target.targets(y).to(rows.device)
    n = check_same_length(X=rows, y=labels)
    near = make_threat(rows, target.bounds, norm, radius)
    far = replace(near, eps=_whole_box(near))

    def run(how: Attack, threat: Threat = near) -> tuple[Verdict, Bill]:
        return execute(target, threat, Aim(labels), how, seed)

    (fgsm, bill), (pgd, _) = run(Fgsm()), run(Pgd())
    (chance, _), (anywhere, _) = run(_RandomCorners()), run(Pgd(), far)
    right = ~fgsm.success | (fgsm.distance > 0)
    blind = int((right & ~bill.moved).sum())
    only_fgsm = int((fgsm.success & ~pgd.success).sum())
    only_chance = int((chance.success & ~pgd.success).sum())
    survivors = int((~anywhere.success).sum())
    noise = _noise(target, rows)

    signs = {
        f"zero gradients: at {blind} of {n} rows": blind,
        f"one step beats many: {only_fgsm} of {n} rows fall to FGSM and not to PGD": only_fgsm,
        f"chance beats gradients: {only_chance} of {n} rows fall to random corners of the ball "
        "and not to PGD": only_chance,
        f"no budget is enough: {survivors} of {n} rows survive PGD over the whole box": survivors,
    }
    few = max(2.0, _SHARE * n)
    flags = [sentence for sentence, count in signs.items() if count >= few]
    if noise > 0:
        flags.append(f"random outputs: two identical calls differ by up to {noise:.2g}")
    flags += [flag for flag in pgd.flags if not flag.startswith("zero gradients")]
    if flags:
        warnings.warn("; ".join(flags), GradientMaskingWarning, stacklevel=2)
    survived = [1 - float(v.success.double().mean()) for v in (chance, fgsm, pgd, anywhere)]
    return MaskingReport(
        flags=tuple(flags),
        clean_accuracy=float(right.double().mean()),
        random_accuracy=survived[0],
        fgsm_accuracy=survived[1],
        pgd_accuracy=survived[2],
        unbounded_accuracy=survived[3],
        zero_gradient_share=blind / max(1, int(right.sum())),
        output_noise=noise,
        norm=norm,
        eps=radius,
    )


def _whole_box(threat: Threat) -> float:
    """Return a radius that holds the box around every row; a hundredfold eps if it has no end."""
    span = (threat.high - threat.low).expand_as(threat.clean)
    if not bool(torch.isfinite(span).all()):
        return 100 * threat.eps
    return float(lengths(span, threat.norm).max())


def _noise(model: Model, rows: Tensor) -> float:
    with torch.no_grad():
        first, second = (model.outputs(rows[:64].to(model.dtype)) for _ in range(2))
    return float((first - second).abs().max())
