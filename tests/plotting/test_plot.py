"""``plot`` draws what every room returns."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import trustml
from trustml import conformal, explain, fairness, influence, ood, plotting, robustness
from trustml.core.results import Result


@pytest.fixture(scope="module")
def results():
    """One real result of each kind, by the name of its class."""
    data = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(data.target))
    X, y = data.data[order][:, :4], data.target[order]
    sex = np.array(["f", "m"])[np.arange(len(y)) % 2]
    X0, y0, X1, y1 = X[:60], y[:60], X[60:110], y[60:110]
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(X0, y0)
    model = trustml.wrap(pipeline, train=(X0, y0), bounds=(X.min(0), X.max(0)))
    p = model.predict_proba(X1)
    sets = conformal.SplitClassifier(model).fit(X1, y1).predict_set(X1)
    ig = explain.IntegratedGradients(model, baseline="mean")
    inf = influence.InfluenceFunctions(model).fit()
    scores = inf.scores(X1, y1)
    groups = fairness.group_metrics(y1, model.predict(X1), sensitive_features=sex[60:110])
    found = [
        conformal.metrics.reliability(y1, p, n_bins=4),
        conformal.metrics.coverage_by_group(y1, sets, sex[60:110]),
        conformal.adaptive_thresholds(1 - p[np.arange(len(y1)), y1], alpha=0.2),
        conformal.exchangeability_martingale(np.arange(50.0), random_state=0),
        conformal.RiskMonitor(limit=0.1).fit().update(y1 != p.argmax(1)).trace(),
        ood.Suite(model, ["Msp", "Entropy"]).fit(X0).score(X1),
        ood.drift_test(model, X0, X1, n_permutations=19),
        ood.drift_test(model, X0, X1, n_permutations=19).by_feature,
        ood.explain(ood.Energy(model).fit(X0), X1[:3]),
        robustness.attack(model, X1, y1, "fgsm", eps=5.0),
        robustness.robust_accuracy(model, X1, y1, eps=0.5, method="fgsm"),
        robustness.robustness_curve(model, X1, y1, eps_grid=[0.1, 1.0], method="fgsm"),
        robustness.curvature(model, X1[:5], y1[:5]),
        ig.attribute(X1[:5]),
        explain.training_rows(model, X1[:2]),
        scores,
        influence.find_mislabeled(inf),
        influence.linear_datamodeling_score(
            scores, model, X1, y1, subsets=4, seeds=2, random_state=0
        ),
        influence.retrain(model, X1, y1, subsets=3, random_state=0),
        influence.removal_curve(
            scores, model, X1, y1, fractions=[0.1, 0.3], draws=1, random_state=0
        ),
        influence.mislabel_auc(influence.find_mislabeled(model), [0, 3, 7]),
        influence.subclass_detection(scores, y0, y1),
        influence.flipping_subset(inf, X1[:1]),
        groups,
        fairness.gap_test(groups, n_permutations=19, random_state=0),
        fairness.differential_fairness(y1, sensitive_features=sex[60:110]),
        fairness.bootstrap_groups(groups, 20, random_state=0),
        fairness.fairness_verdict(y1, model.predict(X1), sensitive_features=sex[60:110]),
        fairness.frontier({"plain": pipeline}, X, y, sensitive_features=sex, seeds=2),
        fairness.proxy_bounds(y, y, probabilities=np.full((len(y), 2), 0.5)),
        fairness.noisy_groups(y, y, sensitive_features=sex, confusion=np.eye(2)),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.append(robustness.masking_checks(model, X1[:10], y1[:10], eps=0.1))
        fair = fairness.FairInfluence(model).fit(X1, y1, sensitive_features=sex[60:110])
        fair.mitigate()
        fair.reweigh()
        found += [fair.mitigation_, fair.prediction_, fair.reach(0.8 * fair.gap_)]
    return {type(result).__name__: result for result in found}


def kinds(base=Result):
    for kind in base.__subclasses__():
        yield from kinds(kind)
        if kind.__module__.startswith("trustml."):
            yield kind


def test_every_kind_of_result_can_be_drawn_and_is_drawn_here(results):
    assert {kind.__name__ for kind in kinds()} == set(results)
    assert set(kinds()) == set(plotting.plot.registry) - {object}


def test_each_result_is_drawn(results):
    for name, result in results.items():
        ax = plotting.plot(result)
        assert ax.has_data() or ax.texts, name
        assert "<svg" in plotting.svg(ax, "x")
        assert result.plot(ax=ax) is ax


def test_settings_reach_the_figure(results):
    row = results["Explanation"].plot(row=1)
    assert "row 1" in row.get_xlabel()
    scores = results["InfluenceScores"].plot(query=2, top=3)
    assert "query 2" in scores.get_xlabel()
    assert len(scores.patches) == 3
    rows = results["TrainingRows"].plot(row=1, top=2)
    assert len(rows.patches) == 2
    assert results["GroupCoverage"].plot(target=0.9).get_legend() is not None


def test_evaluations_of_influence_show_what_they_measured(results):
    score = results["DatamodelingScore"].plot()
    assert {text.get_text() for text in score.get_legend().get_texts()} == {
        "interval of the mean", "mean", "noise ceiling"
    }  # fmt: skip
    curve = results["RemovalCurve"].plot()
    names = [text.get_text() for text in curve.get_legend().get_texts()]
    assert names == ["helpful", "harmful", "random"]
    assert curve.lines[0].get_xdata().tolist() == [0.0, 0.1, 0.3]
    labels = results["MislabelDetection"].plot()
    assert labels.get_title(loc="left").startswith("AUC")
    recall = next(line for line in labels.lines if line.get_label() == "recall")
    assert recall.get_ydata()[-1] == 1.0
    kinds_drawn = [t.get_text() for t in results["SubclassDetection"].plot().get_yticklabels()]
    assert set(kinds_drawn) == {"all", "0", "1"}


def test_removal_curves_say_what_does_not_fit():
    with pytest.raises(ValueError, match="must have shape"):
        plotting.removal_curves(["helpful"], [0, 0.1], [[1, 2]], [[1, 2]], [[1]])


def test_pictures_and_several_outputs_are_drawn():
    import torch

    X = np.random.default_rng(0).random((3, 1, 5, 5)).astype("float32")
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(25, 3))
    model = trustml.wrap(net, task="classification")
    several = explain.Saliency(model).attribute(X)
    ax = plotting.plot(several, output=1)
    assert len(ax.images) == 6
    assert len(plotting.plot(several, row=0).images) == 2


def test_an_attack_that_fools_nobody_says_so(results):
    from dataclasses import replace

    result = results["AttackResult"]
    ax = plotting.plot(replace(result, success=np.zeros(len(result.success), dtype=bool)))
    assert ax.texts[0].get_text() == "no row was fooled"


def test_verdict_tables_are_drawn_as_rates():
    table = ood.DetectorTable(np.array([[True, False], [False, False]]), ("a", "b"), "alarm")
    assert plotting.plot(table).get_xlabel() == "share of rows with alarm"


def test_figures_are_pyplots_if_its_axes_are_given(results):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure, ax = pyplot.subplots()
    try:
        assert results["GroupMetrics"].plot(ax) is ax
        assert pyplot.gcf() is figure
        assert len(ax.get_lines()) > 0
    finally:
        pyplot.close(figure)


def test_other_objects_are_refused_with_the_list():
    with pytest.raises(TypeError, match=r"cannot draw int; .*GroupMetrics.*Reliability"):
        plotting.plot(3)
