"""Attacks of the package foolbox, under our judge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trustml.core.optional import require
from trustml.robustness import Attack
from trustml.robustness._problem import Problem


@dataclass(frozen=True)
class FoolboxAttack(Attack):
    """One of foolbox's attacks, as a ``method`` of ``robustness.attack``.

    foolbox proposes, our judge decides: what it calls a success counts only if the model errs at
    the returned point, inside ball and box; a failure returns the clean row, not a black image.
    foolbox works on the batch as a whole, so here a row's result may depend on its batch. It
    draws from torch's global generator, which is seeded for the run and put back.

    Parameters
    ----------
    kind : str
        Name of a class of ``foolbox.attacks``, such as "L2DeepFoolAttack" or "DDNAttack".
    options : dict
        Keyword arguments of that class.

    Examples
    --------
    >>> FoolboxAttack("LinfPGD", {"steps": 40}).kind
    'LinfPGD'
    """

    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    name: ClassVar[str] = "foolbox"

    def run(self, problem: Problem, seed: int) -> Tensor:
        """Return foolbox's clipped points, moved exactly into ball and box."""
        foolbox = require("foolbox", "robustness")
        kinds = foolbox.attacks
        if not hasattr(kinds, self.kind):
            names = sorted(n for n in vars(kinds) if n.startswith(("L0", "L1", "L2", "Linf")))
            raise ValueError(f"foolbox.attacks has no {self.kind!r}; it has {', '.join(names)}")
        threat, aim = problem.threat, problem.aim
        clean = threat.clean.float()  # eagerpy mixes in float32 constants
        low, high = (float(bound.reshape(-1)[0]) for bound in (threat.low, threat.high))
        if not bool((threat.low == low).all() & (threat.high == high).all()):
            raise ValueError("foolbox knows one bound for all features; wrap with scalar bounds")
        goals = foolbox.criteria
        goal = goals.TargetedMisclassification if aim.targeted else goals.Misclassification
        model = foolbox.PyTorchModel(
            _Counted(problem).eval(), bounds=(low, high), device=clean.device
        )
        on_cuda = clean.device.type == "cuda"
        with torch.random.fork_rng(devices=[clean.device] if on_cuda else []):
            torch.default_generator.manual_seed(seed % 2**63)
            if on_cuda:
                torch.cuda.manual_seed(seed % 2**63)
            attack = getattr(kinds, self.kind)(**self.options)
            _, points, _ = attack(model, clean, goal(aim.labels), epsilons=threat.eps)
        return threat.place(torch.nan_to_num(points.double() - clean.double()))


class _Counted(nn.Module):
    """The problem's model as a module; foolbox's forward passes go on the bill."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem

    def forward(self, points: Tensor) -> Tensor:
        logits = self.problem.forward(points)
        if len(points) == len(self.problem):
            logits = self.problem.charged(logits)
            if logits.requires_grad:
                logits.register_hook(self._charge)  # type: ignore[no-untyped-call]
        return logits

    def _charge(self, gradient: Tensor) -> None:
        rows = self.problem.rows
        self.problem.bill.backwards[rows] += 1
        self.problem.bill.moved[rows] |= (gradient != 0).any(1)
