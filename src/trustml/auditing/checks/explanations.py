"""Explanations: whether attributions name the features that the model really uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trustml.auditing._case import Case
from trustml.auditing._check import Check, Figure, Outcome, Skip
from trustml.auditing._data import image_side, pictures
from trustml.auditing._settings import open_share, share, whole
from trustml.auditing._verdict import Finding, Verdict, at_least, shown
from trustml.core.random import numpy_generator
from trustml.core.validation import restore, take_rows, to_numpy
from trustml.evidence import clopper_pearson

_FEWEST = 20
_RANDOM_CHOICES = 8
_GAP = 0.01
_MOST_FEATURES = 200


@dataclass(frozen=True)
class Explanations(Check):
    """A deletion test of integrated gradients against chance.

    In each row the features with the largest attributions for the predicted class are replaced
    by their mean; the answer should move more than when as many random features are.

    Parameters
    ----------
    min_faithful : float in [0, 1]
        Smallest share of rows in which the attributed features must beat random ones.
    deleted : float in (0, 1)
        Share of the features that is replaced.
    max_rows : int
        Test rows that are explained, drawn by the seed.
    """

    min_faithful: float = 0.7
    deleted: float = 0.2
    max_rows: int = 150

    name: ClassVar[str] = "explanations"
    title: ClassVar[str] = "Explanations"
    question: ClassVar[str] = "Do attributions name the features that the model really uses?"
    why: ClassVar[str] = (
        "Explanations are shown to customers, doctors and regulators. An attribution that points "
        "at features which the model does not use is worse than none."
    )
    fix: ClassVar[str] = (
        "Choose a baseline that means 'nothing' in your data (IntegratedGradients(baseline=...)), "
        "raise its number of steps where completeness is poor, or use KernelShap with your own "
        "background rows."
    )

    def __post_init__(self) -> None:
        share(self.min_faithful, "min_faithful")
        open_share(self.deleted, "deleted")
        whole(self.max_rows, "max_rows", least=_FEWEST)

    def run(self, case: Case) -> Outcome:
        """Judge in how many rows deletion of the attributed features beats chance."""
        from trustml.explain import IntegratedGradients

        model = case.model
        if not model.differentiable:
            raise Skip(
                "The model only predicts: integrated gradients need gradients. "
                "explain.KernelShap explains it at the price of many predictions."
            )
        if case.n < _FEWEST:
            raise Skip(f"{case.n} test rows are too few; at least {_FEWEST} are needed.")
        rows = case.sample(self.max_rows, salt=3)
        X = take_rows(case.X, rows)
        inputs = model.inputs(X)
        if not isinstance(inputs, Tensor) or tuple(inputs.shape[1:]) != case.row_shape:
            raise Skip("Attributions of encoded or several inputs are not judged.")
        plain = to_numpy(inputs).astype(np.float64)
        centre = to_numpy(model.inputs(case.X)).astype(np.float64).mean(0)
        target = _target(case, rows)
        explainer = IntegratedGradients(model, baseline=centre, tol=_GAP / 10)
        explained = explainer.attribute(restore(plain, X), target=_labels(case, target))
        values = to_numpy(explained.values).astype(np.float64).reshape(plain.shape)
        wins = self._wins(case, plain, centre, values, target)
        finding = at_least(
            "rows where attributed features matter more than random ones",
            clopper_pearson(int(wins.sum()), len(wins), case.level),
            self.min_faithful,
            len(wins),
        )
        complete = _completeness(explained, len(wins), case.level)
        return Outcome(
            summary=self._sentence(finding),
            findings=(finding, *complete),
            figures=_figures(case, plain, values, rows, explainer),
            parameters={"explainer": "IntegratedGradients", "baseline": "mean of the test rows"},
        )

    def _wins(
        self,
        case: Case,
        plain: NDArray[np.float64],
        centre: NDArray[np.float64],
        values: NDArray[np.float64],
        target: NDArray[np.intp] | None,
    ) -> NDArray[np.bool_]:
        """Compare the attributed features of each row with random choices of as many."""
        n, d = len(plain), plain[0].size
        k = max(1, round(self.deleted * d))
        flat, middle = plain.reshape(n, d), centre.reshape(d)
        support = values.reshape(n, d)
        # For a class, evidence against it must not count as evidence for it.
        strength = np.abs(support) if target is None else support
        best = np.argsort(-strength, axis=1, kind="stable")[:, :k]
        generator = numpy_generator(case.random_state + 4)
        before = _answer(case, flat.reshape(plain.shape), target)

        def moved(columns: NDArray[np.intp]) -> NDArray[np.float64]:
            changed = flat.copy()
            np.put_along_axis(changed, columns, middle[columns], axis=1)
            drop = before - _answer(case, changed.reshape(plain.shape), target)
            return np.abs(drop) if target is None else drop

        chance = np.mean(
            [
                moved(np.argsort(generator.random((n, d)), axis=1)[:, :k])
                for _ in range(_RANDOM_CHOICES)
            ],
            axis=0,
        )
        wins: NDArray[np.bool_] = moved(best) > chance
        return wins

    def _sentence(self, finding: Finding) -> str:
        value = f"{finding.estimate:.3f} [{finding.low:.3f}, {finding.high:.3f}]"
        said = f"In a share {value} of the rows the attributed features beat random ones"
        if finding.verdict is Verdict.PASS:
            return f"{said}; {self.min_faithful:g} is required."
        if finding.verdict is Verdict.FAIL:
            return f"{said}, less than the {self.min_faithful:g} that is required."
        return f"{said}; that may be on either side of {self.min_faithful:g}."


def _target(case: Case, rows: NDArray[np.intp]) -> NDArray[np.intp] | None:
    if case.model.task != "classification":
        return None
    predicted: NDArray[np.intp] = case.probabilities[rows].argmax(1)
    return predicted


def _labels(case: Case, target: NDArray[np.intp] | None) -> Any:
    """Return the target columns as the labels that the model knows."""
    return None if target is None else np.asarray(case.model.classes_)[target]


def _answer(
    case: Case, rows: NDArray[np.float64], target: NDArray[np.intp] | None
) -> NDArray[np.float64]:
    """Return the logit of the target class, or the predicted value."""
    X = restore(rows, case.X)
    if target is None:
        return to_numpy(case.model.predict(X)).astype(np.float64)
    logits = to_numpy(case.model.logits(X)).astype(np.float64)
    logits -= logits.mean(1, keepdims=True)
    return logits[np.arange(len(rows)), target]


def _completeness(explained: Any, n: int, level: float) -> tuple[Finding, ...]:
    """Show in how many rows the attributions add up to the change of the output."""
    gap = getattr(explained, "completeness", None)
    if gap is None:
        return ()
    gaps = np.abs(to_numpy(gap)).reshape(n, -1).max(1)
    good = int((gaps <= _GAP).sum())
    return (
        shown(f"rows whose attributions add up to {_GAP:g}", clopper_pearson(good, n, level), n),
    )


def _figures(
    case: Case,
    plain: NDArray[np.float64],
    values: NDArray[np.float64],
    rows: NDArray[np.intp],
    explainer: Any,
) -> tuple[Figure, ...]:
    if image_side(plain.shape[1:]) is not None and case.model.task == "classification":
        return (_pictures(case, plain, values, rows),)
    flat = np.abs(values.reshape(len(values), -1))
    overall = Figure(
        "attribution_bars",
        {
            "values": flat.mean(0),
            "names": case.feature_names,
            "error": 1.96 * flat.std(0) / np.sqrt(len(flat)),
            "x": "mean absolute attribution",
        },
        "What the model uses",
        "Mean absolute integrated gradients over the explained rows, with 95 % intervals of the "
        "mean.",
    )
    return (overall, *_one_row(case, plain, values, rows, explainer))


def _pictures(
    case: Case, plain: NDArray[np.float64], values: NDArray[np.float64], rows: NDArray[np.intp]
) -> Figure:
    chosen = _one_of_each(case.label_index[rows], 8)
    truth, said = case.label_index[rows], case.probabilities[rows].argmax(1)
    names = case.class_names
    return Figure(
        "attribution_images",
        {
            "images": pictures(plain[chosen]),
            "values": pictures(values[chosen]),
            "titles": [f"is {names[truth[i]]}, says {names[said[i]]}" for i in chosen],
        },
        "Attributions of test rows",
        "Below each picture: blue pixels spoke for the predicted class, red ones against it "
        "(integrated gradients from the mean picture).",
    )


def _one_row(
    case: Case,
    plain: NDArray[np.float64],
    values: NDArray[np.float64],
    rows: NDArray[np.intp],
    explainer: Any,
) -> tuple[Figure, ...]:
    """Explain the least certain row, with the standard errors that the training rows imply."""
    from trustml.explain import uncertainty

    width = int(np.prod(plain.shape[1:]))
    if case.no_influence is not None or width > _MOST_FEATURES:
        return ()
    if case.model.task == "classification":
        i = int(case.probabilities[rows].max(1).argmin())
        target = _labels(case, case.probabilities[rows[i : i + 1]].argmax(1))
        of = f"class {case.class_names[int(case.probabilities[rows[i]].argmax())]}"
    else:
        i, target, of = 0, None, "the predicted value"
    row = restore(plain[i : i + 1], case.X)
    spread = uncertainty(explainer, row, target, influence=case.influence)
    error = to_numpy(spread).reshape(-1).astype(np.float64)
    figure = Figure(
        "attribution_bars",
        {
            "values": values[i].reshape(-1),
            "names": case.feature_names,
            "error": 1.96 * error,
            "x": f"attribution to {of}, test row {int(rows[i])}",
        },
        "One uncertain row",
        "Integrated gradients with 95 % error bars: how much the attributions would vary had "
        "other training rows been drawn (infinitesimal jackknife through the curvature).",
    )
    return (figure,)


def _one_of_each(labels: NDArray[np.intp], limit: int) -> NDArray[np.intp]:
    """Return the first row of each class, at most `limit`, filled up with other rows."""
    first = [int(np.flatnonzero(labels == c)[0]) for c in np.unique(labels)][:limit]
    others = [i for i in range(len(labels)) if i not in first]
    return np.array(sorted(first + others[: max(0, limit - len(first))]), dtype=np.intp)
