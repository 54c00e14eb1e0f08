"""Reductions to weighted classification: optimal, invariant, and honest about what they reached."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from trustml.fairness import _saddle_point
from trustml.fairness._exponentiated_gradient import ExponentiatedGradient
from trustml.fairness._grid_search import GridSearch
from trustml.fairness._moments import REDUCIBLE
from trustml.model import wrap
from trustml.warnings import ConvergenceWarning, TrustmlWarning

VALUES = 5
RULES = np.array(list(itertools.product([0, 1], repeat=VALUES)))


class Table(ClassifierMixin, BaseEstimator):
    """Any function of one column of VALUES values: the weighted error is minimised exactly."""

    def fit(self, X, y, sample_weight=None):
        w = np.ones(len(y)) if sample_weight is None else sample_weight
        votes = np.bincount(X[:, 0].astype(int), w * (2 * np.asarray(y) - 1), VALUES)
        self.rule_ = (votes > 0).astype(int)
        self.classes_ = np.array([0, 1])
        return self

    def predict(self, X):
        return self.rule_[X[:, 0].astype(int)]


def few_values(groups=2, n=400, seed=0):
    rng = np.random.default_rng(seed)
    s = rng.integers(0, groups, n)
    x = (rng.integers(0, 3, n) + s).clip(0, VALUES - 1)
    y = (rng.random(n) < (0.1 + 0.2 * x)).astype(int)
    return x[:, None].astype(float), y, s


def linear(n=1500, seed=0):
    rng = np.random.default_rng(seed)
    s = rng.choice(["f", "m"], n)
    X = np.column_stack([rng.normal(size=n) + 1.5 * (s == "m"), rng.normal(size=n)])
    y = (X.sum(1) + rng.logistic(size=n) > 0.7).astype(int)
    return X, y, s


def means(criterion, h, y, s):
    """List of the lists of group means that a criterion compares, written out."""
    wrong = h != y
    of = {
        "demographic_parity": [(h, y >= 0)],
        "equal_opportunity": [(h, y == 1)],
        "predictive_equality": [(h, y == 0)],
        "equalized_odds": [(h, y == 1), (h, y == 0)],
        "error_parity": [(np.where(wrong, 1, 0), y >= 0)],
    }[criterion]
    return [[value[rows & (s == g)].mean() for g in np.unique(s)] for value, rows in of]


def brute_force(criterion, X, y, s, eps):
    """The smallest error of a mixture of all rules whose pairwise differences are at most eps."""
    hypotheses = [rule[X[:, 0].astype(int)] for rule in RULES]
    table = np.array([np.concatenate(means(criterion, h, y, s)) for h in hypotheses])
    sizes = [len(part) for part in means(criterion, hypotheses[0], y, s)]
    block = np.repeat(np.arange(len(sizes)), sizes)
    pairs = [
        table[:, i] - table[:, j]
        for i, j in itertools.permutations(range(table.shape[1]), 2)
        if block[i] == block[j]
    ]
    return linprog(
        [(h != y).mean() for h in hypotheses],
        A_ub=pairs, b_ub=np.full(len(pairs), eps), A_eq=np.ones((1, len(RULES))), b_eq=[1],
    ).fun  # fmt: skip


def expected(criterion, p, y, s):
    """Gap of drawn decisions, from their probabilities."""
    if criterion == "error_parity":
        wrong = np.where(y == 1, 1 - p, p)
        return np.ptp([wrong[s == g].mean() for g in np.unique(s)])
    return max(np.ptp(part) for part in means(criterion, p, y, s))


# A gap of 0 may leave only constants; some criteria are met by the plain model; few values share
# few draws.
useless_is_right = pytest.mark.filterwarnings("ignore::trustml.warnings.TrustmlWarning")


class TestExponentiatedGradient:
    @useless_is_right
    @pytest.mark.parametrize("criterion", REDUCIBLE)
    @pytest.mark.parametrize("groups", [2, 3])
    @pytest.mark.parametrize("eps", [0.0, 0.03])
    def test_with_an_exact_learner_the_optimum_is_that_of_all_mixtures(
        self, criterion, groups, eps
    ):
        X, y, s = few_values(groups)
        fair = ExponentiatedGradient(Table(), criterion, eps=eps, nu=1e-9, max_iter=200)
        fair.fit(X, y, sensitive_features=s)
        p = fair.predict_proba(X)[:, 1]
        error = np.where(y == 1, 1 - p, p).mean()
        assert error == pytest.approx(brute_force(criterion, X, y, s, eps), abs=1e-7)
        assert fair.training_error_ == pytest.approx(error, abs=1e-9)
        assert expected(criterion, p, y, s) <= eps + 1e-7
        assert fair.training_gap_ == pytest.approx(expected(criterion, p, y, s), abs=1e-9)
        assert fair.best_gap_ <= 1e-9

    @pytest.mark.filterwarnings("ignore:equal rows share one draw")
    def test_an_early_stop_is_within_the_certificate_of_the_optimum(self):
        X, y, s = few_values(3)
        best = brute_force("equalized_odds", X, y, s, 0.01)
        with pytest.warns(ConvergenceWarning, match="raise max_iter"):
            early = ExponentiatedGradient(Table(), eps=0.01, nu=1e-9, max_iter=3).fit(
                X, y, sensitive_features=s
            )
        assert early.training_gap_ <= 0.01 + 1e-9
        assert early.training_error_ - early.best_gap_ <= best + 1e-9
        assert early.training_error_ >= best - 1e-9

    @useless_is_right
    @pytest.mark.parametrize("criterion", REDUCIBLE)
    def test_a_logistic_regression_keeps_the_allowed_gap(self, criterion):
        X, y, s = linear()
        fair = ExponentiatedGradient(LogisticRegression(), criterion, eps=0.02, random_state=0)
        fair.fit(X, y, sensitive_features=s)
        assert fair.best_gap_ <= fair.nu_
        assert expected(criterion, fair.predict_proba(X)[:, 1], y, s) <= 0.02 + 1e-7
        assert fair.weights_.sum() == pytest.approx(1)
        assert len(fair.predictors_) == len(fair.weights_) <= fair.n_iter_ + 2

    def test_a_slack_constraint_gives_the_plain_estimator_and_says_so(self):
        X, y, s = linear()
        plain = LogisticRegression().fit(X, y)
        with pytest.warns(TrustmlWarning, match="as the unmitigated model"):
            fair = ExponentiatedGradient(LogisticRegression(), eps=1.0).fit(
                X, y, sensitive_features=s
            )
        assert fair.n_iter_ == 1
        np.testing.assert_array_equal(fair.predict(X), plain.predict(X))
        np.testing.assert_allclose(fair.multipliers_, 0, atol=1e-12)

    @useless_is_right
    def test_names_of_groups_and_order_of_rows_do_not_matter(self):
        X, y, s = few_values(3)
        make = lambda: ExponentiatedGradient(Table(), eps=0.02, nu=1e-9)  # noqa: E731
        p = make().fit(X, y, sensitive_features=s).predict_proba(X)
        renamed = make().fit(X, y, sensitive_features=np.array(["z", "a", "k"])[s])
        np.testing.assert_allclose(renamed.predict_proba(X), p, atol=1e-7)
        order = np.random.default_rng(1).permutation(len(y))
        shuffled = make().fit(X[order], y[order], sensitive_features=s[order])
        np.testing.assert_allclose(shuffled.predict_proba(X), p, atol=1e-7)

    @useless_is_right
    @pytest.mark.parametrize("learner", [Table(), LogisticRegression(tol=1e-10)])
    def test_a_row_twice_is_a_row_of_weight_two(self, learner):
        X, y, s = few_values(2, n=200)
        times = np.random.default_rng(2).integers(0, 3, 200)
        rows = np.repeat(np.arange(200), times)
        make = lambda: ExponentiatedGradient(learner, eps=0.02)  # noqa: E731
        weighted = make().fit(X, y, sensitive_features=s, sample_weight=times)
        repeated = make().fit(X[rows], y[rows], sensitive_features=s[rows])
        np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-6)
        assert weighted.nu_ == pytest.approx(repeated.nu_)

    def test_a_deterministic_classifier_decides_without_chance(self):
        X, y, s = linear()
        fair = ExponentiatedGradient(
            LogisticRegression(), "demographic_parity", eps=0.01, deterministic=True
        ).fit(X, y, sensitive_features=s)
        decided = fair.predict(X)
        np.testing.assert_array_equal(decided, fair.predict_proba(X)[:, 1] > 0.5)
        assert fair.training_error_ == pytest.approx((decided != y).mean())
        plain = LogisticRegression().fit(X, y).predict(X)
        gap = expected("demographic_parity", decided, y, s)
        assert gap == pytest.approx(fair.training_gap_)
        assert gap < expected("demographic_parity", plain, y, s) / 2

    def test_pipelines_of_frames_and_trees_work(self):
        pd = pytest.importorskip("pandas")
        X, y, s = linear(600)
        frame = pd.DataFrame({"x": X[:, 0], "z": X[:, 1], "s": s})
        pipeline = make_pipeline(
            make_column_transformer(
                (OneHotEncoder(), ["s"]), (StandardScaler(), ["x", "z"]), sparse_threshold=0
            ),
            LogisticRegression(),
        )
        fair = ExponentiatedGradient(pipeline, eps=0.03).fit(
            frame, y, sensitive_features=frame["s"]
        )
        assert expected("equalized_odds", fair.predict_proba(frame)[:, 1], y, s) <= 0.03 + 1e-7
        tree = ExponentiatedGradient(DecisionTreeClassifier(max_depth=3, random_state=0), eps=0.03)
        tree.fit(X, y, sensitive_features=s)
        assert expected("equalized_odds", tree.predict_proba(X)[:, 1], y, s) <= 0.03 + 1e-7

    def test_sparse_rows_and_dense_rows_of_zeros_agree(self):
        from scipy import sparse

        X, y, s = linear(600)
        wide = np.concatenate([X, np.zeros((600, 30))], axis=1)
        dense = ExponentiatedGradient(LogisticRegression(), eps=0.02)
        p = dense.fit(wide, y, sensitive_features=s).predict_proba(wide)
        rows = sparse.csr_matrix(wide)
        again = ExponentiatedGradient(LogisticRegression(), eps=0.02)
        q = again.fit(rows, y, sensitive_features=s).predict_proba(rows)
        np.testing.assert_allclose(p, q, atol=1e-6)

    def test_wrong_arguments_name_the_fix(self):
        X, y, s = linear(200)
        for kind in (ExponentiatedGradient, GridSearch):
            with pytest.raises(ValueError, match="constraints must be one of"):
                kind(Table(), "fairness").fit(X, y, sensitive_features=s)
            with pytest.raises(ValueError, match="takes no sample_weight"):
                kind(KNeighborsClassifier()).fit(X, y, sensitive_features=s)
        with pytest.raises(ValueError, match="eps must be"):
            ExponentiatedGradient(Table(), eps=-1).fit(X, y, sensitive_features=s)
        with pytest.raises(ValueError, match="constraint_weight"):
            GridSearch(Table(), constraint_weight=2).fit(X, y, sensitive_features=s)
        with pytest.raises(ValueError, match="grid_limit"):
            GridSearch(Table(), grid_limit=0).fit(X, y, sensitive_features=s)
        with pytest.raises(ValueError, match="grid_limit"):
            GridSearch(Table(), grid_limit=np.inf).fit(X, y, sensitive_features=s)
        with pytest.raises(ValueError, match="nu must be"):
            ExponentiatedGradient(Table(), nu=-1).fit(X, y, sensitive_features=s)

    def test_a_learner_that_misses_the_best_answer_is_asked_more(self, monkeypatch):
        rng = np.random.default_rng(0)
        s = rng.integers(0, 3, 1000)
        X = np.column_stack([rng.normal(size=1000) + 0.7 * s, rng.exponential(1 + s)])
        y = (0.5 * X[:, 0] + 0.3 * np.sqrt(X[:, 1]) + rng.logistic(size=1000) > 1.2).astype(int)
        tree = DecisionTreeClassifier(max_depth=3, random_state=0)
        more = ExponentiatedGradient(tree).fit(X, y, sensitive_features=s)
        monkeypatch.setattr(_saddle_point, "_APART", 0)
        fewer = ExponentiatedGradient(tree).fit(X, y, sensitive_features=s)
        assert fewer.n_iter_ + 10 <= more.n_iter_ <= 50
        assert more.training_error_ < fewer.training_error_ - 0.002
        assert max(more.training_gap_, fewer.training_gap_) <= 0.01 + 1e-9

    @pytest.mark.parametrize("kind", [ExponentiatedGradient, GridSearch])
    @pytest.mark.parametrize("favourable", ["good", "bad"])
    def test_class_weights_name_the_users_labels(self, kind, favourable):
        X, y, s = linear(400)
        names = np.array(["bad", "good"])[y]
        weights = {"good": 1, "bad": 5}
        learner = LogisticRegression(class_weight=weights)
        plain = learner.fit(X, names).predict(X)
        fair = kind(learner, "demographic_parity", pos_label=favourable)
        fair.fit(X, names, sensitive_features=s)
        first = fair._learner.estimator.class_weight
        assert first == {int(name == favourable): weight for name, weight in weights.items()}
        if kind is GridSearch:
            assert fair.errors_[0] == pytest.approx((plain != names).mean())
        assert learner.class_weight == weights
        with pytest.raises(ValueError, match=r"'fair'.*not among the labels"):
            kind(LogisticRegression(class_weight={"fair": 2})).fit(X, names, sensitive_features=s)

    @pytest.mark.parametrize("kind", [ExponentiatedGradient, GridSearch])
    def test_what_is_no_classifier_is_refused(self, kind):
        X, y, s = linear(200)
        for given, message in (
            (Ridge(), "Ridge is not one"),
            (make_pipeline(StandardScaler(), Ridge()), "Pipeline is not one"),
            (None, "scikit-learn classifier, got None"),
            ("logistic", "got 'logistic'"),
            (wrap(LogisticRegression().fit(X, y)), "pass the scikit-learn estimator itself"),
        ):
            with pytest.raises(TypeError, match=message):
                kind(given).fit(X, y, sensitive_features=s)

    @pytest.mark.peers
    def test_the_error_is_that_of_fairlearn_at_its_gap(self):
        reductions = pytest.importorskip("fairlearn.reductions")
        X, y, s = linear(3000)
        peer = reductions.ExponentiatedGradient(
            LogisticRegression(), reductions.EqualizedOdds(difference_bound=0.01)
        ).fit(X, y, sensitive_features=s)
        p = peer._pmf_predict(X)[:, 1]
        gap, error = expected("equalized_odds", p, y, s), np.where(y == 1, 1 - p, p).mean()
        fair = ExponentiatedGradient(LogisticRegression(), eps=gap).fit(X, y, sensitive_features=s)
        assert fair.training_gap_ <= gap + 1e-9
        assert fair.training_error_ <= error + fair.nu_ + peer.best_gap_


class TestGridSearch:
    @pytest.mark.parametrize("criterion", REDUCIBLE)
    def test_what_is_kept_is_best_on_the_grid(self, criterion):
        X, y, s = linear()
        grid = GridSearch(LogisticRegression(), criterion, grid_size=15)
        grid.fit(X, y, sensitive_features=s)
        decided = grid.predict(X)
        i = grid.best_idx_
        assert grid.errors_[i] == pytest.approx((decided != y).mean())
        assert grid.gaps_[i] == pytest.approx(expected(criterion, decided, y, s))
        assert (grid.errors_ + grid.gaps_).argmin() == i
        plain = LogisticRegression().fit(X, y).predict(X)
        assert grid.gaps_[0] == pytest.approx(expected(criterion, plain, y, s))
        assert grid.gaps_[i] < grid.gaps_[0]
        assert len(grid.multipliers_) == 15
        assert np.abs(grid.multipliers_).sum(1).max() <= 2 + 1e-9

    def test_the_unmitigated_model_is_warned_about(self):
        X, y, s = linear()
        with pytest.warns(TrustmlWarning, match="as the unmitigated model"):
            GridSearch(LogisticRegression(), grid_size=1).fit(X, y, sensitive_features=s)

    def test_several_groups_and_conditions_share_the_grid(self):
        X, y, s = few_values(3)
        grid = GridSearch(Table(), grid_size=40).fit(X, y, sensitive_features=s)
        assert grid.multipliers_.shape == (40, 6)
        np.testing.assert_allclose(grid.multipliers_[:, :3].sum(1), 0, atol=1e-12)
        np.testing.assert_allclose(grid.multipliers_[:, 3:].sum(1), 0, atol=1e-12)
        assert grid.gaps_[grid.best_idx_] < grid.gaps_[0]
