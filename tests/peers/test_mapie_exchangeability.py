"""MAPIE's jumper martingale and its online p-values are right: ours are the same numbers."""

import numpy as np
import pytest

from trustml.evidence import SimpleJumper, betting_martingale
from trustml.evidence._online_pvalues import OnlineRanks

pytestmark = pytest.mark.peers
mapie = pytest.importorskip("mapie.exchangeability_testing")


def test_p_values_and_jumper_are_theirs() -> None:
    scores = np.random.default_rng(0).poisson(4, size=300).astype(float)
    theirs = mapie.OnlineMartingaleTest(task="regression", jump_size=0.05, random_state=1)
    p = np.array([theirs.compute_p_value(s, scores[:i]) for i, s in enumerate(scores)])
    draws = np.random.default_rng(1).random(301)
    # At the first score, which has no rank, MAPIE draws twice and uses the second.
    np.testing.assert_allclose(OnlineRanks(np.zeros(0)).add(scores, draws[1:]), p, rtol=1e-12)
    wealth = [theirs.update_simple_jumper_martingale(value) for value in p]
    np.testing.assert_allclose(betting_martingale(p, SimpleJumper(0.05)), wealth, rtol=1e-10)
