"""Label errors: training labels that the rest of the training data contradict."""

from __future__ import annotations

import warnings
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
from trustml.auditing._verdict import Finding, Verdict, at_most, one
from trustml.core.random import numpy_generator
from trustml.core.validation import take_rows, to_numpy
from trustml.evidence import Interval, bootstrap, clopper_pearson
from trustml.warnings import ConvergenceWarning

_QUERIES = 400
_FEWEST = 20
_REMAINING = 0.5  # of the removed rows' pull may be left after the step that takes them out
_TOO_FAR = (
    "One Newton step cannot take even one harmful row out of this model (the gradient of the "
    "remaining objective does not fall), so the cost of the harmful rows is not judged. Their "
    "order is a first approximation; refit without them to see."
)
_LAST_LAYER = (
    "Influence is through the last layer alone: leaving out every row in turn, through all "
    "parameters of a model of this size, would take long."
)
_FAR = 4.0  # robust standard deviations; beyond it a residual of a regression is called odd


@dataclass(frozen=True)
class LabelErrors(Check):
    """Surprising training labels, and what the most harmful training rows cost.

    Two questions, both without refits. Each row is judged by the model that has not seen it: a
    label is surprising if that model gives it a probability below `surprise`. The model expects
    some such labels; the excess estimates wrong ones. A model that has made room for noise in
    its probabilities hides wrong labels from this count, hence the second question: rows that
    harm the loss on one half of the test rows are taken out, and the loss on the other half,
    which had no part in the choice, must not fall by much.

    Parameters
    ----------
    max_rate : float in [0, 1]
        Largest excess share of surprising labels that is acceptable.
    max_gain : float in [0, 1]
        Largest fall of the test loss, relative to it, that is acceptable when the most harmful
        rows leave.
    surprise : float in (0, 1)
        Probability below which a label is surprising.
    harmful : float in (0, 1)
        Share of the training rows that is taken out for the second question.
    top : int
        How many rows are shown.
    """

    max_rate: float = 0.05
    max_gain: float = 0.1
    surprise: float = 0.05
    harmful: float = 0.05
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
        share(self.max_gain, "max_gain")
        open_share(self.surprise, "surprise")
        open_share(self.harmful, "harmful")
        whole(self.top, "top")

    def run(self, case: Case) -> Outcome:
        """Judge the excess of surprising labels, and the gain without the harmful rows."""
        from trustml.influence import find_mislabeled

        if case.no_influence is not None:
            raise Skip(case.no_influence)
        if case.n < _FEWEST:
            raise Skip(f"{case.n} test rows are too few; at least {_FEWEST} are needed.")
        influence = case.influence
        ranking = find_mislabeled(influence, "leave_one_out")
        level = case.bonferroni(2)
        if case.model.task == "classification":
            outputs = influence.leave_one_out_outputs()
            wrong, certainty = self._surprising(case, outputs, level)
        else:
            wrong, certainty = self._far_off(ranking, level), None
        harm = _Harm.of(case, influence)
        gain = self._gain(case, harm, influence, level)
        suspects = ranking.top(self.top)
        harmful = np.argsort(harm.effects, kind="stable")[: self.top]
        words = _Words(case, ranking, certainty, harm.effects)
        return Outcome(
            summary=self._sentence(wrong, gain),
            findings=(wrong,) if gain is None else (wrong, gain),
            figures=_pictures(case, words, suspects, harmful),
            tables=(
                words.table("Training rows whose labels are most surprising", suspects),
                words.table("Training rows that harm the test loss most", harmful),
            ),
            notes=(
                *(() if gain is not None else (_TOO_FAR,)),
                *((_LAST_LAYER,) if case.last_layer_only else ()),
                f"Influence: {harm.certificate}",
            ),
            parameters={
                "training rows": len(ranking.order),
                "correction": influence.correction_,
                "damping": float(influence.damping_.value),
            },
        )

    def _surprising(
        self, case: Case, outputs: Tensor, level: float
    ) -> tuple[Finding, NDArray[np.float64]]:
        """Judge k labels below the limit beside the number that the probabilities expect."""
        p = to_numpy(case.model.proba_of(outputs)).astype(np.float64)
        targets = to_numpy(_targets(case)).astype(np.intp)
        given = p[np.arange(len(p)), targets]
        n, k = len(p), int((given < self.surprise).sum())
        expected = float(np.where(p < self.surprise, p, 0.0).sum()) / n
        exact = clopper_pearson(k, n, level)
        interval = Interval(
            max(0.0, exact.estimate - expected),
            max(0.0, exact.low - expected),
            max(0.0, exact.high - expected),
            level,
            f"{exact.method}, minus the expected share {expected:.4f}",
        )
        name = f"surprising labels (p < {self.surprise:g}) beyond those expected"
        return at_most(name, interval, self.max_rate, n), given

    def _far_off(self, ranking: Any, level: float) -> Finding:
        gap = np.abs(ranking.given - ranking.suggested)
        spread = 1.4826 * float(np.median(gap)) or 1.0
        far = int((gap > _FAR * spread).sum())
        name = f"values more than {_FAR:g} robust standard deviations off"
        return at_most(name, clopper_pearson(far, len(gap), level), self.max_rate, len(gap))

    def _gain(self, case: Case, harm: _Harm, influence: Any, level: float) -> Finding | None:
        """Take out rows chosen on one half of the test rows; measure on the other half."""
        # Fewer leave where one Newton step cannot take out as many; None if not even one.
        count = max(1, round(self.harmful * len(harm.chosen_by)))
        X, y = take_rows(case.X, harm.judged), case.y[harm.judged]
        order = np.argsort(harm.chosen_by, kind="stable")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the certificate is read below
            while True:
                effect = to_numpy(influence.group_effect(order[:count], X, y, order=2))
                if influence.removal_.remaining <= _REMAINING:
                    break
                if count == 1:
                    return None
                count //= 2
        loss = to_numpy(case.model.loss(X, y)).astype(np.float64)
        interval = bootstrap(
            lambda e, before: -e.sum() / before.sum(),
            effect.astype(np.float64),
            loss,
            level=level,
            method="percentile",
            random_state=case.random_state,
        )
        rows = "the most harmful row" if count == 1 else f"the {count} most harmful rows"
        name = f"relative fall of the test loss without {rows}"
        return at_most(name, one(interval), self.max_gain, len(y))

    def _sentence(self, wrong: Finding, gain: Finding | None) -> str:
        rate = f"{wrong.estimate:.3f} [{wrong.low:.3f}, {wrong.high:.3f}]"
        said = f"A share {rate} of the training labels looks wrong"
        if gain is not None:
            fall = f"{gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
            said += f"; without the most harmful rows the test loss falls by {fall} of itself"
        verdicts = {wrong.verdict, gain.verdict if gain is not None else None}
        if Verdict.FAIL in verdicts:
            return f"{said}: more than is allowed."
        if Verdict.NOT_ENOUGH_DATA in verdicts:
            return f"{said}; that may be on either side of the limits."
        return f"{said}: within the limits."


