"""kronfluence 1.0.1."""

import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from kronfluence import Analyzer, FactorArguments, ScoreArguments, Task, prepare_model
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from _measure import load, main


class Classification(Task):
    """Losses are sums over the batch: a mean would scale the scores in silence."""

    def compute_train_loss(self, batch, model, sample=False):
        X, y = batch
        outputs = model(X).flatten(0, -2)
        targets = y.flatten()
        if sample:
            with torch.no_grad():
                targets = torch.multinomial(outputs.softmax(-1), 1)[:, 0]
        return cross_entropy(outputs, targets, reduction="sum")

    def compute_measurement(self, batch, model):
        return self.compute_train_loss(batch, model)


def scores(task: dict, damping: float | None = None, strategy: str = "ekfac") -> tuple:
    logging.disable()
    model, train, queries = load(task)
    analysis = Classification()
    model = prepare_model(model, analysis)
    if damping is None:
        damping = task["damping"]
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "bench", model, analysis, cpu=True, disable_tqdm=True, output_dir=folder
        )
        data = TensorDataset(*train)
        batch = task.get("batch") or 256
        analyzer.fit_all_factors(
            "factors", data, per_device_batch_size=batch,
            factor_args=FactorArguments(strategy=strategy),
        )  # fmt: skip
        analyzer.compute_pairwise_scores(
            "scores", "factors", TensorDataset(*queries), data,
            per_device_query_batch_size=len(queries[0]), per_device_train_batch_size=batch,
            score_args=ScoreArguments(damping_factor=damping),
        )  # fmt: skip
        values = analyzer.load_pairwise_scores("scores")["all_modules"]
    return values, {"curvature": "fisher"}


CONTENDERS = {
    "EK-FAC": scores,
    "EK-FAC (default damping 1e-8)": lambda task: scores(task, 1e-8),
    "K-FAC": lambda task: scores(task, strategy="kfac"),
}

if __name__ == "__main__":
    main(CONTENDERS)
