"""Losses that make a classifier easier to watch: for training, before any detector.

Outlier exposure and energy regularisation need rows that are known to be out of distribution, of
any other kind than those to be found later; LogitNorm needs none. All take logits, and are
differentiable torch callables for a training loop of one's own.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from trustml.core.validation import check_choice

__all__ = ["LogitNorm", "energy_regularization", "outlier_exposure"]


def outlier_exposure(
    logits: Tensor, targets: Tensor, outlier_logits: Tensor, weight: float = 0.5
) -> Tensor:
    r"""Return cross-entropy plus a price for answers to outliers that are not uniform.

    .. math:: \ell(f, y) + \lambda \, \frac1m \sum_j \Bigl( \log \sum_k e^{f_{jk}}
              - \frac1c \sum_k f_{jk} \Bigr)

    the second term being the cross-entropy of the outliers to equal probabilities, at least
    log c. Confidence scores (`Msp`, `Entropy`) gain most from it.

    Parameters
    ----------
    logits : Tensor of shape (n, c)
        Of in-distribution rows.
    targets : integer Tensor of shape (n,)
        Their classes.
    outlier_logits : Tensor of shape (m, c)
        Of rows from elsewhere.
    weight : float
        :math:`\lambda \ge 0`; the paper's 0.5 for images.

    Returns
    -------
    Tensor
        A scalar, in nats.

    References
    ----------
    Hendrycks, Mazeika and Dietterich (2019), Deep anomaly detection with outlier exposure,
    arXiv:1812.04606.

    Examples
    --------
    >>> import torch
    >>> loss = outlier_exposure(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]), torch.zeros(3, 2))
    >>> round(float(loss), 4)
    1.0397
    """
    _check_logits(logits, outlier_logits)
    _check_weight(weight)
    far = outlier_logits.logsumexp(dim=1) - outlier_logits.mean(dim=1)
    return F.cross_entropy(logits, targets) + weight * far.mean()


def energy_regularization(
    logits: Tensor,
    targets: Tensor,
    outlier_logits: Tensor,
    weight: float = 0.1,
    margin_in: float = -23.0,
    margin_out: float = -5.0,
) -> Tensor:
    r"""Return cross-entropy plus squared hinges that part the energies of rows and outliers.

    .. math:: \ell(f, y) + \lambda \bigl( \overline{(E_{in} - m_{in})_+^2}
              + \overline{(m_{out} - E_{out})_+^2} \bigr), \quad E = -\log \sum_k e^{f_k}

    The `Energy` score then has a scale of its own. The margins are the paper's for ten classes;
    a good start for others is the mean energy of the training rows of a model trained without,
    and a value well above it.

    Parameters
    ----------
    logits : Tensor of shape (n, c)
        Of in-distribution rows.
    targets : integer Tensor of shape (n,)
        Their classes.
    outlier_logits : Tensor of shape (m, c)
        Of rows from elsewhere.
    weight : float
        :math:`\lambda \ge 0`.
    margin_in, margin_out : float
        Energies below and above which nothing is paid; in nats, margin_in < margin_out.

    Returns
    -------
    Tensor
        A scalar.

    Raises
    ------
    ValueError
        If the margins are not in order.

    References
    ----------
    Liu, Wang, Owens and Li (2020), Energy-based out-of-distribution detection, arXiv:2010.03759.

    Examples
    --------
    >>> import torch
    >>> rows, outliers = torch.tensor([[30.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> float(energy_regularization(rows, torch.tensor([0]), outliers))
    0.0
    """
    _check_logits(logits, outlier_logits)
    _check_weight(weight)
    if not margin_in < margin_out:
        raise ValueError(
            f"margin_in must be below margin_out: in-distribution rows have the lower energy; got "
            f"{margin_in} and {margin_out}"
        )
    near = F.relu(-logits.logsumexp(dim=1) - margin_in).square().mean()
    far = F.relu(margin_out + outlier_logits.logsumexp(dim=1)).square().mean()
    return F.cross_entropy(logits, targets) + weight * (near + far)


class LogitNorm(nn.Module):
    r"""Cross-entropy of logits brought to one length, so that training cannot buy confidence.

    .. math:: \ell\bigl( f / (\tau \|f\|), y \bigr)

    Parameters
    ----------
    temperature : float
        :math:`\tau > 0`. The loss is at least log(1 + (c - 1) exp(-c / (τ sqrt(c (c - 1))))).
    reduction : {"mean", "sum", "none"}
        As for torch's losses.

    Raises
    ------
    ValueError
        If the temperature is not positive.

    References
    ----------
    Wei, Xie, Cheng, Feng, An and Li (2022), Mitigating neural network overconfidence with logit
    normalization, arXiv:2205.09310.

    Examples
    --------
    >>> import torch
    >>> loss, logits, y = LogitNorm(0.5), torch.tensor([[3.0, 1.0]]), torch.tensor([0])
    >>> bool(torch.isclose(loss(logits, y), loss(100 * logits, y)))
    True
    """

    def __init__(self, temperature: float = 0.04, reduction: str = "mean") -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature!r}")
        check_choice(reduction, "reduction", ("mean", "sum", "none"))
        self.temperature, self.reduction = float(temperature), reduction

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of logits (n, c) and classes (n,)."""
        _check_logits(logits, logits)
        # normalize() divides by at least 1e-12: logits of zero stay zero.
        unit = F.normalize(logits, dim=1)
        return F.cross_entropy(unit / self.temperature, targets, reduction=self.reduction)


def _check_logits(logits: Tensor, outlier_logits: Tensor) -> None:
    shapes = tuple(logits.shape), tuple(outlier_logits.shape)
    if any(len(shape) != 2 or shape[0] == 0 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(f"logits must be (n, c) and (m, c) with rows in both, got {shapes}")
    if shapes[0][1] < 2:
        raise ValueError("logits of one output have no classes to spread over; use two outputs")


def _check_weight(weight: float) -> None:
    if not weight >= 0:
        raise ValueError(f"weight must be at least 0, got {weight!r}")
