"""TRAK's own library, traker 0.3.2."""

import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from torch.utils.data import DataLoader, TensorDataset
from trak import TRAKer

from _measure import load, main


def scores(task: dict, size: int = 512) -> tuple:
    logging.disable()
    model, train, queries = load(task)
    state = model.state_dict()
    with tempfile.TemporaryDirectory() as folder:
        traker = TRAKer(
            model=model, task="image_classification", train_set_size=len(train[0]),
            save_dir=folder, device="cpu", proj_dim=size, use_half_precision=False,
        )  # fmt: skip
        traker.load_checkpoint(state, model_id=0)
        for batch in DataLoader(TensorDataset(*train), batch_size=256):
            traker.featurize(batch=batch, num_samples=len(batch[0]))
        traker.finalize_features()
        traker.start_scoring_checkpoint("queries", state, 0, num_targets=len(queries[0]))
        for batch in DataLoader(TensorDataset(*queries), batch_size=256):
            traker.score(batch=batch, num_samples=len(batch[0]))
        values = traker.finalize_scores("queries").T.copy()
    return values, {"curvature": "projected"}


if __name__ == "__main__":
    main({"TRAK 512": scores, "TRAK 2048 (default)": lambda task: scores(task, 2048)})
