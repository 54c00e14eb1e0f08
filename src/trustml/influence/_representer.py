"""Representer points: a regularised last layer's outputs as a sum over training rows."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from trustml.core.batches import Batch
from trustml.core.features import Capture
from trustml.core.validation import restore
from trustml.ihvp import Objective
from trustml.influence._attributor import Attributor
from trustml.influence._gradient_products import gradient_products, squared_norms
from trustml.influence._queries import Queries
from trustml.influence._train_rows import loss_cotangents
from trustml.model import Model
from trustml.warnings import ApproximationWarning

_DOUBTFUL = 0.05  # of the outputs is not in the sum


class RepresenterPoints(Attributor):
    r"""Each output as a sum of training rows' parts, from the last layer's L2 term.

    Where the last layer, with features h and weight decay wd, is at the minimum of its objective,

    .. math:: f(x) = b + Σ_i α_i \, h_i'h(x), \qquad
              α_i = -\frac{1}{n\,\mathrm{wd}} \frac{∂ℓ_i}{∂f_i},

    exactly; b is a bias without weight decay (a bias with one joins the sum). A score is what
    happens to the measurement, to first order, if the row's term leaves the sum: influence with
    the weight decay alone as curvature. ``InfluenceFunctions(model, parameters="last_layer")``
    has the layer's whole curvature, and the leverage of each row.

    Parameters
    ----------
    model : Model or anything that ``trustml.wrap`` takes
        With its training data and weight decay, ending in a linear layer.

    Attributes
    ----------
    objective_ : Objective
        The training objective of the last layer.
    alphas_ : Tensor of shape (n_train, c)
        α_i, in units of output per squared feature.
    offset_ : Tensor of shape (c,)
        b; 0 where the bias is penalised or there is none.
    residual_ : float
        Part of the training outputs (root mean square, without b) that the sum misses: 0 at the
        minimum. Above 0.05 a warning says so. NaN for sequences.

    References
    ----------
    Yeh, Kim, Yen and Ravikumar (2018), Representer point selection for explaining deep neural
    networks, arXiv:1811.09720, theorem 3.1.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from trustml.model import wrap
    >>> X, y = load_iris(return_X_y=True)
    >>> fitted = LogisticRegression(tol=1e-8, max_iter=1000).fit(X, y)
    >>> points = RepresenterPoints(wrap(fitted, train=(X, y))).fit()
    >>> points.contributions(X[:5]).shape
    (5, 150, 3)
    >>> points.residual_ < 1e-4
    True
    """

    name = "representer"
    note = "What the row's term of the representer sum does; the other terms are held."
    curvature_name = "weight decay of the last layer"

    def __init__(self, model: Any) -> None:
        self.model = model

    def contributions(self, X: Any) -> Any:
        """Return each training row's part of each output, before softmax or link.

        Parameters
        ----------
        X : array-like, tensors or frame
            Query rows.

        Returns
        -------
        array or Tensor of shape (q, n_train, c)
            Adds up over the rows to the outputs without ``offset_``, as far as ``residual_`` says.

        Raises
        ------
        ValueError
            If the outputs are sequences.
        """
        self._check_fitted()
        if self._features is None:
            raise ValueError(
                "contributions are parts of outputs (n, c); for sequences ask scores(), which sums "
                "over the positions"
            )
        data = Queries.of(self.model_, X, None, _nothing).data
        features = self.objective_.collect(self._features_of, data)
        kernel = features @ self._features.T + self._constant
        return restore(kernel[:, :, None] * self.alphas_, X)

    def _subject(self) -> tuple[Model, Objective]:
        model, objective = super()._subject()
        return model, objective.restrict("last_layer")

    def _prepare(self) -> None:
        objective = self.objective_
        space = objective.space
        decay = {name: float(objective.weight_decay[s.start]) for name, s in space.slices.items()}
        weight = next(name for name, shape in space.shapes.items() if len(shape) == 2)
        if decay[weight] == 0:
            raise ValueError(
                f"the last layer's weight {weight!r} has no weight decay, so its outputs are no "
                "sum over training rows: the representer theorem needs the L2 term of training. "
                f"Pass wrap(..., weight_decay={{{weight!r}: value}}) if there was one, or train "
                "the last layer with one"
            )
        self._metric = torch.where(objective.weight_decay > 0, 1 / objective.weight_decay, 0)
        bias = next((name for name in space.names if name != weight), None)
        # A penalised bias is one more feature, a constant, with a weight decay of its own.
        penalised = bias is not None and decay[bias] > 0
        self._constant = decay[weight] / decay[bias] if bias is not None and penalised else 0.0
        self._head = weight.rpartition(".")[0]
        u = loss_cotangents(objective)
        self._features: Tensor | None = None
        self.residual_ = float("nan")
        if u.ndim > 2:
            return
        self.alphas_ = -u.reshape(len(u), -1) / (objective.n * decay[weight])
        free = bias is not None and not penalised
        self.offset_ = (
            space.unflatten(space.vector())[str(bias)]
            if free
            else torch.zeros_like(self.alphas_[0])
        )
        self._features = features = objective.collect(self._features_of)
        self._check_sum(features, objective.collect(lambda b: objective.outputs(b.inputs)))

    def _check_sum(self, features: Tensor, outputs: Tensor) -> None:
        wanted = outputs.reshape(len(outputs), -1) - self.offset_
        parts = features @ (features.T @ self.alphas_) + self._constant * self.alphas_.sum(0)
        scale = float(wanted.norm())
        self.residual_ = float((wanted - parts).norm()) / scale if scale > 0 else 0.0
        if self.residual_ > _DOUBTFUL:
            missed = f"{self.residual_:.0%}" if self.residual_ < 10 else "a multiple"
            warnings.warn(
                f"the sum over training rows misses {missed} of the outputs: the last "
                "layer is not at the minimum of its objective, or its weight decay is not what "
                "training had; train the last layer on to its minimum",
                ApproximationWarning,
                stacklevel=4,
            )

    def _features_of(self, batch: Batch) -> Tensor:
        with Capture(self.objective_.module, inputs_of=[self._head]) as seen:
            self.objective_.outputs(batch.inputs)
        features: Tensor = seen.inputs[self._head].detach()
        return features.reshape(len(batch), -1)

    def _raw_scores(self, queries: Queries) -> tuple[Tensor, None]:
        return gradient_products(self.objective_, queries, self._metric), None

    def _raw_self(self) -> Tensor:
        return squared_norms(self.objective_, self._metric)


def _nothing(outputs: Tensor, X: Any, y: Any) -> Tensor:
    return outputs
