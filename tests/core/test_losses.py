"""Losses on outputs: torch's values, and closed derivatives equal to autodiff's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from trustml.core.losses import (
    Autodiff,
    BinaryCrossEntropy,
    CrossEntropy,
    OutputLoss,
    Poisson,
    SquaredError,
    as_loss,
)

N, C = 6, 4
THREE = torch.arange(N) % 3


def normal(*shape, scale=1.0):
    return torch.randn(*shape, dtype=torch.float64) * scale


def cases():
    torch.manual_seed(0)
    labels, binary = torch.randint(0, C, (N,)), torch.randint(0, 2, (N, C))
    tokens = torch.randint(0, C, (N, 3))
    tokens[0, 1:] = -100
    tokens[1] = -100
    weight = torch.rand(C, dtype=torch.float64) + 0.5
    return {
        "cross-entropy": (CrossEntropy(), normal(N, C), labels),
        "column of labels": (CrossEntropy(), normal(N, C), labels[:, None]),
        "weighted": (CrossEntropy(weight), normal(N, C), labels),
        "smoothed": (CrossEntropy(weight, 0.3), normal(N, C), labels),
        "soft": (CrossEntropy(weight, 0.1), normal(N, C), normal(N, C).softmax(1)),
        "ignored row": (
            CrossEntropy(),
            normal(N, C),
            labels.clone().index_fill_(0, labels[:1], -100),
        ),
        "tokens": (CrossEntropy(weight, 0.2), normal(N, 3, C), tokens),
        "binary": (BinaryCrossEntropy(), normal(N, 1), binary[:, 0]),
        "binary flat": (BinaryCrossEntropy(), normal(N), binary[:, :1]),
        "multilabel": (BinaryCrossEntropy(weight), normal(N, C), binary),
        "soft binary": (BinaryCrossEntropy(), normal(N, C), normal(N, C).sigmoid()),
        "squared": (SquaredError(), normal(N, C), normal(N, C)),
        "squared flat": (SquaredError(), normal(N), normal(N, 1)),
        "squared grid": (SquaredError(), normal(N, 2, C), normal(N, 2, C)),
        "poisson": (Poisson(), normal(N, 2), torch.randint(0, 5, (N, 2))),
        "poisson full": (Poisson(full=True), normal(N, 1), torch.randint(0, 5, (N,))),
    }


CASES = cases()


@pytest.fixture(params=list(CASES))
def case(request):
    return CASES[request.param]


def dense_hessian(loss, outputs, targets):
    def one(i):
        return torch.autograd.functional.hessian(
            lambda f: loss(f[None], targets[i : i + 1]).sum(), outputs[i]
        ).reshape(outputs[i].numel(), -1)

    return torch.stack([one(i) for i in range(len(outputs))])


def test_gradient_is_autodiffs(case):
    loss, f, y = case
    assert loss(f, y).shape == (N,)
    assert torch.allclose(loss.gradient(f, y), Autodiff(loss).gradient(f, y), atol=1e-12)
    assert loss.gradient(f, y).shape == f.shape


def test_hessian_product_is_autodiffs(case):
    loss, f, y = case
    v = torch.randn_like(f)
    assert torch.allclose(
        loss.hessian_product(f, y, v), Autodiff(loss).hessian_product(f, y, v), atol=1e-12
    )


def test_factor_gives_the_hessian(case):
    loss, f, y = case
    hessian = dense_hessian(loss, f, y)
    for one in (loss, Autodiff(loss)):
        s = one.hessian_factor(f, y)
        assert s.shape[:2] == (N, f[0].numel())
        assert torch.allclose(s @ s.mT, hessian, atol=1e-10)


def test_a_row_is_the_same_alone(case):
    loss, f, y = case
    assert torch.allclose(
        torch.cat([loss(f[i : i + 1], y[i : i + 1]) for i in range(N)]), loss(f, y)
    )


def test_float32_stays_float32(case):
    loss, f, y = case
    f = f.float()
    for result in (loss(f, y), loss.gradient(f, y), loss.hessian_factor(f, y)):
        assert result.dtype == torch.float32
        assert torch.isfinite(result).all()


def test_samples_are_targets(case):
    loss, f, _ = case
    state = torch.get_rng_state()
    a = loss.sample(f, torch.Generator().manual_seed(1))
    assert torch.equal(a, loss.sample(f, torch.Generator().manual_seed(1)))
    assert torch.equal(state, torch.get_rng_state())
    assert loss(f, a).shape == (N,)


@pytest.mark.parametrize(
    ("loss", "f"),
    [
        (CrossEntropy(), torch.tensor([[0.3, -1.0, 0.8]])),
        (BinaryCrossEntropy(), torch.tensor([[0.3, -1.0]])),
        (SquaredError(), torch.tensor([[0.3, -1.0]])),
        (Poisson(), torch.tensor([[0.3, -1.0]])),
    ],
)
def test_fisher_information_is_the_hessian(loss, f):
    """A likelihood's expected outer product of gradients is its expected Hessian."""
    many = f.expand(200_000, -1)
    y = loss.sample(many, torch.Generator().manual_seed(0))
    gradient = loss.gradient(many, y)
    fisher = gradient.mT @ gradient / len(many)
    s = loss.hessian_factor(f, y[:1])[0]
    assert torch.allclose(fisher, s @ s.mT, atol=0.03)


