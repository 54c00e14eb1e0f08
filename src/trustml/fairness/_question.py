"""Which gap is asked about: criterion, surrogate and favourable label on validation rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trustml.core.alignment import check_aligned
from trustml.core.batches import as_data
from trustml.core.validation import check_choice
from trustml.fairness._criteria import CRITERIA, OF_ERRORS, Compared, Criterion, cells_of, custom
from trustml.fairness._groups import Groups, as_groups
from trustml.fairness._surrogates import SURROGATES, Measured, quantity_of
from trustml.fairness._validation import Validation
from trustml.model import Model

# With two classes, what is compared changes its sign with the label, and the gap stays.
_EITHER_LABEL = ("demographic_parity", "equalized_odds")


@dataclass(frozen=True, eq=False)
class Question:
    """A criterion for one model.

    Attributes
    ----------
    model : Model
        The model.
    criterion : str or callable
        As of ``FairInfluence``.
    surrogate : str
        One of ``SURROGATES``.
    pos_label : object or None
        The favourable label.
    """

    model: Model
    criterion: str | Criterion
    surrogate: str
    pos_label: Any

    def on(self, X_val: Any, y_val: Any, sensitive_features: Any) -> tuple[Validation, Groups]:
        """Return the question on validation rows, and their groups.

        Parameters
        ----------
        X_val, y_val, sensitive_features
            As of ``FairInfluence.fit``.

        Returns
        -------
        validation : Validation
        groups : Groups

        Raises
        ------
        ValueError
            If labels are needed and missing, lengths differ, or a group lacks rows.
        """
        check_aligned(X_val=X_val, y_val=y_val, sensitive_features=sensitive_features)
        model, name = self.model, self._name()
        if y_val is None and name not in ("demographic_parity", None):
            raise ValueError(f"criterion={name!r} looks at labels: pass y_val")
        if y_val is None and self.surrogate == "loss":
            raise ValueError("surrogate='loss' looks at labels: pass y_val")
        targets = None if y_val is None else model.targets(y_val)
        data = as_data(model.inputs(X_val), targets)
        groups = as_groups(sensitive_features, len(data))
        column = self._favourable(name)
        groups.warn_if_small(stacklevel=3)
        objective = model.objective
        outputs = torch.cat(list(objective.map(lambda b: objective.outputs(b.inputs), data)))
        quantity = quantity_of(model, name, self.surrogate, column, outputs, targets)
        compared = self._compared(groups, column, quantity, outputs, targets)
        return Validation(model, data, compared, quantity, targets), groups

    def _name(self) -> str | None:
        """Return the criterion's name; None for the user's own."""
        check_choice(self.surrogate, "surrogate", SURROGATES)
        if not isinstance(self.criterion, str) and callable(self.criterion):
            return None
        name = str(self.criterion)
        check_choice(name, "criterion", tuple(CRITERIA))
        if self.surrogate == "loss" and name in ("demographic_parity", "predictive_parity"):
            raise ValueError(
                f"criterion={name!r} has no losses of its own; use 'loss_parity' for the losses of "
                "all rows, or another surrogate"
            )
        return name

    def _compared(
        self,
        groups: Groups,
        column: int | None,
        quantity: Measured,
        outputs: Tensor,
        targets: Tensor | None,
    ) -> Compared:
        """Return what is compared on the validation rows."""
        positive = y = None
        if targets is not None:
            y = targets.detach().cpu().reshape(len(targets), -1)[:, 0]
            if column is not None:
                y = y == column
                positive = y.numpy()
        if isinstance(self.criterion, str):
            return cells_of(self.criterion, groups, positive)
        with torch.no_grad():
            probe = quantity(outputs, targets)
        return custom(self.criterion, groups, None if y is None else y.double(), probe)

    def _favourable(self, name: str | None) -> int | None:
        """Return the column of the favourable class; None where none is needed."""
        model, label = self.model, self.pos_label
        if model.task == "regression":
            if name not in ("demographic_parity", "loss_parity", "worst_group", None):
                raise ValueError(
                    f"criterion={name!r} needs classes; for regression use 'demographic_parity', "
                    "'loss_parity', 'worst_group' or a callable"
                )
            return None
        if model.task != "classification":
            raise ValueError(
                f"FairInfluence serves classification and regression, not {model.task}"
            )
        classes = [] if model.classes_ is None else model.classes_.tolist()
        if label is None and name in OF_ERRORS:
            return None
        if label is None and len(classes) == 2 and name in _EITHER_LABEL:
            label = classes[1]  # sorted or the user's order: 1 of {0, 1} and {-1, 1}
        if label is None:
            if not (set(classes) <= {0, 1} or set(classes) <= {-1, 1}):
                raise ValueError(
                    f"which of the labels {classes[:10]} is the favourable one? pass pos_label="
                )
            label = 1
        if label not in classes:
            raise ValueError(f"pos_label {label!r} is not among the labels {classes[:10]}")
        return classes.index(label)
