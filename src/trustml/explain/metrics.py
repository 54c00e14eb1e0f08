"""Is an explanation any good? Measures that need no ground truth."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import as_tensor, check_positive_int, to_numpy
from trustml.explain._baselines import baseline_rows
from trustml.explain._explainer import Explainer
from trustml.explain._explanation import Explanation
from trustml.explain._question import Question, ask
from trustml.model import Model, as_model

__all__ = ["completeness", "deletion", "infidelity", "insertion", "sensitivity"]


def completeness(explanation: Explanation) -> np.ndarray:
    """Return the completeness gap as a share of the summed sizes of the attributions.

    Parameters
    ----------
    explanation : Explanation
        Of a method whose attributions add up.

    Returns
    -------
    numpy.ndarray of shape (n,) or (n, c)
        0 is perfect.

    Raises
    ------
    ValueError
        If the method has no completeness.
    """
    if explanation.completeness is None:
        raise ValueError(f"attributions of {explanation.method} are not meant to add up")
    values = to_numpy(explanation.values)
    size = np.abs(values).sum(axis=tuple(range(1, to_numpy(explanation.data).ndim)))
    share: np.ndarray = to_numpy(explanation.completeness) / np.maximum(size, np.finfo(float).tiny)
    return share


def deletion(
    model: Any, explanation: Explanation, baseline: Any = "zero", steps: int = 20
) -> np.ndarray:
    """Return the mean output while features are removed, the largest attribution first.

    Parameters
    ----------
    model : Model or what ``wrap`` takes
        The explained one.
    explanation : Explanation
        Of one output; its output is measured.
    baseline : {"zero", "mean", "train"} or array
        What removed features are set to; several rows are averaged first.
    steps : int
        Points of the curve after the first.

    Returns
    -------
    numpy.ndarray of shape (n,)
        Area under the curve over the share of features removed, in the output's unit. Small:
        the features called important were.

    References
    ----------
    Petsiuk, Das and Saenko (2018), RISE, arXiv:1806.07421.
    """
    return _curve(model, explanation, baseline, steps, insert=False)


def insertion(
    model: Any, explanation: Explanation, baseline: Any = "zero", steps: int = 20
) -> np.ndarray:
    """Return the mean output while features are put into the baseline, largest first.

    Parameters
    ----------
    model : Model or what ``wrap`` takes
        The explained one.
    explanation : Explanation
        Of one output; its output is measured.
    baseline : {"zero", "mean", "train"} or array
        Where the curve begins; several rows are averaged first.
    steps : int
        Points of the curve after the first.

    Returns
    -------
    numpy.ndarray of shape (n,)
        Area under the curve over the share of features put in. Large is good.

    References
    ----------
    Petsiuk, Das and Saenko (2018), RISE, arXiv:1806.07421.
    """
    return _curve(model, explanation, baseline, steps, insert=True)


def infidelity(
    model: Any,
    explanation: Explanation,
    scale: float = 0.1,
    samples: int = 50,
    random_state: RandomState = 0,
) -> np.ndarray:
    """Return the mean squared error of attributions as a local linear model.

    For noise I, Gaussian with standard deviation ``scale`` times each feature's spread over the
    rows, the attribution per unit of input times I should be F(x) - F(x - I).

    Parameters
    ----------
    model : Model or what ``wrap`` takes
        The explained one.
    explanation : Explanation
        Of one output. Values of gradients are taken as they are, values that add up are divided
        by the feature.
    scale : float
        Size of the noise, relative.
    samples : int
        Noise draws.
    random_state : int, Generator or None

    Returns
    -------
    numpy.ndarray of shape (n,)
        In the output's unit, squared. 0 is perfect.

    Raises
    ------
    ValueError
        If ``scale`` is not positive.

    References
    ----------
    Yeh et al. (2019), On the (in)fidelity and sensitivity of explanations, arXiv:1901.09392.
    """
    if not scale > 0:
        raise ValueError(f"scale must be positive, a share of each feature's spread, got {scale}")
    _, question, rows, values = _one_output(model, explanation)
    per_unit = values
    if explanation.method != "saliency":
        per_unit = np.divide(values, rows, out=np.zeros_like(values), where=rows != 0)
    generator = numpy_generator(random_state)
    spread = scale * (rows.std(0) if len(rows) > 1 else np.abs(rows[0]))
    here = question.answer(rows)
    errors = np.zeros(len(rows))
    for _ in range(check_positive_int(samples, "samples")):
        noise = spread * generator.standard_normal(rows.shape)
        predicted = (per_unit * noise).reshape(len(rows), -1).sum(1)
        errors += (predicted - (here - question.answer(rows - noise))) ** 2
    return errors / samples


def sensitivity(
    explainer: Explainer,
    X: Any,
    target: Any = None,
    radius: float = 0.02,
    samples: int = 10,
    random_state: RandomState = 0,
) -> np.ndarray:
    """Return the largest relative change of the attributions under small input noise.

    Parameters
    ----------
    explainer : Explainer
        Asked again for every draw.
    X, target
        As for ``attribute``.
    radius : float
        Half-width of the uniform noise, a share of each feature's spread over the rows.
    samples : int
        Noise draws.
    random_state : int, Generator or None

    Returns
    -------
    numpy.ndarray of shape (n,)
        ||change|| / ||attributions||, the worst of the draws.

    Raises
    ------
    ValueError
        If ``radius`` is not positive.

    References
    ----------
    Yeh et al. (2019), On the (in)fidelity and sensitivity of explanations, arXiv:1901.09392.
    """
    if not radius > 0:
        raise ValueError(f"radius must be positive, a share of each feature's spread, got {radius}")
    rows = to_numpy(X).astype(float)
    generator = numpy_generator(random_state)
    spread = radius * (rows.std(0) if len(rows) > 1 else np.abs(rows[0]))

    def values(at: np.ndarray) -> np.ndarray:
        return to_numpy(explainer.attribute(at, target).values).reshape(len(rows), -1)

    here, worst = values(rows), np.zeros(len(rows))
    size = np.maximum(np.linalg.norm(here, axis=1), np.finfo(float).tiny)
    for _ in range(check_positive_int(samples, "samples")):
        there = values(rows + spread * generator.uniform(-1, 1, rows.shape))
        worst = np.maximum(worst, np.linalg.norm(there - here, axis=1) / size)
    return worst


def _one_output(
    model: Any, explanation: Explanation
) -> tuple[Model, Question, np.ndarray, np.ndarray]:
    """Return the model, what was explained, the rows and their attributions."""
    face = as_model(model)
    if explanation.output_names is not None:
        raise ValueError(
            f"the explanation is of {len(explanation.output_names)} outputs; explain one: target="
        )
    if explanation.output == "loss":
        raise ValueError("the loss at y cannot be asked again; explain a logit or a probability")
    rows = to_numpy(explanation.data).astype(float)
    question = ask(face, explanation.output, explanation.target, None, len(rows))
    return face, question, rows, to_numpy(explanation.values).astype(float)


def _curve(
    model: Any, explanation: Explanation, baseline: Any, steps: int, *, insert: bool
) -> np.ndarray:
    face, question, rows, values = _one_output(model, explanation)
    start = to_numpy(baseline_rows(baseline, face, as_tensor(rows), 50, 0).mean(0))
    n, d = len(rows), rows[0].size
    rank = np.argsort(np.argsort(-values.reshape(n, d), axis=1, kind="stable"), axis=1)
    shares = np.linspace(0, 1, min(check_positive_int(steps, "steps"), d) + 1)
    heights = []
    for share in shares:
        top = (rank < round(share * d)).reshape(rows.shape)
        heights.append(question.answer(np.where(top == insert, rows, start)))
    area: np.ndarray = np.trapezoid(np.stack(heights), shares, axis=0)
    return area
