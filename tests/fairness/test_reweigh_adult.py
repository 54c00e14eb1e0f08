"""Li and Liu's published run on Adult, through the public face."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from trustml.fairness import FairInfluence
from trustml.influence import InfluenceFunctions
from trustml.model import wrap

ADULT = Path(__file__).parents[3] / "shared/data/adult_complete_cases.csv.gz"


def load():
    """Columns and positional splits as in their repository; numbers standardised on the train."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(ADULT)
    train = (frame.pop("split") == "train").to_numpy()
    y = frame.pop("income").str.startswith(">50K").to_numpy(int)
    sex = (frame.pop("sex") == "Male").to_numpy(int)
    columns = [sex.astype(float)]
    for name in frame.columns.drop("fnlwgt"):
        if frame[name].dtype.kind in "if":
            columns.append(frame[name].to_numpy(float))
        else:
            codes = frame[name].astype("category").cat.codes.to_numpy()
            columns += [(codes == code).astype(float) for code in dict.fromkeys(codes[train])]
    X = np.column_stack(columns)
    rows = np.flatnonzero(train)
    n = len(rows) - round(len(rows) / 4)
    spread = X[rows[:n]].std(0)
    X = (X - X[rows[:n]].mean(0)) / np.where(spread > 0, spread, 1)
    return [(X[i], y[i], sex[i]) for i in (rows[:n], rows[n:], np.flatnonzero(~train))]


@pytest.mark.skipif(not ADULT.exists(), reason="needs ../shared/data/adult_complete_cases.csv.gz")
def test_the_published_run_is_reproduced():
    (X, y, _), (X_val, y_val, s_val), (X_test, y_test, s_test) = load()
    assert X.shape == (22622, 102)
    plain = LogisticRegression(C=1 / 2.2622, fit_intercept=False, tol=1e-8, max_iter=2048)
    model = wrap(plain.fit(X, y), train=(X, y))
    influence = InfluenceFunctions(model, correction="none")
    fair = FairInfluence(model, "equal_opportunity", "loss", influence=influence)
    fair.fit(X_val, y_val, sensitive_features=s_val)
    assert fair.gap_ == pytest.approx(0.17708, abs=2e-5)
    weights = fair.reweigh(reduction=0.5, loss_gain=0.2)
    assert (1 - weights).sum() == pytest.approx(249.72, abs=0.01)
    assert (weights < 1).sum() == 250

    refitted = wrap(plain.fit(X, y, sample_weight=weights), train=(X, y))
    loss, favoured = refitted.loss(X_val, y_val), y_val == 1
    gap = loss[favoured & (s_val == 0)].mean() - loss[favoured & (s_val == 1)].mean()
    assert gap == pytest.approx(0.08392, abs=1e-5)
    found = refitted.predict(X_test)
    assert (found == y_test).mean() == pytest.approx(0.825963, abs=1e-6)
    parity = found[s_test == 1].mean() - found[s_test == 0].mean()
    assert parity == pytest.approx(0.165566, abs=1e-6)
    of = y_test == 1
    opportunity = found[of & (s_test == 1)].mean() - found[of & (s_test == 0)].mean()
    assert opportunity == pytest.approx(-0.002712, abs=1e-6)
    # The prediction: half of the gap; the Newton step is what the refit gives, within 2 %.
    assert fair.prediction_.gap[1] == pytest.approx(fair.gap_ / 2)
    assert fair.prediction_.gap[2] == pytest.approx(gap, rel=0.03)
    assert fair.prediction_.linear
