"""Cross-entropy of a softmax, of one label or of a sequence of them."""

from __future__ import annotations

import torch
from torch import Tensor

from trustml.core._loss import OutputLoss, flat


class CrossEntropy(OutputLoss):
    """Negative log-likelihood in nats of a class given logits.

    Outputs (n, c) take targets (n,) of class indices, or (n, c) of class probabilities. Outputs
    (n, t, c) of a sequence take targets (n, t): a row's loss is the mean over its tokens that are
    not ``ignore_index``, 0 if there are none.

    Parameters
    ----------
    weight : Tensor of shape (c,) or None
        Weight of each class; the loss of a row is multiplied by it. (A mean over rows by
        ``torch.nn.CrossEntropyLoss`` also divides by the sum of the weights: ours does not.)
    label_smoothing : float in [0, 1]
        As in ``torch.nn.CrossEntropyLoss``.
    ignore_index : int
        Label of tokens that do not count.

    Examples
    --------
    >>> CrossEntropy().gradient(torch.zeros(1, 2), torch.tensor([0]))
    tensor([[-0.5000,  0.5000]])
    """

    name = "cross-entropy"
    unit = "nats"

    def __init__(
        self,
        weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
    ) -> None:
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
        self.weight, self.label_smoothing = weight, float(label_smoothing)
        self.ignore_index = ignore_index

    def __repr__(self) -> str:
        return f"CrossEntropy(weight={self.weight}, label_smoothing={self.label_smoothing})"

    def _mass(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return q, like outputs: the loss is ``-Σ q log softmax(f)``."""
        if outputs.ndim < 2 or outputs.shape[-1] < 2:
            raise ValueError(
                f"{self.name} needs outputs of at least 2 classes, got shape "
                f"{tuple(outputs.shape)}; for one output use BinaryCrossEntropy"
            )
        c = outputs.shape[-1]
        if targets.is_floating_point():
            if targets.shape != outputs.shape:
                raise ValueError(
                    f"{self.name} needs class indices (integers) of shape "
                    f"{tuple(outputs.shape[:-1])} or class probabilities of shape "
                    f"{tuple(outputs.shape)}, got floats of shape {tuple(targets.shape)}"
                )
            given, counted = targets.to(outputs), torch.ones_like(outputs[..., 0])
        else:
            labels = self._labels(outputs, targets.to(outputs.device))
            counted = (labels != self.ignore_index).to(outputs)
            known = labels.masked_fill(labels == self.ignore_index, 0)
            given = torch.zeros_like(outputs).scatter(-1, known[..., None], 1.0)
        smooth = self.label_smoothing
        mass = given if smooth == 0 else (1 - smooth) * given + smooth / c
        if self.weight is not None:
            mass = mass * self.weight.to(outputs)
        mass = mass * counted[..., None]
        if outputs.ndim > 2:
            tokens = flat(counted).sum(1).clamp_min(1)
            mass = mass / tokens.view(-1, *[1] * (outputs.ndim - 1))
        return mass

    def _labels(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.shape != outputs.shape[:-1]:
            if targets.shape[1:].numel() != 1 or outputs.ndim != 2 or len(targets) != len(outputs):
                raise ValueError(
                    f"{self.name} needs class indices of shape {tuple(outputs.shape[:-1])} for "
                    f"outputs {tuple(outputs.shape)} (classes last), got {tuple(targets.shape)}"
                )
            targets = targets.reshape(-1)
        labels = targets.long()
        wrong = (labels != self.ignore_index) & ((labels < 0) | (labels >= outputs.shape[-1]))
        if bool(wrong.any()):
            raise ValueError(
                f"class indices must be in [0, {outputs.shape[-1]}), got "
                f"{int(labels[wrong].reshape(-1)[0])}; encode the labels as 0 .. n_classes - 1"
            )
        return labels

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses, shape (n,)."""
        mass = self._mass(outputs, targets)
        # Classes without mass may have a logit of -inf: 0 * inf is not what is meant.
        terms = torch.where(mass == 0, 0, mass * outputs.log_softmax(-1))
        return -flat(terms).sum(1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return ``softmax(f) Σq - q``, where q is the target distribution."""
        mass = self._mass(outputs, targets)
        return outputs.softmax(-1) * mass.sum(-1, keepdim=True) - mass

    def hessian_product(self, outputs: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
        """Return ``Σq (p ∘ v - p p'v)``."""
        p = outputs.softmax(-1)
        total = self._mass(outputs, targets).sum(-1, keepdim=True)
        # Relative to the likeliest class nothing cancels where it has nearly all the mass.
        v = vectors - vectors.gather(-1, p.argmax(-1, keepdim=True))
        return total * p * (v - (p * v).sum(-1, keepdim=True))

    def hessian_factor(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return ``√Σq (diag(√p) - p √p')``, block-diagonal over the tokens of a sequence."""
        total = self._mass(outputs, targets).sum(-1, keepdim=True)[..., None]
        root = outputs.softmax(-1).sqrt()
        blocks = torch.diag_embed(root) - root.square()[..., :, None] * root[..., None, :]
        blocks = blocks * total.clamp_min(0).sqrt()
        if outputs.ndim == 2:
            return blocks
        n, c = len(outputs), outputs.shape[-1]
        blocks = blocks.reshape(n, -1, c, c)
        t = blocks.shape[1]
        full = outputs.new_zeros(n, t, c, t, c)
        tokens = torch.arange(t, device=outputs.device)
        full[:, tokens, :, tokens, :] = blocks.transpose(0, 1)
        return full.reshape(n, t * c, t * c)

    def hessian_root(self, outputs: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
        """Return ``√Σq (√p ∘ v - p √p'v)``, without a factor of all tokens of a sequence."""
        total = self._mass(outputs, targets).sum(-1, keepdim=True).clamp_min(0).sqrt()[:, None]
        root = outputs.softmax(-1).sqrt()[:, None]
        v = root * vectors.reshape(len(outputs), -1, *outputs.shape[1:])
        product: Tensor = total * (v - root.square() * v.sum(-1, keepdim=True))
        return product.reshape(vectors.shape)

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return class indices drawn from the softmax."""
        p = outputs.softmax(-1).reshape(-1, outputs.shape[-1])
        return torch.multinomial(p, 1, generator=generator).reshape(outputs.shape[:-1])
