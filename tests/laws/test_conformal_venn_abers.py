"""Venn-Abers' promise: of p0 and p1, the one of the true label is perfectly calibrated."""

import numpy as np
import torch

from trustml.conformal._venn_abers import _looked_up, _table

RUNS = 4000


def test_the_pair_of_the_truth_is_calibrated() -> None:
    rng, cpu = np.random.default_rng(0), torch.device("cpu")
    p_true, labels, pairs = np.empty(RUNS), np.empty(RUNS, dtype=int), np.empty((RUNS, 2))
    for run in range(RUNS):
        # 30 calibration rows and one new row, exchangeable; coarse scores, so that there are ties.
        score = rng.normal(size=31).round(1)
        y = (rng.random(31) < 1 / (1 + np.exp(-2 * score))).astype(int)
        table = _table(score[:30], y[:30] == 1, cpu)
        pairs[run] = _looked_up(table, torch.from_numpy(score[30:])).numpy()
        labels[run], p_true[run] = y[30], pairs[run, y[30]]
    # E[Y | p_Y] = p_Y exactly: in the whole and in every fifth, within 4.5 standard errors.
    edges = np.quantile(p_true, [0, 0.2, 0.4, 0.6, 0.8, 1])
    fifth = np.searchsorted(edges[1:-1], p_true, side="right")
    for rows in [np.ones(RUNS, dtype=bool), *(fifth == k for k in range(5))]:
        gap = (labels - p_true)[rows]
        error = np.sqrt((p_true * (1 - p_true))[rows].sum()) / rows.sum()
        assert abs(gap.mean()) < 4.5 * error + 1e-12
    # p0 alone is too low and p1 too high.
    assert pairs[:, 0].mean() < labels.mean() < pairs[:, 1].mean()
