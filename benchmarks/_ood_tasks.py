"""Fashion-MNIST without its last two classes, what is foreign to it, and networks trained on it."""

import hashlib
import os
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, zoom
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from _tasks import CACHE, DATA, NoData

KNOWN = 8  # classes 0 to 7 are in distribution
EPOCHS, BATCH, RATE, DECAY = 7, 128, 2e-3, 5e-4


@dataclass(frozen=True)
class Images:
    """Images (n, 1, 28, 28) in [0, 1], all but `train` unseen by networks and detectors."""

    train: torch.Tensor
    labels: torch.Tensor
    calibration: torch.Tensor
    calibration_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor
    foreign: dict[str, torch.Tensor]


def network() -> nn.Module:
    """Three convolutions with batch norm, global average pooling, 128 features: 66,008 weights."""
    blocks: list[nn.Module] = []
    for before, after in ((1, 24), (24, 48), (48, 96)):
        blocks += [
            nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(),
            nn.MaxPool2d(2),
        ]  # fmt: skip
    blocks[-1] = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(
        *blocks, nn.Flatten(), nn.Linear(96, 128), nn.ReLU(), nn.Linear(128, KNOWN)
    )


def images(n_test: int = 2000, n_foreign: int = 1000) -> Images:
    """The data, drawn with a fixed seed."""
    for name in ("fashion_mnist.npz", "mnist10k.npz"):
        if not (DATA / name).exists():
            raise NoData(f"{name} is not in ../shared/data")
    fashion, mnist = np.load(DATA / "fashion_mnist.npz"), np.load(DATA / "mnist10k.npz")
    rng = np.random.default_rng(0)
    known = fashion["train_labels"] < KNOWN
    inside = fashion["test_labels"] < KNOWN
    test, labels = fashion["test_images"][inside], fashion["test_labels"][inside]
    base = test[n_test : n_test + n_foreign] / 255
    rest = slice(n_test + n_foreign, n_test + n_foreign + 2000)
    small = load_digits().images[:n_foreign] / 16
    foreign = {
        "near": fashion["test_images"][~inside][:n_foreign] / 255,
        "MNIST": mnist["images"][:n_foreign] / 255,
        "digits": zoom(small, (1, 3.5, 3.5), order=1),
        "Gaussian": rng.normal(0.5, 0.25, (n_foreign, 28, 28)).clip(0, 1),
        "uniform": rng.random((n_foreign, 28, 28)),
        "rotated": np.rot90(base, axes=(1, 2)),
        "blurred": gaussian_filter(base, (0, 2, 2)),
    }
    return Images(
        tensor(fashion["train_images"][known] / 255),
        torch.tensor(fashion["train_labels"][known].astype(np.int64)),
        tensor(test[rest] / 255), torch.tensor(labels[rest].astype(np.int64)),
        tensor(test[:n_test] / 255), torch.tensor(labels[:n_test].astype(np.int64)),
        {name: tensor(found) for name, found in foreign.items()},
    )  # fmt: skip


def tensor(found: np.ndarray) -> torch.Tensor:
    """Images as float32 with a channel."""
    return torch.tensor(np.ascontiguousarray(found[:, None]), dtype=torch.float32)


def trained(seed: int, data: Images) -> nn.Module:
    """The network trained on the known classes, kept in .bench-cache."""
    digest = hashlib.sha256(repr((str(network()), EPOCHS, BATCH, RATE, DECAY)).encode())
    digest.update(data.train.numpy().tobytes())
    file = CACHE / f"fashion-{digest.hexdigest()[:12]}-{seed}.pt"
    if file.exists():
        net = network()
        net.load_state_dict(torch.load(file))
        return net.eval()
    net = train(seed, data.train, data.labels)
    CACHE.mkdir(exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")  # written whole or not at all
    torch.save(net.state_dict(), part)
    part.replace(file)
    return net


def train(seed: int, X: torch.Tensor, y: torch.Tensor) -> nn.Module:
    """A network trained by Adam; the global generator is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = network().train()
        steps = EPOCHS * -(-len(X) // BATCH)
        optimiser = torch.optim.Adam(net.parameters(), RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(X)).split(BATCH):
                optimiser.zero_grad()
                cross_entropy(net(X[rows]), y[rows]).backward()
                optimiser.step()
                schedule.step()
    return net.eval()
