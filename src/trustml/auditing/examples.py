"""Two audits of real data that need nothing but this package: digits and diabetes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustml.auditing._check import Check
from trustml.auditing._report import AuditReport
from trustml.auditing._run import audit
from trustml.auditing.checks import CHECKS
from trustml.core.random import torch_generator
from trustml.core.validation import check_choice
from trustml.datasets import corrupt, diabetes_risk, digits, foreign_images
from trustml.model import wrap

if TYPE_CHECKING:
    from trustml.datasets import Split

NAMES = ("digits", "diabetes")

# An attack may change every pixel by a twentieth of its range.
_DIGITS_THRESHOLDS: dict[str, dict[str, Any]] = {"robustness": {"eps": 0.05}}
_WEIGHT_DECAY = 1e-3
_EPOCHS = 12
_BATCH = 64
_POLISH = 100  # steps of L-BFGS after Adam


def audit_example(
    name: str,
    *,
    checks: Sequence[str] | None = None,
    random_state: int = 0,
    on_check: Callable[[Check], None] | None = None,
) -> AuditReport:
    """Train a model on embedded data and audit it.

    Parameters
    ----------
    name : {"digits", "diabetes"}
        "digits": a small convolutional network on 8 x 8 pictures; corrupted and foreign pictures
        as strange rows; groups by the amount of ink. "diabetes": a scikit-learn pipeline that
        predicts whether the disease progressed more than the median; groups by sex and age.
    checks : sequence of str or None
        Only these checks; None runs all.
    random_state : int
        Seed of the split, the training and the audit.
    on_check : callable or None
        Called with each check before it runs.

    Returns
    -------
    AuditReport
    """
    check_choice(name, "name", NAMES)
    run = _digits if name == "digits" else _diabetes
    with _one_thread():
        return run(checks=checks, random_state=random_state, on_check=on_check)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: these models are small, and sums then have one order everywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _digits(**settings: Any) -> AuditReport:
    seed, names = settings["random_state"], settings.pop("checks")
    data = digits(random_state=seed)
    train, calibration, test = (
        _pictures(part) for part in (data.train, data.calibration, data.test)
    )
    network = convolutional_network(train, data.train.y, seed)
    model = wrap(
        network,
        train=(train, data.train.y),
        weight_decay=_WEIGHT_DECAY,
        bounds=data.bounds,
        class_names=list(data.class_names),
    )
    strange = {
        "noisy digits": corrupt(test, "gaussian_noise", 4, seed),
        "turned digits": corrupt(test, "rotate", 5, seed),
        "foreign pictures": foreign_images(len(test), (1, 8, 8), seed, kind="textures"),
    }
    return audit(
        model,
        test,
        data.test.y,
        X_cal=calibration,
        y_cal=data.calibration.y,
        sensitive_features={"ink": ink_groups(test)},
        X_ood=strange,
        checks={n: _DIGITS_THRESHOLDS.get(n, {}) for n in (CHECKS if names is None else names)},
        name="Handwritten digits, a small convolutional network",
        **settings,
    )


def _diabetes(**settings: Any) -> AuditReport:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = diabetes_risk(random_state=settings["random_state"])
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
    pipeline.fit(data.train.X, data.train.y)
    model = wrap(
        pipeline,
        train=(data.train.X, data.train.y),
        feature_names=list(data.feature_names),
        class_names=list(data.class_names),
    )
    return audit(
        model,
        data.test.X,
        data.test.y,
        X_cal=data.calibration.X,
        y_cal=data.calibration.y,
        sensitive_features=data.test.sensitive_features,
        name="Diabetes progression, scaled logistic regression",
        **settings,
    )


def convolutional_network(X: NDArray[np.float32], y: NDArray[Any], seed: int) -> nn.Module:
    """Train two convolutions and a linear head to a minimum of the penalised objective.

    Parameters
    ----------
    X : float32 array of shape (n, 1, 8, 8)
        Pictures.
    y : int array of shape (n,)
        Digits.
    seed : int
        Of the initial weights and the order of the batches; the global generator is left alone.

    Returns
    -------
    Module
        1 898 parameters, in eval mode.
    """
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    generator = torch_generator(seed)
    for parameter in network.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else len(parameter)
        nn.init.normal_(parameter, 0.0, (2 / fan_in) ** 0.5, generator=generator)
        if parameter.ndim == 1:
            nn.init.zeros_(parameter)
    inputs, labels = torch.as_tensor(X), torch.as_tensor(y)

    def objective(rows: Tensor) -> Tensor:
        penalty = sum(parameter.square().sum() for parameter in network.parameters())
        loss = nn.functional.cross_entropy(network(inputs[rows]), labels[rows])
        return loss + _WEIGHT_DECAY / 2 * penalty

    adam = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(_EPOCHS):
        for rows in torch.split(torch.randperm(len(inputs), generator=generator), _BATCH):
            adam.zero_grad()
            objective(rows).backward()  # type: ignore[no-untyped-call]
            adam.step()
    _polish(network, lambda: objective(torch.arange(len(inputs))))
    return network.eval()


def _polish(network: nn.Module, objective: Callable[[], Tensor]) -> None:
    """Go down to a stationary point: what influence says of a model holds there."""
    lbfgs = torch.optim.LBFGS(network.parameters(), max_iter=_POLISH, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        lbfgs.zero_grad()
        value = objective()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    lbfgs.step(closure)  # type: ignore[no-untyped-call]


def ink_groups(pictures: NDArray[np.float32]) -> NDArray[np.str_]:
    """Return "light", "medium" or "heavy" for thirds of the pictures by their mean brightness."""
    ink = pictures.reshape(len(pictures), -1).mean(1)
    third = np.searchsorted(np.quantile(ink, [1 / 3, 2 / 3]), ink)
    groups: NDArray[np.str_] = np.array(["light", "medium", "heavy"])[third]
    return groups


def _pictures(part: Split) -> NDArray[np.float32]:
    return part.X.reshape(-1, 1, 8, 8).astype(np.float32)
