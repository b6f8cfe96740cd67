"""Fit any click model to a log: `fit`, and what it returns."""

from envs.fitting.estimation import fit
from envs.fitting.report import ClickFit, Evaluation

__all__ = ["ClickFit", "Evaluation", "fit"]