@pytest.mark.parametrize(
    ("theirs", "task", "f", "y"),
    [
        (nn.CrossEntropyLoss(), "classification", normal(N, C), torch.arange(N) % C),
        (
            nn.CrossEntropyLoss(label_smoothing=0.2),
            "classification",
            normal(N, C),
            torch.arange(N) % C,
        ),
        (
            nn.CrossEntropyLoss(torch.tensor([1.0, 2, 3, 4]).double(), reduction="sum"),
            "classification",
            normal(N, C),
            torch.arange(N) % C,
        ),
        (nn.BCEWithLogitsLoss(), "classification", normal(N, 1), (torch.arange(N) % 2)[:, None]),
        (
            nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0]).double()),
            "classification",
            normal(N, 1),
            (torch.arange(N) % 2)[:, None],
        ),
        (
            nn.BCEWithLogitsLoss(weight=torch.tensor([3.0]).double()),
            "classification",
            normal(N, 1),
            (torch.arange(N) % 2.0)[:, None],
        ),
        (nn.MSELoss(), "regression", normal(N, 2), normal(N, 2)),
        (nn.PoissonNLLLoss(), "regression", normal(N, 1), torch.arange(N)[:, None]),
        (nn.PoissonNLLLoss(full=True), "regression", normal(N, 1), torch.arange(N)[:, None]),
        (nn.PoissonNLLLoss(log_input=False), "regression", normal(N, 1).exp(), torch.ones(N, 1)),
        (nn.HuberLoss(), "regression", normal(N, 2), normal(N, 2)),
        (nn.L1Loss(reduction="sum"), "regression", normal(N, 1), normal(N, 1)),
        (nn.SoftMarginLoss(), "classification", normal(N, 1), torch.ones(N, 1)),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else "",
)
def test_torch_losses_without_their_reduction(theirs, task, f, y):
    reduction = theirs.reduction
    ours = as_loss(theirs, task, f.shape[1])
    plain = type(theirs)(
        **{
            key: getattr(theirs, key)
            for key in ("weight", "pos_weight", "label_smoothing", "full", "log_input")
            if hasattr(theirs, key)
        },
        reduction="none",
    )
    expected = plain(f, y if y.ndim == 1 else y.to(f)).reshape(N, -1).sum(1)
    assert torch.allclose(ours(f, y), expected)
    assert theirs.reduction == reduction


def test_targets_of_another_shape_reach_elementwise_losses():
    ours = as_loss(nn.SmoothL1Loss(), "regression", 1)
    f, y = normal(N, 1), normal(N)
    assert torch.allclose(ours(f, y), F.smooth_l1_loss(f[:, 0], y, reduction="none"))


@pytest.mark.parametrize(
    ("task", "n_outputs", "kind"),
    [
        ("classification", 3, CrossEntropy),
        ("classification", 1, BinaryCrossEntropy),
        ("classification", None, CrossEntropy),
        ("multilabel", 3, BinaryCrossEntropy),
        ("regression", 3, SquaredError),
        ("language-modeling", 50, CrossEntropy),
    ],
)
def test_default_by_task(task, n_outputs, kind):
    loss = as_loss(None, task, n_outputs)
    assert type(loss) is kind
    assert as_loss(loss, task, n_outputs) is loss
    assert isinstance(loss, OutputLoss)
    assert loss.name
    assert loss.unit
    assert kind.__name__ in repr(loss)


def test_negative_curvature_is_clamped_in_the_factor():
    loss = as_loss(lambda f, y: f[:, 0] ** 3 - y, "regression", 1)
    f = torch.tensor([[1.0], [-1.0]])
    s = loss.hessian_factor(f, torch.zeros(2))
    assert torch.allclose(s.flatten().square(), torch.tensor([6.0, 0.0]))


def test_linear_loss_has_no_curvature():
    loss = Autodiff(lambda f, y: f[:, 0] * 2)
    f = torch.ones(3, 1)
    assert loss.hessian_product(f, torch.zeros(3), f).abs().sum() == 0
    assert loss.hessian_factor(f, torch.zeros(3)).abs().sum() == 0


def test_autodiff_works_under_no_grad():
    with torch.no_grad():
        g = Autodiff(lambda f, y: f.square().sum(1)).gradient(torch.ones(2, 1), torch.zeros(2))
    assert torch.equal(g, torch.full((2, 1), 2.0))


