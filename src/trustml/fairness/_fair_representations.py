"""Rows as mixtures of prototypes that say little about the group."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from trustml.core.random import RandomState, torch_generator
from trustml.core.validation import check_positive_int
from trustml.fairness._group_transformer import like_table, numbers
from trustml.fairness._groups import Groups
from trustml.fairness._mitigator import FairClassifier
from trustml.warnings import TrustmlWarning

_ROUNDED = 0.01  # |difference of shares| has a kink, at which a line search gets stuck
_COLLAPSED = 0.01  # share of the rows' variance; below, the representation is one point


class FairRepresentation(OneToOneFeatureMixin, TransformerMixin, FairClassifier):
    r"""Rebuild rows from a few prototypes whose use is alike in all groups, and decide by them.

    A row belongs to prototype k with the share :math:`m_k`, the softmax of its negative weighted
    squared distances; it becomes :math:`\sum_k m_k v_k` and is favourable with probability
    :math:`\sum_k m_k w_k`. Prototypes v, their probabilities w and the columns' weights minimise
    reconstruction error + cross-entropy + the total variation distance between the groups' mean
    shares, each times its factor. Groups are needed in ``fit`` only. The constant is perfectly
    fair, and some weights lead to it: a warning tells when rows became one point, or one decision.

    Parameters
    ----------
    n_prototypes : int
        K.
    lambda_reconst, lambda_pred, lambda_fair : float
        Factors of the mean squared error of the standardised columns, the cross-entropy in nats,
        and the distance between groups in [0, 1], the largest of any two.
    max_iter : int
        Most steps of L-BFGS, each over all rows, in float64.
    tol : float
        Steps end when the objective changes by less.
    device : torch.device, str or None
        Where it is trained; None is the CPU.
    pos_label : object or None
        The favourable label; None is the second of the sorted two.
    random_state : int, Generator or None
        Seed of the first prototypes, drawn from the Gaussian of the rows.

    Attributes
    ----------
    prototypes_ : numpy.ndarray of shape (K, d)
        In the units of the columns.
    prototype_probabilities_ : numpy.ndarray of shape (K,)
        Of the favourable label.
    column_weights_ : numpy.ndarray of shape (d,)
        Of the squared distances of standardised columns.
    kept_variance_ : float
        Variance of the rebuilt rows over that of the rows of ``fit``, columns standardised.
    group_distance_ : float
        Total variation distance between the groups' mean shares that is left, in [0, 1].
    n_iter_ : int
        Steps taken.

    References
    ----------
    Zemel et al. (2013), Learning fair representations.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> s = rng.choice(["a", "b"], 300)
    >>> X = rng.normal(size=(300, 2)) + np.stack([s == "b", s != "c"], axis=1)
    >>> y = (X.sum(1) + rng.normal(size=300) > 1.5).astype(int)
    >>> fair = FairRepresentation(random_state=0).fit(X, y, sensitive_features=s)
    >>> fair.transform(X).shape, bool(fair.group_distance_ < 0.1)
    ((300, 2), True)
    """

    def __init__(
        self,
        *,
        n_prototypes: int = 10,
        lambda_reconst: float = 0.01,
        lambda_pred: float = 1.0,
        lambda_fair: float = 1.0,
        max_iter: int = 100,
        tol: float = 1e-7,
        device: torch.device | str | None = None,
        pos_label: Any = None,
        random_state: RandomState = None,
    ) -> None:
        self.n_prototypes = n_prototypes
        self.lambda_reconst = lambda_reconst
        self.lambda_pred = lambda_pred
        self.lambda_fair = lambda_fair
        self.max_iter = max_iter
        self.tol = tol
        self.device = device
        self.pos_label = pos_label
        self.random_state = random_state

    def _fit(
        self, X: Any, y: np.ndarray, groups: Groups, sample_weight: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        check_positive_int(self.n_prototypes, "n_prototypes")
        check_positive_int(self.max_iter, "max_iter")
        for name in ("lambda_reconst", "lambda_pred", "lambda_fair"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)!r}")
        # Equal rows count once, sorted: rounding does not know their order, and it would grow.
        table = np.column_stack([numbers(self, X), y, groups.codes])
        table, place = np.unique(table, axis=0, return_inverse=True)
        weights = np.bincount(place, sample_weight)
        raw, labels, codes = np.ascontiguousarray(table[:, :-2]), table[:, -2], table[:, -1]
        share = weights / weights.sum()
        self._mean = share @ raw
        scale = np.sqrt(share @ (raw - self._mean) ** 2)
        self._scale = np.where(scale > 0, scale, 1.0)
        rows = torch.from_numpy((raw - self._mean) / self._scale).to(self.device)
        share_, label = (torch.from_numpy(a).to(rows) for a in (share, labels))
        member = torch.nn.functional.one_hot(torch.from_numpy(codes.astype(np.int64))).to(rows)
        member = share_[:, None] * member
        self._parameters = self._trained(rows, label, share_, member / member.sum(0))
        v, log_weight, logit = self._parameters
        self.prototypes_ = v.cpu().numpy() * self._scale + self._mean
        self.column_weights_ = log_weight.exp().cpu().numpy()
        self.prototype_probabilities_ = logit.sigmoid().cpu().numpy()
        shares = _shares(rows, v, log_weight)
        rebuilt = shares @ v
        spread = share_ @ (rebuilt - share_ @ rebuilt).square()
        self.kept_variance_ = float(spread.sum() / (share_ @ rows.square()).sum().clamp_min(1e-300))
        self.group_distance_ = float(_distance(shares, member / member.sum(0)))
        if self.kept_variance_ < _COLLAPSED:
            warnings.warn(
                "FairRepresentation collapsed: all rows become one point, "
                f"{self.kept_variance_:.2g} of their variance is kept; raise lambda_reconst or "
                "lambda_pred, or lower lambda_fair",
                TrustmlWarning,
                stacklevel=3,
            )
        chance = (shares @ logit.sigmoid()).cpu().numpy()
        return (chance > 0.5).astype(np.float64)[place], None

    def _trained(
        self, rows: Tensor, label: Tensor, share: Tensor, member: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Prototypes (K, d), logarithms of the columns' weights (d,), logits (K,)."""
        k, d = self.n_prototypes, rows.shape[1]
        generator = torch_generator(self.random_state)
        drawn = torch.randn(k, d, generator=generator, dtype=torch.float64).to(rows)
        values, vectors = torch.linalg.eigh((share[:, None] * rows).T @ rows)
        v = drawn @ (vectors * values.clamp_min(0).sqrt()) @ vectors.T
        logit = torch.randn(k, generator=generator, dtype=torch.float64).to(rows)
        # Distances of standardised rows grow with d, and a softmax of large ones learns nothing.
        log_weight = torch.full((d,), -math.log(d) / 2, dtype=rows.dtype, device=rows.device)
        parameters = (v, log_weight, logit)
        for parameter in parameters:
            parameter.requires_grad_()
        total = (share @ rows.square()).sum()
        optimizer = torch.optim.LBFGS(
            parameters,
            max_iter=self.max_iter,
            tolerance_change=self.tol,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def objective() -> Tensor:
            optimizer.zero_grad()
            shares = _shares(rows, v, log_weight)
            chance = (shares @ logit.sigmoid()).clamp(1e-12, 1 - 1e-12)
            entropy = binary_cross_entropy(chance, label, reduction="none")
            value = (
                self.lambda_reconst * (total + _unexplained(rows, share, shares, v)) / d
                + self.lambda_pred * (share @ entropy)
                + self.lambda_fair * _distance(shares, member, _ROUNDED)
            )
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(objective)  # type: ignore[no-untyped-call]
        self.n_iter_ = int(optimizer.state[v]["n_iter"])
        return v.detach(), log_weight.detach(), logit.detach()

    def _asked(self, X: Any) -> tuple[Tensor, Tensor]:
        """Shares (n, K) of the rows, and the prototypes."""
        rows = torch.from_numpy((numbers(self, X, reset=False) - self._mean) / self._scale)
        v, log_weight, _ = self._parameters
        return _shares(rows.to(v), v, log_weight), v

    def _probability(self, X: Any) -> np.ndarray:
        shares, _ = self._asked(X)
        chance = shares @ self._parameters[2].sigmoid()
        return np.asarray(chance.clamp(0.0, 1.0).cpu())

    def transform(self, X: Any) -> Any:
        """Return the rows as their prototypes rebuild them.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Rows.

        Returns
        -------
        array or frame of shape (n, d)
            In the kind and the units of ``X``, names kept.
        """
        check_is_fitted(self)
        shares, v = self._asked(X)
        return like_table((shares @ v).cpu().numpy() * self._scale + self._mean, X)

    def fit_transform(
        self, X: Any, y: Any, *, sensitive_features: Any = None, sample_weight: Any = None
    ) -> Any:
        """Fit, and return the rebuilt rows.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Rows.
        y : array-like of shape (n,)
            Two labels of any kind.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            Group membership.
        sample_weight : array-like of shape (n,) or None
            How often each row counts.

        Returns
        -------
        array or frame of shape (n, d)
        """
        self.fit(X, y, sensitive_features=sensitive_features, sample_weight=sample_weight)
        return self.transform(X)


def _shares(rows: Tensor, v: Tensor, log_weight: Tensor) -> Tensor:
    """Membership (n, K) of the rows in the prototypes."""
    weight = log_weight.exp()
    # The rows' own squares are the same for all prototypes, and the softmax does not see them.
    return torch.softmax(2 * rows @ (v * weight).T - v.square() @ weight, dim=1)


def _unexplained(rows: Tensor, share: Tensor, shares: Tensor, v: Tensor) -> Tensor:
    """Mean squared distance of rows and rebuilt rows, less the rows' own, with no (n, d) array."""
    weighted = share[:, None] * shares
    return ((weighted.T @ shares) * (v @ v.T)).sum() - 2 * ((weighted.T @ rows) * v).sum()


def _distance(shares: Tensor, member: Tensor, round_off: float = 0.0) -> Tensor:
    """Largest total variation distance between two groups' mean shares; member (n, G) averages."""
    means = member.T @ shares
    gaps = (means[:, None] - means[None]).square().add(round_off**2).sqrt()
    return (gaps - round_off).sum(-1).max() / 2
