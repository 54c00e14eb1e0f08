import pytest
import torch
from sklearn.datasets import load_iris
from torch import nn

from trustml import ihvp
from trustml.ihvp.auto import choose_method
from trustml.ihvp.graphs import _forward_uses
from trustml.warnings import BackendWarning


def images(n=6):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n, 1, 8, 8, generator=generator)
    return X, torch.randint(0, 3, (n,), generator=generator)


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(16, 3)
    )


def trained():
    X, y = load_iris(return_X_y=True)
    X = torch.tensor(X - X.mean(0))
    y = torch.tensor(y)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 3)).double()
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-2)
    for _ in range(300):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(X), y).backward()
        optimiser.step()
    return ihvp.Objective(net, None, (X, y))


def test_a_convolution_uses_its_weights_many_times():
    net = convolutional()
    J = ihvp.Objective(net, None, images())
    assert _forward_uses(J) == J.space.size + 3 * 36 * 64
    assert not any(layer._forward_hooks for layer in net.modules())
    linear = ihvp.Objective(nn.Linear(5, 3), None, (torch.ones(4, 5), torch.arange(4) % 3))
    assert _forward_uses(linear) == linear.space.size


def test_few_right_hand_sides_of_a_dear_matrix_are_iterated(monkeypatch):
    J = ihvp.Objective(convolutional(), None, images(200), weight_decay=1e-2)
    monkeypatch.setattr("trustml.ihvp.auto._CHEAP", 1e6)
    H = ihvp.Hessian(J)
    assert choose_method(H + 10.0, 1)[0] == "cg"
    assert choose_method(H + 1e-3, 10_000)[0] == "cholesky"
    assert ihvp.factorize(H + 10.0, columns=1).method == "cg"
    assert ihvp.factorize(H + 10.0, columns=10_000, tol=1e-9).method == "cholesky"
    with pytest.raises(ValueError, match="columns"):
        ihvp.factorize(H, columns=0)


def test_the_output_rows_that_matter_are_preferred_where_they_are_few(monkeypatch):
    J = trained()
    monkeypatch.setattr("trustml.ihvp.auto._CHEAP", 1e3)
    A = ihvp.GaussNewton(J) + 1e-2
    method, reason = choose_method(A, 1000)
    assert method == "compressed"
    assert "suffice" in reason
    # A tolerance that no row can be spared for, or parameters that nothing holds.
    assert choose_method(A, 1000, tol=1e-15)[0] != "compressed"
    assert choose_method(ihvp.GaussNewton(J), 1000)[0] != "compressed"


def test_iterations_are_probed_before_they_are_believed(monkeypatch):
    monkeypatch.setattr("trustml.ihvp.auto._CHEAP", 1e3)
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(200, 200, generator=generator, dtype=torch.float64))[0]
    easy = ihvp.Dense(Q @ torch.diag(1 + 0.1 * torch.rand(200, dtype=torch.float64)) @ Q.T)
    hard = ihvp.Dense(Q @ torch.diag(torch.logspace(0, 8, 200, dtype=torch.float64)) @ Q.T)
    assert choose_method(easy, 20)[0] == "cg"
    assert choose_method(hard, 20)[0] == "cholesky"


@pytest.mark.parametrize("method", ["cholesky", "dual", "cg"])
def test_a_module_that_casts_is_solved_in_its_own_dtype(method):
    class Casting(nn.Linear):
        def forward(self, x):
            return super().forward(x.float())

    X = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    J = ihvp.Objective(Casting(5, 3), None, (X, torch.arange(20) % 3), weight_decay=0.1)
    plain = ihvp.Objective(nn.Linear(5, 3), None, (X, torch.arange(20) % 3), weight_decay=0.1)
    plain = plain.at(J.space.vector())
    B = J.per_example_gradients().T.contiguous()
    A = ihvp.GaussNewton(J) + ihvp.Diagonal(torch.full((18,), 0.1))
    if method == "cg":
        found = ihvp.solve(A, B, method)
    else:
        with pytest.warns(BackendWarning, match="does not run in float64"):
            found = ihvp.solve(A, B, method)
    assert found.converged.all()
    reference = ihvp.solve(ihvp.GaussNewton(plain) + 0.1, B, method).x
    torch.testing.assert_close(found.x, reference, rtol=1e-2, atol=1e-3)
