"""Data, training recipes, and models trained on parts of the data, which scores predict."""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from _networks import build, mean_loss, row_losses

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared/data"
CACHE = ROOT / ".bench-cache"


class NoData(Exception):
    """A data file of the benchmark is not on this machine."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: Adam, batches in an order drawn from the seed."""

    network: str
    steps: int
    batch: int | None  # None: all rows
    rate: float
    weight_decay: float  # the L2 term of the objective: each method may know it
    damping: float  # for every method that wants a number
    seeds: int  # trainings of each subset, averaged

    def train(self, X: torch.Tensor, y: torch.Tensor, seed: int = 0) -> torch.nn.Module:
        """The network trained on these rows; the global generator is left alone."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            net = build(self.network).train()
            optimiser = torch.optim.Adam(
                net.parameters(), lr=self.rate, weight_decay=self.weight_decay
            )
            order = torch.randperm(len(X))
            for step in range(self.steps):
                rows = slice(None)
                if self.batch is not None:
                    start = step * self.batch % len(X)
                    rows = order[start : start + self.batch]
                optimiser.zero_grad()
                mean_loss(net(X[rows]), y[rows]).backward()
                optimiser.step()
        return net.eval()


RECIPES = {
    "digits": Recipe(
        "digits-mlp", steps=400, batch=None, rate=1e-2, weight_decay=1e-3, damping=1e-2, seeds=5
    ),
    "mnist": Recipe(
        "small-cnn", steps=300, batch=100, rate=5e-3, weight_decay=1e-3, damping=1e-2, seeds=3
    ),
    "shakespeare": Recipe(
        "nano-gpt", steps=300, batch=64, rate=5e-3, weight_decay=3e-3, damping=1e-1, seeds=1
    ),
}


def digits() -> tuple[torch.Tensor, ...]:
    """scikit-learn's digits in [0, 1]: 1,437 training rows, 360 queries."""
    X, y = load_digits(return_X_y=True)
    X, Xq, y, yq = train_test_split(
        torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y), test_size=360, random_state=0
    )
    return X, y, Xq, yq


def mnist(n: int, queries: int) -> tuple[torch.Tensor, ...]:
    """Some of MNIST's 10,000 test images in [0, 1], (n, 1, 28, 28), drawn with a fixed seed."""
    file = DATA / "mnist10k.npz"
    if not file.exists():
        raise NoData(f"{file.name} is not in ../shared/data")
    data = np.load(file)
    X = torch.tensor(data["images"][:, None] / 255, dtype=torch.float32)
    y = torch.tensor(data["labels"].astype(np.int64))
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))
    rows, asked = order[:n], order[-queries:]
    return X[rows], y[rows], X[asked], y[asked]


def shakespeare(n: int, queries: int, length: int = 16) -> tuple[torch.Tensor, ...]:
    """Windows of characters and the characters that follow; queries from the last tenth."""
    file = DATA / "tinyshakespeare.txt"
    if not file.exists():
        raise NoData(f"{file.name} is not in ../shared/data")
    text = file.read_text()
    codes = {character: i for i, character in enumerate(sorted(set(text)))}
    tokens = torch.tensor([codes[character] for character in text])
    generator = torch.Generator().manual_seed(0)
    cut = 9 * len(tokens) // 10
    starts = torch.randint(0, cut - length - 1, (n,), generator=generator)
    asked = torch.randint(cut, len(tokens) - length - 1, (queries,), generator=generator)
    windows = tokens.unfold(0, length + 1, 1)
    return (
        windows[starts, :-1].clone(), windows[starts, 1:].clone(),
        windows[asked, :-1].clone(), windows[asked, 1:].clone(),
    )  # fmt: skip


def rows_of(name: str) -> tuple[torch.Tensor, ...]:
    """The rows of one of the three retraining tasks."""
    if name == "digits":
        return digits()
    return mnist(1000, 200) if name == "mnist" else shakespeare(1000, 128)


def task_of(name: str) -> dict:
    """What a worker is given: the network trained on all rows, and the rows."""
    recipe = RECIPES[name]
    X, y, Xq, yq = rows_of(name)
    file = cached(name, "full", X, y)
    if not file.exists():
        torch.save(recipe.train(X, y).state_dict(), file)
    return {
        "network": recipe.network, "state": torch.load(file), "damping": recipe.damping,
        "weight_decay": recipe.weight_decay,
        "X": X, "y": y, "Xq": Xq, "yq": yq,
    }  # fmt: skip


def cached(name: str, part: str, *tensors: torch.Tensor) -> Path:
    """A file of .bench-cache that belongs to this recipe and these data."""
    recipe = RECIPES[name]
    trained = replace(recipe, damping=0, seeds=0)
    digest = hashlib.sha256(repr(trained).encode())
    for tensor in tensors:
        digest.update(tensor.numpy().tobytes())
    CACHE.mkdir(exist_ok=True)
    return CACHE / f"{name}-{digest.hexdigest()[:12]}-{part}.pt"


def retrains(name: str, subsets: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Which rows each half subset keeps (m, n), and the queries' losses (m, seeds, q)."""
    recipe = RECIPES[name]
    X, y, Xq, yq = rows_of(name)
    keep = np.zeros((subsets, len(X)), dtype=bool)
    losses = np.zeros((subsets, recipe.seeds, len(Xq)))
    for i in range(subsets):
        # A subset has a generator of its own, so that fewer subsets are a part of more.
        chosen = np.random.default_rng([i, 0]).choice(len(X), len(X) // 2, replace=False)
        keep[i, chosen] = True
        rows = torch.as_tensor(np.sort(chosen))
        for seed in range(recipe.seeds):
            file = cached(name, f"{i}-{seed}", X, y)
            if not file.exists():
                net = recipe.train(X[rows], y[rows], seed=1000 * i + seed)
                with torch.no_grad():
                    found = row_losses(net(Xq), yq)
                # Written whole or not at all: a run that is cut off goes on from here.
                part = file.with_suffix(f".{os.getpid()}")
                torch.save(found, part)
                part.replace(file)
            losses[i, seed] = torch.load(file).numpy()
    return keep, losses
