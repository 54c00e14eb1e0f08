"""TorchCP's scores under our calibration: rows alone, nested sets, coverage by its law."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import trustml
from trustml.conformal import SplitClassifier, metrics
from trustml.core.optional import require_submodule
from trustml.errors import MissingExtraError
from trustml.evidence import beta_binomial_band
from trustml.integrations.torchcp import TorchcpScore

MODEL = trustml.precomputed("probabilities")
KINDS = ["LAC", "APS", "RAPS", "SAPS", "TOPK", "Margin", "EntmaxScore"]


class Theirs:
    """A score of TorchCP's protocol, which draws for each class and writes into its argument."""

    def __init__(self, randomized: bool = True) -> None:
        self.randomized = randomized

    def __call__(self, logits: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        scores = 1 - logits.softmax(dim=1)
        if self.randomized:
            scores = scores * torch.rand(logits.shape)
        logits.fill_(-1)
        return scores if label is None else scores.gather(1, label[:, None])[:, 0]


@pytest.fixture(scope="module")
def pool() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order] / 16 + np.random.default_rng(1).normal(scale=0.3, size=X.shape), y[order]
    fitted = LogisticRegression(C=0.05, max_iter=200).fit(X[:700], y[:700])
    return fitted.predict_proba(X[700:1100]), y[700:1100]


def check(score: TorchcpScore, pool: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Check the laws of a score and return its sets at 0.2."""
    p, y = pool
    before, state = p.copy(), torch.get_rng_state()
    cp = SplitClassifier(MODEL, score, random_state=0).fit(p[:200], y[:200])
    sets = cp.predict_set(p[200:], [0.4, 0.2, 0.1])
    assert (np.diff(sets.astype(int), axis=2) >= 0).all()
    alone = np.concatenate([cp.predict_set(p[i : i + 1], [0.4, 0.2, 0.1]) for i in range(200, 220)])
    np.testing.assert_array_equal(alone, sets[:20])
    np.testing.assert_array_equal(cp.predict_set(p[200:], 0.2), sets[..., 1])
    np.testing.assert_array_equal(p, before)
    assert torch.equal(torch.get_rng_state(), state)
    low, _ = beta_binomial_band(200, 200, 0.2, level=1 - 1e-5)
    assert metrics.coverage(y[200:], sets[..., 1]) >= low
    return sets[..., 1]


@pytest.mark.parametrize("randomized", [True, False])
def test_an_object_of_their_protocol_is_a_score(pool: tuple, randomized: bool) -> None:
    score = TorchcpScore(Theirs(randomized))
    assert score.randomized is randomized
    sets = check(score, pool)
    if not randomized:
        p, y = pool
        ours = SplitClassifier(MODEL, "lac").fit(p[:200], y[:200]).predict_set(p[200:], 0.2)
        np.testing.assert_array_equal(sets, ours)
    other = SplitClassifier(MODEL, score, random_state=1).fit(pool[0][:200], pool[1][:200])
    assert (other.predict_set(pool[0][200:], 0.2) != sets).any() == randomized


def test_probabilities_of_zero_are_no_nan() -> None:
    p = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]], dtype=torch.float64)
    scores = TorchcpScore(lambda logits: 1 - logits.softmax(dim=1))(p, torch.full((2,), torch.nan))
    torch.testing.assert_close(scores, 1 - p)
    empty = TorchcpScore(Theirs())(p[:0], torch.empty(0))
    assert empty.shape == (0, 3)


def test_bad_scores() -> None:
    for given, options in ((3, {}), (Theirs, {}), (Theirs(), {"penalty": 1})):
        with pytest.raises(TypeError, match="score must be"):
            TorchcpScore(given, **options)
    p = torch.full((4, 3), 1 / 3)
    for wrong in (lambda z: z[:, 0], lambda z: z.numpy()):
        with pytest.raises(ValueError, match=r"shape \(4, 3\)"):
            TorchcpScore(wrong)(p, torch.zeros(4))


@pytest.fixture(scope="module")
def theirs() -> object:
    try:
        return require_submodule("torchcp.classification.score", "cp-anchors")
    except MissingExtraError:
        pytest.skip("TorchCP is an extra of its own: it breaks a CPU torch")


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_their_own_scores(pool: tuple, theirs: object, kind: str) -> None:
    check(TorchcpScore(kind), pool)


@pytest.mark.peers
@pytest.mark.parametrize(
    ("kind", "options", "ours"),
    [("LAC", {}, "lac"), ("Margin", {}, "margin"), ("APS", {"randomized": False}, None)],
)
def test_where_they_are_right_the_sets_are_ours(
    pool: tuple, theirs: object, kind: str, options: dict, ours: str | None
) -> None:
    p, y = pool
    found = check(TorchcpScore(kind, **options), pool)
    score = trustml.conformal.Aps(randomized=False) if ours is None else ours
    own = SplitClassifier(MODEL, score).fit(p[:200], y[:200]).predict_set(p[200:], 0.2)
    np.testing.assert_array_equal(found, own)


@pytest.mark.peers
def test_an_unknown_score_is_named_with_those_there_are(theirs: object) -> None:
    with pytest.raises(ValueError, match=r"no 'THR'.*APS.*SAPS"):
        TorchcpScore("THR")


@pytest.mark.peers
def test_their_margin_writes_into_its_argument_ours_does_not(theirs: object, pool: tuple) -> None:
    # B14: with labels, the score "identity" writes -1 into the tensor that it is given.
    p, y = torch.from_numpy(pool[0][:50].copy()), torch.from_numpy(pool[1][:50])
    before = p.clone()
    score = TorchcpScore("Margin", score_type="identity")
    of_labels = score.of_labels(p, torch.full((50,), 0.5), y)
    assert torch.equal(p, before)
    # Of logits that -1 may even be the largest: with labels they disagree with themselves.
    every = theirs.Margin("identity")(p.log())
    torch.testing.assert_close(every.gather(1, y[:, None])[:, 0], of_labels)
    assert not torch.allclose(theirs.Margin("identity")(p.log(), y), of_labels)
    theirs.Margin("identity")(p, y)
    assert (p.gather(1, y[:, None]) == -1).all()
