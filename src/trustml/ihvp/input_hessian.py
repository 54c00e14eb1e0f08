"""Curvature of the loss in input space, one matrix an example."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class InputHessian:
    """∇²ₓ ℓ(f(x_i), y_i): a block-diagonal operator, one d × d block for each row.

    Parameters
    ----------
    model_fn : callable
        Maps inputs (n, *d) to outputs, differentiable twice; rows must not mix.
    loss : OutputLoss or callable
        Maps (outputs, targets) to losses (n,).
    inputs : Tensor of shape (n, *d)
        Floating point, finite.
    targets : Tensor of shape (n, ...)
        One for each row.

    Raises
    ------
    ValueError
        If the inputs are not finite floating point rows, or the losses are not (n,).

    Examples
    --------
    >>> H = InputHessian(lambda x: x, lambda f, y: (f**2).sum(1), torch.ones(2, 3), torch.ones(2))
    >>> H.top_eigenpairs()[0]
    tensor([[2.],
            [2.]])
    """

    def __init__(
        self,
        model_fn: Callable[[Tensor], Tensor],
        loss: Callable[[Tensor, Tensor], Tensor],
        inputs: Tensor,
        targets: Tensor,
    ) -> None:
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.ndim < 2:
            raise ValueError(
                "inputs must be a floating point Tensor of shape (n, *features), got "
                f"{type(inputs).__name__}{tuple(getattr(inputs, 'shape', ()))}"
            )
        if len(inputs) == 0 or not bool(torch.isfinite(inputs).all()):
            raise ValueError("inputs must have at least one row and no NaN or infinite values")
        if len(targets) != len(inputs):
            raise ValueError(f"inputs has {len(inputs)} rows but targets has {len(targets)}")
        self.shape = inputs.shape
        self._inputs = inputs.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            losses = loss(model_fn(self._inputs), targets)
            if losses.shape != (len(inputs),):
                raise ValueError(
                    f"loss must return one value a row, shape ({len(inputs)},), got "
                    f"{tuple(losses.shape)}"
                )
            (self._gradient,) = torch.autograd.grad(
                losses.sum(), self._inputs, create_graph=True, materialize_grads=True,
                allow_unused=True,
            )  # fmt: skip

    @property
    def gradient(self) -> Tensor:
        """∇ₓ ℓ of each row, shaped as the inputs."""
        return self._gradient.detach()

    def product(self, vectors: Tensor) -> Tensor:
        """Multiply each row's block with its vector.

        Parameters
        ----------
        vectors : Tensor of shape (n, *d)
            One vector a row, in the inputs' dtype.

        Returns
        -------
        Tensor of shape (n, *d)

        Raises
        ------
        ValueError
            If the shape is not the inputs'.
        """
        if vectors.shape != self.shape:
            raise ValueError(f"V must have shape {tuple(self.shape)}, got {tuple(vectors.shape)}")
        if not self._gradient.requires_grad:
            return torch.zeros_like(vectors)
        (product,) = torch.autograd.grad(
            self._gradient, self._inputs, vectors, retain_graph=True, materialize_grads=True,
            allow_unused=True,
        )  # fmt: skip
        return product

    def top_eigenpairs(
        self, k: int = 1, tol: float = 1e-4, max_iterations: int = 100
    ) -> tuple[Tensor, Tensor]:
        """Return the k largest algebraic eigenvalues of each block, with eigenvectors.

        Lanczos on all blocks at once, with full reorthogonalisation in float64, from one fixed
        start for every row; a row's answer is taken at its own convergence.

        Parameters
        ----------
        k : int
            How many, 1 ≤ k ≤ d.
        tol : float
            Residual ‖H v − θ v‖ relative to the largest Ritz value in magnitude.
        max_iterations : int
            Bound on the products.

        Returns
        -------
        values : Tensor of shape (n, k)
            Descending.
        vectors : Tensor of shape (n, k, *d)
            Of unit length.

        Raises
        ------
        ValueError
            If k is not in 1..d.
        """
        n, d = len(self._inputs), self._inputs[0].numel()
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= d:
            raise ValueError(f"k must be an integer between 1 and d = {d}, got {k}")
        steps = min(d, max(max_iterations, 2 * k))
        basis = self._inputs.detach().double().new_zeros(n, steps, d)
        tridiagonal = basis.new_zeros(n, steps, steps)
        values, vectors = basis.new_zeros(n, k), basis.new_zeros(n, k, d)
        open_rows = torch.ones(n, dtype=torch.bool, device=basis.device)
        generator = torch.Generator().manual_seed(0)

        def fresh() -> Tensor:
            return torch.randn(d, generator=generator, dtype=torch.float64).to(basis.device)

        start = fresh()
        q = (start / start.norm()).expand(n, d)
        for j in range(steps):
            basis[:, j] = q
            w = self.product(q.to(self._inputs.dtype).reshape(self.shape)).reshape(n, d).double()
            tridiagonal[:, j, j] = (w * q).sum(dim=1)
            w = _orthogonal(w, basis[:, : j + 1])
            beta = w.norm(dim=1)
            if j + 1 >= k:
                ritz, s = torch.linalg.eigh(tridiagonal[:, : j + 1, : j + 1])
                scale = ritz.abs().amax(dim=1)
                errors = beta[:, None] * s[:, -1, -k:].abs()
                settled = (errors <= tol * scale[:, None]).all(dim=1) | (j + 1 == steps)
                now = open_rows & settled
                values[now] = ritz[now][:, -k:].flip(1)
                chosen = s[now][:, :, -k:].flip(2)
                vectors[now] = torch.einsum("njd,njk->nkd", basis[now, : j + 1], chosen)
                open_rows &= ~settled
                if not bool(open_rows.any()):
                    break
            if j + 1 == steps:
                break
            # An invariant space was exhausted: go on from a new direction, uncoupled.
            lost = beta <= 1e-10 * tridiagonal[:, : j + 1, : j + 1].abs().amax(dim=(1, 2))
            if bool(lost.any()):
                other = _orthogonal(fresh().expand(n, d), basis[:, : j + 1])
                w = torch.where(lost[:, None], other, w)
                beta = torch.where(lost, 0.0, beta)
            tridiagonal[:, j, j + 1] = tridiagonal[:, j + 1, j] = beta
            q = w / w.norm(dim=1, keepdim=True).clamp_min(1e-300)
        vectors = vectors / vectors.norm(dim=2, keepdim=True).clamp_min(1e-300)
        dtype = self._inputs.dtype
        return values.to(dtype), vectors.to(dtype).reshape(n, k, *self.shape[1:])


def _orthogonal(w: Tensor, basis: Tensor) -> Tensor:
    """Remove from each row (n, d) its part in the row's basis (n, j, d); twice is enough."""
    for _ in range(2):
        w = w - torch.einsum("njd,nj->nd", basis, torch.einsum("njd,nd->nj", basis, w))
    return w