def test_masked_class_does_not_make_nan():
    f = torch.tensor([[0.5, -torch.inf, 1.0]], requires_grad=True)
    y = torch.tensor([2])
    loss = CrossEntropy()
    (g,) = torch.autograd.grad(loss(f, y).sum(), f)
    for result in (loss(f, y), g, loss.gradient(f, y), loss.hessian_factor(f, y)):
        assert torch.isfinite(result).all()


def test_row_without_counted_tokens_has_no_loss():
    loss, f = CrossEntropy(), normal(2, 3, C)
    y = torch.full((2, 3), -100)
    y[1, 0] = 1
    assert loss(f, y)[0] == 0
    assert torch.allclose(loss(f, y)[1], F.cross_entropy(f[1, :1], y[1, :1]))


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (lambda: CrossEntropy()(normal(3, 2), torch.tensor([0, 1, 2])), r"must be in \[0, 2\)"),
        (lambda: CrossEntropy()(normal(3, 2), torch.tensor([0, 1])), "class indices of shape"),
        (lambda: CrossEntropy()(normal(3, 1), torch.zeros(3)), "at least 2 classes"),
        (lambda: CrossEntropy()(normal(3, 2), torch.zeros(3)), "class indices"),
        (lambda: CrossEntropy(label_smoothing=2.0), "label_smoothing"),
        (lambda: BinaryCrossEntropy()(normal(3, 1), torch.tensor([0, 1, 2])), r"in \[0, 1\]"),
        (lambda: SquaredError()(normal(3, 2), normal(3)), "shape of the outputs"),
        (lambda: Poisson()(normal(3, 1), torch.tensor([0, -1, 2])), "at least 0"),
        (lambda: as_loss(nn.NLLLoss(), "classification", 3), "log-probabilities"),
        (lambda: as_loss(nn.CrossEntropyLoss(), "classification", 1), "BCEWithLogitsLoss"),
        (lambda: as_loss(None, "clustering", 3), "task must be one of"),
        (lambda: as_loss(lambda f, y: f.sum(), "regression", 1)(normal(3, 1), 0), "one loss a row"),
        (lambda: as_loss(lambda f, y: f, "regression", 2)(normal(3, 2), 0), "one loss a row"),
    ],
)
def test_bad_values(act, match):
    with pytest.raises(ValueError, match=match):
        act()


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (lambda: as_loss(nn.MSELoss, "regression", 1), "loss must be a torch loss module"),
        (lambda: as_loss("mse", "regression", 1), "loss must be a torch loss module"),
        (lambda: Autodiff(3), "must be callable"),
        (lambda: Autodiff(lambda f, y: 1.0)(normal(3, 1), 0), "torch tensor"),
        (
            lambda: Autodiff(lambda f, y: f.detach()[:, 0]).gradient(normal(3, 1), 0),
            "differentiable",
        ),
        (lambda: Autodiff(lambda f, y: f[:, 0]).sample(normal(3, 1)), "likelihood"),
    ],
)
def test_bad_types(act, match):
    with pytest.raises(TypeError, match=match):
        act()


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 4),
    c=st.integers(2, 5),
    smoothing=st.floats(0, 1),
    scale=st.floats(0.1, 30),
    seed=st.integers(0, 99),
)
def test_cross_entropy_is_torchs_and_convex(n, c, smoothing, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    f = torch.randn(n, c, generator=generator, dtype=torch.float64) * scale
    y = torch.randint(0, c, (n,), generator=generator)
    loss = CrossEntropy(label_smoothing=smoothing)
    expected = F.cross_entropy(f, y, reduction="none", label_smoothing=smoothing)
    assert torch.allclose(loss(f, y), expected, atol=1e-10)
    assert torch.allclose(loss.gradient(f, y).sum(1), torch.zeros(n).double(), atol=1e-10)
    v = torch.randn(n, c, generator=generator, dtype=torch.float64)
    s = loss.hessian_factor(f, y)
    product = loss.hessian_product(f, y, v)
    assert torch.allclose((s @ (s.mT @ v[..., None]))[..., 0], product, atol=1e-8)
    assert (product * v).sum(1).min() > -1e-10


def test_the_product_keeps_its_digits_under_a_saturated_softmax():
    f = torch.tensor([[0.0, 80.0, -5.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    v = torch.tensor([[1.0, 2.0, -1.0], [1.0, 2.0, 4.0]], dtype=torch.float64)
    product = CrossEntropy().hessian_product(f, torch.tensor([1, 0]), v)
    p = f.softmax(1)
    pairs = (p[:, :, None] * p[:, None, :] * (v[:, :, None] - v[:, None, :])).sum(2)
    torch.testing.assert_close(product, pairs, rtol=1e-12, atol=0)
