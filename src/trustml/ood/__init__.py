"""Out-of-distribution detection: scores, verdicts at a stated error rate, drift.

Every detector is fitted on in-distribution rows and scores new ones, higher = more out of
distribution. `calibrate` turns scores into conformal p-values, alarms and discoveries. Features
and head are found in the model; detectors are functions of one forward pass, which a `Suite`
shares among all of them. `Fused` is the default.
"""

from trustml.ood import losses, metrics
from trustml.ood._ash import Ash
from trustml.ood._calibration import Calibration
from trustml.ood._detector import Detector
from trustml.ood._dice import Dice
from trustml.ood._drift import DriftResult, drift_test
from trustml.ood._drift_columns import DriftByFeature
from trustml.ood._energy import Energy
from trustml.ood._entropy import Entropy
from trustml.ood._exgrad import ExGrad
from trustml.ood._explain import OodExplanation, explain
from trustml.ood._fdbd import Fdbd
from trustml.ood._full_laplace import FullLaplace
from trustml.ood._fused import Fused
from trustml.ood._fusion import fuse_pvalues
from trustml.ood._gen import Gen
from trustml.ood._gmm import Gmm
from trustml.ood._gradnorm import GradNorm
from trustml.ood._gram import Gram
from trustml.ood._isolation_forest import IsolationForest
from trustml.ood._kl_matching import KlMatching
from trustml.ood._kmeans import KMeans
from trustml.ood._knn import Knn
from trustml.ood._laplace import LastLayerLaplace
from trustml.ood._leverage import Leverage
from trustml.ood._local_ensemble import LocalEnsemble
from trustml.ood._mahalanobis import Mahalanobis
from trustml.ood._maxlogit import MaxLogit
from trustml.ood._mixture import GaussianMixture
from trustml.ood._monitor import Monitor
from trustml.ood._msp import Msp
from trustml.ood._nci import Nci
from trustml.ood._neco import Neco
from trustml.ood._nnguide import NnGuide
from trustml.ood._odin import Odin
from trustml.ood._one_class_svm import OneClassSvm
from trustml.ood._openmax import OpenMax
from trustml.ood._react import React
from trustml.ood._rmd import RelativeMahalanobis
from trustml.ood._scale import Scale
from trustml.ood._scod import Scod
from trustml.ood._seen import UnsuitableError
from trustml.ood._self_influence import SelfInfluence
from trustml.ood._she import She
from trustml.ood._slu import SketchedLanczos
from trustml.ood._suite import Suite
from trustml.ood._table import DetectorTable
from trustml.ood._temperature import TemperatureScaling
from trustml.ood._vim import Vim
from trustml.ood._vra import Vra

__all__ = [  # noqa: RUF022 - in reading order
    "Msp",
    "MaxLogit",
    "Entropy",
    "Energy",
    "Gen",
    "TemperatureScaling",
    "KlMatching",
    "OpenMax",
    "Odin",
    "GradNorm",
    "ExGrad",
    "React",
    "Ash",
    "Scale",
    "Dice",
    "Vra",
    "She",
    "Fdbd",
    "Nci",
    "Neco",
    "NnGuide",
    "Mahalanobis",
    "RelativeMahalanobis",
    "Knn",
    "Gmm",
    "Vim",
    "KMeans",
    "GaussianMixture",
    "Gram",
    "IsolationForest",
    "OneClassSvm",
    "Leverage",
    "LastLayerLaplace",
    "FullLaplace",
    "Scod",
    "LocalEnsemble",
    "SketchedLanczos",
    "SelfInfluence",
    "Fused",
    "Suite",
    "Detector",
    "Calibration",
    "DetectorTable",
    "fuse_pvalues",
    "UnsuitableError",
    "Monitor",
    "explain",
    "OodExplanation",
    "drift_test",
    "DriftResult",
    "DriftByFeature",
    "metrics",
    "losses",
]