def _targets(case: Case) -> Any:
    train = case.train
    if train is None:
        raise Skip("No training data: wrap the model with train=(X, y).")
    return train.targets


@dataclass(frozen=True)
class _Harm:
    """What each training row does to the loss of test rows.

    Attributes
    ----------
    effects : array of shape (n_train,)
        Mean change of the loss of all test rows used, if the row were left out.
    chosen_by : array of shape (n_train,)
        The same over one half of them.
    judged : int array
        The test rows of the other half.
    certificate : str
        Of the solves.
    """

    effects: NDArray[np.float64]
    chosen_by: NDArray[np.float64]
    judged: NDArray[np.intp]
    certificate: str

    @classmethod
    def of(cls, case: Case, influence: Any) -> _Harm:
        rows = case.sample(_QUERIES, salt=2)
        scores = influence.scores(take_rows(case.X, rows), case.y[rows])
        values = to_numpy(scores.values).astype(np.float64)
        order = numpy_generator(case.random_state + 5).permutation(len(rows))
        first, second = order[: len(rows) // 2], order[len(rows) // 2 :]
        return cls(
            values.mean(0), values[first].mean(0), np.sort(rows[second]), str(scores.certificate)
        )


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
        first, second = self.label(given), self.label(held_out)
        return f"row {row}\n{first}" + ("" if first == second else f", not {second}?")

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
    train = case.train
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
