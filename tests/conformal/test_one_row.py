"""A stream takes a single row as arrays, lists and frames give it."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, Ridge

import trustml
from trustml.conformal import AdaptiveConformal, EnbPi, ExchangeabilityTest, Spci

RNG = np.random.default_rng(0)
X = pd.DataFrame({"a": RNG.normal(size=90), "b": np.arange(90) % 5})
Y = X["a"] + X["b"] + pd.Series(RNG.normal(size=90))


def stream(kind: type) -> object:
    model = Ridge().fit(X[:40], Y[:40])
    if kind in (EnbPi, Spci):
        return kind(trustml.wrap(model, train=(X[:40], Y[:40])), random_state=0).fit()
    return kind(model).fit(X[40:80], Y[40:80])


def seen(predictor: object) -> list[float]:
    if isinstance(predictor, (EnbPi, Spci)):
        return list(predictor.predict_interval(X[85:], 0.2).ravel())
    return list(predictor.trace().score)


@pytest.mark.parametrize("kind", [AdaptiveConformal, EnbPi, ExchangeabilityTest, Spci])
def test_one_row_in_every_form(kind: type) -> None:
    expected = seen(stream(kind).update(X[80:81], Y[80:81]))
    for row in (X.iloc[80], X.iloc[[80]], X.iloc[80].tolist(), X.to_numpy()[80]):
        np.testing.assert_allclose(seen(stream(kind).update(row, Y.iloc[80])), expected)
    with pytest.raises(ValueError, match="2 rows"):
        stream(kind).update(X.iloc[80:82], Y.iloc[80])


def test_a_single_row_keeps_its_columns() -> None:
    model = LinearRegression().fit(X[:40], Y[:40])
    test = ExchangeabilityTest(trustml.wrap(model)).fit(X[40:80], Y[40:80])
    with pytest.raises(ValueError, match="another order"):
        test.update(X[["b", "a"]].iloc[80], Y.iloc[80])
