"""Raw rows and targets to the tensors that a model eats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trustml.core.batches import Data, Inputs, apply, as_data
from trustml.core.validation import as_tensor, check_finite, frame_columns, to_numpy
from trustml.model.converted import Converted, Task


class Intake:
    """The way in: checks, encoders, dtype and device of one model.

    Parameters
    ----------
    converted : Converted
        The model.
    device : torch.device, str or None
        For what has no module of its own; None is the CPU.
    """

    def __init__(self, converted: Converted, device: torch.device | str | None = None) -> None:
        self._converted = converted
        parameters = [] if converted.module is None else list(converted.module.parameters())
        floating = [p for p in parameters if p.is_floating_point()]
        self.device = floating[0].device if floating else torch.device(device or "cpu")
        stored = torch.float32 if converted.wants_tensors else torch.float64
        self.dtype = floating[0].dtype if floating else stored
        self._tokens = converted.module is not None and any(
            isinstance(layer, (nn.Embedding, nn.EmbeddingBag))
            for layer in converted.module.modules()
        )
        self.row_shape: torch.Size | None = None
        self.columns = converted.feature_names
        self.takes_tensors: bool | None = None

    def data(self, X: Any) -> Data:
        """Return rows of any kind as ``Data``, prepared batch by batch."""
        if isinstance(X, Data):
            return X
        if is_several(X) and isinstance(X, tuple):
            return as_data(self.prepared(X), device=self.device)
        return as_data(dense(X), prepare=self.inputs, dtype=self.dtype, device=self.device)

    def inputs(self, X: Any) -> Inputs:
        """Return what the module eats: checked, encoded, on its device and in its dtype."""
        return apply(lambda part: part.to(self.device), self.prepared(X))

    def prepared(self, X: Any) -> Inputs:
        """Return the same as ``inputs``, where it is: the whole training set may not fit a GPU."""
        if is_several(X):
            if isinstance(X, Mapping):
                return {str(key): self._cast(as_tensor(part), str(key)) for key, part in X.items()}
            return tuple(self._cast(as_tensor(part), f"X[{i}]") for i, part in enumerate(X))
        if self._converted.encode is not None:
            X = self._converted.encode(self.rows(X))
            return self._cast(as_tensor(X), "X after preprocessing")
        X = dense(X)
        self._check_columns(X)
        x = as_tensor(X)
        self._check_shape(x)
        keep = self._tokens and not x.is_floating_point()
        return self._cast(x if keep else x.to(self.dtype), "X")

    def continuous(self, X: Any, what: str) -> Tensor:
        """Return inputs that equal X, number by number: what can be moved a little.

        Parameters
        ----------
        X : array-like or frame
            Rows.
        what : str
            The caller; named in the error.

        Returns
        -------
        Tensor of shape (n, ...)
            In the model's dtype and on its device.

        Raises
        ------
        TypeError
            If a preprocessing step has no gradient, or X is not one block of real numbers.
        """
        if self._converted.encode is not None:
            raise TypeError(
                f"{what} moves the numbers of X, but {type(self._converted.source).__name__} "
                "begins with steps that have no gradient (encoders, imputers): transform X with "
                "them and wrap the rest of the pipeline, or use explain.KernelShap"
            )
        inputs = self.inputs(X)
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            given = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
            raise TypeError(
                f"{what} moves the numbers of X, but this model takes {given}; wrap the part of it "
                "that takes embeddings or other real numbers"
            )
        return inputs

    def rows(self, X: Any) -> Any:
        """Return rows as an estimator or a callable takes them: arrays or frames.

        Parameters
        ----------
        X : object
            Rows as the user has them.

        Returns
        -------
        ndarray, frame or Tensor

        Raises
        ------
        ValueError
            If there are no rows.
        """
        if isinstance(X, (Dataset, DataLoader)):
            X = as_data(X).inputs
        if self._converted.wants_tensors:
            x = as_tensor(X, device=self.device)
            return self._cast(x.to(self.dtype), "X")
        X = dense(X.inputs if isinstance(X, Data) else X)
        if is_several(X):
            return X
        if len(X) == 0:
            raise ValueError("X has no rows; at least one is needed")
        names = self._converted.feature_names
        is_frame = frame_columns(X) is not None
        if not hasattr(self._converted.source, "predict"):
            return self._for_callable(X, is_frame)
        if is_frame and names is not None:
            return X
        array = to_numpy(X)
        return array if names is None else _named(array, names)

    def _for_callable(self, X: Any, is_frame: bool) -> Any:
        """Give a plain function tensors if it was shown tensors in ``train``, arrays otherwise."""
        if isinstance(X, Tensor) and self.takes_tensors is not False:
            check_finite(X, "X")
            return X
        if is_frame:
            return X
        array = to_numpy(X)
        check_finite(array, "X")
        return torch.as_tensor(array, device=self.device) if self.takes_tensors else array

    def targets(self, y: Any, task: Task, n_outputs: int | None) -> Tensor:
        """Return regression, multilabel or token targets.

        Parameters
        ----------
        y : array-like of shape (n, ...)
            Targets as the user writes them.
        task : str
            Any but classification.
        n_outputs : int or None
            Outputs per row, if known.

        Returns
        -------
        Tensor
            On the model's device.

        Raises
        ------
        ValueError
            If they do not fit the outputs, or are not finite.
        """
        if task == "language-modeling":
            return as_tensor(y, dtype=torch.long, device=self.device, name="y")
        target = as_tensor(y, dtype=self.dtype, device=self.device, name="y")
        check_finite(target, "y")
        if len(target) == 0:
            raise ValueError("y is empty; at least one target is needed")
        if task == "multilabel":
            if target.ndim != 2 or not bool(((target == 0) | (target == 1)).all()):
                raise ValueError(
                    f"multilabel targets are 0 or 1 of shape (n, labels), got {tuple(target.shape)}"
                )
        elif target.ndim == 2 and target.shape[1] == 1:
            target = target[:, 0]
        given = 1 if target.ndim == 1 else target.shape[1]
        if n_outputs is not None and target.ndim <= 2 and given != n_outputs:
            raise ValueError(f"y has {given} columns, but the model has {n_outputs} outputs")
        return target

    def _cast(self, x: Tensor, name: str) -> Tensor:
        if x.ndim == 0 or len(x) == 0:
            raise ValueError(f"{name} has no rows (shape {tuple(x.shape)}); at least one is needed")
        check_finite(x, name)
        return x.to(self.dtype) if x.is_floating_point() else x

    def _check_columns(self, X: Any) -> None:
        """Refuse a frame whose columns are not those of the fit, in order."""
        names, given = self.columns, frame_columns(X)
        if names is None or given is None or tuple(given) == names:
            return
        missing = [name for name in names if name not in given]
        problem = f"lacks the columns {missing[:5]}" if missing else "has them in another order"
        raise ValueError(
            f"the model was fitted with {len(names)} named columns, and X {problem}; "
            f"pass X[{list(names)[:5]}{'...' if len(names) > 5 else ''}]"
        )

    def _check_shape(self, x: Tensor) -> None:
        # Only flat rows are bound to one width: images and sequences may vary.
        flat = self.row_shape is not None and len(self.row_shape) == 1
        width = self._converted.n_features
        if width is None and flat:
            width = self.row_shape[0]  # type: ignore[index]
        if width is not None and (x.ndim != 2 or x.shape[1] != width):
            hint = "; a single row is X[None, :]" if x.ndim == 1 else ""
            raise ValueError(f"X must have shape (n, {width}), got {tuple(x.shape)}{hint}")


def dense(X: Any) -> Any:
    """Return a scipy sparse matrix as an array, anything else as it is."""
    return X.toarray() if hasattr(X, "toarray") and hasattr(X, "nnz") else X


def is_several(X: Any) -> bool:
    """Say whether X is a dict or tuple of tensors, the arguments of one forward pass."""
    if isinstance(X, Mapping) and frame_columns(X) is None:
        return True
    return (
        isinstance(X, tuple)
        and len(X) > 0
        and all(isinstance(part, (Tensor, np.ndarray)) and part.ndim > 0 for part in X)
    )


def _named(array: np.ndarray[Any, Any], names: tuple[str, ...]) -> Any:
    """Give an array the column names that the estimator was fitted with, if pandas is here."""
    if array.ndim != 2 or array.shape[1] != len(names):
        raise ValueError(f"X must have shape (n, {len(names)}), got {array.shape}")
    try:
        import pandas as pd
    except ImportError:
        return array
    return pd.DataFrame(array, columns=list(names))
