"""Fairness: group metrics with intervals, and what each training row does to a disparity."""

from __future__ import annotations

from trustml.fairness._adversarial import AdversarialDebiasing
from trustml.fairness._assert_fair import assert_fair, fairness_verdict
from trustml.fairness._bootstrap import GroupReplicates, bootstrap_groups
from trustml.fairness._bootstrap_bias import corrected_gap
from trustml.fairness._bounded_group_loss import BoundedGroupLoss
from trustml.fairness._calibrated_odds import CalibratedEqualizedOdds
from trustml.fairness._consistency import (
    consistency,
)
from trustml.fairness._correlation_remover import CorrelationRemover
from trustml.fairness._counterfactual import (
    counterfactual_flip_rate,
)
from trustml.fairness._differential import (
    differential_fairness,
)
from trustml.fairness._disparate_impact import DisparateImpactRemover
from trustml.fairness._distribution import (
    distribution_parity_difference,
)
from trustml.fairness._exponentiated_gradient import ExponentiatedGradient
from trustml.fairness._fair_influence import FairInfluence
from trustml.fairness._fair_representations import FairRepresentation
from trustml.fairness._frontier import Frontier, frontier
from trustml.fairness._grid_search import GridSearch
from trustml.fairness._group_dro import GroupDRO
from trustml.fairness._group_metrics import GroupMetrics, group_metrics
from trustml.fairness._inequality import (
    between_group_generalized_entropy_index,
    coefficient_of_variation,
    generalized_entropy_index,
    theil_index,
    within_group_generalized_entropy_index,
)
from trustml.fairness._lipschitz import (
    lipschitz_audit,
)
from trustml.fairness._measure import (
    FairnessMeasure,
)
from trustml.fairness._mitigation import Mitigation
from trustml.fairness._multicalibration import Multicalibration
from trustml.fairness._noisy_groups import NoisyGroups, noisy_groups
from trustml.fairness._permutation import GapTest, gap_test, minimum_detectable_gap
from trustml.fairness._prediction import GapPrediction
from trustml.fairness._proxy import ProxyBounds, proxy_bounds
from trustml.fairness._rates import (
    count,
    false_negative_rate,
    false_positive_rate,
    mean_prediction,
    selection_rate,
    true_negative_rate,
    true_positive_rate,
)
from trustml.fairness._reach import Reached
from trustml.fairness._regularised import RegularisedClassifier
from trustml.fairness._reject_option import RejectOptionClassifier
from trustml.fairness._reweighing import Reweighing
from trustml.fairness._set_metrics import (
    prediction_set_metrics,
)
from trustml.fairness._signed import (
    average_abs_odds_difference,
    average_odds_difference,
    average_predictive_value_difference,
)
from trustml.fairness._streaming_bootstrap import StreamingBootstrap
from trustml.fairness._subgroups import (
    subgroup_unfairness,
)
from trustml.fairness._threshold_optimizer import ThresholdOptimizer
from trustml.fairness._verdict import FairnessVerdict
from trustml.fairness.metrics import (
    accuracy_score_difference,
    accuracy_score_ratio,
    demographic_parity_difference,
    demographic_parity_ratio,
    equal_opportunity_difference,
    equal_opportunity_ratio,
    equalized_odds_difference,
    equalized_odds_ratio,
    false_discovery_rate_difference,
    false_discovery_rate_ratio,
    false_negative_rate_difference,
    false_negative_rate_ratio,
    false_omission_rate_difference,
    false_omission_rate_ratio,
    false_positive_rate_difference,
    false_positive_rate_ratio,
    negative_predictive_value_difference,
    negative_predictive_value_ratio,
    precision_difference,
    precision_ratio,
    predictive_parity_difference,
    predictive_parity_ratio,
    selection_rate_difference,
    selection_rate_ratio,
    true_negative_rate_difference,
    true_negative_rate_ratio,
    true_positive_rate_difference,
    true_positive_rate_ratio,
    zero_one_loss_difference,
    zero_one_loss_ratio,
)

__all__ = [
    "AdversarialDebiasing",
    "BoundedGroupLoss",
    "CalibratedEqualizedOdds",
    "CorrelationRemover",
    "DisparateImpactRemover",
    "ExponentiatedGradient",
    "FairInfluence",
    "FairRepresentation",
    "FairnessMeasure",
    "FairnessVerdict",
    "Frontier",
    "GapPrediction",
    "GapTest",
    "GridSearch",
    "GroupDRO",
    "GroupMetrics",
    "GroupReplicates",
    "Mitigation",
    "Multicalibration",
    "NoisyGroups",
    "ProxyBounds",
    "Reached",
    "RegularisedClassifier",
    "RejectOptionClassifier",
    "Reweighing",
    "StreamingBootstrap",
    "ThresholdOptimizer",
    "accuracy_score_difference",
    "accuracy_score_ratio",
    "assert_fair",
    "average_abs_odds_difference",
    "average_odds_difference",
    "average_predictive_value_difference",
    "between_group_generalized_entropy_index",
    "bootstrap_groups",
    "coefficient_of_variation",
    "consistency",
    "corrected_gap",
    "count",
    "counterfactual_flip_rate",
    "demographic_parity_difference",
    "demographic_parity_ratio",
    "differential_fairness",
    "distribution_parity_difference",
    "equal_opportunity_difference",
    "equal_opportunity_ratio",
    "equalized_odds_difference",
    "equalized_odds_ratio",
    "fairness_verdict",
    "false_discovery_rate_difference",
    "false_discovery_rate_ratio",
    "false_negative_rate",
    "false_negative_rate_difference",
    "false_negative_rate_ratio",
    "false_omission_rate_difference",
    "false_omission_rate_ratio",
    "false_positive_rate",
    "false_positive_rate_difference",
    "false_positive_rate_ratio",
    "frontier",
    "gap_test",
    "generalized_entropy_index",
    "group_metrics",
    "lipschitz_audit",
    "mean_prediction",
    "minimum_detectable_gap",
    "negative_predictive_value_difference",
    "negative_predictive_value_ratio",
    "noisy_groups",
    "precision_difference",
    "precision_ratio",
    "prediction_set_metrics",
    "predictive_parity_difference",
    "predictive_parity_ratio",
    "proxy_bounds",
    "selection_rate",
    "selection_rate_difference",
    "selection_rate_ratio",
    "subgroup_unfairness",
    "theil_index",
    "true_negative_rate",
    "true_negative_rate_difference",
    "true_negative_rate_ratio",
    "true_positive_rate",
    "true_positive_rate_difference",
    "true_positive_rate_ratio",
    "within_group_generalized_entropy_index",
    "zero_one_loss_difference",
    "zero_one_loss_ratio",
]
