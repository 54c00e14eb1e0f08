"""Features for scikit-learn's algorithms, the same for any order and unit of the rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trustml.ood._seen import UnsuitableError


def scale_of(features: Tensor, who: str) -> tuple[Tensor, float]:
    """Return the mean (d,) of the rows, and the root mean square of what is left of a number.

    Returns
    -------
    centre : Tensor of shape (d,)
    scale : float

    Raises
    ------
    UnsuitableError
        If all rows are the same; ``who`` is named.
    """
    centre = features.mean(dim=0)
    scale = float((features - centre).square().mean().sqrt())
    if scale <= 1e-12 * float(features.abs().max()):
        raise UnsuitableError(
            f"{who} needs features that vary, but all rows of fit have the same; check the "
            "model's last hidden layer, or fit on other rows"
        )
    return centre, scale


def sorted_rows(features: Tensor, most: int | None = None) -> np.ndarray:
    """Return rows in lexicographic order; of more than ``most``, so many evenly spaced."""
    array = features.cpu().numpy()
    # Batches round differently: what differs by rounding alone must not decide the order.
    array = array[np.lexsort(np.round(array, 5).T[::-1])]
    if most is None or len(array) <= most:
        return array
    return array[np.linspace(0, len(array) - 1, most).round().astype(np.int64)]


def like(array: np.ndarray, features: Tensor) -> Tensor:
    """Return an array as a tensor of the device of the features."""
    return torch.as_tensor(array, device=features.device)
