"""The training loss: hard calibration is its limit, its derivatives are right, and it helps."""

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import trustml
from trustml.conformal import ConformalTrainingLoss, SplitClassifier, metrics, smooth_quantile
from trustml.evidence import quantile


def batch(n: int = 40, c: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, c, generator=generator, dtype=torch.float64)
    return logits, torch.randint(c, (n,), generator=generator)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("n", [19, 20, 57, 400])
def test_its_limit_is_the_conformal_quantile(n: int, alpha: float) -> None:
    scores = torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    exact = float(quantile(scores, alpha))
    assert smooth_quantile(scores, alpha, 1e-7).item() == pytest.approx(exact, abs=1e-6)
    # And it goes there steadily enough to be of use at any temperature.
    assert abs(smooth_quantile(scores, alpha, 0.1).item() - exact) < 0.5


def test_the_threshold_is_where_the_soft_count_is_the_rank_less_a_half() -> None:
    scores = batch()[0][:, 0]
    for temperature in (1e-3, 0.1, 1.0, 30.0):
        root = smooth_quantile(scores, 0.1, temperature)
        count = ((root - scores) / temperature).sigmoid().sum()
        assert count.item() == pytest.approx(37 - 0.5, abs=1e-6)  # ceil(41 * 0.9) = 37
        moved = smooth_quantile(3 * scores + 7, 0.1, 3 * temperature)
        assert moved.item() == pytest.approx(3 * root.item() + 7, rel=1e-9)
    ties = torch.ones(30)
    assert smooth_quantile(ties, 0.1, 1e-4).item() == pytest.approx(1.0, abs=1e-3)
    assert smooth_quantile(scores.float(), 0.1, 0.1).dtype == torch.float32


@pytest.mark.parametrize("temperature", [0.05, 0.5, 5.0])
def test_derivatives_of_the_threshold(temperature: float) -> None:
    scores = batch(25)[0][:, 0].clone().requires_grad_()

    def threshold(s: Tensor) -> Tensor:
        return smooth_quantile(s, 0.2, temperature)

    assert torch.autograd.gradcheck(threshold, (scores,))
    assert torch.autograd.gradgradcheck(threshold, (scores,))
    (weights,) = torch.autograd.grad(threshold(scores), scores)
    assert weights.sum().item() == pytest.approx(1.0)
    assert (weights >= 0).all()


@pytest.mark.parametrize(
    "options",
    [{}, {"classification_weight": 2.0, "size_weight": 0.3}, {"size_weight": 0.0,
     "classification_weight": 1.0}, {"target_size": 0.0, "share": 0.7, "temperature": 0.3},
     {"score": lambda logits: 1 - logits.softmax(1), "temperature": 0.2}],
    ids=["size", "both", "classification", "all-classes-cost", "lac"],
)  # fmt: skip
def test_derivatives_of_the_loss(options: dict) -> None:
    logits, labels = batch(24)
    loss = ConformalTrainingLoss(0.2, **options)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), (logits.requires_grad_(),))


def test_cold_it_is_the_mean_size_of_the_calibrated_sets() -> None:
    logits, labels = batch(200)
    scores = -logits.log_softmax(1)
    limit = quantile(scores[:100].gather(1, labels[:100, None])[:, 0], 0.1)
    # The row at the threshold itself counts one half in the limit, on either side.
    sets = scores[100:] <= limit
    cold = ConformalTrainingLoss(0.1, temperature=1e-6)(logits, labels)
    assert cold.item() == pytest.approx((sets.sum(1) - 1.0).relu().mean().item(), abs=1e-6)
    costs = torch.arange(25.0).reshape(5, 5)
    missed = ~sets.gather(1, labels[100:, None])[:, 0]
    for matrix, expected in (
        (None, missed.double()),
        (costs, missed * costs.diag()[labels[100:]]
         + ((sets * costs[labels[100:]]).sum(1) - ~missed * costs.diag()[labels[100:]])),
    ):  # fmt: skip
        loss = ConformalTrainingLoss(
            0.1, temperature=1e-6, size_weight=0, classification_weight=1, loss_matrix=matrix
        )
        assert loss(logits, labels).item() == pytest.approx(expected.mean().item(), abs=1e-5)
    doubled = ConformalTrainingLoss(0.1, temperature=1e-6, size_weight=2.0)
    assert doubled(logits, labels).item() == pytest.approx(2 * cold.item())


