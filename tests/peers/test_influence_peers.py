"""Where captum's influence functions are right they give our numbers; where not, a test says so."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

import trustml
from trustml.influence import InfluenceFunctions

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients"),
]
pytest.importorskip("captum")

from captum.influence import TracInCP  # noqa: E402
from captum.influence._core.influence_function import NaiveInfluenceFunction  # noqa: E402

DAMPING = 0.01
ROWS, QUERIES, PARAMETERS = 40, 7, 18


@pytest.fixture
def problem() -> tuple:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(ROWS, 5, dtype=torch.float64, generator=generator)
    y = torch.randint(0, 3, (ROWS,), generator=generator)
    net = torch.nn.Sequential(torch.nn.Linear(5, 3)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, dtype=torch.float64, generator=generator) / 3
            )
    return net, X, y


@pytest.fixture
def ours(problem: tuple) -> torch.Tensor:
    net, X, y = problem
    model = trustml.wrap(net, task="classification", train=(X, y))
    influence = InfluenceFunctions(
        model, curvature="hessian", damping=DAMPING, correction="none"
    ).fit()
    return influence.scores(X[:QUERIES], y[:QUERIES], scale="raw").values


def captum_scores(problem: tuple, folder: Path, method: type, **options: object) -> torch.Tensor:
    net, X, y = problem
    file = str(folder / "weights.pt")
    torch.save(net.state_dict(), file)

    def restore(module: torch.nn.Module, path: str) -> float:
        module.load_state_dict(torch.load(path))
        return 1.0

    influence = method(
        net, TensorDataset(X, y), file if method is NaiveInfluenceFunction else [file],
        checkpoints_load_func=restore, loss_fn=torch.nn.CrossEntropyLoss(reduction="sum"),
        batch_size=ROWS, sample_wise_grads_per_batch=True, **options,
    )  # fmt: skip
    return influence.influence((X[:QUERIES], y[:QUERIES])).detach()


def naive(problem: tuple, folder: Path, rank: int, damping: float) -> torch.Tensor:
    return captum_scores(
        problem, folder, NaiveInfluenceFunction, projection_dim=rank, hessian_reg=damping,
        hessian_inverse_tol=0.0,
    )  # fmt: skip


def error(theirs: torch.Tensor, ours: torch.Tensor) -> float:
    return float((theirs - ours).norm() / ours.norm())


def test_captum_at_full_rank_with_n_times_the_damping_agrees(problem, ours, tmp_path) -> None:
    """Its Hessian is the sum over the rows: its damping is n times, its scores 1/n of ours."""
    theirs = naive(problem, tmp_path, PARAMETERS, ROWS * DAMPING)
    assert error(ROWS * theirs, ours) < 1e-7


def test_captum_given_the_damping_of_the_mean_loss_damps_too_little(problem, ours, tmp_path):
    theirs = naive(problem, tmp_path, PARAMETERS, DAMPING)
    assert error(ROWS * theirs, ours) > 0.01


def test_captum_leaves_out_what_its_projection_does_not_span(problem, ours, tmp_path) -> None:
    """Ours keeps the complement's 1/λ; theirs drops it, and the default rank of 50 drops most."""
    theirs = naive(problem, tmp_path, 5, ROWS * DAMPING)
    assert error(ROWS * theirs, ours) > 0.3


def test_tracin_of_one_checkpoint_is_the_inner_product_of_the_gradients(problem, tmp_path):
    net, X, y = problem
    theirs = captum_scores(problem, tmp_path, TracInCP)
    objective = trustml.wrap(net, task="classification", train=(X, y)).objective
    rows = objective.per_example_gradients(X, y)
    torch.testing.assert_close(theirs, rows[:QUERIES] @ rows.T, rtol=1e-10, atol=1e-12)
