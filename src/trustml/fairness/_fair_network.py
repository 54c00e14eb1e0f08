"""What networks that are trained to treat groups alike have in common."""

from __future__ import annotations

import copy
import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_array
from torch import Tensor, nn
from torch.nn.functional import softplus

from trustml.core.losses import CrossEntropy, as_loss
from trustml.core.progress import track
from trustml.core.random import RandomState, numpy_generator, seeded
from trustml.core.validation import as_tensor, check_positive_int
from trustml.fairness._criteria import cells_of
from trustml.fairness._groups import Groups
from trustml.fairness._mitigator import FairClassifier

LossFn = Callable[[Tensor, Tensor], Tensor]

_PATIENCE = 30  # epochs without progress after which training ends
_ROWS = 8192  # predicted at a time


@dataclass(frozen=True, eq=False)
class Rows:
    """Training rows, or some of them.

    Attributes
    ----------
    X : Tensor of shape (n, ...)
        Inputs of the network.
    y, weight : Tensor of shape (n,), floating point
        1 where the label is favourable; the mean weight is 1.
    group : Tensor of shape (n,), int64
        Number of each row's group.
    """

    X: Tensor
    y: Tensor
    weight: Tensor
    group: Tensor

    def take(self, rows: Tensor) -> Rows:
        """Return the rows at ``rows``."""
        return Rows(self.X[rows], self.y[rows], self.weight[rows], self.group[rows])


class Standardised(nn.Module):
    """A multilayer perceptron on standardised columns; without hidden layers, a linear model."""

    mean: Tensor
    scale: Tensor

    def __init__(self, rows: Rows, hidden: tuple[int, ...]) -> None:
        super().__init__()
        share = rows.weight[:, None] / rows.weight.sum()
        mean = (share * rows.X).sum(0)
        scale = (share * (rows.X - mean).square()).sum(0).sqrt()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", torch.where(scale > 0, scale, torch.ones_like(scale)))
        widths = [rows.X.shape[1], *hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1)).to(rows.X)

    def forward(self, x: Tensor) -> Tensor:
        """Return the margin of each row, shape (n,)."""
        margin: Tensor = self.layers((x - self.mean) / self.scale)[:, 0]
        return margin


