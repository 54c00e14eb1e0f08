"""The networks of the benchmarks; torch alone, so that a peer's environment can build them."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import cross_entropy


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them; one pair of widths is a logistic regression."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convolutional(first: int, second: int, hidden: int) -> nn.Sequential:
    """Two 3x3 convolutions with pooling on 28x28 images, one hidden layer, ten classes."""
    return nn.Sequential(
        nn.Conv2d(1, first, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(49 * second, hidden), nn.ReLU(), nn.Linear(hidden, 10),
    )  # fmt: skip


class Block(nn.Module):
    """Causal self-attention and a perceptron, each on normalised inputs, each added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, width = x.shape
        parts = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = parts[0], parts[1], parts[2]
        future = torch.full((t, t), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + future).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, t, width))
        return x + self.down(torch.relu(self.up(self.norm2(x))))


class NanoGpt(nn.Module):
    """A character model: (n, t) tokens to (n, t, 65) logits of the next."""

    def __init__(self, width: int = 16, layers: int = 2, heads: int = 2, length: int = 16) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(65, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 65)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        return self.head(self.norm(self.blocks(self.tokens(x) + self.places(places))))


NETWORKS = {
    "logistic": lambda: perceptron(64, 10),  # 650 parameters
    "digits-mlp": lambda: perceptron(64, 64, 32, 10),  # 6,570
    "digits-wide": lambda: perceptron(64, 128, 64, 10),  # 17,226
    "mnist-mlp-42k": lambda: perceptron(196, 160, 60, 10),  # 41,790
    "mnist-mlp-235k": lambda: perceptron(784, 256, 128, 10),  # 235,146
    "cnn": lambda: convolutional(16, 32, 64),  # 105,866
    "small-cnn": lambda: convolutional(4, 8, 16),  # 6,786
    "nano-gpt": NanoGpt,  # 6,753
    "small-gpt": lambda: NanoGpt(width=8, layers=1),
}


def build(name: str, state: dict | None = None) -> nn.Module:
    """One of the networks, with the weights of `state`."""
    net = NETWORKS[name]()
    if state is not None:
        net.load_state_dict(state)
        net.to(next(iter(state.values())).dtype)
    return net.eval()


def mean_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, summed over the tokens of a row, mean over rows."""
    total = cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="sum")
    return total / len(targets)


def row_losses(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each row."""
    losses = cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none")
    return losses.view(len(targets), -1).sum(1)
