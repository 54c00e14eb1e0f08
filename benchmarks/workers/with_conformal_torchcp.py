"""TorchCP 1.2.1."""

import numpy as np
import torch
from _phases import Phases, main
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchcp.classification.predictor import SplitPredictor, WeightedPredictor
from torchcp.classification.score import APS, LAC, RAPS
from torchcp.utils.common import calculate_conformal_value

from _conformal_tasks import ALPHA, Arrays, hits

KINDS = {
    "lac": lambda: LAC(score_type="identity"),
    "aps": lambda: APS(score_type="identity", randomized=True),
    "raps": lambda: RAPS(score_type="identity", randomized=True, penalty=0.01, kreg=2),
}


def tensors(data: Arrays) -> tuple[torch.Tensor, ...]:
    """Probabilities in float32, TorchCP's own type, and labels."""
    p, pq = (torch.from_numpy(data[name]).float() for name in ("p", "pq"))
    return p, torch.from_numpy(data["y"]), pq


def split(data: Arrays, phase: Phases, kind: str) -> tuple:
    p, y, pq = tensors(data)
    cp = SplitPredictor(KINDS[kind]())
    with phase("calibrate"):
        cp.calculate_threshold(p, y, ALPHA)
    with phase("predict"):
        sets = cp.predict_with_logits(pq)
    return hits(sets.numpy().astype(bool), data["yq"]), {}


def resplits(data: Arrays, phase: Phases, kind: str) -> tuple:
    found, n = [], int(data["n"])
    p, y = torch.from_numpy(data["p"]).float(), torch.from_numpy(data["y"])
    for rows in data["rows"]:
        cal, new = rows[:n], rows[n:]
        cp = SplitPredictor(KINDS[kind]())
        with phase("all"):
            cp.calculate_threshold(p[cal], y[cal], ALPHA)
            sets = cp.predict_with_logits(p[new])
        found.append(hits(sets.numpy().astype(bool), data["y"][new]))
    return found, {}


class Columns(nn.Module):
    """Some columns of the rows."""

    def __init__(self, columns: slice) -> None:
        super().__init__()
        self.columns, self.unused = columns, nn.Parameter(torch.zeros(1))

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return X[:, self.columns]


class Domain(nn.Module):
    """The classifier of domains whose odds are the exact ratio, which is the feature."""

    def forward(self, ratio: torch.Tensor) -> torch.Tensor:
        return torch.cat([1 / (1 + ratio), ratio / (1 + ratio)], dim=1)


def weighted(data: Arrays, phase: Phases) -> tuple:
    c = data["p"].shape[1]
    loaders = []
    for s in ("", "q"):
        rows = np.column_stack([data["p" + s], data["w" + s]])
        labels = torch.from_numpy(data["y" + s])
        rows = TensorDataset(torch.from_numpy(rows).float(), labels)
        loaders.append(DataLoader(rows, batch_size=500))
    cp = WeightedPredictor(
        KINDS["lac"](), Columns(slice(0, c)), image_encoder=Columns(slice(c, c + 1)),
        domain_classifier=Domain(),
    )  # fmt: skip
    with phase("calibrate"):
        cp.calibrate(loaders[0], ALPHA)
    with phase("predict"):
        found = cp.evaluate(loaders[1])  # it cannot predict before it has evaluated
    return [float(found["coverage_rate"]), float(found["average_size"]), float("nan")], {}


def ranks(data: Arrays, phase: Phases) -> tuple:
    found = [
        [
            float(calculate_conformal_value(torch.arange(1.0, n + 1), h / 100))
            for h in data["hundredths"]
        ]
        for n in data["sizes"].tolist()
    ]
    return found, {}


def p_values(data: Arrays, phase: Phases) -> tuple:
    """One row at a time: `predict_p` holds rows x calibration rows x classes at once."""
    rows = torch.from_numpy(data["new"]).float()[:10]
    cp = SplitPredictor(lambda scores, labels=None: scores, Columns(slice(None)))
    cp.cal_scores = torch.from_numpy(data["scores"]).float()
    with phase("predict"):
        p = torch.cat([cp.predict_p(row[None]) for row in rows])
    return p[:5].numpy(), {"pairs": p.numel()}


CONTENDERS = {
    **{kind: lambda d, ph, kind=kind: split(d, ph, kind) for kind in KINDS},
    **{f"{kind}, resplits": lambda d, ph, kind=kind: resplits(d, ph, kind) for kind in KINDS},
    "weighted": weighted,
    "ranks": ranks,
    "p-values": p_values,
}

if __name__ == "__main__":
    torch.manual_seed(0)
    main(CONTENDERS)
