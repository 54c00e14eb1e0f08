"""trustml, through its public face."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from _measure import main
from _ours import wrapped
from trustml.ihvp import Ekfac
from trustml.influence import InfluenceFunctions


def scores(
    task: dict, curvature: str | Callable = "auto", method: str = "auto",
    queries: int | None = None, scale: str = "raw", damping: float | str | None = None,
) -> tuple:  # fmt: skip
    model, X, y = wrapped(task), task["Xq"], task["yq"]
    influence = InfluenceFunctions(
        model, curvature=curvature, method=method, correction="none" if scale == "raw" else "auto",
        damping=task["damping"] if damping is None else damping,
    ).fit()  # fmt: skip
    found = influence.scores(X[:queries], y[:queries], scale=scale)
    certificate = found.certificate
    return found.values, {
        "curvature": type(influence.operator_).__name__,
        "method": found.method,
        "damping": influence.damping_.value,
        "certified": None if certificate is None else float(certificate.relative_residual.max()),
        "products": getattr(influence.inverse_, "products", None),
    }


CONTENDERS = {
    "auto": scores,
    "all defaults": lambda task: scores(task, scale="effect", damping="auto"),
    "auto, damping auto": lambda task: scores(task, damping="auto"),
    "EK-FAC, damping auto": lambda task: scores(task, "ekfac", damping="auto"),
    "cholesky": lambda task: scores(task, "gauss_newton", "cholesky"),
    "dual": lambda task: scores(task, "gauss_newton", "dual"),
    "compressed": lambda task: scores(task, "gauss_newton", "compressed"),
    "CG": lambda task: scores(task, "gauss_newton", "cg"),
    "cholesky, Hessian": lambda task: scores(task, "hessian", "cholesky"),
    "CG, Hessian": lambda task: scores(task, "hessian", "cg"),
    "EK-FAC": lambda task: scores(task, "ekfac"),
    "EK-FAC (Monte Carlo)": lambda task: scores(task, partial(Ekfac, fisher="monte-carlo")),
    "K-FAC": lambda task: scores(task, "kfac"),
    "exact blocks": lambda task: scores(task, "block_diagonal"),
}  # fmt: skip

if __name__ == "__main__":
    torch.manual_seed(0)
    main(CONTENDERS)
