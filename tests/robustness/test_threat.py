import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml.robustness._threat import make_threat


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4), min_size=1, max_size=5
    ),
    eps=st.floats(1e-9, 3.0),
    scale=st.floats(1e-6, 1e6),
    seed=st.integers(0, 2**31),
)
def test_placed_points_obey_ball_and_box_as_numbers(norm, dtype, rows, eps, scale, seed):
    clean = torch.tensor(rows, dtype=dtype)
    threat = make_threat(clean, (0.0, 1.0), norm, eps)
    generator = torch.Generator().manual_seed(seed)
    delta = scale * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    for points in (threat.place(delta), threat.random_points(seed)):
        assert points.dtype == dtype
        # Measured independently, in numpy, both wide and in the rows' own dtype.
        wide = points.numpy().astype(np.float64) - clean.numpy().astype(np.float64)
        own = points.numpy() - clean.numpy()
        order = np.inf if norm == "linf" else 2
        assert (np.linalg.norm(wide, order, axis=1) <= eps).all()
        assert (np.linalg.norm(own, order, axis=1).astype(np.float64) <= eps).all()
        assert (points >= 0).all()
        assert (points <= 1).all()


def test_a_far_step_lands_on_the_sphere():
    clean = torch.full((1, 3), 0.5, dtype=torch.float64)
    threat = make_threat(clean, (-10.0, 10.0), "l2", 2.0)
    points = threat.place(torch.tensor([[30.0, 0.0, 40.0]]))
    torch.testing.assert_close(points, torch.tensor([[1.7, 0.5, 2.1]], dtype=torch.float64))
    torch.testing.assert_close(threat.distance(points), torch.tensor([2.0], dtype=torch.float64))


def test_ascent_is_steepest_in_each_norm():
    clean = torch.full((1, 2), 0.5, dtype=torch.float64)
    gradient = torch.tensor([[3e-30, -4e-30]])
    linf = make_threat(clean, (0.0, 1.0), "linf", 0.1).ascent(clean, gradient)
    l2 = make_threat(clean, (0.0, 1.0), "l2", 0.1).ascent(clean, gradient)
    torch.testing.assert_close(linf, torch.tensor([[1.0, -1.0]], dtype=torch.float64))
    torch.testing.assert_close(
        l2, torch.tensor([[0.6, -0.8]], dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_l2_ascent_spends_the_step_on_free_coordinates():
    clean = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    threat = make_threat(clean, (0.0, 1.0), "l2", 0.1)
    direction = threat.ascent(clean, torch.tensor([[5.0, 0.1]], dtype=torch.float64))
    torch.testing.assert_close(direction, torch.tensor([[0.0, 1.0]], dtype=torch.float64))


def test_broken_gradients_do_not_move_the_row():
    clean = torch.full((2, 2), 0.5)
    gradient = torch.tensor([[np.nan, np.inf], [0.0, 0.0]])
    for norm in ("linf", "l2"):
        direction = make_threat(clean, (0.0, 1.0), norm, 0.1).ascent(clean, gradient)
        assert (direction == 0).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_points_fill_the_ball_and_belong_to_the_row(norm):
    clean = torch.linspace(-1, 1, 4000, dtype=torch.float64)[:, None].repeat(1, 3)
    threat = make_threat(clean, (-9.0, 9.0), norm, 0.5)
    points = threat.random_points(7)
    one = make_threat(clean[5:6], (-9.0, 9.0), norm, 0.5).random_points(7)
    torch.testing.assert_close(points[5:6], one, rtol=0, atol=0)
    share = (threat.distance(points) / 0.5) ** 3  # uniform in the ball: U(0, 1)
    assert abs(float(share.mean()) - 0.5) < 0.03
    assert (points - clean).mean(0).abs().max() < 0.02
    assert not torch.equal(points, threat.random_points(8))
