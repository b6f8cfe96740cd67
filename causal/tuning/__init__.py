"""Choosing an estimator's hyper-parameter from the data, without keeping anything of them."""

from causal.tuning.choice import Candidate, Choice, family
from causal.tuning.rules import CrossValidation, EstimatedMSE, Paired, Slope
from causal.tuning.tune import Tuned, tune

__all__ = [
    "Candidate",
    "Choice",
    "CrossValidation",
    "EstimatedMSE",
    "Paired",
    "Slope",
    "Tuned",
    "family",
    "tune",
]
