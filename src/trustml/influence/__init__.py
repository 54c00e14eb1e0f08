"""Training data attribution: which training rows a model owes its answers to."""

from __future__ import annotations

from trustml.influence._attributor import Attributor
from trustml.influence._datainf import DataInf
from trustml.influence._flipping import FlippingSubset, flipping_subset
from trustml.influence._ground_truth import Retrained, leave_one_out, retrain
from trustml.influence._in_run_shapley import InRunShapley, RunValidity, ShapleyRun, TrainingStep
from trustml.influence._influence_functions import InfluenceFunctions
from trustml.influence._lds import DatamodelingScore, linear_datamodeling_score
from trustml.influence._logra import LoGra
from trustml.influence._mislabel_detection import MislabelDetection, mislabel_auc
from trustml.influence._mislabeled import MislabelRanking, find_mislabeled
from trustml.influence._perturbation import perturbation_influence
from trustml.influence._relatif import RelatIF
from trustml.influence._removal import Removal
from trustml.influence._removal_curve import RemovalCurve, removal_curve
from trustml.influence._representer import RepresenterPoints
from trustml.influence._scores import Certificate, InfluenceScores
from trustml.influence._subclass import SubclassDetection, subclass_detection
from trustml.influence._tokens import token_scores
from trustml.influence._tracin import TracIn
from trustml.influence._trak import Trak

__all__ = [
    "Attributor",
    "Certificate",
    "DataInf",
    "DatamodelingScore",
    "FlippingSubset",
    "InRunShapley",
    "InfluenceFunctions",
    "InfluenceScores",
    "LoGra",
    "MislabelDetection",
    "MislabelRanking",
    "RelatIF",
    "Removal",
    "RemovalCurve",
    "RepresenterPoints",
    "Retrained",
    "RunValidity",
    "ShapleyRun",
    "SubclassDetection",
    "TracIn",
    "TrainingStep",
    "Trak",
    "find_mislabeled",
    "flipping_subset",
    "leave_one_out",
    "linear_datamodeling_score",
    "mislabel_auc",
    "perturbation_influence",
    "removal_curve",
    "retrain",
    "subclass_detection",
    "token_scores",
]
