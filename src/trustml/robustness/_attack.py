"""attack(): the one door to every attack."""

from __future__ import annotations

import math
from fractions import Fraction
from importlib import import_module
from numbers import Integral
from typing import Any

from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import check_choice, check_same_length, restore
from trustml.model import as_model
from trustml.robustness._aim import Aim
from trustml.robustness._judge import AttackResult
from trustml.robustness._method import Attack
from trustml.robustness._run import attackable, clean_rows, execute
from trustml.robustness._threat import NORMS, make_threat


def attack(
    model: Any,
    X: Any,
    y: Any,
    method: str | Attack = "pgd",
    norm: str = "linf",
    eps: float | str | None = None,
    targeted: bool = False,
    random_state: RandomState = None,
) -> AttackResult:
    """Search adversarial points within ``eps`` of each row and inside the model's bounds.

    Every attack is judged alike: success is what the model predicts at the returned point, in
    the dtype it is returned in. Rows that the model already gets wrong are successes at
    distance 0. A row's result does not depend on the batch it is in.

    Parameters
    ----------
    model : Model or what ``wrap`` takes
        A differentiable classifier with ``bounds``.
    X : array-like of shape (n, *features)
        Rows to attack, in input units and inside the bounds.
    y : array-like of shape (n,)
        True labels; with ``targeted``, the classes to reach.
    method : {"fgsm", "pgd", "strong"} or Attack
        ``Pgd(steps=100)`` gives settings; ``"strong"`` is the worst case of all.
    norm : {"linf", "l2"}
        Of the ball.
    eps : float or str
        Radius in input units; "8/255" is read as a fraction.
    targeted : bool
        Whether ``y`` holds classes to reach.
    random_state : int, Generator or None
        For random starts; None draws a seed, which the result keeps.

    Returns
    -------
    AttackResult
        Arrays for arrays, tensors for tensors.

    Notes
    -----
    Refused, with the fix: a model without gradients, one that is no classifier, one without
    ``bounds``, inputs that its module does not eat as they are, rows outside the bounds.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from trustml import wrap
    >>> X, y = load_iris(return_X_y=True)
    >>> model = wrap(LogisticRegression(max_iter=1000).fit(X, y), bounds=(0.0, 8.0))
    >>> result = attack(model, X, y, method="pgd", norm="l2", eps=0.5, random_state=0)
    >>> bool((result.distance <= 0.5).all())
    True
    """
    settings = resolve(method)
    check_choice(norm, "norm", NORMS)
    radius = check_eps(eps, settings.name)
    target = attackable(as_model(model), "robustness.attack")
    clean = clean_rows(target, X, "robustness.attack")
    labels = target.targets(y).to(clean.device)
    check_same_length(X=clean, y=labels)
    threat = make_threat(clean, target.bounds, norm, radius)
    aim = Aim(labels, targeted=bool(targeted))
    seed = draw_seed(random_state)

    verdict, bill = execute(target, threat, aim, settings, seed)
    return AttackResult(
        x_adv=restore(verdict.points, X),
        success=restore(verdict.success, X),
        distance=restore(verdict.distance, X),
        forwards=restore(bill.forwards, X),
        backwards=restore(bill.backwards, X),
        flags=verdict.flags,
        method=settings.name,
        norm=norm,
        eps=radius,
        targeted=bool(targeted),
        random_state=seed,
    )


def resolve(method: str | Attack) -> Attack:
    """Return the attack of that name, or the one given."""
    if isinstance(method, Attack):
        return method
    room = import_module("trustml.robustness")
    listed = (getattr(room, name) for name in room.__all__)
    concrete = (k for k in listed if isinstance(k, type) and issubclass(k, Attack))
    kinds = {kind.name: kind for kind in concrete if kind is not Attack}
    check_choice(method, "method", tuple(kinds))
    return kinds[method]()


def check_eps(eps: Any, name: str = "this attack") -> float:
    """Return eps as a float; "8/255" is a fraction."""
    if eps is None:
        raise ValueError(f"{name} has a fixed budget: give eps, the radius in input units")
    try:
        value = float(Fraction(eps)) if isinstance(eps, str) else float(eps)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"eps must be a number or a fraction like '8/255', got {eps!r}") from error
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"eps must be finite and not negative, in input units, got {eps!r}")
    return value


def draw_seed(random_state: RandomState) -> int:
    """Return an int seed; an int is its own."""
    generator = numpy_generator(random_state)
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(generator.integers(2**62))
