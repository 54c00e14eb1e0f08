"""The training objective: outputs, loss on outputs, regulariser, data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from trustml.core.batches import Batch, Data, Inputs, forward, map_batches
from trustml.core.features import find_head
from trustml.core.gradients import PerExampleGradients
from trustml.core.losses import OutputLoss
from trustml.core.modes import evaluating, mixed_precision, refuse_inference_mode
from trustml.core.parameters import ParameterSpace
from trustml.core.passes import collect, total
from trustml.core.projections import Projection
from trustml.core.validation import check_positive_int
from trustml.ihvp._fingerprint import fingerprint
from trustml.ihvp._intake import (
    as_rows,
    check_module,
    check_outputs,
    check_processes,
    check_rows_fit,
    in_double,
    listed,
    refuse_shape,
    resolve,
    shape_of,
)

T = TypeVar("T")
Cotangents = Callable[[Tensor, Inputs, Tensor | None], Tensor]

# Per-example gradients of one batch stay below this many numbers.
_ROWS_BUDGET = 2**25


class Objective:
    r"""What training minimised: :math:`J(θ) = (1/n) Σ_i ℓ(f(θ, x_i), y_i) + ½ Σ_k wd_k θ_k^2`.

    The module is looked at in eval mode and never changed: its flags are restored, its weights,
    ``requires_grad`` and buffers are left alone.

    Parameters
    ----------
    module : nn.Module
        Maps inputs to outputs (n, c), (n, 1) or (n,).
    loss : torch loss module, OutputLoss, callable or None
        A torch loss's reduction is set aside; a callable maps (outputs, targets) to losses (n,).
        None: cross-entropy for integer targets, squared error for real ones.
    data : (X, y), Data, Dataset or DataLoader
        The training set in a fixed order.
    parameters : selection, ParameterSpace or None
        Which parameters θ are: None for all that require gradients, "last_layer", names, regular
        expressions, or a list of them.
    weight_decay : float or mapping of name or regex to float
        wd_k. Part of the objective, and so of every curvature; it is not damping.
    head : str or None
        Name of the last layer for "last_layer"; None traces one batch to find it.
    batch_size : int or "auto"
        Rows for each forward pass; halved where memory runs out.
    n : int or None
        The n of the mean; None is the number of rows.
    autocast : torch.bfloat16, torch.float16 or None
        Passes that end in a sum or in rows (losses, gradients) run the module under
        ``torch.autocast``; sums stay in float64. Products with a curvature, and with them every
        certificate, keep the parameters' precision.

    Attributes
    ----------
    space : ParameterSpace
        Names and places of the parameters in flat vectors.
    weight_decay : Tensor of shape (p,)
        wd_k of each parameter.
    n : int
        The n of the mean.

    Raises
    ------
    ValueError
        If the data have no targets, outputs are NaN, or batch statistics would mix the rows.

    Examples
    --------
    >>> import torch
    >>> X, y = torch.eye(2), torch.tensor([[1.0], [2.0]])
    >>> module = torch.nn.Linear(2, 1, bias=False)
    >>> objective = Objective(module, torch.nn.MSELoss(), (X, y), weight_decay=0.1)
    >>> objective.gradient().shape
    torch.Size([2])
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Any,
        data: Any,
        parameters: str | Sequence[str] | ParameterSpace | None = None,
        weight_decay: float | Mapping[str, float] = 0.0,
        *,
        head: str | None = None,
        batch_size: int | Literal["auto"] = "auto",
        n: int | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
        refuse_inference_mode("ihvp.Objective")
        check_module(module)
        if batch_size != "auto":
            check_positive_int(batch_size, "batch_size")
        if autocast not in (None, torch.bfloat16, torch.float16):
            raise ValueError(
                f"autocast must be torch.bfloat16, torch.float16 or None, got {autocast!r}"
            )
        self.module, self.batch_size, self.autocast = module, batch_size, autocast
        self._decay_spec, self._head = weight_decay, head
        rows = as_rows(data)
        if isinstance(parameters, ParameterSpace):
            self.space = parameters if parameters.module is module else parameters.on(module)
        else:
            if parameters is not None and "last_layer" in listed(parameters) and head is None:
                place = next(module.parameters(), torch.empty(0))
                head = find_head(module, rows.to(place.device, place.dtype).rows(0, 1).inputs)
                if head is None:
                    raise ValueError(
                        'parameters="last_layer" needs a module that ends in a torch.nn.Linear; '
                        "name the layer's parameters instead"
                    )
                self._head = head
            self.space = ParameterSpace(module, parameters, head=head)
        self.data = rows.to(self.space.device, self.space.dtype)
        self.weight_decay = self.space.expand(weight_decay)
        self.n = len(self.data) if n is None else check_positive_int(n, "n")
        probe = self.data.rows(0, min(2, len(self.data)))
        if probe.targets is None:
            raise ValueError(
                "the data have no targets; pass (X, y), or a DataLoader that yields (x, y)"
            )
        outputs = self.outputs(probe.inputs)
        self.loss: OutputLoss = resolve(loss, outputs, probe.targets)
        self.loss(outputs, probe.targets)
        check_outputs(outputs, self.outputs(probe.inputs))
        self._gradients: PerExampleGradients | None = None
        check_processes(self.space, len(self.data))

    def __repr__(self) -> str:
        """Show module, loss, rows and parameters."""
        return (
            f"Objective({type(self.module).__name__}, {self.loss.name}, n={self.n}, "
            f"p={self.space.size})"
        )

    @property
    def gradients(self) -> PerExampleGradients:
        """The per-example gradients' engine, its backend chosen on first use."""
        if self._gradients is None:
            self._gradients = PerExampleGradients(self.module, self.space)
        return self._gradients

    def leaves(self) -> dict[str, Tensor]:
        """Return detached parameters by name, each requiring a gradient."""
        vector = self.space.vector()
        return {
            name: part.clone().requires_grad_(True)
            for name, part in self.space.unflatten(vector).items()
        }

    def call(self, leaves: dict[str, Tensor], inputs: Inputs) -> Tensor:
        """Return the outputs at other parameters, with a graph; the module is left alone."""
        # What is not asked about is held, so that no graph is built for it.
        state = {name: p.detach() for name, p in self.module.named_parameters()} | leaves
        with evaluating(self.module), torch.enable_grad():
            return forward(lambda *a, **k: functional_call(self.module, state, a, k), inputs)

    def outputs(self, inputs: Inputs) -> Tensor:
        """Return the outputs of a batch without a graph, in eval mode."""
        try:
            with evaluating(self.module), torch.no_grad():
                return forward(self.module, inputs)
        except RuntimeError as error:
            refuse_shape(self.module, inputs, error)
            raise

    def targets(self, batch: Batch) -> Tensor:
        """Return a batch's targets, or say that there are none."""
        if batch.targets is None:
            raise ValueError("the loss needs targets; pass (X, y), or a measurement without them")
        return batch.targets

    def map(self, fn: Callable[[Batch], T], data: Data | None = None) -> Iterator[T]:
        """Yield ``fn(batch)`` over the training data, or over ``data``, batch by batch."""
        return map_batches(fn, self.data if data is None else data, self.batch_size)

    def total(self, fn: Callable[[Batch], Tensor], data: Data | None = None) -> Tensor:
        """Return the float64 sum of ``fn(batch)``; inside ``data_parallel()`` of all processes."""
        with mixed_precision(self.autocast):
            return total(fn, self.data if data is None else data, self.batch_size)

    def collect(
        self, fn: Callable[[Batch], Tensor], data: Data | None = None, rows_at_once: int = 512
    ) -> Tensor:
        """Return the rows of ``fn(batch)`` in order, of all processes; at most so many at once."""
        with mixed_precision(self.autocast):
            return collect(fn, self.data if data is None else data, self.capped(rows_at_once))

    def fingerprint(self, **settings: Any) -> dict[str, Any]:
        """Return what results at this objective with these settings depend on, for a ``Store``."""
        return fingerprint(self, settings)

    def value(self) -> float:
        """Return J(θ), the regulariser included."""

        def part(batch: Batch) -> Tensor:
            return self.loss(self.outputs(batch.inputs), self.targets(batch)).double().sum()

        regulariser = 0.5 * float((self.weight_decay * self.space.vector().square()).sum())
        return float(self.total(part)) / self.n + regulariser

    def gradient(self) -> Tensor:
        """Return ∇J(θ) of shape (p,), the regulariser included."""
        leaves = self.leaves()

        @torch.enable_grad()
        def part(batch: Batch) -> Tensor:
            losses = self.loss(self.call(leaves, batch.inputs), self.targets(batch))
            found = torch.autograd.grad(
                losses.sum(), list(leaves.values()), materialize_grads=True, allow_unused=True
            )
            return torch.cat([g.reshape(-1) for g in found])

        penalty = self.weight_decay.double() * self.space.vector().double()
        return (self.total(part) / self.n + penalty).to(self.space.dtype)

    def per_example_gradients(self, X: Any = None, y: Any = None) -> Tensor:
        """Return ∇ℓ_i, without the regulariser.

        Parameters
        ----------
        X, y : arrays, tensors, Data or None
            Other rows; None takes the training data.

        Returns
        -------
        Tensor of shape (m, p)
            One row each; m × p numbers are held.
        """
        return self.rows(None if X is None else (X if y is None else (X, y)))

    def rows(self, data: Any = None, cotangents: Cotangents | None = None) -> Tensor:
        """Return the gradient of a measurement of each row.

        Parameters
        ----------
        data : Data, (X, y), X or None
            The rows; None takes the training data.
        cotangents : callable or None
            Maps (outputs, inputs, targets) to the measurement's gradient with respect to the
            outputs, in their shape; None takes the loss.

        Returns
        -------
        Tensor of shape (m, p)
        """
        held, p = self._data(data), self.space.size
        check_rows_fit(len(held), self.space)

        def part(batch: Batch) -> Tensor:
            return self.gradients.rows(batch.inputs, self._cotangents(batch, cotangents))[1]

        return self.collect(part, held, max(1, _ROWS_BUDGET // max(1, p)))

    def dot(self, V: Tensor, data: Any = None, cotangents: Cotangents | None = None) -> Tensor:
        """Return ∇ℓ_i · V without holding the gradients where the layers allow it.

        Parameters
        ----------
        V : Tensor of shape (p, k)
            Columns to multiply with.
        data : Data, (X, y), X or None
            The rows; None takes the training data.
        cotangents : callable or None
            As in ``rows``.

        Returns
        -------
        Tensor of shape (m, k)

        Raises
        ------
        ValueError
            If V is not (p, k).
        """
        if V.ndim != 2 or V.shape[0] != self.space.size:
            raise ValueError(f"V must have shape ({self.space.size}, k), got {tuple(V.shape)}")

        def part(batch: Batch) -> Tensor:
            return self.gradients.dot(batch.inputs, self._cotangents(batch, cotangents), V)[1]

        return self.collect(part, self._data(data))

    def project(
        self, projection: Projection, data: Any = None, cotangents: Cotangents | None = None
    ) -> Tensor:
        """Return the rows (m, k) of ``rows(data, cotangents)`` projected, never held whole."""

        def part(batch: Batch) -> Tensor:
            of = self._cotangents(batch, cotangents)
            return self.gradients.project(batch.inputs, of, projection)[1]

        return self.collect(part, self._data(data))

    def restrict(self, parameters: str | Sequence[str]) -> Objective:
        """Return the objective as a function of fewer parameters, the others held."""
        return self.like(self.module, self.data, parameters)

    def without(self, indices: Any) -> Objective:
        """Return J − Σ_S ℓ_i / n: rows left out, the same n and the same regulariser.

        Parameters
        ----------
        indices : array of int or bool
            The rows to leave out.

        Returns
        -------
        Objective

        Raises
        ------
        ValueError
            If no row would be left.
        """
        keep = torch.ones(len(self.data), dtype=torch.bool)
        keep[torch.as_tensor(indices).cpu().reshape(-1)] = False
        if not bool(keep.any()):
            raise ValueError("indices name every row; at least one must stay")
        return self.like(self.module, self.data.subset(keep), self.space)

    def at(self, vector: Tensor) -> Objective:
        """Return the objective at another θ of shape (p,), on a deep copy of the module."""
        module = copy.deepcopy(self.module)
        self.space.load(module, vector)
        return self.like(module, self.data, self.space.on(module))

    def double(self) -> Objective:
        """Return it in float64, on a copy; itself, with a BackendWarning, if the module casts."""
        return in_double(self)

    def like(self, module: nn.Module, data: Data, parameters: Any) -> Objective:
        """Return an objective that differs in its module, its rows or its parameters."""
        return Objective(
            module,
            self.loss,
            data,
            parameters,
            self._decay_spec,
            head=self._head,
            batch_size=self.batch_size,
            n=self.n,
            autocast=self.autocast,
        )

    def _data(self, data: Any) -> Data:
        if data is None:
            return self.data
        rows = as_rows(data).to(self.space.device, self.space.dtype)
        if shape_of(rows) != shape_of(self.data):
            self.outputs(rows.rows(0, 1).inputs)  # raises in our words if the rows do not fit
        return rows

    def capped(self, size: int) -> int:
        """Return ``size``, or the batch size where that is smaller."""
        return min(size, self.data.auto_batch if self.batch_size == "auto" else self.batch_size)

    def _cotangents(
        self, batch: Batch, cotangents: Cotangents | None
    ) -> Callable[[Tensor], Tensor]:
        if cotangents is None:
            return lambda outputs: self.loss.gradient(outputs, self.targets(batch))
        return lambda outputs: cotangents(outputs, batch.inputs, batch.targets)


def check_objective(objective: Any) -> Objective:
    """Return it if it is an Objective."""
    if not isinstance(objective, Objective):
        raise TypeError(f"objective must be an ihvp.Objective, got {type(objective).__name__}")
    return objective
