"""Label errors: training labels that the rest of the training data contradict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trustml.auditing._case import Case
from trustml.auditing._check import Check, Figure, Outcome, Skip, Table
from trustml.auditing._data import image_side, pictures
from trustml.auditing._settings import open_share, share, whole
from trustml.auditing._verdict import Finding, Verdict, at_most
from trustml.core.validation import take_rows, to_numpy
from trustml.evidence import Interval, clopper_pearson

_QUERIES = 300
_FAR = 4.0  # robust standard deviations; beyond it a residual of a regression is called odd


@dataclass(frozen=True)
class LabelErrors(Check):
    """Share of surprising training labels in excess of what the model itself expects.

    Each training row is judged by the model that has not seen it (through the curvature of the
    training objective, no refits). A label is surprising if that model gives it a probability
    below `surprise`. A model expects a number of such labels; the excess estimates wrong ones.

    Parameters
    ----------
    max_rate : float in [0, 1]
        Largest excess share that is acceptable.
    surprise : float in (0, 1)
        Probability below which a label is surprising.
    top : int
        How many rows are shown.
    """

    max_rate: float = 0.05
    surprise: float = 0.05
    top: int = 12

    name: ClassVar[str] = "label_errors"
    title: ClassVar[str] = "Label errors"
    question: ClassVar[str] = "Do training labels contradict what the rest of the data teach?"
    why: ClassVar[str] = (
        "Wrong labels cap accuracy, mislead every test built on them, and a few influential ones "
        "can turn predictions. The rows that harm the test loss most are where reading is worth it."
    )
    fix: ClassVar[str] = (
        "Read the rows below; correct or drop the wrong ones and refit, or unlearn them at once "
        "with influence.InfluenceFunctions(model).fit().remove(rows)."
    )

    def __post_init__(self) -> None:
        share(self.max_rate, "max_rate")
        open_share(self.surprise, "surprise")
        whole(self.top, "top")

    def run(self, case: Case) -> Outcome:
        """Judge the interval of the excess of surprising labels."""
        from trustml.influence import InfluenceFunctions, find_mislabeled

        _refuse(case)
        influence = InfluenceFunctions(case.model).fit()
        ranking = find_mislabeled(influence)
        outputs = influence.leave_one_out_outputs()
        if case.model.task == "classification":
            finding, certainty = self._surprising(case, outputs)
        else:
            finding, certainty = self._far_off(case, ranking), None
        harm, certificate = _harm(case, influence)
        suspects = ranking.top(self.top)
        harmful = np.argsort(harm, kind="stable")[: self.top]
        words = _Words(case, ranking, certainty, harm)
        return Outcome(
            summary=self._sentence(finding),
            findings=(finding,),
            figures=_pictures(case, words, suspects, harmful),
            tables=(
                words.table("Training rows whose labels are most surprising", suspects),
                words.table("Training rows that harm the test loss most", harmful),
            ),
            notes=(f"Influence: {certificate}",),
            parameters={
                "training rows": len(ranking.order),
                "correction": influence.correction_,
                "damping": float(influence.damping_.value),
            },
        )

    def _surprising(self, case: Case, outputs: Tensor) -> tuple[Finding, NDArray[np.float64]]:
        """Judge k labels below the limit beside the number that the probabilities expect."""
        p = to_numpy(case.model.proba_of(outputs)).astype(np.float64)
        targets = to_numpy(_targets(case)).astype(np.intp)
        given = p[np.arange(len(p)), targets]
        n, k = len(p), int((given < self.surprise).sum())
        expected = float(np.where(p < self.surprise, p, 0.0).sum()) / n
        exact = clopper_pearson(k, n, case.level)
        interval = Interval(
            exact.estimate - expected,
            exact.low - expected,
            exact.high - expected,
            case.level,
            f"{exact.method}, minus the expected share {expected:.4f}",
        )
        name = f"surprising labels (p < {self.surprise:g}) beyond those expected"
        return at_most(name, interval, self.max_rate, n), given

    def _far_off(self, case: Case, ranking: Any) -> Finding:
        gap = np.abs(ranking.given - ranking.suggested)
        spread = 1.4826 * float(np.median(gap)) or 1.0
        far = int((gap > _FAR * spread).sum())
        name = f"values more than {_FAR:g} robust standard deviations off"
        return at_most(name, clopper_pearson(far, len(gap), case.level), self.max_rate, len(gap))

    def _sentence(self, finding: Finding) -> str:
        value = f"{finding.estimate:.3f} [{finding.low:.3f}, {finding.high:.3f}]"
        said = f"The share of training labels that look wrong is {value}"
        if finding.verdict is Verdict.PASS:
            return f"{said}, within the limit of {self.max_rate:g}."
        if finding.verdict is Verdict.FAIL:
            return f"{said}, above the limit of {self.max_rate:g}."
        return f"{said}: it may be on either side of {self.max_rate:g}."


def _refuse(case: Case) -> None:
    """Skip where influence is not defined, with the reason of the model itself."""
    if not case.model.differentiable:
        raise Skip("The model only predicts: influence of training rows needs gradients.")
    if case.model.train is None:
        raise Skip("No training data: wrap the model with train=(X, y).")
    try:
        _ = case.model.objective
    except TypeError as error:
        raise Skip(f"The training objective is not known: {error}.") from error


def _targets(case: Case) -> Any:
    train = case.model.train
    if train is None:
        raise Skip("No training data: wrap the model with train=(X, y).")
    return train.targets


def _harm(case: Case, influence: Any) -> tuple[NDArray[np.float64], str]:
    """Return the mean change of the test loss if each training row were left out."""
    rows = case.sample(_QUERIES, salt=2)
    scores = influence.scores(take_rows(case.X, rows), case.y[rows])
    mean: NDArray[np.float64] = to_numpy(scores.values).mean(0)
    return mean, str(scores.certificate)


@dataclass(frozen=True)
class _Words:
    """What the report says of training rows."""

    case: Case
    ranking: Any
    certainty: NDArray[np.float64] | None
    harm: NDArray[np.float64]

    def label(self, code: Any) -> str:
        if self.case.model.task == "classification":
            return self.case.class_names[int(code)]
        return f"{float(code):.4g}"

    def caption(self, row: int) -> str:
        given, held_out = self.ranking.given[row], self.ranking.suggested[row]
        return f"row {row}\n{self.label(given)}, not {self.label(held_out)}?"

    def table(self, title: str, rows: NDArray[np.intp]) -> Table:
        columns = ["training row", "label given", "held-out prediction"]
        if self.certainty is not None:
            columns.append("held-out probability of the label")
        columns.append("effect on the test loss if left out")
        lines = []
        for i in (int(row) for row in rows):
            line: list[str | float | int] = [
                str(i), self.label(self.ranking.given[i]), self.label(self.ranking.suggested[i]),
            ]  # fmt: skip
            if self.certainty is not None:
                line.append(float(self.certainty[i]))
            lines.append((*line, float(self.harm[i])))
        return Table(
            title,
            tuple(columns),
            tuple(lines),
            "Held out: as the model would be without that row. A negative effect means that the "
            "mean test loss would fall if the row left.",
        )


def _pictures(
    case: Case, words: _Words, suspects: NDArray[np.intp], harmful: NDArray[np.intp]
) -> tuple[Figure, ...]:
    """Show the rows themselves, where they are pictures."""
    train = case.model.train
    inputs = None if train is None else train.inputs
    if not isinstance(inputs, Tensor) or image_side(tuple(inputs.shape[1:])) is None:
        return (_histogram(words),)
    titles = ("Most surprising labels", "Rows that harm the test loss most")
    found = []
    for title, rows in zip(titles, (suspects, harmful), strict=True):
        images = pictures(to_numpy(inputs[torch.as_tensor(rows)]))
        captions = [words.caption(int(row)) for row in rows]
        found.append(
            Figure(
                "image_grid",
                {"images": images, "titles": captions, "columns": 6},
                title,
                "Training rows with the label they were given and the one that the model predicts "
                "when it has not seen the row.",
            )
        )
    return tuple(found)


def _histogram(words: _Words) -> Figure:
    return Figure(
        "score_histogram",
        {
            "scores": {"training rows": words.ranking.scores},
            "x": "loss under the model that has not seen the row",
        },
        "Held-out loss of the training rows",
        "Rows far to the right are contradicted by the rest of the training data.",
    )
