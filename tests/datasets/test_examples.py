import numpy as np
import pytest

from trustml import datasets
from trustml.datasets import diabetes_risk, digits


@pytest.mark.parametrize(("make", "n"), [(digits, 1797), (diabetes_risk, 442)])
def test_parts_are_disjoint_and_complete(make, n):
    example = make(random_state=0)
    parts = (example.train, example.calibration, example.test)
    assert sum(len(part) for part in parts) == n
    rows = np.concatenate([np.c_[part.X, part.y] for part in parts])
    again = make(random_state=1)
    others = np.concatenate(
        [np.c_[part.X, part.y] for part in (again.train, again.calibration, again.test)]
    )
    np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(others, axis=0))
    assert not np.array_equal(rows, others)
    assert example.train.X.shape[1] == len(example.feature_names)
    assert set(np.unique(example.train.y)) == set(range(len(example.class_names)))


@pytest.mark.parametrize("make", [digits, diabetes_risk])
def test_same_seed_same_rows(make):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    np.testing.assert_array_equal(make(3).test.X, make(3).test.X)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    with pytest.raises(TypeError, match="random_state"):
        make("seed")


def test_digits_are_shuffled():
    from sklearn.datasets import load_digits

    in_file = load_digits().data / 16
    places = [int((in_file == row).all(axis=1).argmax()) for row in digits(0).train.X[:50]]
    assert min(places) < 300
    assert max(places) > 1500
    assert places != sorted(places)
    assert digits(0).bounds == (0.0, 1.0)
    assert digits(0).train.X.dtype == np.float32
    assert digits(0).train.X.min() == 0
    assert digits(0).train.X.max() == 1
    assert digits(0).image_shape == (8, 8)


def test_diabetes_groups():
    example = diabetes_risk(0)
    assert example.train.sensitive_features.keys() == {"sex", "age_group"}
    age = example.test.X[:, example.feature_names.index("age")]
    young = example.test.sensitive_features["age_group"] == "under 50"
    np.testing.assert_array_equal(young, age < 50)
    assert age.max() > 60  # years, not standardised
    share = np.concatenate([p.y for p in (example.train, example.calibration, example.test)]).mean()
    assert share == pytest.approx(0.5, abs=0.01)
    assert len(np.unique(example.test.sensitive_features["sex"])) == 2


def test_everything_is_listed():
    for name in datasets.__all__:
        assert getattr(datasets, name).__doc__ or name == "CORRUPTIONS"
