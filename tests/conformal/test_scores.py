"""Scores against their definitions, ties and orders included."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml.conformal import Aps, Lac, Margin, Raps, Saps, Score, SplitClassifier, TopK
from trustml.conformal._score import as_score

# Few distinct masses: ties are the rule, as in a forest of ten trees.
rows = st.lists(st.integers(0, 4), min_size=2, max_size=7).filter(any)


def definition(name: str, p: list[float], k: int, u: float) -> float:
    above = sum(q for q in p if q > p[k])
    tied = sum(q for q in p if q == p[k])
    rank = 1 + sum(q > p[k] for q in p)
    return {
        "lac": 1 - p[k],
        "aps": above + u * tied,
        "raps": above + u * tied + 0.01 * max(0, rank - 2),
        "saps": u * max(p) if rank == 1 else max(p) + (rank - 2 + u) * 0.1,
        "topk": rank - 1 + u,
        "margin": max(q for j, q in enumerate(p) if j != k) - p[k],
    }[name]


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, min_size=1, max_size=4), st.floats(0.01, 0.99),
       st.sampled_from(["lac", "aps", "raps", "saps", "topk", "margin"]))  # fmt: skip
def test_scores_equal_their_definitions(masses: list, u: float, name: str) -> None:
    width = max(map(len, masses))
    p = torch.tensor([m + [0] * (width - len(m)) for m in masses], dtype=torch.float64)
    p /= p.sum(1, keepdim=True)
    before = p.clone()
    found = as_score(name)(p, torch.full((len(p),), u, dtype=torch.float64))
    expected = [[definition(name, row, k, u) for k in range(width)] for row in p.tolist()]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    assert torch.equal(p, before)


@settings(max_examples=25, deadline=None)
@given(rows, st.randoms(use_true_random=False), st.sampled_from(["aps", "raps", "saps", "topk"]))
def test_order_of_the_classes_changes_no_bit(masses: list, random: object, name: str) -> None:
    # Sums of the same numbers in another order differ in the last bit unless it is seen to, and
    # then rows that tie by right would not tie.
    shuffled = list(range(len(masses)))
    random.shuffle(shuffled)
    p = torch.tensor([masses], dtype=torch.float64) / 10.0 / 3.0
    u = torch.tensor([0.3], dtype=torch.float64)
    score = as_score(name)
    assert torch.equal(score(p, u)[:, shuffled], score(p[:, shuffled], u))


@settings(max_examples=60, deadline=None)
@given(rows, st.floats(0.01, 0.99), st.sampled_from([0.1, 1 / 3, 1e-9]),
       st.sampled_from(["lac", "aps", "raps", "saps", "topk", "margin"]))  # fmt: skip
def test_one_label_gets_the_number_that_all_labels_give_it(
    masses: list, u: float, unit: float, name: str
) -> None:
    # To the last bit: calibration finds it without a sort, and a test row that ties with the
    # threshold must be in.
    total = sum(masses)
    p = torch.tensor([[m / total for m in masses], [unit] + [0.0] * (len(masses) - 1)])
    p = p.double().repeat(len(masses), 1)
    labels = torch.arange(len(masses)).repeat_interleave(2)
    uniforms = torch.full((len(p),), u, dtype=torch.float64)
    score = as_score(name)
    assert torch.equal(
        score.of_labels(p, uniforms, labels), score(p, uniforms).gather(1, labels[:, None])[:, 0]
    )


@pytest.mark.parametrize("name", ["aps", "raps", "saps", "topk", "margin", "lac"])
def test_one_label_of_many_float32_classes(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    p = (torch.randn(64, 300, generator=generator) * 6).softmax(1).double()
    u = torch.rand(64, generator=generator, dtype=torch.float64)
    labels = torch.randint(300, (64,), generator=generator)
    score = as_score(name)
    whole = score(p, u)
    assert torch.equal(score.of_labels(p, u, labels), whole.gather(1, labels[:, None])[:, 0])
    # And a batch of one is the batch (B1: puncc's sets shrink to the size of the batch).
    assert torch.equal(torch.cat([score(p[i : i + 1], u[i : i + 1]) for i in range(64)]), whole)


def test_a_score_needs_one_method() -> None:
    class Half(Score):
        name, randomized = "half", False

        def __call__(self, probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
            return (0.5 - probabilities).abs()

    p = torch.tensor([[0.6, 0.4], [0.1, 0.9]], dtype=torch.float64)
    found = Half().of_labels(p, torch.full((2,), torch.nan), torch.tensor([1, 0]))
    torch.testing.assert_close(found, torch.tensor([0.1, 0.4], dtype=torch.float64))


def test_unrandomised_variants_ignore_the_uniform() -> None:
    p = torch.tensor([[0.6, 0.3, 0.1]])
    expected = torch.tensor([[0.6, 0.9, 1.0]])
    for score in (Aps(randomized=False), Raps(penalty=0.0, randomized=False)):
        torch.testing.assert_close(score(p, torch.rand(1)), expected)


def test_a_callable_and_an_object_are_scores() -> None:
    by_hand = SplitClassifier(None, score=lambda p, u: -p)
    assert as_score(by_hand.score).function is by_hand.score
    for score in (Lac(), Aps(), Raps(), Saps(), TopK(), Margin()):
        assert as_score(score) is score
        assert isinstance(score, Score)


@pytest.mark.parametrize(
    ("score", "error", "text"),
    [("hinge", ValueError, r"'aps', 'lac', 'margin', 'raps', 'saps', 'topk'"),
     (Aps, TypeError, r"Aps\(\)"), (3, TypeError, "callable")],
)  # fmt: skip
def test_what_is_no_score(score: object, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        as_score(score)


def test_bad_parameters() -> None:
    for make in (lambda: Raps(penalty=-1), lambda: Raps(k_reg=-1), lambda: Saps(weight=0)):
        with pytest.raises(ValueError, match="must be"):
            make()
