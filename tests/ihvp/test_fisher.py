import math

import pytest
import torch
from torch import nn

from trustml import ihvp
from trustml.core.losses import Autodiff, BinaryCrossEntropy, CrossEntropy, Poisson, SquaredError
from trustml.ihvp import Fisher, GaussNewton, Objective

LOSSES = {
    "cross-entropy": (CrossEntropy(), lambda y: y),
    "weighted": (CrossEntropy(weight=torch.tensor([1.0, 2.0, 0.5])), lambda y: y),
    "smoothed": (CrossEntropy(label_smoothing=0.1), lambda y: y),
    "labels": (BinaryCrossEntropy(), lambda y: nn.functional.one_hot(y, 3).double()),
    "squared error": (SquaredError(), lambda y: nn.functional.one_hot(y, 3).double()),
    "counts": (Poisson(), lambda y: nn.functional.one_hot(y, 3).double()),
}


def problem(case, mlp, classification, batch_size="auto"):
    loss, encode = LOSSES[case]
    X, y = classification()
    return Objective(mlp(), loss, (X, encode(y)), weight_decay=0.02, batch_size=batch_size)


@pytest.mark.parametrize("case", LOSSES)
def test_the_exact_fisher_is_gauss_newton(case, mlp, classification):
    J = problem(case, mlp, classification)
    F, G = Fisher(J), GaussNewton(J)
    V = torch.eye(J.space.size, dtype=torch.float64)
    torch.testing.assert_close(F @ V, G.dense())
    torch.testing.assert_close(F.dense(), G.dense())
    assert F.n_factors == G.n_factors


@pytest.mark.parametrize("case", ["cross-entropy", "labels", "squared error"])
def test_it_is_the_mean_over_the_models_own_targets(case, mlp, classification):
    # v'Fv from sampled targets: 5 standard errors, false alarm below 1e-6.
    J = problem(case, mlp, classification)
    X = J.data.inputs
    outputs = J.outputs(X)
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(J.space.size, dtype=torch.float64, generator=generator)
    jacobian = torch.autograd.functional.jacobian(
        lambda t: torch.func.functional_call(J.module, J.space.unflatten(t), (X,)),
        J.space.vector(),
    )
    pushed = jacobian @ v
    draws = torch.stack([
        (J.loss.gradient(outputs, J.loss.sample(outputs, generator)) * pushed).sum(1).square()
        for _ in range(4000)
    ]).mean(1)  # fmt: skip
    expected = float(v @ (Fisher(J) @ v) - 0.02 * v @ v)
    assert abs(float(draws.mean()) - expected) < 5 * float(draws.std()) / math.sqrt(len(draws))


@pytest.mark.parametrize("case", LOSSES)
def test_roots_are_roots(case, mlp, classification):
    J = problem(case, mlp, classification)
    outputs, targets = J.outputs(J.data.inputs), J.data.targets
    eye = torch.eye(3, dtype=torch.float64).expand(len(outputs), 3, 3)
    root = J.loss.hessian_root(outputs, targets, eye)  # rows S e_j: S'
    factor = J.loss.hessian_factor(outputs, targets)
    torch.testing.assert_close(root.mT @ root, factor @ factor.mT)


@pytest.mark.parametrize("kind", ["fisher", "kfac"])
def test_draws_converge_at_the_rate_of_one_over_root_samples(kind, mlp, classification):
    J = problem("cross-entropy", mlp, classification)
    if kind == "fisher":
        exact = GaussNewton(J).dense()
        errors = [
            sum(float((Fisher(J, s, seed).dense() - exact).norm() ** 2) for seed in range(20))
            for s in (2, 32)
        ]
    else:
        exact = ihvp.Ekfac(J, fisher="exact").dense().diagonal()
        errors = [
            sum(
                float((ihvp.Ekfac(J, "monte-carlo", samples=s, random_state=seed).diagonal()
                - exact).norm() ** 2)
                for seed in range(10)
            )
            for s in (2, 32)
        ]  # fmt: skip
    # 16 is expected; a mean over 860 draws of bounded terms is within a factor 2 by far.
    assert 8 < errors[0] / errors[1] < 32


def test_a_draw_is_without_bias(mlp, classification):
    # Entries of the mean of 400 draws, in standard errors: the largest of 57 below 5.5.
    J = problem("cross-entropy", mlp, classification)
    draws = torch.stack([Fisher(J, 1, seed).diagonal() for seed in range(400)])
    error = (draws.mean(0) - GaussNewton(J).diagonal()) / (draws.std(0) / 20)
    assert float(error.abs().max()) < 5.5


def test_draws_belong_to_the_rows(mlp, classification):
    def dense(batch_size, seed=0):
        return Fisher(problem("weighted", mlp, classification, batch_size), 2, seed).dense()

    for size in (1, 7, 42):
        torch.testing.assert_close(dense(size), dense(43), atol=1e-13, rtol=1e-10)
    assert (dense(43, seed=1) - dense(43)).norm() > 1e-3
    J = problem("weighted", mlp, classification, 10)
    F = Fisher(J, 2)
    V = torch.eye(F.size, dtype=torch.float64)
    torch.testing.assert_close(F @ V, F.dense())
    torch.testing.assert_close(F @ V, F.dense())
    rows = torch.cat([K.reshape(-1, F.size) for _, K in F.factors()])
    examples, which = torch.tensor([3, 40, 17]), torch.tensor([0, 1, 1])
    torch.testing.assert_close(F.factor_rows(examples, which), rows[2 * examples + which])
    torch.testing.assert_close(F.factor_norms().reshape(-1), rows.square().sum(1))


def test_a_float32_draw_is_its_float64_draw(mlp, classification):
    X, y = classification(dtype=torch.float32)
    F = Fisher(Objective(mlp(dtype=torch.float32), None, (X, y)), 1)
    V = torch.eye(F.size)
    torch.testing.assert_close((F @ V).double(), F.double().dense(), atol=1e-5, rtol=1e-4)


def test_tokens_are_drawn_without_a_factor_of_the_whole_sequence(classification):
    generator = torch.Generator().manual_seed(0)
    words = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 4)).double()
    tokens = torch.randint(0, 7, (5, 6), generator=generator)
    targets = (tokens % 4).masked_fill(tokens == 6, -100)
    J = Objective(words, nn.CrossEntropyLoss(), (tokens, targets))
    torch.testing.assert_close(Fisher(J).dense(), GaussNewton(J).dense())
    eye = torch.eye(24, dtype=torch.float64).expand(5, 24, 24)
    outputs = J.outputs(tokens)
    root = J.loss.hessian_root(outputs, targets, eye)
    factor = J.loss.hessian_factor(outputs, targets)
    torch.testing.assert_close(root.mT @ root, factor @ factor.mT)
    assert ihvp.Ekfac(J).fisher == "exact"


def test_many_directions_are_drawn_instead():
    net = nn.Linear(3, 70).double()
    J = Objective(net, None, (torch.eye(3, dtype=torch.float64), torch.arange(3)))
    assert ihvp.Kfac(J).fisher == "monte-carlo"
    assert ihvp.Kfac(J, fisher="exact").fisher == "exact"


def test_a_bare_function_has_no_fisher_matrix(mlp, classification):
    X, y = classification()
    J = Objective(mlp(c=1), Autodiff(lambda f, t: (f[:, 0] - t).pow(4)), (X, y.double()))
    with pytest.raises(TypeError, match="GaussNewton"):
        Fisher(J)
    with pytest.raises(ValueError, match="samples"):
        Fisher(Objective(mlp(), None, classification()), 0)
