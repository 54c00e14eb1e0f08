"""crepes 0.9.1."""

import numpy as np
import torch
from _phases import Phases, main
from crepes import ConformalClassifier, ConformalRegressor
from crepes.extras import hinge

from _conformal_tasks import ALPHA, Arrays, hits


def resplits(data: Arrays, phase: Phases) -> tuple:
    found, n, classes = [], data["n"], np.arange(data["p"].shape[1])
    for rows in data["rows"]:
        cal, new = rows[:n], rows[n:]
        with phase("all"):
            cp = ConformalClassifier().fit(hinge(data["p"][cal], classes, data["y"][cal]))
            sets = cp.predict_set(hinge(data["p"][new]), confidence=1 - ALPHA, smoothing=False)
        found.append(hits(np.asarray(sets).astype(bool), data["y"][new]))
    return found, {}


def ranks(data: Arrays, phase: Phases) -> tuple:
    found = np.empty((len(data["sizes"]), len(data["hundredths"])))
    for i, n in enumerate(data["sizes"]):
        cp = ConformalRegressor().fit(np.arange(1.0, n + 1))
        for j, hundredth in enumerate(data["hundredths"]):
            ends = cp.predict_int(np.zeros(1), confidence=1 - hundredth / 100)
            found[i, j] = ends[0, 1]
    return found, {}


def p_values(data: Arrays, phase: Phases) -> tuple:
    rows = data["new"][:20]
    cp = ConformalClassifier().fit(data["scores"])
    with phase("predict"):
        p = cp.predict_p(rows, smoothing=False)
    return p[:5], {"pairs": p.size}


CONTENDERS = {"lac, resplits": resplits, "ranks": ranks, "p-values": p_values}

if __name__ == "__main__":
    torch.manual_seed(0)
    main(CONTENDERS)
