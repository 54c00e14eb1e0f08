"""What every verdict rests on: p-values, error rates, intervals, tests and martingales, once.

Pure functions on arrays. A room that needs an interval, a p-value, a bootstrap or a multiple
testing procedure takes it from here, so that "at level 0.95" means one thing in the house.
"""

from __future__ import annotations

from trustml.evidence._auroc import auroc_interval
from trustml.evidence._bets import Bet, Composite, PlugIn, Power, SimpleJumper, SimpleMixture
from trustml.evidence._bootstrap import bootstrap
from trustml.evidence._bounded_mean import MEAN_METHODS, mean_pvalue, mean_upper_bound
from trustml.evidence._categories import chi2_test
from trustml.evidence._change import change_test
from trustml.evidence._classifier_test import classifier_test
from trustml.evidence._concentration import hoeffding_bentkus_pvalue
from trustml.evidence._delong import AurocDifference, auroc_difference
from trustml.evidence._evalues import (
    discovery_evalues,
    e_benjamini_hochberg,
    e_to_p,
    evalues,
    merge_evalues,
    p_to_e,
)
from trustml.evidence._fixed_sequence import fixed_sequence
from trustml.evidence._hotelling import hotelling_test
from trustml.evidence._intervals import Interval, beta_binomial_band, clopper_pearson, wilson
from trustml.evidence._martingales import betting_martingale
from trustml.evidence._mean_difference import mean_difference_pvalue
from trustml.evidence._mean_embedding import fourier_mmd_test, linear_mmd_test
from trustml.evidence._mean_interval import mean_interval
from trustml.evidence._mean_martingale import mean_martingale
from trustml.evidence._multiplicity import (
    adjust,
    benjamini_hochberg,
    benjamini_yekutieli,
    bonferroni,
    holm,
    storey,
)
from trustml.evidence._online_pvalues import online_pvalues
from trustml.evidence._pvalues import pvalues
from trustml.evidence._quantile import conformal_rank, exact_alpha, quantile, read_alphas
from trustml.evidence._tests import TestResult, binomial_test, ks_test, permutation_test
from trustml.evidence._two_proportions import newcombe, proportion_ratio
from trustml.evidence._two_sample import energy_test, mmd_test

__all__ = [
    "MEAN_METHODS",
    "AurocDifference",
    "Bet",
    "Composite",
    "Interval",
    "PlugIn",
    "Power",
    "SimpleJumper",
    "SimpleMixture",
    "TestResult",
    "adjust",
    "auroc_difference",
    "auroc_interval",
    "benjamini_hochberg",
    "benjamini_yekutieli",
    "beta_binomial_band",
    "betting_martingale",
    "binomial_test",
    "bonferroni",
    "bootstrap",
    "change_test",
    "chi2_test",
    "classifier_test",
    "clopper_pearson",
    "conformal_rank",
    "discovery_evalues",
    "e_benjamini_hochberg",
    "e_to_p",
    "energy_test",
    "evalues",
    "exact_alpha",
    "fixed_sequence",
    "fourier_mmd_test",
    "hoeffding_bentkus_pvalue",
    "holm",
    "hotelling_test",
    "ks_test",
    "linear_mmd_test",
    "mean_difference_pvalue",
    "mean_interval",
    "mean_martingale",
    "mean_pvalue",
    "mean_upper_bound",
    "merge_evalues",
    "mmd_test",
    "newcombe",
    "online_pvalues",
    "p_to_e",
    "permutation_test",
    "proportion_ratio",
    "pvalues",
    "quantile",
    "read_alphas",
    "storey",
    "wilson",
]
