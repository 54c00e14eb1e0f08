"""Training data attribution: which training rows a model owes its answers to."""

from __future__ import annotations

from trustml.influence._ground_truth import leave_one_out
from trustml.influence._influence_functions import InfluenceFunctions
from trustml.influence._lds import DatamodelingScore, linear_datamodeling_score
from trustml.influence._mislabeled import MislabelRanking, find_mislabeled
from trustml.influence._removal import Removal
from trustml.influence._scores import Certificate, InfluenceScores

__all__ = [
    "Certificate",
    "DatamodelingScore",
    "InfluenceFunctions",
    "InfluenceScores",
    "MislabelRanking",
    "Removal",
    "find_mislabeled",
    "leave_one_out",
    "linear_datamodeling_score",
]