def test_only_the_halves_matter_not_the_order_within() -> None:
    logits, labels = batch(60)
    loss = ConformalTrainingLoss(0.1, classification_weight=1.0)
    order = torch.cat([torch.randperm(30), 30 + torch.randperm(30)])
    assert loss(logits[order], labels[order]).item() == pytest.approx(loss(logits, labels).item())
    before = torch.get_rng_state()
    loss(logits, labels)
    assert torch.equal(torch.get_rng_state(), before)
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}
    assert copy.deepcopy(loss)(logits, labels) == loss(logits, labels)
    assert loss(logits.float(), labels).dtype == torch.float32


def test_extreme_logits_give_finite_gradients() -> None:
    logits, labels = batch(40)
    extreme = (1e4 * logits).float().requires_grad_()
    ConformalTrainingLoss(0.1, classification_weight=1.0)(extreme, labels).backward()
    assert extreme.grad.isfinite().all()


def train(net: nn.Module, X: Tensor, y: Tensor, loss: object, seed: int) -> nn.Module:
    net = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(25):
        for rows in torch.randperm(len(X), generator=generator).split(200):
            optimizer.zero_grad()
            loss(net(X[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval()


def test_training_gives_smaller_sets_at_equal_coverage() -> None:
    # Two nets go on from the same start, by cross-entropy and by this loss; noise makes the task
    # hard. Over ten starts the ratio of sizes was 0.84 to 0.96, 0.90 in the mean.
    X, y = load_digits(return_X_y=True)
    alpha, sizes, covered = 0.1, [], []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(y))
        noisy = (X[order] / 16 + rng.normal(scale=0.6, size=X.shape)).astype(np.float32)
        labels = y[order]
        inputs, columns = torch.from_numpy(noisy[:800]), torch.from_numpy(labels[:800])
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            fresh = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        start = train(fresh, inputs, columns, nn.functional.cross_entropy, 0)
        losses = (nn.functional.cross_entropy, ConformalTrainingLoss(alpha, temperature=2.0))
        for loss in losses:
            net = train(start, inputs, columns, loss, 1)
            p = trustml.wrap(net, task="classification").predict_proba(noisy[800:])
            found = []
            for _ in range(20):
                cal, test = np.split(rng.permutation(len(p)), [500])
                cp = SplitClassifier(trustml.precomputed("probabilities"))
                sets = cp.fit(p[cal], labels[800:][cal]).predict_set(p[test], alpha)
                truth = labels[800:][test]
                found.append((sets.sum(1).mean(), metrics.coverage(truth, sets)))
            sizes.append(np.mean([size for size, _ in found]))
            covered.append(np.mean([share for _, share in found]))
    assert all(sizes[i + 1] < 0.97 * sizes[i] for i in (0, 2))
    # 20 resplits of 500 and 497 rows: 4.5 standard errors, were they as good as 5 of them.
    assert all(abs(share - (1 - alpha)) < 4.5 * math.sqrt(0.09 * 2 / 500 / 5) for share in covered)


def test_bad_settings() -> None:
    for change in ("alpha", "temperature", "share", "size_weight", "classification_weight"):
        for value in (-1.0, math.nan):
            with pytest.raises(ValueError, match=change):
                ConformalTrainingLoss(**{change: value})
    with pytest.raises(ValueError, match="loss_matrix"):
        ConformalTrainingLoss(loss_matrix=torch.eye(3))


def test_bad_batches() -> None:
    logits, labels = batch()
    loss = ConformalTrainingLoss(0.1)
    nan = logits.clone()
    nan[3, 1] = torch.nan
    for z, y, text in (
        (nan, labels, "NaN"), (logits[:, 0], labels, "logits"), (logits.long(), labels, "floats"),
        (logits, labels[:9], "columns"), (logits, labels.double(), "columns"),
        (logits, labels + 1, r"0\.\.4"), (logits, labels - 1, r"0\.\.4"),
        (logits[:1], labels[:1], "at least 2"), (logits[:16], labels[:16], "at least 9 are needed"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            loss(z, y)
    scores = logits[:, 0]
    for s, alpha, temperature, text in (
        (scores, 0.1, 0.0, "temperature"), (logits, 0.1, 1.0, "shape"), (nan[:, 1], 0.1, 1, "NaN"),
        (scores, 0.01, 1.0, "at least 99"), (scores, 1.5, 1.0, "alpha"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            smooth_quantile(s, alpha, temperature)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device() -> None:
    logits, labels = batch()
    loss = ConformalTrainingLoss(
        0.1, classification_weight=1.0, loss_matrix=torch.eye(5, dtype=torch.float64)
    )
    there = loss.cuda()(logits.cuda(), labels.cuda())
    assert there.device.type == "cuda"
    assert there.item() == pytest.approx(loss.cpu()(logits, labels).item(), rel=1e-12)