class FairNetwork(FairClassifier):
    """Base of the torch classifiers: a plain training, then one that mitigates.

    The plain training runs Adam over batches until the objective has not fallen by ``tol`` of
    itself for 30 epochs, or for ``max_epochs``; its decisions are the unmitigated ones. The other
    runs ``max_epochs``, over which the learning rate falls to zero.

    Parameters
    ----------
    module : torch.nn.Module or None
        Maps rows to one margin, or to two logits of which the second is the favourable label's;
        copied, and trained on its device in its precision. None builds a multilayer perceptron
        on standardised columns, in float64.
    loss_fn : torch loss module, callable or None
        (outputs, y) -> (n,) losses, y 1 where the label is favourable; the reduction of a torch
        loss is set aside. None is cross-entropy.
    hidden : tuple of int
        Widths of the hidden layers of the perceptron; () is a linear model.
    learning_rate, weight_decay : float
        Of Adam.
    max_epochs, batch_size : int
        Of each stage; rows of a step.
    tol : float
        Relative progress that counts.
    pos_label : object or None
        The favourable label; None takes the second of the sorted labels.
    random_state : int, numpy.random.Generator, torch.Generator or None
        Seed of weights, batches and whatever the module draws; the global generators stay put.
    """

    def __init__(
        self,
        module: nn.Module | None = None,
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
        self.module = module
        self.loss_fn = loss_fn
        self.hidden = hidden
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.tol = tol
        self.pos_label = pos_label
        self.random_state = random_state

    def _fit(
        self, X: Any, y: np.ndarray, groups: Groups, sample_weight: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        check_positive_int(self.max_epochs, "max_epochs")
        check_positive_int(self.batch_size, "batch_size")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        self._check()
        constraints = getattr(self, "constraints", None)
        if constraints is not None:
            cells_of(constraints, groups, y)  # refuses groups that cannot be compared
        if self.module is not None and not isinstance(self.module, nn.Module):
            raise TypeError(
                f"module must be a torch.nn.Module or None, got {type(self.module).__name__}"
            )
        inputs = self._inputs(X, self.module)
        weight = np.ones(len(y)) if sample_weight is None else sample_weight / sample_weight.mean()
        to = {"dtype": inputs.dtype if inputs.is_floating_point() else torch.float32}
        rows = Rows(
            inputs,
            torch.as_tensor(y, device=inputs.device, **to),
            torch.as_tensor(weight, device=inputs.device, **to),
            torch.as_tensor(groups.codes, device=inputs.device),
        )
        with seeded(int(numpy_generator(self.random_state).integers(2**32))):
            network = copy.deepcopy(self.module) or Standardised(rows, self._widths())
            network.requires_grad_(requires_grad=True)
            optimizer = self._optimizer(network)

            def plain(batch: Rows) -> float:
                loss = self._losses(network, batch)[1]
                return _step(optimizer, (loss * batch.weight).mean())

            self._descend(network, rows, plain, "training")
            first = self._margins(network, inputs) > 0
            self.n_epochs_ = self._mitigate(network, rows, len(groups.labels))
        self.network_ = network.eval()
        decided = self._margins(network, inputs) > 0
        return decided.astype(np.float64), first.astype(np.float64)

    @abstractmethod
    def _mitigate(self, network: nn.Module, rows: Rows, n_groups: int) -> int:
        """Train the network on, in place; return the number of epochs."""

    def _widths(self) -> tuple[int, ...]:
        if not isinstance(self.hidden, (tuple, list)):
            raise TypeError(f"hidden must be a tuple of widths, such as (32,), got {self.hidden!r}")
        return tuple(check_positive_int(width, "each width in hidden") for width in self.hidden)

    def _check(self) -> None:
        """Refuse parameters of the subclass that make no sense."""

    def _probability(self, X: Any) -> np.ndarray:
        margins = self._margins(self.network_, self._inputs(X, self.network_))
        return np.asarray(1 / (1 + np.exp(-margins.clip(-700, 700))))

    def _inputs(self, X: Any, module: nn.Module | None) -> Tensor:
        """Return the rows as a tensor where the module is, in its precision."""
        like = None if module is None else next(module.parameters(), None)
        if not isinstance(X, Tensor) and getattr(X, "ndim", 2) <= 2:
            X = check_array(X)
        inputs = as_tensor(X)
        if not inputs.is_floating_point() and module is not None and not self._is_own(module):
            return inputs.to(None if like is None else like.device)  # such as token numbers
        if not bool(torch.isfinite(inputs).all()):
            raise ValueError("X has NaN or infinite values; remove or impute these rows")
        return inputs.to(torch.float64) if like is None else inputs.to(like)

    @staticmethod
    def _is_own(module: nn.Module) -> bool:
        return isinstance(module, Standardised)

    def _optimizer(self, network: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(
            network.parameters(), self.learning_rate, weight_decay=self.weight_decay
        )

    def _losses(self, network: nn.Module, batch: Rows) -> tuple[Tensor, Tensor]:
        """Return margins and losses of a batch, both (n,), with their graph."""
        outputs = network(batch.X)
        margin = margins_of(outputs)
        if self.loss_fn is None:
            return margin, softplus(margin) - batch.y * margin
        loss = as_loss(self.loss_fn, "classification")
        classes = isinstance(loss, CrossEntropy)
        return margin, loss(outputs, batch.y.long() if classes else batch.y)

    def _descend(
        self,
        network: nn.Module,
        rows: Rows,
        step: Callable[[Rows], float],
        doing: str,
        *decaying: torch.optim.Optimizer,
    ) -> int:
        """Call ``step`` on batches until its value no longer falls; return the epochs."""
        # With decaying optimizers, whose rates fall to zero, all epochs are run.
        network.train()
        best, since = math.inf, 0
        rates = [optimizer.param_groups[0]["lr"] for optimizer in decaying]
        for epoch in track(range(self.max_epochs), doing):
            for optimizer, rate in zip(decaying, rates, strict=True):
                optimizer.param_groups[0]["lr"] = rate * (1 - epoch / self.max_epochs)
            parts = [step(batch) * len(batch.y) for batch in self._batches(rows)]
            value = sum(parts) / len(rows.y)
            if not math.isfinite(value):
                raise ValueError(
                    f"{doing} diverged in epoch {epoch} (objective {value}); standardise X, or "
                    "lower learning_rate"
                )
            progress = value < best - self.tol * abs(best) or best == math.inf
            best, since = (value, 0) if progress else (best, since + 1)
            if since >= _PATIENCE and not decaying:
                break
        network.eval()
        return epoch + 1

    def _batches(self, rows: Rows) -> Iterator[Rows]:
        n = len(rows.y)
        if n <= self.batch_size:
            yield rows
            return
        for part in torch.split(torch.randperm(n, device=rows.y.device), self.batch_size):
            if len(part) > 1:
                yield rows.take(part)

    @staticmethod
    def _margins(network: nn.Module, inputs: Tensor) -> np.ndarray:
        with torch.no_grad():
            parts = [margins_of(network(part)) for part in torch.split(inputs, _ROWS)]
        return torch.cat(parts).double().cpu().numpy()


def margins_of(outputs: Tensor) -> Tensor:
    """Return one margin a row, of outputs (n,), (n, 1) or two logits (n, 2)."""
    if outputs.ndim == 1:
        return outputs
    if outputs.ndim == 2 and outputs.shape[1] == 1:
        return outputs[:, 0]
    if outputs.ndim == 2 and outputs.shape[1] == 2:
        return outputs[:, 1] - outputs[:, 0]
    raise ValueError(
        f"module must return one margin or two logits a row, got shape {tuple(outputs.shape)}"
    )


def _step(optimizer: torch.optim.Optimizer, objective: Tensor) -> float:
    optimizer.zero_grad()
    torch.autograd.backward(objective)
    optimizer.step()
    return objective.item()
