"""Error and group rates of a decision, as linear functions of few numbers.

All that a criterion asks of a binary decision follows from its rate within each pair of group and
label: the *atoms*. A hypothesis is one column of atom rates, whatever the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trustml.core.validation import check_choice
from trustml.fairness._criteria import cells_of
from trustml.fairness._groups import Groups

# Group means of a decision are linear in it; a mean loss is not.
REDUCIBLE = (
    "demographic_parity",
    "equal_opportunity",
    "predictive_equality",
    "equalized_odds",
    "error_parity",
)


@dataclass(frozen=True, eq=False)
class Moments:
    """A criterion on given rows.

    Attributes
    ----------
    atom : numpy.ndarray of shape (n,)
        Index of each row's pair of group and label.
    weight : numpy.ndarray of shape (n,)
        Of the rows.
    share : numpy.ndarray of shape (a,)
        Weighted share of the rows in each atom; their sum is 1.
    error, base_error : numpy.ndarray of shape (a,), float
        Error of a decision with atom rates m: ``base_error + error @ m``.
    rates, offset : numpy.ndarray of shape (k, a), numpy.ndarray of shape (k,)
        The means that are compared: ``offset + rates @ m``.
    condition : numpy.ndarray of shape (k,)
        Means with the same number are compared with each other.
    """

    atom: np.ndarray
    weight: np.ndarray
    share: np.ndarray
    error: np.ndarray
    base_error: float
    rates: np.ndarray
    offset: np.ndarray
    condition: np.ndarray

    def atom_rates(self, decided: np.ndarray) -> np.ndarray:
        """Return the rate of a decision (n,) within each atom, shape (a,)."""
        a = len(self.share)
        total = np.bincount(self.atom, self.weight, a)
        found = np.bincount(self.atom, self.weight * decided, a)
        return np.divide(found, total, out=np.zeros(a), where=total > 0)

    def errors(self, atoms: np.ndarray) -> np.ndarray:
        """Return the 0-1 error of each column of atom rates (a, t), shape (t,)."""
        return np.asarray(self.base_error + self.error @ atoms)

    def means(self, atoms: np.ndarray) -> np.ndarray:
        """Return what is compared, of each column of atom rates (a, t), shape (k, t)."""
        return np.asarray(self.offset[:, None] + self.rates @ atoms)

    def gap(self, atoms: np.ndarray) -> np.ndarray:
        """Return the largest difference between groups, of each column (a, t), shape (t,)."""
        means = self.means(atoms)
        parts = [means[self.condition == c] for c in np.unique(self.condition)]
        return np.asarray(np.max([np.ptp(part, axis=0) for part in parts], axis=0))

    def costs(self, multipliers: np.ndarray) -> np.ndarray:
        """Return what the decision of one row of each atom adds to the Lagrangian, shape (a,)."""
        total = self.error + self.rates.T @ multipliers
        return np.asarray(
            np.divide(total, self.share, out=np.zeros_like(total), where=self.share > 0)
        )


def moments_of(
    criterion: str, groups: Groups, positive: np.ndarray, weight: np.ndarray | None
) -> Moments:
    """Return error and compared means of decisions about rows.

    Parameters
    ----------
    criterion : str
        One of ``REDUCIBLE``.
    groups : Groups
        Of the rows.
    positive : numpy.ndarray of shape (n,), bool
        Which rows have the favourable label.
    weight : numpy.ndarray of shape (n,) or None
        Of the rows; None counts each once.

    Returns
    -------
    Moments
    """
    check_choice(criterion, "constraints", REDUCIBLE)
    by_error = criterion == "error_parity"
    cells = cells_of("demographic_parity" if by_error else criterion, groups, positive)
    weight = np.ones(len(positive)) if weight is None else weight
    atom = 2 * groups.codes + positive
    a = 2 * len(groups.labels)
    label = np.arange(a) % 2
    share = np.bincount(atom, weight, a) / weight.sum()
    error = share * (1 - 2 * label)
    rates = np.zeros((len(cells.names), a))
    offset = np.zeros(len(rates))
    for row, (within, group) in enumerate(cells.names):
        inside = np.arange(a) // 2 == groups.labels.index(group)
        if within != "any":
            inside &= label == (within == "positive")
        part = inside * share / share[inside].sum()
        rates[row] = part * (1 - 2 * label) if by_error else part
        offset[row] = part @ label if by_error else 0.0
    return Moments(atom, weight, share, error, float(share @ label), rates, offset, cells.condition)
