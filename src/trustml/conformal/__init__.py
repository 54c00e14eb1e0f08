"""Conformal prediction: sets and intervals with coverage that is promised, not hoped for."""

from __future__ import annotations

from trustml.conformal import metrics
from trustml.conformal._aci import Aci
from trustml.conformal._adaptive import AdaptiveConformal
from trustml.conformal._adaptive_past import OnlineRule
from trustml.conformal._adaptive_run import AdaptiveTrace, adaptive_thresholds
from trustml.conformal._agaci import AgAci
from trustml.conformal._aps import Aps
from trustml.conformal._clustered import ClusteredClassifier
from trustml.conformal._conformal_risk_control import ConformalRiskControl
from trustml.conformal._conftr import ConformalTrainingLoss, smooth_quantile
from trustml.conformal._covariate_shift import CovariateShift
from trustml.conformal._cross_classifier import CrossClassifier
from trustml.conformal._cross_venn_abers import CrossVennAbers
from trustml.conformal._cv_plus import CvPlusRegressor
from trustml.conformal._decay import Decay
from trustml.conformal._dtaci import DtAci
from trustml.conformal._enbpi import EnbPi
from trustml.conformal._entmax import Entmax
from trustml.conformal._error_rate import ErrorRate
from trustml.conformal._exchangeability import (
    ExchangeabilityTest,
    exchangeability_martingale,
)
from trustml.conformal._fairness_violation import FairnessViolation
from trustml.conformal._full_classifier import FullClassifier
from trustml.conformal._full_diagnosis import FullDiagnosis
from trustml.conformal._full_regressor import FullRegressor
from trustml.conformal._group_conditional import (
    GroupConditionalClassifier,
    GroupConditionalRegressor,
)
from trustml.conformal._held_out_diagnosis import HeldOutDiagnosis
from trustml.conformal._infinitesimal_jackknife import InfinitesimalJackknife
from trustml.conformal._isotonic_scaling import IsotonicScaling
from trustml.conformal._jackknife_plus import JackknifePlusRegressor
from trustml.conformal._jackknife_plus_after_bootstrap import JackknifePlusAfterBootstrapRegressor
from trustml.conformal._knn import Knn
from trustml.conformal._label_shift import LabelShift
from trustml.conformal._lac import Lac
from trustml.conformal._learn_then_test import LearnThenTest
from trustml.conformal._localized import Localized
from trustml.conformal._margin import Margin
from trustml.conformal._multivariate_ellipsoid import Ellipsoid
from trustml.conformal._multivariate_regressor import MultivariateRegressor
from trustml.conformal._multivariate_shape import CopulaBox, MaxBox, ResidualShape
from trustml.conformal._pid import Pid
from trustml.conformal._predictive_distribution import ConformalPredictiveDistribution
from trustml.conformal._quantile_regressor import ConformalizedQuantileRegressor
from trustml.conformal._raps import Raps
from trustml.conformal._rcps import RiskControllingPredictionSets
from trustml.conformal._residual_model import ResidualModel
from trustml.conformal._residual_score import Absolute, Normalized, ResidualScore
from trustml.conformal._risk import Risk
from trustml.conformal._risk_monitor import RiskMonitor, RiskPath
from trustml.conformal._saps import Saps
from trustml.conformal._score import Score
from trustml.conformal._selection import ConformalSelection
from trustml.conformal._selective_error import SelectiveError
from trustml.conformal._set_risks import FalseDiscoveryRate, FalseNegativeRate, Miscoverage
from trustml.conformal._spci import Spci
from trustml.conformal._split_classifier import SplitClassifier
from trustml.conformal._split_regressor import SplitRegressor
from trustml.conformal._temperature import TemperatureScaling, VectorScaling
from trustml.conformal._topk import TopK
from trustml.conformal._venn_abers import VennAbers
from trustml.conformal._weighted import WeightedClassifier, WeightedRegressor
from trustml.conformal._weighted_risk_control import WeightedRiskControl
from trustml.conformal._weights import Weights
from trustml.evidence import benjamini_hochberg, pvalues, quantile
from trustml.evidence._watch import MartingalePath

__all__ = [
    "Absolute",
    "Aci",
    "AdaptiveConformal",
    "AdaptiveTrace",
    "AgAci",
    "Aps",
    "ClusteredClassifier",
    "ConformalPredictiveDistribution",
    "ConformalRiskControl",
    "ConformalSelection",
    "ConformalTrainingLoss",
    "ConformalizedQuantileRegressor",
    "CopulaBox",
    "CovariateShift",
    "CrossClassifier",
    "CrossVennAbers",
    "CvPlusRegressor",
    "Decay",
    "DtAci",
    "Ellipsoid",
    "EnbPi",
    "Entmax",
    "ErrorRate",
    "ExchangeabilityTest",
    "FairnessViolation",
    "FalseDiscoveryRate",
    "FalseNegativeRate",
    "FullClassifier",
    "FullDiagnosis",
    "FullRegressor",
    "GroupConditionalClassifier",
    "GroupConditionalRegressor",
    "HeldOutDiagnosis",
    "InfinitesimalJackknife",
    "IsotonicScaling",
    "JackknifePlusAfterBootstrapRegressor",
    "JackknifePlusRegressor",
    "Knn",
    "LabelShift",
    "Lac",
    "LearnThenTest",
    "Localized",
    "Margin",
    "MartingalePath",
    "MaxBox",
    "Miscoverage",
    "MultivariateRegressor",
    "Normalized",
    "OnlineRule",
    "Pid",
    "Raps",
    "ResidualModel",
    "ResidualScore",
    "ResidualShape",
    "Risk",
    "RiskControllingPredictionSets",
    "RiskMonitor",
    "RiskPath",
    "Saps",
    "Score",
    "SelectiveError",
    "Spci",
    "SplitClassifier",
    "SplitRegressor",
    "TemperatureScaling",
    "TopK",
    "VectorScaling",
    "VennAbers",
    "WeightedClassifier",
    "WeightedRegressor",
    "WeightedRiskControl",
    "Weights",
    "adaptive_thresholds",
    "benjamini_hochberg",
    "exchangeability_martingale",
    "metrics",
    "pvalues",
    "quantile",
    "smooth_quantile",
]
