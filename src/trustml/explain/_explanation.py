"""What every explainer returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.core.optional import require
from trustml.core.results import Result
from trustml.core.validation import to_numpy


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Result):
    """Feature attributions of some rows, in the layout of ``shap.Explanation``.

    Attributes
    ----------
    values : array or Tensor of shape (n, *features) or (n, *features, c)
        Signed attributions, in the unit of the explained output. The last axis is there only if
        several outputs are explained at once.
    base_values : array or Tensor of shape (n,) or (n, c), or None
        Output at the baseline; None for methods that have no baseline.
    data : array or Tensor of shape (n, *features)
        The rows.
    feature_names : list of str
        One for each feature, in the order of the flattened row.
    output_names : list of str or None
        Names along the last axis, if there is one.
    completeness : array or Tensor of shape (n,) or (n, c), or None
        abs(output - base value - sum of attributions), in the unit of the output; None where a
        method does not promise that they add up.
    uncertainty : array or Tensor, like values, or None
        Standard errors; filled by ``attribute(..., uncertainty=True)``.
    method : str
    output : {"logit", "probability", "loss"}
        What is explained.
    target : object
        As it was given.
    baseline : str or None
        Which one.
    passes : int array or Tensor of shape (n,)
        Gradient evaluations (model calls for sampling methods) spent on each row.
    """

    values: Any
    base_values: Any
    data: Any
    feature_names: list[str]
    output_names: list[str] | None
    completeness: Any
    uncertainty: Any
    method: str
    output: str
    target: Any
    baseline: str | None
    passes: Any

    def __len__(self) -> int:
        return len(self.values)

    def to_shap(self) -> Any:
        """Return a ``shap.Explanation``, for shap's plots.

        Returns
        -------
        shap.Explanation
            Features flattened to one axis where rows have several.
        """
        shap = require("shap", "explain")
        values, data = self._flat(self.values), self._flat(self.data)
        n, c = len(values), values.shape[2:]
        base = np.zeros((n, *c)) if self.base_values is None else to_numpy(self.base_values)
        return shap.Explanation(
            values,
            base_values=base,
            data=data,
            feature_names=list(self.feature_names),
            output_names=self.output_names,
            error_std=None if self.uncertainty is None else self._flat(self.uncertainty),
        )

    def _title(self) -> str:
        """Return what is explained, by what, from where."""
        target = "" if self.target is None else f" of target {_brief(self.target)}"
        base = "" if self.baseline is None else f", baseline {self.baseline}"
        gap = (
            ""
            if self.completeness is None
            else (f"; the sums miss the output by at most {to_numpy(self.completeness).max():.2g}")
        )
        return f"Explanation of {len(self)} rows by {self.method}: {self.output}{target}{base}{gap}"

    def _shown(self) -> dict[str, Any]:
        """Put each row's largest attributions first."""
        columns = self._columns()
        order = np.lexsort((-np.abs(columns["value"]), columns["row"]))
        return {name: column[order] for name, column in columns.items()}

    def _flat(self, array: Any) -> np.ndarray:
        """Return (n, d) or (n, d, c)."""
        found = to_numpy(array)
        last = found.shape[to_numpy(self.data).ndim :]
        return found.reshape(len(found), -1, *last)

    def _columns(self) -> dict[str, Any]:
        values, data = self._flat(self.values), self._flat(self.data)
        n, d, c = values.shape[0], values.shape[1], values.shape[2:]
        k = c[0] if c else 1

        def spread(per_cell: np.ndarray) -> np.ndarray:
            return np.repeat(per_cell.reshape(-1), k)

        columns: dict[str, Any] = {
            "row": spread(np.repeat(np.arange(n), d)),
            "feature": spread(np.tile(np.asarray(self.feature_names, dtype=object), n)),
        }
        if c:
            columns["output"] = np.tile(np.asarray(self.output_names, dtype=object), n * d)
        columns["data"] = spread(data)
        columns["value"] = values.reshape(-1)
        if self.uncertainty is not None:
            columns["uncertainty"] = self._flat(self.uncertainty).reshape(-1)
        return columns


def _brief(target: Any) -> str:
    return f"{target!r}" if np.ndim(target) == 0 else "each row"
