"""Scores against their definitions, ties and orders included."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import trustml
from trustml.conformal import (
    Aps,
    ClusteredClassifier,
    Entmax,
    GroupConditionalClassifier,
    Knn,
    Lac,
    Margin,
    Raps,
    Saps,
    Score,
    SplitClassifier,
    TopK,
    WeightedClassifier,
    metrics,
)
from trustml.conformal._score import as_score

NAMES = ["lac", "aps", "raps", "saps", "topk", "margin", "entmax"]

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
        "entmax": math.sqrt(sum(max(0.0, logit(q) - logit(p[k])) ** 2 for q in p)),
    }[name]


def logit(p: float) -> float:
    return math.log(max(p, np.finfo(float).tiny))


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, min_size=1, max_size=4), st.floats(0.01, 0.99),
       st.sampled_from(NAMES))  # fmt: skip
def test_scores_equal_their_definitions(masses: list, u: float, name: str) -> None:
    width = max(map(len, masses))
    p = torch.tensor([m + [0] * (width - len(m)) for m in masses], dtype=torch.float64)
    p /= p.sum(1, keepdim=True)
    before = p.clone()
    found = as_score(name)(p, torch.full((len(p),), u, dtype=torch.float64))
    expected = [[definition(name, row, k, u) for k in range(width)] for row in p.tolist()]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(p, before)


@settings(max_examples=25, deadline=None)
@given(rows, st.randoms(use_true_random=False), st.sampled_from(NAMES))
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
       st.sampled_from(NAMES))  # fmt: skip
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


@pytest.mark.parametrize("name", NAMES)
def test_one_label_of_many_float32_classes(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    p = (torch.randn(64, 300, generator=generator) * 6).softmax(1).double()
    u = torch.rand(64, generator=generator, dtype=torch.float64)
    labels = torch.randint(300, (64,), generator=generator)
    for score in (as_score(name), Entmax(1.0), Entmax(1.25), Entmax(2.0)):
        whole = score(p, u)
        assert torch.equal(score.of_labels(p, u, labels), whole.gather(1, labels[:, None])[:, 0])
    score = as_score(name)
    whole = score(p, u)
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
    for score in (Lac(), Aps(), Raps(), Saps(), TopK(), Margin(), Entmax(), Knn()):
        assert as_score(score) is score
        assert isinstance(score, Score)


@pytest.mark.parametrize(
    ("score", "error", "text"),
    [("hinge", ValueError, r"'aps', 'entmax', 'knn', 'lac', 'margin', 'raps', 'saps', 'topk'"),
     (Aps, TypeError, r"Aps\(\)"), (3, TypeError, "callable")],
)  # fmt: skip
def test_what_is_no_score(score: object, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        as_score(score)


@pytest.mark.parametrize("gamma", [1.0, 1.1, 1.25, 1.5, 2.0])
def test_entmax_sets_are_supports_of_the_sparse_softmax(gamma: float) -> None:
    # The other side of the theorem: at temperature 1 / threshold the support of sparsemax, found
    # by projecting on the simplex, is the set. gamma 1 has full support; its set is a ratio.
    generator = torch.Generator().manual_seed(1)
    p = (3 * torch.randn(200, 7, generator=generator, dtype=torch.float64)).softmax(1)
    scores = Entmax(gamma)(p, torch.full((200,), torch.nan))
    for limit in (0.3, 1.0, 4.0):
        if gamma == 1:
            support = p >= p.max(1, keepdim=True).values * math.exp(-limit)
        else:
            # Below the root of sum((z - tau)_+^delta) = limit^delta a class gets no mass.
            z, delta = p.log(), 1 / (gamma - 1)
            low, high = z.max(1, keepdim=True).values - limit, z.max(1, keepdim=True).values
            for _ in range(80):
                tau = (low + high) / 2
                over = ((z - tau).clamp_min(0) ** delta).sum(1, keepdim=True) > limit**delta
                low, high = torch.where(over, tau, low), torch.where(over, high, tau)
            support = z > low
        assert torch.equal(support, scores < limit)


def test_a_probability_of_zero_is_last_and_finite() -> None:
    # MAPIE #456: probabilities that are exactly 0 (forests, naive Bayes) spoil the sets.
    p = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.6, 0.4, 0.0, 0.0]], dtype=torch.float64)
    uniforms = torch.full((2,), 0.5, dtype=torch.float64)
    for score in (Entmax(1.0), Entmax(1.5), Entmax(2.0), *map(as_score, NAMES)):
        found = score(p, uniforms)
        assert torch.isfinite(found).all()
        assert (found[:, 2] == found[:, 3]).all()
        assert (found[:, 2] > found[:, 1]).all()
    margin = Entmax(1.0)(p, uniforms)
    assert margin[0, 2] > margin[1, 2]


@pytest.mark.parametrize("name", NAMES)
def test_rows_without_an_opinion_treat_all_classes_alike(name: str) -> None:
    p = torch.full((3, 6), 1 / 6, dtype=torch.float64)
    found = as_score(name)(p, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    assert (found == found[:, :1]).all()


@pytest.fixture(scope="module")
def neighbours() -> tuple:
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(40, 3)), np.arange(40) % 4
    rows[labels == 1, 0] += 2
    model = trustml.precomputed("features", train=(rows, labels))
    return model, rows, labels, rng.normal(size=(25, 3))


@pytest.mark.parametrize("k", [1, 3, 50])
def test_knn_is_its_definition(neighbours: tuple, k: int) -> None:
    model, rows, labels, new = neighbours
    score = Knn(k).learnt(model, torch.empty(0, 0), torch.empty(0))
    found = score(torch.from_numpy(new), torch.full((25,), torch.nan))
    distance = np.linalg.norm(new[:, None] - rows[None], axis=2)
    for c in range(4):
        own = np.sort(distance[:, labels == c])[:, :k].mean(1)
        other = np.sort(distance[:, labels != c])[:, :k].mean(1)
        np.testing.assert_allclose(found[:, c], own / other, rtol=1e-12)


def test_knn_reads_rows_alone_and_treats_equals_alike(neighbours: tuple) -> None:
    model, rows, labels, new = neighbours
    score = Knn(3).learnt(model, torch.empty(0, 0), torch.empty(0))
    X = torch.from_numpy(new)
    whole = score(X, X[:, 0])
    assert torch.equal(torch.cat([score(X[i : i + 1], X[:1, 0]) for i in range(25)]), whole)
    assert torch.equal(score(X.flip(0), X[:, 0]).flip(0), whole)
    # A row of the training set is at distance 0 of itself: exactly, whatever the others are.
    far = torch.from_numpy(rows + 1e6)
    moved = trustml.precomputed("features", train=(far, labels))
    same = Knn(1).learnt(moved, torch.empty(0, 0), torch.empty(0))(far, far[:, 0])
    assert (same[torch.arange(40), labels] == 0).all()
    # In two classes at once it belongs to neither: 0 / 0 is 1. A class without rows is at +inf.
    twice = trustml.precomputed("features", train=(np.zeros((4, 2)), [0, 1, 0, 1]))
    score = Knn(2).learnt(twice, torch.empty(0, 0), torch.empty(0))
    assert (score(torch.zeros(1, 2, dtype=torch.float64), X[:1, 0]) == 1).all()
    aside = Knn(2, share=0.5).learnt(model, torch.from_numpy(rows[:2]), torch.tensor([0, 1]))
    assert torch.isinf(aside(X, X[:, 0])[:, 2:]).all()


def test_knn_learns_from_training_rows_or_from_rows_set_aside(neighbours: tuple) -> None:
    model, rows, _, new = neighbours
    trained = SplitClassifier(model, "knn").fit(new, np.arange(25) % 4)
    assert trained.n_calibration_ == 25
    aside = SplitClassifier(model, Knn(share=0.4), random_state=0).fit(new, np.arange(25) % 4)
    assert aside.n_calibration_ == 15
    assert aside.predict_set(rows, 0.3).shape == (40, 4)
    untrained = trustml.precomputed("features")
    with pytest.raises(ValueError, match="train"):
        SplitClassifier(untrained, "knn").fit(new, np.arange(25) % 4)
    with pytest.raises(ValueError, match="no neighbours"):
        Knn()(torch.from_numpy(new), torch.empty(25))
    p = np.full((5, 2), 0.5)
    given = trustml.precomputed("probabilities", train=(p, [0, 1, 0, 1, 0]))
    with pytest.raises(ValueError, match="features"):
        SplitClassifier(given, "knn").fit(p, [0, 1, 0, 1, 0])


def test_raps_learns_what_is_best_on_the_rows_set_aside() -> None:
    # Labels beyond the first three classes never happen: three ranks are free, and a heavy
    # penalty on the others costs nothing; 0.5 gives no smaller sets than 0.2.
    rng = np.random.default_rng(0)
    p = np.sort(rng.dirichlet(np.full(40, 0.3), size=600), axis=1)[:, ::-1].copy()
    y = rng.integers(3, size=600)
    model = trustml.precomputed("probabilities")
    cp = SplitClassifier(model, Raps("auto", "auto"), random_state=0).fit(p, y)
    assert cp.n_calibration_ == 480
    assert (cp.score_.k_reg, cp.score_.penalty, cp.score_.share) == (3, 0.2, 0.0)
    plain = SplitClassifier(model, "aps", random_state=0).fit(p, y)
    assert metrics.set_size(cp.predict_set(p)) < metrics.set_size(plain.predict_set(p)) - 0.25
    half = SplitClassifier(model, Raps(0.02, "auto"), random_state=0).fit(p, y).score_
    assert (half.penalty, half.k_reg) == (0.02, 3)
    fixed = Raps(0.02, 1)
    assert fixed.learnt(None, None, None) is fixed
    assert Entmax(1.5).learnt(None, None, None).gamma == 1.5
    with pytest.raises(ValueError, match="not learnt its gamma"):
        Entmax("auto")(torch.from_numpy(p), torch.full((600,), 0.5))
    with pytest.raises(ValueError, match="auto"):
        Raps("auto")(torch.from_numpy(p), torch.full((600,), 0.5))


@pytest.mark.parametrize(
    "score",
    [Raps("auto", "auto"), Entmax("auto"), Knn(3, share=0.3)],
    ids=["raps", "entmax", "knn"],
)
@pytest.mark.parametrize(
    "kind",
    [SplitClassifier, ClusteredClassifier, lambda m, **k: WeightedClassifier(m, ones, **k),
     lambda m, **k: GroupConditionalClassifier(m, lambda X: ones(X)[:, None], **k)],
    ids=["split", "clustered", "weighted", "grouped"],
)  # fmt: skip
def test_every_predictor_of_sets_lets_a_score_learn(kind: object, score: Score) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.dirichlet([1, 1, 1, 1], size=200), rng.integers(4, size=200)
    what = "features" if score.reads == "features" else "probabilities"
    cp = kind(trustml.precomputed(what, train=(X[:4], range(4))), score=score, random_state=0)
    cp.fit(X, y)
    assert cp.n_calibration_ == 200 - math.ceil(score.share * 200)
    assert cp.score_ is not score
    assert cp.score_.share == 0
    assert cp.predict_set(X, 0.3).shape == (200, 4)


def ones(X: np.ndarray) -> np.ndarray:
    return np.ones(len(X))


def test_bad_parameters() -> None:
    for make in (
        lambda: Raps(penalty=-1), lambda: Raps(k_reg=-1), lambda: Raps(penalty="best"),
        lambda: Raps(share=1), lambda: Raps(alpha=0), lambda: Saps(weight=0),
        lambda: Entmax(gamma=3), lambda: Entmax(gamma=1.4),
        lambda: Entmax(gamma=0.5), lambda: Entmax(gamma="best"), lambda: Entmax(share=0),
        lambda: Knn(k=0), lambda: Knn(share=1.0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="must be"):
            make()
