"""Self-influence: what leaving a row out would do to its own loss."""

from __future__ import annotations

from torch import Tensor

from trustml.ood._full_laplace import FullLaplace, inverse_form
from trustml.ood._jacobian import Answer


class SelfInfluence(FullLaplace):
    r"""Expected influence of a row on its own loss, in the metric of the Fisher matrix.

    .. math:: s(x) = \mathrm{E}_{y \sim p(y \mid x)}\, g^\top (F + \lambda I)^{-1} g, \qquad
              g = \nabla_\theta \ell(f(x), y)

    A row that only itself could have taught the model has a large one. For losses whose Fisher
    matrix is Gauss-Newton's the expectation is :math:`\operatorname{tr}(\Lambda J H^{-1} J^\top)`,
    n times the score of `FullLaplace`.

    Parameters
    ----------
    model : Model or estimator
        A differentiable model.
    damping : float or "auto"
        :math:`\lambda`, in units of the eigenvalues of F, beside the mean weight decay, if the
        model knows it. "auto": under which held-out rows of ``fit`` have the likeliest gradients.
    rank : int
        At most so many eigenpairs of F; the complement is :math:`1/\lambda`.
    max_rows : int
        F is a mean over at most so many rows, evenly spaced over those of ``fit``.
    parameters : str, sequence of str or None
        Which parameters, as for ``ihvp.Objective``; None: all that require gradients.

    References
    ----------
    Koh and Liang (2017), Understanding black-box predictions via influence functions,
    arXiv:1703.04730.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = SelfInfluence(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> bool((det.score(X) > 0).all())
    True
    """

    def _read(self, answer: Answer) -> Tensor:
        return inverse_form(answer, self.spectrum_, self.damping_)
